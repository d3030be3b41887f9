//! Commands to a running agent: text for people, one stable document for programs.

use limiter_tests::{
    origin::Origin,
    process::Limiter,
    world::{CLIENTS, World},
};
use serde_json::Value;

/// The keys of an object, in order.
fn keys(document: &Value) -> Vec<&str> {
    document.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn every_question_has_an_answer_in_both_forms() {
    let world = World::new();
    let origin = Origin::start(&world.server);
    let text = World::kernel("deny = [\"10.9.0.6\"]") + &World::http(&origin);
    let limiter = Limiter::start(&world.server, &text);
    assert_eq!(world.get(CLIENTS[0], &[]).status, 200);
    world.send(CLIENTS[4], 2);
    limiter.cli(&["ban", CLIENTS[1], "--for", "2h", "--reason", "a test"]).succeeded();

    let status = limiter.json(&["status", "--json"]);
    assert_eq!(status["state"], "ready");
    assert_eq!(status["configuration"], limiter.configuration().display().to_string());
    assert_eq!(status["listeners"], serde_json::json!(["0.0.0.0:8080"]));
    assert_eq!(status["bans"], serde_json::json!({ "http": 0, "kernel": 1 }));
    let shown = limiter.cli(&["status"]).succeeded().stdout;
    for part in ["server0", "native", "0.0.0.0:8080", "ready", "denied"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }

    let sources = limiter.json(&["sources", "--json", "--sort", "packets", "--limit", "1"]);
    let [source] = sources.as_array().unwrap().as_slice() else { panic!("{sources}") };
    assert_eq!(
        keys(source),
        [
            "bytes",
            "connections",
            "dropped",
            "idle_milliseconds",
            "list",
            "open_connections",
            "packets",
            "source"
        ]
    );
    assert_eq!((&source["source"], &source["connections"]), (&"10.9.0.2/32".into(), &1.into()));
    let shown = limiter.cli(&["sources"]).succeeded().stdout;
    assert!(shown.lines().next().unwrap().starts_with("SOURCE"), "{shown}");
    assert!(shown.contains("10.9.0.2"), "{shown}");

    let bans = limiter.json(&["bans", "--json"]);
    assert_eq!(keys(&bans[0]), ["origin", "packets", "prefix", "reason", "scope", "seconds_left"]);
    let shown = limiter.cli(&["bans"]).succeeded().stdout;
    for part in ["10.9.0.3", "kernel", "a test", "manual"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }

    for (source, verdict, reason) in [
        (CLIENTS[0], "pass", "allowed"),
        (CLIENTS[1], "drop", "banned"),
        (CLIENTS[4], "drop", "denied"),
    ] {
        let why = limiter.json(&["why", source, "--json"]);
        assert_eq!((&why["verdict"], &why["reason"]), (&verdict.into(), &reason.into()), "{why}");
        let shown = limiter.cli(&["why", source]).succeeded().stdout;
        assert!(shown.starts_with(&format!("{source}: {verdict} ({reason})\n")), "{shown}");
        let shown = limiter.cli(&["explain", "--source", source]).succeeded().stdout;
        assert!(shown.starts_with(&format!("{source}: {verdict} ({reason})\n")), "{shown}");
    }
    let request = ["explain", "--source", CLIENTS[0], "--request", "GET /a", "-H", "x: y"];
    let shown = limiter.cli(&request).succeeded().stdout;
    for part in ["pass (allowed)", "route /", "public", "upstream"] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    let request = limiter.cli(&["explain", "--source", CLIENTS[0], "--request", "GET"]);
    assert!(request.ended_with(2).stderr.contains("expected e.g. `GET /x`"));

    let events = limiter.cli(&["events", "--json"]).succeeded().stdout;
    assert!(events.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{events}");
    let done = limiter.cli(&["unban", "10.9.0.0/24"]).succeeded();
    assert_eq!(done.stdout, "bans lifted: 1\n");
    assert_eq!(limiter.cli(&["unban", "--all"]).succeeded().stdout, "bans lifted: 0\n");
    let shown = limiter.cli(&["bans"]).succeeded().stdout;
    assert!(!shown.contains("10.9.0"), "{shown}");
    // By the configuration instead of the socket.
    let status = limiter.with_file(&["status", "--json"]).succeeded().json();
    assert_eq!(status["state"], "ready");
}

#[test]
fn without_the_kernel_half_it_says_so() {
    let world = World::new();
    let origin = Origin::start(&world.server);
    let text = limiter_tests::world::SINKS.to_owned() + &World::http(&origin);
    let limiter = Limiter::start(&world.server, &text);
    assert_eq!(limiter.status().kernel_mode, "off");
    let refused = limiter.cli(&["sources"]).ended_with(1);
    assert!(refused.stderr.contains("the kernel half is off"), "{refused:?}");
    let refused = limiter.cli(&["ban", CLIENTS[0]]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stderr.contains("the kernel half is off"), "{refused:?}");
    limiter.cli(&["ban", CLIENTS[0], "--scope", "http"]).succeeded();
    limiter_tests::wait::eventually(limiter_tests::http::TIMEOUT, "the ban holds", || {
        world.get(CLIENTS[0], &[]).status == 403
    });
    assert!(!limiter.pins().exists(), "nothing is pinned");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let mut follower = limiter
        .cli_command(&["events", "-f"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(follower.stdout.take());
    let ended =
        limiter_tests::wait::eventually_some(limiter_tests::http::TIMEOUT, "it ends", || {
            limiter.cli(&["ban", "192.0.2.9"]).succeeded();
            follower.try_wait().unwrap()
        });
    assert_eq!(ended.code(), Some(0));
    // And the agent is none the worse for it.
    assert_eq!(limiter.status().state, "ready");
}
