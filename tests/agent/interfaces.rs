//! Interfaces that appear, vanish and change while the agent runs, and those that a reload adds or
//! takes away.

use std::{fs, time::Duration};

use aya::programs::links::{FdLink, PinnedLink};
use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::{Counters, assert_eventually},
    frames::Frame,
    load::Flood,
    netns::Namespace,
    process::Limiter,
    raw::Port,
    veth::Veth,
    wait::{Deadline, eventually},
    world::{CLIENTS, World},
};

use crate::support::{DENIED, SOON, verdict};

/// What a link change may take until it is followed.
const AT_ONCE: Duration = Duration::from_secs(1);

const DENY: &str = "deny = [\"10.9.0.2\", \"10.8.0.2\"]";

/// `[kernel]` on these interfaces.
fn kernel(interfaces: &[&str], lines: &str) -> String {
    World::kernel(lines).replace("[\"server0\"]", &format!("{interfaces:?}"))
}

/// A second wire into the protected host.
fn late(world: &World) -> Veth {
    Veth::named(
        ("late1", &world.client, &["10.8.0.2/24"]),
        ("late0", &world.server, &["10.8.0.1/24"]),
    )
}

/// Sends denied datagrams over the second wire; whether none of them arrives.
fn late_is_filtered(veth: &Veth) -> bool {
    let frame = Frame::udp("10.8.0.2:4000", "10.8.0.1:9", b"late");
    let frame = frame.macs(veth.client.mac, veth.server.mac).bytes();
    let mut capture = Port::open(&veth.server);
    Port::open(&veth.client).send_many(&frame, 3, 100_000);
    capture.count_matching(Duration::from_millis(100), |found| found == frame) == 0
}

fn names(limiter: &Limiter) -> Vec<String> {
    limiter.status().interfaces.into_iter().map(|one| one.name).collect()
}

/// Waits until exactly these have XDP; how long that took.
#[track_caller]
fn attached(limiter: &Limiter, expected: &[&str]) -> Duration {
    let since = Deadline::after(Duration::ZERO);
    eventually(SOON, &format!("{expected:?} have XDP"), || names(limiter) == expected);
    since.elapsed()
}

