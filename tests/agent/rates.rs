//! Every limit by itself: bytes, kinds of packets, all sources together, services; enforced and
//! monitored. A rate of one per hour makes what a burst admits exact.

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    frames::{Frame, tcp_flags},
    process::Limiter,
    raw::Port,
    world::{CLIENTS, CLIENTS_V6, SERVER, SERVER_V6, World},
};

use crate::support::counts;

const PASS: (Action, Reason) = (Action::Pass, Reason::Allowed);

/// A datagram to a port of the host, the frame of which has so many bytes.
fn datagram(world: &World, source: &str, port: u16, bytes: usize) -> Vec<u8> {
    let (from, to) = (format!("{source}:4000"), format!("{SERVER}:{port}"));
    world.frame(Frame::udp(&from, &to, &vec![7; bytes - 42]))
}

fn segment(world: &World, source: &str, port: u16, flags: u8) -> Vec<u8> {
    world.frame(Frame::tcp(&format!("{source}:1024"), &format!("{SERVER}:{port}"), flags))
}

fn ping(world: &World, source: &str) -> Vec<u8> {
    let host = if source.contains(':') { SERVER_V6 } else { SERVER };
    world.frame(Frame::ping(source.parse().unwrap(), host.parse().unwrap()))
}

/// Panics unless of `count` such frames the first `admitted` pass and the others end otherwise.
#[track_caller]
fn admits(
    limiter: &Limiter,
    port: &Port,
    frame: &[u8],
    count: u32,
    admitted: u32,
    other: (Action, Reason),
) {
    let mut expected = Vec::new();
    if admitted > 0 {
        expected.push((PASS.0, PASS.1, u64::from(admitted)));
    }
    if count > admitted {
        expected.push((other.0, other.1, u64::from(count - admitted)));
    }
    counts(limiter, &expected, || port.send_many(frame, count, 100_000));
}

#[test]
fn bytes_are_those_of_whole_frames() {
    let world = World::new();
    let lines = "[kernel.limits]\nbytes = \"1B/s\"\nbytes_burst = \"10kB\"";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    let over = (Action::Drop, Reason::ByteRate);
    // One that does not fit leaves the rest to smaller ones.
    admits(&limiter, &port, &datagram(&world, CLIENTS[0], 9, 1_300), 12, 7, over);
    admits(&limiter, &port, &datagram(&world, CLIENTS[0], 9, 400), 5, 2, over);
    admits(&limiter, &port, &datagram(&world, CLIENTS[1], 9, 1_000), 12, 10, over);
}

#[test]
fn kinds_of_packets_have_buckets_of_their_own() {
    let world = World::new();
    let lines = "[kernel.limits]\nudp_packets = \"1/h\"\nudp_packets_burst = 7\n\
                 icmp_packets = \"1/h\"\nicmp_packets_burst = 5\n\
                 new_connections = \"1/h\"\nnew_connections_burst = 3";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    for source in &CLIENTS[..2] {
        let udp = datagram(&world, source, 9, 100);
        admits(&limiter, &port, &udp, 12, 7, (Action::Drop, Reason::UdpRate));
        let icmp = ping(&world, source);
        admits(&limiter, &port, &icmp, 9, 5, (Action::Drop, Reason::IcmpRate));
        let syn = segment(&world, source, 81, tcp_flags::SYN);
        admits(&limiter, &port, &syn, 9, 3, (Action::Drop, Reason::ConnectionRate));
        admits(&limiter, &port, &segment(&world, source, 81, tcp_flags::ACK), 20, 20, PASS);
    }
    // IPv6 alike, and its ICMP is one kind with that of IPv4.
    let icmp = ping(&world, CLIENTS_V6[0]);
    admits(&limiter, &port, &icmp, 9, 5, (Action::Drop, Reason::IcmpRate));
    admits(&limiter, &port, &ping(&world, CLIENTS_V6[1]), 2, 0, (Action::Drop, Reason::IcmpRate));
}

