//! Limits per source, exactly, and what happens when there is no room to count.

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    frames::{Ethernet, Frame, Ipv4, Payload, tcp_flags},
    process::Limiter,
    raw::Port,
    world::{CLIENTS, CLIENTS_V6, SERVER, World},
};

use crate::support::{ALLOWED, arrive, counts, verdict};

#[test]
fn a_burst_is_admitted_to_the_packet_and_others_are_unaffected() {
    let world = World::new();
    let lines = "[kernel.limits]\npackets = \"1/h\"\npackets_burst = 100";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let expected = [(Action::Pass, Reason::Allowed, 100), (Action::Drop, Reason::PacketRate, 150)];
    counts(&limiter, &expected, || assert_eq!(arrive(&world, CLIENTS[0], 250), 100));
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    let sources = limiter.json(&["sources", "--json", "--sort", "dropped"]);
    let first = &sources[0];
    assert_eq!(
        (&first["source"], &first["packets"], &first["dropped"]),
        (&"10.9.0.2/32".into(), &250.into(), &150.into())
    );
    let size = world.datagram(CLIENTS[0]).len() as u64 * 250;
    assert_eq!(first["bytes"], size);
    // A raised limit admits as much more as it is larger, at once.
    limiter.configure(&World::kernel(&lines.replace("100", "103")));
    limiter.cli(&["reload"]).succeeded();
    let expected = [(Action::Pass, Reason::Allowed, 3), (Action::Drop, Reason::PacketRate, 2)];
    counts(&limiter, &expected, || assert_eq!(arrive(&world, CLIENTS[0], 5), 3));
}

#[test]
fn new_connections_are_counted_and_other_segments_are_not() {
    let world = World::new();
    let lines = "[kernel.limits]\nnew_connections = \"1/h\"\nnew_connections_burst = 8";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    let segment = |source: &str, flags| {
        world.frame(Frame::tcp(&format!("{source}:1024"), &format!("{SERVER}:81"), flags))
    };
    let expected = [(Action::Pass, Reason::Allowed, 8), (Action::Drop, Reason::ConnectionRate, 12)];
    counts(&limiter, &expected, || {
        port.send_many(&segment(CLIENTS[0], tcp_flags::SYN), 20, 100_000);
    });
    counts(&limiter, &[(Action::Pass, Reason::Allowed, 20)], || {
        port.send_many(&segment(CLIENTS[0], tcp_flags::ACK), 10, 100_000);
        let answer = tcp_flags::SYN | tcp_flags::ACK;
        port.send_many(&segment(CLIENTS[0], answer), 10, 100_000);
    });
    counts(&limiter, &[(Action::Pass, Reason::Allowed, 8)], || {
        port.send_many(&segment(CLIENTS[1], tcp_flags::SYN), 8, 100_000);
    });
    let sources = limiter.json(&["sources", "--json", "--sort", "connections"]);
    assert_eq!(
        (&sources[0]["source"], &sources[0]["connections"]),
        (&"10.9.0.2/32".into(), &20.into())
    );
}

#[test]
fn ipv6_sources_are_counted_by_their_64() {
    let world = World::new();
    let lines = "[kernel.limits]\npackets = \"1/h\"\npackets_burst = 10";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    counts(&limiter, &[(Action::Pass, Reason::Allowed, 6)], || world.send(CLIENTS_V6[0], 6));
    let expected = [(Action::Pass, Reason::Allowed, 4), (Action::Drop, Reason::PacketRate, 2)];
    counts(&limiter, &expected, || assert_eq!(arrive(&world, CLIENTS_V6[1], 6), 4));
    verdict(&world, &limiter, CLIENTS_V6[2], ALLOWED);
    let sources = limiter.json(&["sources", "--json"]);
    assert_eq!(
        (&sources[0]["source"], &sources[0]["packets"]),
        (&"fd00:a::/64".into(), &12.into())
    );
}

#[test]
fn malformed_packets_are_dropped_or_passed_as_told() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let port = Port::open(&world.veth.client);
    let lies = || {
        let udp = Frame::udp("10.9.0.2:1", "10.9.0.1:9", b"x");
        port.send(&world.frame(udp.clone().map::<Ipv4>(|ip| ip.header_words = Some(4))));
        port.send(&world.frame(udp.clone().map::<Ipv4>(|ip| ip.total_length = Some(2000))));
        port.send(&world.frame(udp.map::<Ipv4>(|ip| ip.version = Some(5))));
        let short = Frame::new()
            .with(Ethernet { ether_type: Some(0x0800), ..Ethernet::default() })
            .with(Payload(vec![0x45, 0, 0, 20]));
        port.send(&world.frame(short));
    };
    counts(&limiter, &[(Action::Drop, Reason::Malformed, 4)], lies);
    limiter.configure(&World::kernel("malformed = \"pass\""));
    limiter.cli(&["reload"]).succeeded();
    counts(&limiter, &[(Action::Pass, Reason::Malformed, 4)], lies);
}