fn has_xdp(namespace: &Namespace, name: &str) -> bool {
    let output = namespace.command("ip").args(["link", "show", name]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("xdp")
}

/// The id of each pinned link, by the name of its pin.
fn links(limiter: &Limiter) -> Vec<(String, u32)> {
    let generations = fs::read_dir(limiter.pins()).unwrap().flatten();
    let pins = generations.flat_map(|one| fs::read_dir(one.path()).unwrap().flatten());
    let mut links: Vec<(String, u32)> = pins
        .filter(|pin| pin.file_name().to_string_lossy().starts_with("link-"))
        .map(|pin| {
            let link = FdLink::from(PinnedLink::from_pin(pin.path()).unwrap());
            (pin.file_name().to_string_lossy().into_owned(), link.info().unwrap().id())
        })
        .collect();
    links.sort();
    links
}

#[test]
fn one_that_appears_vanishes_and_comes_back_is_followed_within_a_second() {
    let world = World::new();
    let text = kernel(&["server0", "late0"], &format!("required = false\n{DENY}"));
    let limiter = Limiter::start(&world.server, &text);
    let sentence = "interface late0 does not exist: its packets are filtered when it appears";
    let status = limiter.status();
    assert_eq!(
        (status.state.as_str(), status.degraded.as_slice()),
        ("degraded", &[sentence.to_owned()][..])
    );
    assert_eq!(names(&limiter), ["server0"]);
    verdict(&world, &limiter, CLIENTS[0], DENIED);

    let first = late(&world);
    let took = attached(&limiter, &["server0", "late0"]);
    assert!(took < AT_ONCE, "{took:?}");
    limiter.event("XDP attached: late0 (native)");
    assert_eq!(limiter.status().state, "ready");
    assert!(late_is_filtered(&first));
    let index = first.server.index;

    drop(first);
    let took = attached(&limiter, &["server0"]);
    assert!(took < AT_ONCE, "{took:?}");
    limiter.event("XDP detached: late0: it is gone");
    assert_eq!(limiter.event("when it appears"), format!("ERROR: [SECURITY] Degraded: {sentence}"));
    assert_eq!(limiter.status().state, "degraded");
    assert_eq!(links(&limiter).len(), 1);

    let second = late(&world);
    assert_ne!(second.server.index, index);
    let took = attached(&limiter, &["server0", "late0"]);
    assert!(took < AT_ONCE, "{took:?}");
    assert!(late_is_filtered(&second));
    // It counts on where it left off.
    let dropped = |limiter: &Limiter| -> u64 {
        let packets = limiter.status().packets;
        packets
            .iter()
            .filter(|one| one.interface == "late0" && one.verdict == "drop")
            .map(|one| one.packets)
            .sum()
    };
    eventually(SOON, "drops before and after are counted", || dropped(&limiter) == 6);
    verdict(&world, &limiter, CLIENTS[0], DENIED);
}

#[test]
fn one_that_is_required_and_missing_refuses_the_start_but_may_vanish_later() {
    let world = World::new();
    let text = kernel(&["server0", "late0"], DENY);
    let mut limiter = Limiter::prepare(&world.server, &text);
    let refused = limiter.run_to_end().ended_with(1);
    assert!(refused.stderr.contains("interface late0 does not exist; there are: lo, server0"));
    assert!(!has_xdp(&world.server, "server0"), "nothing is left behind");
    let wire = late(&world);
    limiter.restart();
    drop(wire);
    attached(&limiter, &["server0"]);
    assert_eq!(limiter.status().state, "degraded");
    // What is not there now is no reason to refuse a reload that does not concern it.
    limiter.configure(&kernel(&["server0", "late0"], ""));
    limiter.cli(&["reload"]).succeeded();
    let wire = late(&world);
    attached(&limiter, &["server0", "late0"]);
    assert!(!late_is_filtered(&wire), "by the new policy");
}

#[test]
fn down_up_mtu_and_restart_keep_the_link_and_what_it_does() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(DENY));
    let link = links(&limiter);
    world.veth.server.set_up(false);
    world.veth.server.set_up(true);
    for mtu in ["1400", "9000", "1500"] {
        world.server.batch(&format!("link set server0 mtu {mtu}\n"));
        world.client.batch(&format!("link set client0 mtu {mtu}\n"));
    }
    world
        .client
        .batch("neighbour replace 10.9.0.1 lladdr 02:00:00:00:00:02 dev client0 nud permanent\n");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    assert_eq!(links(&limiter), link);
    assert_eq!(limiter.events().iter().filter(|line| line.contains("XDP")).count(), 1);

    // Another binary takes over by the same link while a denied source floods.
    let other = limiter.directory().join("limiter-next");
    fs::copy(limiter_tests::process::binary(), &other).unwrap();
    let mut watch = Port::open(&world.veth.server);
    let denied = world.datagram(CLIENTS[0]);
    let flood = Flood::start(&world.veth.client, vec![denied.clone()], 4_000);
    flood.flows(200);
    limiter.terminate(SOON);
    limiter.set_program(&other);
    limiter.restart();
    flood.flows(200);
    let sent = flood.stop();
    assert_eq!(
        watch.count_matching(Duration::from_millis(100), |frame| frame == denied),
        0,
        "{sent}"
    );
    assert_eq!(links(&limiter), link, "the program was swapped through the link");
    assert!(limiter.status().interfaces[0].taken_over);
}

#[test]
fn one_that_is_renamed_or_moved_away_is_let_go() {
    let world = World::new();
    let wire = late(&world);
    let text = kernel(&["server0", "late0"], DENY);
    let limiter = Limiter::start(&world.server, &text);
    let rename = |from: &str, to: &str| {
        world
            .server
            .batch(&format!("link set {from} down\nlink set {from} name {to}\nlink set {to} up\n"));
    };
    rename("late0", "other0");
    attached(&limiter, &["server0"]);
    eventually(SOON, "XDP is off", || !has_xdp(&world.server, "other0"));
    limiter.event("XDP detached: late0: it is not wanted any more");
    rename("other0", "late0");
    attached(&limiter, &["server0", "late0"]);
    assert!(late_is_filtered(&wire));

    let client = world.client.name();
    world.server.batch(&format!("link set late0 netns {client}\n"));
    attached(&limiter, &["server0"]);
    limiter.event("XDP detached: late0: it is gone");
    eventually(SOON, "XDP is off", || !has_xdp(&world.client, "late0"));
    let server = world.server.name();
    world.client.batch(&format!("link set late0 netns {server}\n"));
    world.server.batch("link set late0 up\n");
    attached(&limiter, &["server0", "late0"]);
}