#[test]
fn all_sources_together_share_the_total() {
    for (lines, burst) in [
        ("packets = \"1/h\"\npackets_burst = 20", 20),
        ("bytes = \"1B/s\"\nbytes_burst = \"20100B\"", 20),
        ("udp_packets = \"1/h\"\nudp_packets_burst = 20", 20),
    ] {
        let world = World::new();
        let text = World::kernel(&format!("[kernel.total_limits]\n{lines}"));
        let limiter = Limiter::start(&world.server, &text);
        let port = Port::open(&world.veth.client);
        let over = (Action::Drop, Reason::TotalRate);
        for (source, admitted) in CLIENTS.iter().zip([8, 8, burst - 16, 0]) {
            let frame = datagram(&world, source, 9, 1_000);
            admits(&limiter, &port, &frame, 8, admitted, over);
        }
    }
    let world = World::new();
    let lines = "[kernel.total_limits]\nicmp_packets = \"1/h\"\nicmp_packets_burst = 6\n\
                 new_connections = \"1/h\"\nnew_connections_burst = 6";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    for (source, admitted) in CLIENTS.iter().zip([4, 2, 0]) {
        let over = (Action::Drop, Reason::TotalRate);
        admits(&limiter, &port, &ping(&world, source), 4, admitted, over);
        let syn = segment(&world, source, 81, tcp_flags::SYN);
        admits(&limiter, &port, &syn, 4, admitted, over);
    }
}

/// What one limit refuses is not charged to the others.
#[test]
fn a_packet_that_one_limit_refuses_costs_nothing_elsewhere() {
    let world = World::new();
    let lines = "[kernel.limits]\npackets = \"1/h\"\npackets_burst = 6\n\
                 udp_packets = \"1/h\"\nudp_packets_burst = 2\n\
                 [kernel.total_limits]\npackets = \"1/h\"\npackets_burst = 10";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    let udp = datagram(&world, CLIENTS[0], 9, 100);
    admits(&limiter, &port, &udp, 50, 2, (Action::Drop, Reason::UdpRate));
    let ack = |source: &str| segment(&world, source, 81, tcp_flags::ACK);
    admits(&limiter, &port, &ack(CLIENTS[0]), 50, 4, (Action::Drop, Reason::PacketRate));
    admits(&limiter, &port, &ack(CLIENTS[1]), 20, 4, (Action::Drop, Reason::TotalRate));
    // Nor is what the total refuses charged to the source.
    limiter.configure(&World::kernel(&lines.replace("burst = 10", "burst = 30")));
    limiter.cli(&["reload"]).succeeded();
    admits(&limiter, &port, &ack(CLIENTS[1]), 20, 2, (Action::Drop, Reason::PacketRate));
}

#[test]
fn services_limit_each_source_and_all_of_them() {
    let world = World::new();
    let lines = "[[kernel.service]]\nname = \"games\"\n\
                 ports = [\"udp/53\", \"tcp/53\", \"udp/8000-8010\"]\n\
                 limits = { packets = \"1/h\", packets_burst = 5 }\n\
                 total_limits = { packets = \"1/h\", packets_burst = 12 }\n\
                 [[kernel.service]]\nname = \"web\"\nports = [\"tcp/80\"]\n\
                 limits = { new_connections = \"1/h\", new_connections_burst = 4 }";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    let udp = |source, to| datagram(&world, source, to, 100);
    let over = (Action::Drop, Reason::PacketRate);
    // Its ports share what a source may send, whatever the protocol.
    admits(&limiter, &port, &udp(CLIENTS[0], 53), 2, 2, over);
    admits(&limiter, &port, &udp(CLIENTS[0], 8_000), 1, 1, over);
    admits(&limiter, &port, &udp(CLIENTS[0], 8_010), 1, 1, over);
    admits(&limiter, &port, &segment(&world, CLIENTS[0], 53, tcp_flags::ACK), 3, 1, over);
    for beside in [udp(CLIENTS[0], 7_999), udp(CLIENTS[0], 8_011), udp(CLIENTS[0], 80)] {
        admits(&limiter, &port, &beside, 9, 9, over);
    }
    let beside = segment(&world, CLIENTS[0], 8_000, tcp_flags::ACK);
    admits(&limiter, &port, &beside, 9, 9, over);
    // Every source has its own, until all together have sent what the service admits.
    admits(&limiter, &port, &udp(CLIENTS[1], 53), 7, 5, over);
    admits(&limiter, &port, &udp(CLIENTS[2], 53), 4, 2, (Action::Drop, Reason::TotalRate));
    admits(&limiter, &port, &udp(CLIENTS[2], 9), 9, 9, over);
    // The other service has its own too.
    let syn = segment(&world, CLIENTS[0], 80, tcp_flags::SYN);
    admits(&limiter, &port, &syn, 6, 4, (Action::Drop, Reason::ConnectionRate));
    let ack = segment(&world, CLIENTS[0], 80, tcp_flags::ACK);
    admits(&limiter, &port, &ack, 9, 9, over);
}