#[test]
fn fragments_are_limited_dropped_or_passed_as_told() {
    let world = World::new();
    let lines = "[kernel.limits]\npackets = \"1/h\"\npackets_burst = 2";
    let policy = |word: &str| World::kernel(&format!("fragments = \"{word}\"\n{lines}"));
    let limiter = Limiter::start(&world.server, &policy("limit"));
    let port = Port::open(&world.veth.client);
    let datagram = Frame::udp("10.9.0.2:1", "10.9.0.1:9", &[7; 64])
        .map::<Ipv4>(|ip| ip.dont_fragment = false)
        .macs(world.veth.client.mac, world.veth.server.mac);
    let fragments = datagram.fragments(24, 77);
    assert_eq!(fragments.len(), 3);
    let send = || fragments.iter().for_each(|fragment| port.send(fragment));
    let expected = [(Action::Pass, Reason::Allowed, 2), (Action::Drop, Reason::PacketRate, 1)];
    counts(&limiter, &expected, send);
    for (word, action) in [("drop", Action::Drop), ("pass", Action::Pass)] {
        limiter.configure(&policy(word));
        limiter.cli(&["reload"]).succeeded();
        counts(&limiter, &[(action, Reason::Fragment, 3)], send);
    }
}

#[test]
fn sources_for_which_there_is_no_room_are_passed_or_dropped_as_told() {
    // Four sets of seven slots; every source stays in debt.
    let world = World::new();
    let policy = |word: &str| {
        World::kernel(&format!(
            "max_sources = 1\ntable_full = \"{word}\"\n\
             [kernel.limits]\npackets = \"1/h\"\npackets_burst = 10"
        ))
    };
    let mut limiter = Limiter::start(&world.server, &policy("pass"));
    let port = Port::open(&world.veth.client);
    for number in 0..200 {
        port.send(&world.datagram(&format!("198.51.100.{number}")));
    }
    let packets = |limiter: &Limiter, action, reason| {
        limiter_tests::counters::Counters::of(limiter).get(action, reason)
    };
    limiter_tests::wait::eventually(crate::support::SOON, "all are counted", || {
        // Of those without a slot, some are tried for one and find none.
        let full = packets(&limiter, Action::Pass, Reason::TableFull)
            + packets(&limiter, Action::Pass, Reason::Untracked);
        full + packets(&limiter, Action::Pass, Reason::Allowed) == 200
    });
    let room = packets(&limiter, Action::Pass, Reason::Allowed);
    let fill = &limiter.status().maps["sources"];
    assert_eq!((fill.entries, fill.capacity), (room, 28), "a slot for each that was admitted");
    // Those that are counted still are, by their own bucket.
    let known = limiter.json(&["sources", "--json", "--limit", "1"]);
    let known = known[0]["source"].as_str().unwrap().trim_end_matches("/32").to_owned();
    let expected = [(Action::Pass, Reason::Allowed, 9), (Action::Drop, Reason::PacketRate, 3)];
    counts(&limiter, &expected, || world.send(&known, 12));

    limiter.configure(&policy("drop"));
    limiter.cli(&["reload"]).succeeded();
    let unknown: Vec<String> = (0..200).map(|number| format!("203.0.113.{number}")).collect();
    let before = limiter_tests::counters::Counters::of(&limiter);
    for source in &unknown {
        port.send(&world.datagram(source));
    }
    limiter_tests::wait::eventually(crate::support::SOON, "all are dropped or counted", || {
        let now = limiter_tests::counters::Counters::of(&limiter);
        let more = |action, reason| now.get(action, reason) - before.get(action, reason);
        let (dropped, room) =
            (more(Action::Drop, Reason::TableFull), more(Action::Pass, Reason::Allowed));
        dropped + room == 200 && room <= 28 - fill.entries
    });
    // The table outlives the agent, debts and all.
    limiter.kill_agent();
    limiter.restart();
    counts(&limiter, &[(Action::Drop, Reason::PacketRate, 2)], || world.send(&known, 2));
}
