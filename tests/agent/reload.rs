//! A new configuration: all of it or nothing, what waits for a restart says so.

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    origin::Origin,
    process::Limiter,
    world::{CLIENTS, World},
};
use nix::sys::signal::Signal;

use crate::support::{ALLOWED, DENIED, arrive, counts, verdict};

#[test]
fn an_invalid_file_changes_nothing_and_names_its_line() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.2\"]"));
    let text = World::kernel("deny = [\"10.9.0.3\"]\nmode = \"enforcing\"");
    limiter.configure(&text);
    let written = std::fs::read_to_string(limiter.configuration()).unwrap();
    let line = 1 + written.lines().position(|line| line.starts_with("mode")).unwrap();
    let refused = limiter.cli(&["reload"]).ended_with(2);
    let place = format!("limiter.toml:{line}");
    assert!(refused.stderr.contains(&place), "{refused:?}");
    assert!(refused.stderr.contains("\"enforce\", \"monitor\""), "{refused:?}");
    let told = limiter.event("kernel.mode: \"enforcing\" is not one of \"enforce\", \"monitor\"");
    assert!(told.starts_with("ERROR: [SECURITY] Configuration rejected: "), "{told}");
    assert!(told.contains(&place), "{told}");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    // By signal too, and a file that is gone.
    limiter.signal(Signal::SIGHUP);
    std::fs::remove_file(limiter.configuration()).unwrap();
    limiter.cli(&["reload"]).ended_with(2);
    assert_eq!(limiter.status().policy_generation, 1);
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    // Neither does one with which nothing could be started start.
    limiter.configure(&text);
    let mut other = Limiter::prepare(&world.server, &text);
    let refused = other.run_to_end().ended_with(2);
    assert!(refused.stderr.contains("kernel.mode"), "{refused:?}");
    other.argument("--nonsense");
    other.run_to_end().ended_with(2);
}

#[test]
fn commands_reach_the_agent_whose_file_was_just_broken() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    for (broken, told) in [
        ("denny = [\"10.9.0.2\"]", "kernel.denny: unknown key `denny`"),
        ("[kernel.limits]\npackets = = 1", "extra `=`, expected nothing"),
    ] {
        limiter.configure(&World::kernel(broken));
        let refused = limiter.with_file(&["reload"]).ended_with(2);
        assert!(refused.stderr.contains("the policy in force stays"), "{refused:?}");
        limiter.event(told);
        limiter.with_file(&["ban", "10.9.0.3"]).succeeded();
        verdict(&world, &limiter, CLIENTS[1], (Action::Drop, Reason::Banned));
        limiter.with_file(&["unban", "--all"]).succeeded();
    }
    assert_eq!(limiter.status().policy_generation, 1);
}

#[test]
fn lists_and_limits_apply_at_once_to_sources_already_known() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let reload = |lines: &str| {
        limiter.configure(&World::kernel(lines));
        limiter.cli(&["reload"]).succeeded()
    };
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
    reload("deny = [\"10.9.0.2\"]");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    reload("default = \"deny\"\nallow = [\"10.9.0.2\"]");
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
    verdict(&world, &limiter, CLIENTS[1], (Action::Drop, Reason::NotAllowed));
    reload("[kernel.limits]\npackets = \"1/h\"\npackets_burst = 4");
    let expected = [(Action::Pass, Reason::Allowed, 4), (Action::Drop, Reason::PacketRate, 2)];
    counts(&limiter, &expected, || assert_eq!(arrive(&world, CLIENTS[1], 6), 4));
    reload("");
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    // The same again changes nothing.
    let done = reload("");
    assert_eq!(done.stdout.lines().count(), 1, "{done:?}");
}

#[test]
fn what_only_a_restart_can_change_is_said_and_then_done() {
    let world = World::new();
    let origin = Origin::start(&world.server);
    let text = World::kernel("max_bans = 10") + &World::http(&origin);
    let mut limiter = Limiter::start(&world.server, &text);
    let changed = World::kernel("max_bans = 20\nipv6_prefix = 56\nattach = \"native\"")
        + &World::http(&origin).replace("8080", "8081");
    limiter.configure(
        &changed.replace("failsafe_ports = []", "failsafe_ports = []\ndeny = [\"10.9.0.3\"]"),
    );
    let done = limiter.cli(&["reload"]).succeeded();
    for line in [
        "  http.listener: sockets are bound only at restart (at the next restart)",
        "  kernel.max_bans: 10 stays until restart, then 20 (at the next restart)",
        "  kernel.ipv6_prefix: 64 stays until restart, then 56 (at the next restart)",
    ] {
        assert!(done.stdout.lines().any(|found| found == line), "{line:?} in {done:?}");
    }
    assert_eq!(limiter.status().maps["bans"].capacity, 10);
    verdict(&world, &limiter, CLIENTS[1], DENIED);
    assert_eq!(world.get(CLIENTS[0], &[]).status, 200);
    limiter.terminate(crate::support::SOON);
    limiter.restart();
    assert_eq!(limiter.status().maps["bans"].capacity, 20);
    let moved = std::net::SocketAddr::new("10.9.0.1".parse().unwrap(), 8081);
    let get = limiter_tests::http::request("GET", "/", &[], b"");
    let answered = world.client.run(|| limiter_tests::http::exchange(moved, &get));
    assert_eq!(answered.unwrap().status, 200);
}
