//! `reload --confirm`: in force at once, undone unless somebody confirms.

use std::time::Duration;

use limiter_tests::{
    process::Limiter,
    wait::{Deadline, eventually},
    world::{CLIENTS, World},
};
use nix::sys::signal::Signal;

use crate::support::{ALLOWED, DENIED, SOON, verdict};

fn interfaces(limiter: &Limiter) -> Vec<String> {
    limiter.status().interfaces.into_iter().map(|one| one.name).collect()
}

#[test]
fn what_nobody_confirms_is_undone() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
    let both = World::kernel("deny = [\"10.9.0.2\"]").replace("\"server0\"", "\"server0\", \"lo\"");
    limiter.configure(&both);
    let since = Deadline::after(Duration::ZERO);
    let done = limiter.cli(&["reload", "--confirm", "3s"]).succeeded();
    let question = "undone in 3s unless confirmed: `limiter reload --confirmed`\n";
    assert!(done.stdout.ends_with(question), "{done:?}");
    limiter.event("generation 2, undone in 3s unless confirmed");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    assert_eq!(interfaces(&limiter), ["server0", "lo"]);
    assert!(limiter.status().confirm_seconds.is_some());
    let shown = limiter.cli(&["status"]).succeeded().stdout;
    assert!(shown.contains("unless confirmed: `limiter reload --confirmed`"), "{shown}");
    // Neither a signal nor a plain reload is a confirmation.
    limiter.signal(Signal::SIGHUP);
    let again = limiter.cli(&["reload"]).succeeded();
    assert!(again.stdout.contains("unless confirmed"), "{again:?}");
    eventually(SOON, "it is rolled back", || limiter.status().confirm_seconds.is_none());
    let took = since.elapsed();
    assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(6), "{took:?}");
    let told = limiter.event("rolled back: not confirmed");
    assert!(told.starts_with("INFO: [SECURITY] Configuration reloaded: generation "), "{told}");
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
    assert_eq!(interfaces(&limiter), ["server0"]);
    let status = limiter.status();
    assert_eq!(
        (status.state.as_str(), status.degraded),
        (
            "degraded",
            vec![
                "the configuration file is not in force: nobody confirmed it in time, and the \
                 policy before it came back"
                    .to_owned()
            ]
        )
    );
    let late = limiter.cli(&["reload", "--confirmed"]).ended_with(1);
    assert!(late.stderr.contains("nothing waits to be confirmed"), "{late:?}");
    // A reload that is meant brings the file in force, and file and policy are one again.
    limiter.cli(&["reload"]).succeeded();
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    assert_eq!(limiter.status().state, "ready");
}

#[test]
fn what_is_confirmed_stays_and_several_trials_go_back_to_the_last_confirmed() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let trial = |lines: &str, length: &str| {
        limiter.configure(&World::kernel(lines));
        limiter.cli(&["reload", "--confirm", length]).succeeded();
    };
    trial("deny = [\"10.9.0.2\"]", "1s");
    let done = limiter.cli(&["reload", "--confirmed"]).succeeded();
    assert_eq!(done.stdout, "generation 2 stays in force\n");
    limiter.event("generation 2 confirmed");
    std::thread::sleep(Duration::from_millis(2_500));
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    assert_eq!(limiter.status().policy_generation, 2);

    trial("deny = [\"10.9.0.3\"]", "60s");
    trial("deny = [\"10.9.0.4\"]", "1s");
    verdict(&world, &limiter, CLIENTS[2], DENIED);
    limiter.event("rolled back: not confirmed");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    verdict(&world, &limiter, CLIENTS[2], ALLOWED);

    // An invalid file changes nothing, and puts nothing on trial.
    limiter.configure(&World::kernel("mode = \"enforcing\""));
    limiter.cli(&["reload", "--confirm", "1s"]).ended_with(2);
    assert_eq!(limiter.status().confirm_seconds, None);
    for wrong in ["0", "86401", "x"] {
        let target = format!("/v1/reload?confirm={wrong}");
        assert_eq!(limiter.control("POST", &target, b"").status, 400, "{wrong}");
    }
}