#[test]
fn auto_follows_the_default_routes() {
    let world = World::new();
    let text = kernel(&["auto"], DENY);
    let mut limiter = Limiter::prepare(&world.server, &text);
    let refused = limiter.run_to_end().ended_with(1);
    assert!(
        refused.stderr.contains("\"auto\" found no interface with a default route"),
        "{refused:?}"
    );

    limiter.configure(&kernel(&["auto"], &format!("required = false\n{DENY}")));
    limiter.restart();
    assert_eq!(
        limiter.status().degraded,
        ["no interface has a default route: \"auto\" waits for one, nothing is filtered"]
    );
    world.server.batch("route add default via 10.9.0.2 dev server0\n");
    let took = attached(&limiter, &["server0"]);
    assert!(took < AT_ONCE + AT_ONCE, "{took:?}");
    assert_eq!(limiter.status().state, "ready");
    let wire = late(&world);
    assert_eq!(names(&limiter), ["server0"]);
    world.server.batch("route add default via 10.8.0.2 dev late0 metric 100\n");
    attached(&limiter, &["late0", "server0"]);
    assert!(late_is_filtered(&wire));
    // Without its route it stays: packets still come in by it.
    world.server.batch("route del default via 10.8.0.2 dev late0 metric 100\n");
    std::thread::sleep(Duration::from_millis(1_500));
    limiter.configure(&kernel(&["auto"], "required = false"));
    limiter.cli(&["reload"]).succeeded();
    assert_eq!(names(&limiter).len(), 2);
    // Until it goes, or the agent starts anew.
    limiter.terminate(SOON);
    limiter.restart();
    assert_eq!(names(&limiter), ["server0"]);
    eventually(SOON, "XDP is off", || !has_xdp(&world.server, "late0"));
}

#[test]
fn a_reload_attaches_and_lets_go_without_a_gap_for_the_others() {
    let world = World::new();
    let wire = late(&world);
    let limiter = Limiter::start(&world.server, &kernel(&["server0"], DENY));
    let link = links(&limiter);
    let mut watch = Port::open(&world.veth.server);
    let denied = world.datagram(CLIENTS[0]);
    let flood = Flood::start(&world.veth.client, vec![denied.clone()], 4_000);
    let reload = |interfaces: &[&str], lines: &str| {
        limiter.configure(&kernel(interfaces, &format!("{DENY}\n{lines}")));
        limiter.cli(&["reload"])
    };
    let done = reload(&["late0", "server0"], "").succeeded();
    assert!(done.stdout.contains("  XDP attached: late0 (native)\n"), "{done:?}");
    assert!(!done.stdout.contains("restart"), "{done:?}");
    assert!(late_is_filtered(&wire));
    let done = reload(&["server0"], "").succeeded();
    assert!(done.stdout.contains("  XDP detached: late0: it is not wanted any more\n"), "{done:?}");
    eventually(SOON, "XDP is off late0", || !has_xdp(&world.server, "late0"));
    assert!(!late_is_filtered(&wire));
    flood.flows(200);

    // What cannot be done is refused whole.
    let refused = reload(&["server0", "nosuch0"], "mode = \"monitor\"").ended_with(2);
    assert!(
        refused.stderr.contains("interface nosuch0 does not exist; there are: "),
        "{refused:?}"
    );
    let other = Limiter::start(&world.server, &kernel(&["late0"], ""));
    let refused = reload(&["server0", "late0"], "mode = \"monitor\"").ended_with(2);
    let expected = "interface late0 already has an XDP program that is not this agent's: ";
    assert!(refused.stderr.contains(expected), "{refused:?}");
    assert_eq!(names(&limiter), ["server0"]);
    assert_eq!(limiter.status().kernel_mode, "enforce");
    drop(other);
    let sent = flood.stop();
    assert_eq!(
        watch.count_matching(Duration::from_millis(100), |frame| frame == denied),
        0,
        "{sent}"
    );
    assert_eq!(links(&limiter), link);
    drop(watch);

    // Another mode is another attachment.
    reload(&["server0"], "attach = \"generic\"").succeeded();
    assert_eq!(limiter.status().interfaces[0].mode, "generic");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    let refused = reload(&["server0", "lo"], "attach = \"native\"").ended_with(2);
    assert!(refused.stderr.contains("interface lo cannot run XDP in native mode"), "{refused:?}");
    assert_eq!(limiter.status().interfaces[0].mode, "generic");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    reload(&["server0"], "attach = \"native\"").succeeded();
    assert_eq!(limiter.status().interfaces[0].mode, "native");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
}