#[test]
fn every_table_of_limits_can_be_monitored() {
    let service = "[[kernel.service]]\nname = \"dns\"\nports = [\"udp/53\"]\n";
    for (lines, reason) in [
        (
            "[kernel.limits]\nmode = \"monitor\"\npackets = \"1/h\"\npackets_burst = 5".to_owned(),
            Reason::PacketRate,
        ),
        (
            "[kernel.limits]\nmode = \"monitor\"\nudp_packets = \"1/h\"\nudp_packets_burst = 5"
                .to_owned(),
            Reason::UdpRate,
        ),
        (
            "[kernel.total_limits]\nmode = \"monitor\"\npackets = \"1/h\"\npackets_burst = 5"
                .to_owned(),
            Reason::TotalRate,
        ),
        (
            format!(
                "{service}limits = {{ mode = \"monitor\", packets = \"1/h\", packets_burst = 5 }}"
            ),
            Reason::PacketRate,
        ),
        (
            format!(
                "{service}total_limits = {{ mode = \"monitor\", packets = \"1/h\", packets_burst = 5 }}"
            ),
            Reason::TotalRate,
        ),
        (
            format!(
                "{service}mode = \"monitor\"\nlimits = {{ packets = \"1/h\", packets_burst = 5 }}"
            ),
            Reason::PacketRate,
        ),
    ] {
        let world = World::new();
        let limiter = Limiter::start(&world.server, &World::kernel(&lines));
        let port = Port::open(&world.veth.client);
        let frame = datagram(&world, CLIENTS[0], 53, 100);
        admits(&limiter, &port, &frame, 8, 5, (Action::Monitor, reason));
        // Enforcing goes on from the same state: what was only monitored was not charged.
        let text = World::kernel(
            &lines.replace("\"monitor\"", "\"enforce\"").replace("burst = 5", "burst = 7"),
        );
        limiter.configure(&text);
        limiter.cli(&["reload"]).succeeded();
        admits(&limiter, &port, &frame, 8, 2, (Action::Drop, reason));
    }
}

/// One table only monitored does not soften another that enforces.
#[test]
fn monitored_limits_leave_the_enforced_ones_alone() {
    let world = World::new();
    let lines = "[kernel.limits]\nmode = \"monitor\"\npackets = \"1/h\"\npackets_burst = 2\n\
                 [kernel.total_limits]\npackets = \"1/h\"\npackets_burst = 6";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    let frame = datagram(&world, CLIENTS[0], 9, 100);
    let expected = [
        (Action::Pass, Reason::Allowed, 2),
        (Action::Monitor, Reason::PacketRate, 4),
        (Action::Drop, Reason::TotalRate, 3),
    ];
    counts(&limiter, &expected, || port.send_many(&frame, 9, 100_000));
}

#[test]
fn ipv4_sources_are_counted_by_the_prefix_that_the_policy_names() {
    let world = World::new();
    let lines = "ipv4_prefix = 24\nipv6_prefix = 48\n\
                 [kernel.limits]\npackets = \"1/h\"\npackets_burst = 10";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    let over = (Action::Drop, Reason::PacketRate);
    for (source, admitted) in [
        ("198.51.100.1", 6),
        ("198.51.100.255", 4),
        ("198.51.101.1", 6),
        ("2001:db8:5:1::1", 6),
        ("2001:db8:5:ffff::1", 4),
        ("2001:db8:6::1", 6),
    ] {
        admits(&limiter, &port, &world.datagram(source), 6, admitted, over);
    }
    let sources = limiter.json(&["sources", "--json"]).to_string();
    for source in ["\"198.51.100.0/24\"", "\"2001:db8:5::/48\""] {
        assert!(sources.contains(source), "{sources}");
    }
}
