//! Lists and defaults: who may enter, by what wins over what.

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    frames::{Frame, tcp_flags},
    process::Limiter,
    raw::Port,
    world::{CLIENTS, CLIENTS_V6, SERVER, World},
};

use crate::support::{ALLOWED, BANNED, DENIED, arrive, counts, verdict};

const NOT_ALLOWED: (Action, Reason) = (Action::Drop, Reason::NotAllowed);
const TRUSTED: (Action, Reason) = (Action::Pass, Reason::Trusted);

#[test]
fn the_longest_prefix_wins_deny_wins_a_tie_trusted_wins_all() {
    let world = World::new();
    let lines = "default = \"deny\"\n\
                 allow = [\"10.9.0.0/24\", \"10.9.0.3\", \"fd00:a::/64\"]\n\
                 deny = [\"10.9.0.2\", \"10.9.0.3\", \"10.9.0.4\", \"fd00:a::3\"]\n\
                 trusted = [\"10.9.0.4/31\"]";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    verdict(&world, &limiter, CLIENTS[1], DENIED);
    verdict(&world, &limiter, CLIENTS[2], TRUSTED);
    verdict(&world, &limiter, CLIENTS[3], TRUSTED);
    verdict(&world, &limiter, CLIENTS[4], ALLOWED);
    verdict(&world, &limiter, CLIENTS_V6[0], ALLOWED);
    verdict(&world, &limiter, CLIENTS_V6[1], DENIED);
    verdict(&world, &limiter, CLIENTS_V6[2], NOT_ALLOWED);
    verdict(&world, &limiter, "198.51.100.7", NOT_ALLOWED);
    limiter.event("from 198.51.100.7 in 1s: not_allowed");
    limiter.event("from fd00:a::3 in 1s: denied");
    assert_eq!(limiter.json(&["why", "198.51.100.7", "--json"])["reason"], "not_allowed");
}

#[test]
fn an_empty_allow_list_means_nobody() {
    let world = World::new();
    let lines = "default = \"deny\"\nallow = []";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    verdict(&world, &limiter, CLIENTS[0], NOT_ALLOWED);
}

#[test]
fn failsafe_ports_are_exempt_from_lists_and_bans_not_from_limits() {
    let world = World::new();
    let lines = "default = \"deny\"\nallow = [\"10.9.0.3\"]\n\
                 [kernel.limits]\npackets = \"1/h\"\npackets_burst = 6";
    let text = World::kernel(lines).replace("failsafe_ports = []", "failsafe_ports = [2222]");
    let limiter = Limiter::start(&world.server, &text);
    let port = Port::open(&world.veth.client);
    let syn = |source: &str, to: u16| {
        let (from, to) = (format!("{source}:1024"), format!("{SERVER}:{to}"));
        world.frame(Frame::tcp(&from, &to, tcp_flags::SYN))
    };
    limiter.cli(&["ban", CLIENTS[1]]).succeeded();
    counts(
        &limiter,
        &[(Action::Pass, Reason::Failsafe, 6), (Action::Drop, Reason::PacketRate, 4)],
        || {
            port.send_many(&syn(CLIENTS[1], 2222), 10, 100_000);
        },
    );
    counts(&limiter, &[(Action::Drop, Reason::Banned, 2)], || {
        port.send_many(&syn(CLIENTS[1], 2223), 2, 100_000);
    });
    counts(&limiter, &[(Action::Pass, Reason::Failsafe, 3)], || {
        port.send_many(&syn(CLIENTS[2], 2222), 3, 100_000);
    });
    counts(&limiter, &[(Action::Drop, Reason::NotAllowed, 1)], || {
        // A failsafe port is one of TCP.
        let (from, to) = (format!("{}:1024", CLIENTS[2]), format!("{SERVER}:2222"));
        port.send(&world.frame(Frame::udp(&from, &to, b"x")));
    });
}

#[test]
fn trusted_sources_are_never_limited_nor_banned() {
    let world = World::new();
    let lines = "trusted = [\"10.9.0.2\"]\n[kernel.limits]\npackets = \"1/h\"\npackets_burst = 2";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    counts(&limiter, &[(Action::Pass, Reason::Trusted, 50)], || {
        assert_eq!(arrive(&world, CLIENTS[0], 50), 50);
    });
    for arguments in [vec!["ban", CLIENTS[0]], vec!["ban", CLIENTS[0], "--force"]] {
        let refused = limiter.cli(&arguments).ended_with(1);
        assert!(refused.stderr.contains("it is on the `trusted` list"), "{refused:?}");
    }
    assert!(limiter.json(&["bans", "--json"]).as_array().unwrap().is_empty());

    // Becoming trusted ends a ban that was there before.
    limiter.cli(&["ban", CLIENTS[1]]).succeeded();
    verdict(&world, &limiter, CLIENTS[1], BANNED);
    let lines = lines.replace("\"10.9.0.2\"", "\"10.9.0.2/31\"");
    limiter.configure(&World::kernel(&lines));
    limiter.cli(&["reload"]).succeeded();
    verdict(&world, &limiter, CLIENTS[1], TRUSTED);
}

#[test]
fn monitor_mode_decides_the_same_and_drops_nothing() {
    let world = World::new();
    let lines = "mode = \"monitor\"\ndeny = [\"10.9.0.2\"]\n\
                 [kernel.limits]\npackets = \"1/h\"\npackets_burst = 5";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    assert_eq!(limiter.status().kernel_mode, "monitor");
    verdict(&world, &limiter, CLIENTS[0], (Action::Monitor, Reason::Denied));
    limiter.event("in 1s: denied (monitor)");
    let expected = [(Action::Pass, Reason::Allowed, 5), (Action::Monitor, Reason::PacketRate, 7)];
    counts(&limiter, &expected, || assert_eq!(arrive(&world, CLIENTS[1], 12), 12));
    limiter.cli(&["ban", CLIENTS[2]]).succeeded();
    verdict(&world, &limiter, CLIENTS[2], (Action::Monitor, Reason::Banned));
    // Enforcing goes on from the same state.
    limiter.configure(&World::kernel(&lines.replace("\"monitor\"", "\"enforce\"")));
    limiter.cli(&["reload"]).succeeded();
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    verdict(&world, &limiter, CLIENTS[1], (Action::Drop, Reason::PacketRate));
    verdict(&world, &limiter, CLIENTS[2], BANNED);
}

/// What is remembered of a source must not hold for its neighbours in the same prefix.
#[test]
fn lists_tell_addresses_of_one_counted_prefix_apart() {
    let world = World::new();
    let lines = "ipv4_prefix = 24\ndeny = [\"10.9.0.3\", \"fd00:a::3\"]\n\
                 trusted = [\"10.9.0.4\"]";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    for _ in 0..2 {
        verdict(&world, &limiter, CLIENTS[0], ALLOWED);
        verdict(&world, &limiter, CLIENTS[1], DENIED);
        verdict(&world, &limiter, CLIENTS[2], TRUSTED);
        verdict(&world, &limiter, CLIENTS_V6[0], ALLOWED);
        verdict(&world, &limiter, CLIENTS_V6[1], DENIED);
    }
}