#[test]
fn one_that_is_busy_is_taken_when_it_is_free() {
    let world = World::new();
    let other = Limiter::start(&world.server, &World::kernel(""));
    let wire = late(&world);
    let text = kernel(&["server0", "late0"], &format!("required = false\n{DENY}"));
    let limiter = Limiter::start(&world.server, &text);
    let status = limiter.status();
    assert_eq!((status.state.as_str(), status.interfaces.len()), ("degraded", 1));
    let [sentence] = status.degraded.as_slice() else { panic!("{status:?}") };
    let expected = "interface server0 already has an XDP program that is not this agent's: ";
    assert!(sentence.starts_with(expected), "{sentence}");
    assert!(late_is_filtered(&wire), "the other one is filtered all the same");
    other.cli(&["detach"]).succeeded();
    attached(&limiter, &["server0", "late0"]);
    assert_eq!(limiter.status().state, "ready");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
}

#[test]
fn a_seventeenth_is_refused_and_the_sixteen_are_not_left_attached() {
    let namespace = Namespace::new("many");
    let mut names: Vec<String> = Vec::new();
    for pair in 0..9 {
        let (one, two) = (format!("a{pair}"), format!("b{pair}"));
        namespace.batch(&format!("link add {one} type veth peer name {two}\n"));
        names.extend([one, two]);
    }
    let refs: Vec<&str> = names.iter().map(String::as_str).take(17).collect();
    let limiter = Limiter::prepare(&namespace, &kernel(&refs, "attach = \"generic\""));
    let refused = limiter.run_to_end().ended_with(1);
    let expected = "interface a8 is one too many: at most 16 are possible";
    assert!(refused.stderr.contains(expected), "{refused:?}");
    eventually(SOON, "nothing is left", || !has_xdp(&namespace, "a0"));
}

#[test]
fn packets_larger_than_a_page_are_filtered_and_counted_whole() {
    for attach in ["native", "generic"] {
        let world = World::new();
        world.server.batch("link set server0 mtu 9000\n");
        world.client.batch("link set client0 mtu 9000\n");
        let limiter = Limiter::start(
            &world.server,
            &World::kernel(&format!("{DENY}\nattach = \"{attach}\"")),
        );
        assert_eq!(limiter.status().interfaces[0].mode, attach);
        for (source, verdict) in [
            (CLIENTS[0], (Action::Drop, Reason::Denied)),
            (CLIENTS[1], (Action::Pass, Reason::Allowed)),
        ] {
            let from = format!("{source}:4000");
            let large = world.frame(Frame::udp(&from, "10.9.0.1:9", &[7; 8_900]));
            let bytes = |limiter: &Limiter| -> u64 {
                let (action, reason) = (verdict.0.label(), verdict.1.label());
                let packets = limiter.status().packets;
                let ours =
                    packets.iter().filter(|one| one.verdict == action && one.reason == reason);
                ours.map(|one| one.bytes).sum()
            };
            let (before, bytes_before) = (Counters::of(&limiter), bytes(&limiter));
            let mut capture = Port::open(&world.veth.server);
            Port::open(&world.veth.client).send_many(&large, 5, 10_000);
            let seen = capture.count_matching(Duration::from_millis(100), |found| found == large);
            assert_eq!(seen, if verdict.0 == Action::Drop { 0 } else { 5 }, "{attach} {source}");
            let expected = [(verdict.0, verdict.1, 5)];
            assert_eventually(
                &limiter,
                &before,
                SOON,
                &expected,
                &[(Action::Pass, Reason::Essential)],
            );
            assert_eq!(bytes(&limiter) - bytes_before, 5 * large.len() as u64, "{attach}");
        }
    }
}
