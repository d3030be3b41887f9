//! `limiter detach`, with and without an agent, and that nothing is left behind.

use std::{process::Command, time::Duration};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::{Counters, assert_eventually},
    process::Limiter,
    raw::Port,
    wait::eventually,
    world::{CLIENTS, World},
};

const SOON: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_millis(100);

/// Whether the kernel shows an XDP program on the host's end.
fn has_xdp(world: &World) -> bool {
    let arguments = ["-n", world.server.name(), "link", "show", "server0"];
    let output = Command::new("ip").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
}

fn arrives(world: &World, source: &str) -> usize {
    let mut capture = Port::open(&world.veth.server);
    let frame = world.datagram(source);
    world.send(source, 3);
    capture.count_matching(QUIET, |found| found == frame)
}

#[test]
fn with_an_agent_it_takes_xdp_off_and_the_agent_goes_on() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.2\"]"));
    assert_eq!(arrives(&world, CLIENTS[0]), 0);
    let done = limiter.cli(&["detach"]).succeeded();
    assert_eq!(done.stdout, "XDP taken off server0\n");
    assert_eq!(limiter.event("server0"), "INFO: [SECURITY] XDP detached: server0");
    eventually(SOON, "XDP is off", || !has_xdp(&world));
    assert_eq!(arrives(&world, CLIENTS[0]), 3);
    assert!(!limiter.pins().exists());
    let status = limiter.status();
    assert_eq!((status.state.as_str(), status.kernel_mode.as_str()), ("degraded", "off"));
    assert_eq!(status.degraded, ["XDP was taken off by `limiter detach`"]);
    let ban = limiter.cli(&["ban", "10.9.0.3"]);
    assert_ne!(ban.code, Some(0), "{ban:?}");
    assert!(ban.stderr.contains("the kernel half is off"), "{ban:?}");
    // Once more finds nothing.
    let again = limiter.cli(&["detach"]).succeeded();
    assert_eq!(again.stdout, "XDP taken off no interface\n");
}

#[test]
fn without_an_agent_it_removes_what_is_pinned() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.2\"]"));
    limiter.kill_agent();
    assert!(has_xdp(&world), "XDP outlives the agent");
    assert_eq!(arrives(&world, CLIENTS[0]), 0);

    // Only the socket does not say where the pins are.
    let unknown = limiter.cli(&["detach"]).ended_with(1);
    assert!(unknown.stderr.contains("no agent answers on"), "{unknown:?}");
    assert!(has_xdp(&world));

    let done = limiter.with_file(&["detach"]).succeeded();
    let expected = format!("no agent runs; links removed from {}: 1\n", limiter.pins().display());
    assert_eq!(done.stdout, expected);
    eventually(SOON, "XDP is off", || !has_xdp(&world));
    assert_eq!(arrives(&world, CLIENTS[0]), 3);
    assert!(!limiter.pins().exists());
    let done = limiter.with_file(&["detach"]).succeeded();
    assert!(done.stdout.ends_with(": 0\n"), "{done:?}");

    // The next agent attaches anew.
    limiter.restart();
    assert!(!limiter.status().interfaces[0].taken_over);
    assert_eq!(arrives(&world, CLIENTS[0]), 0);
}

#[test]
fn none_of_the_ends_of_an_agent_takes_xdp_off() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.2\"]"));
    for _ in 0..2 {
        assert_eq!(limiter.terminate(SOON).code(), Some(0));
        assert_eq!(arrives(&world, CLIENTS[0]), 0);
        assert!(world.server.processes().is_empty());
        limiter.restart();
        assert!(limiter.status().interfaces[0].taken_over);
    }
    limiter.event("XDP attached: server0 (native, taken over)");
    // What the earlier agents counted is there, and counting goes on.
    let before = Counters::of(&limiter);
    assert_eq!(before.get(Action::Drop, Reason::Denied), 6);
    world.send(CLIENTS[0], 1);
    let expected = [(Action::Drop, Reason::Denied, 1)];
    assert_eventually(&limiter, &before, SOON, &expected, &[(Action::Pass, Reason::Essential)]);
}

#[test]
fn an_interface_that_left_the_configuration_is_let_go_at_restart() {
    let world = World::new();
    let both = World::kernel("deny = [\"10.9.0.2\"]").replace("\"server0\"", "\"server0\", \"lo\"");
    let mut limiter = Limiter::start(&world.server, &both);
    limiter.terminate(SOON);
    limiter.configure(&both.replace("\"server0\", \"lo\"", "\"lo\""));
    limiter.restart();
    eventually(SOON, "XDP is off server0", || !has_xdp(&world));
    let names: Vec<String> = limiter.status().interfaces.into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["lo"]);
    assert_eq!(arrives(&world, CLIENTS[0]), 3);
}
