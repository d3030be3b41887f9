//! Packets that no stack sends, each by the flaw it is counted as; and packets without which the
//! host loses its network, whatever the policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    frames::{
        Arp, Ethernet, Extension, Fragment6, Frame, Icmp, Icmpv6, Igmp, Ipv4, Ipv6, Opaque,
        Payload, Tcp, Udp, Vlan, dhcp_discover, mld_report, tcp_flags,
    },
    process::Limiter,
    raw::Port,
    wait::eventually,
    world::{CLIENTS, CLIENTS_V6, SERVER, SERVER_V6, World},
};

use crate::support::{SOON, counts};

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn tcp(flags: u8) -> Frame {
    Frame::tcp("10.9.0.2:1024", "10.9.0.1:80", flags)
}

fn udp() -> Frame {
    Frame::udp("10.9.0.2:1024", "10.9.0.1:9", b"datagram")
}

fn from(source: &str) -> Frame {
    if source.contains(':') {
        Frame::udp(&format!("[{source}]:1024"), &format!("[{SERVER_V6}]:9"), b"x")
    } else {
        Frame::udp(&format!("{source}:1024"), &format!("{SERVER}:9"), b"x")
    }
}

/// A first fragment of IPv4 with so many bytes behind its header.
fn first_fragment(protocol: u8, bytes: usize) -> Frame {
    let mut ip = Ipv4::new(v4(CLIENTS[0]), v4(SERVER));
    ip.dont_fragment = false;
    ip.more_fragments = true;
    Frame::new()
        .with(Ethernet::default())
        .with(ip)
        .with(Opaque::Protocol(protocol, vec![0x50; bytes]))
}

fn later_fragment(offset: u16) -> Frame {
    let mut ip = Ipv4::new(v4(CLIENTS[0]), v4(SERVER));
    ip.dont_fragment = false;
    ip.fragment_offset = offset;
    Frame::new().with(Ethernet::default()).with(ip).with(Opaque::Protocol(6, vec![0x50; 64]))
}

/// What no stack sends, by the flaw.
fn flawed() -> Vec<(&'static str, Vec<Frame>)> {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN, URG};
    let header = |change: fn(&mut Ipv4)| udp().map::<Ipv4>(change);
    let ipv6 = || from(CLIENTS_V6[0]);
    let extensions =
        (0..9).fold(ipv6(), |frame, _| frame.after_ip(Extension::destination_options(vec![])));
    vec![
        (
            "tcp_flags",
            vec![
                tcp(SYN | FIN),
                tcp(SYN | RST),
                tcp(SYN | FIN | ACK | PSH),
                tcp(0),
                tcp(FIN),
                tcp(FIN | PSH | URG),
                tcp(PSH),
                tcp(0xff),
                Frame::tcp("[fd00:a::2]:1", "[fd00:9::1]:80", SYN | FIN),
            ],
        ),
        (
            "land",
            vec![
                // Of an address that is not this host's own (that has a flaw of its own).
                Frame::udp("10.9.0.77:9", "10.9.0.77:9", b"x"),
                Frame::tcp("10.9.0.77:80", "10.9.0.77:80", SYN),
                Frame::udp("[fd00:a::77]:9", "[fd00:a::77]:9", b"x"),
            ],
        ),
        (
            "own_source",
            vec![from(SERVER), from(SERVER_V6), Frame::udp("10.9.0.1:9", "10.9.0.2:9", b"x")],
        ),
        (
            "source",
            vec![
                from("127.0.0.1"),
                from("127.255.0.1"),
                from("::1"),
                from("224.0.0.1"),
                from("239.1.2.3"),
                from("255.255.255.255"),
                from("240.0.0.1"),
                from("ff02::1"),
                from("::ffff:10.9.0.2"),
            ],
        ),
        (
            "network",
            vec![
                header(|ip| ip.header_words = Some(4)),
                header(|ip| ip.header_words = Some(15)),
                header(|ip| ip.total_length = Some(19)),
                header(|ip| ip.total_length = Some(2_000)),
                header(|ip| ip.version = Some(6)),
                ipv6().map::<Ipv6>(|ip| ip.version = Some(4)),
                ipv6().map::<Ipv6>(|ip| ip.payload_length = Some(2_000)),
            ],
        ),
        (
            "transport",
            vec![
                tcp(ACK).map::<Tcp>(|tcp| tcp.header_words = Some(4)),
                tcp(ACK).map::<Tcp>(|tcp| tcp.header_words = Some(15)),
                udp().map::<Udp>(|udp| udp.length = Some(7)),
                udp().map::<Udp>(|udp| udp.length = Some(900)),
            ],
        ),
        (
            "fragment",
            vec![
                first_fragment(6, 8),
                first_fragment(6, 16),
                first_fragment(17, 4),
                later_fragment(1),
                Frame::ip(v6(CLIENTS_V6[0]).into(), v6(SERVER_V6).into())
                    .with(Fragment6 { more: true, next_header: Some(6), ..Fragment6::default() })
                    .with(Payload(vec![0x50; 8])),
            ],
        ),
        ("extension_headers", vec![extensions]),
        (
            "link",
            vec![
                udp()
                    .after_ethernet(Vlan::new(3))
                    .after_ethernet(Vlan::new(2))
                    .after_ethernet(Vlan::service(1)),
            ],
        ),
    ]
}

#[test]
fn what_no_stack_sends_is_dropped_and_counted_by_its_flaw() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let port = Port::open(&world.veth.client);
    let told = |flaw: &str| limiter.status().malformed.get(flaw).copied().unwrap_or(0);
    let mut total = 0;
    for (flaw, frames) in flawed() {
        for frame in frames {
            let (before, name) = (told(flaw), format!("{flaw}: {frame:?}"));
            let bytes = world.frame(frame);
            total += 1;
            port.send(&bytes);
            let malformed = || -> u64 { limiter.status().malformed.values().sum() };
            eventually(SOON, &name, || malformed() == total);
            assert_eq!(told(flaw), before + 1, "{name}: {:?}", limiter.status().malformed);
        }
    }
    let counters = limiter_tests::counters::Counters::of(&limiter);
    assert_eq!(counters.get(Action::Drop, Reason::Malformed), total);
    assert_eq!(counters.total(Action::Drop), total);
    // What looks like these and is not.
    let sound = [
        tcp(tcp_flags::FIN | tcp_flags::ACK),
        tcp(tcp_flags::RST),
        tcp(tcp_flags::RST | tcp_flags::ACK | tcp_flags::FIN),
        tcp(tcp_flags::SYN | 0xc0),
        udp().map::<Udp>(|udp| udp.checksum = Some(0)),
        first_fragment(6, 24),
        later_fragment(3),
        udp().after_ethernet(Vlan::new(2)).after_ethernet(Vlan::service(1)),
    ];
    counts(&limiter, &[(Action::Pass, Reason::Allowed, 8)], || {
        for frame in sound {
            port.send(&world.frame(frame));
        }
    });
}

#[test]
fn malformed_packets_pass_if_the_policy_says_so_and_are_only_counted_when_monitored() {
    for (line, action) in
        [("malformed = \"pass\"", Action::Pass), ("mode = \"monitor\"", Action::Monitor)]
    {
        let world = World::new();
        let limiter = Limiter::start(&world.server, &World::kernel(line));
        let port = Port::open(&world.veth.client);
        let frames: Vec<Frame> = flawed().into_iter().flat_map(|(_, frames)| frames).collect();
        let expected = [(action, Reason::Malformed, frames.len() as u64)];
        counts(&limiter, &expected, || {
            for frame in frames {
                port.send(&world.frame(frame));
            }
        });
        let flaws = limiter.status().malformed;
        assert!(flawed().iter().all(|(flaw, _)| flaws.contains_key(*flaw)), "{flaws:?}");
    }
}

/// Everything denied, every limit at its lowest, the source banned.
#[test]
fn what_the_network_needs_always_passes() {
    let world = World::new();
    let lines = "default = \"deny\"\nfragments = \"drop\"\ntable_full = \"drop\"\n\
                 deny = [\"0.0.0.0/0\", \"::/0\"]\n\
                 [kernel.limits]\npackets = \"1/h\"\npackets_burst = 1\nicmp_packets = \"1/h\"\n\
                 udp_packets = \"1/h\"\n[kernel.total_limits]\npackets = \"1/h\"";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    for source in [CLIENTS[0], CLIENTS_V6[0]] {
        limiter.cli(&["ban", source]).succeeded();
    }
    let (client, host): (IpAddr, IpAddr) =
        (CLIENTS_V6[0].parse().unwrap(), SERVER_V6.parse().unwrap());
    let discovery = |kind: u8| {
        Frame::ip(client, host)
            .map::<Ipv6>(|ip| ip.hop_limit = 255)
            .with(Icmpv6::new(kind, 0))
            .with(Payload(vec![0; 16]))
    };
    let icmp = |kind, code| {
        Frame::ip(CLIENTS[0].parse().unwrap(), SERVER.parse().unwrap())
            .with(Icmp { rest: [0, 0, 5, 0], ..Icmp::new(kind, code) })
            .with(Payload(vec![0x45; 28]))
    };
    let icmpv6 =
        |kind| Frame::ip(client, host).with(Icmpv6::new(kind, 0)).with(Payload(vec![0x60; 48]));
    let arp = Arp::request(v4(CLIENTS[0]), v4(SERVER));
    let needed = [
        Frame::new().with(Ethernet { destination: [0xff; 6], ..Ethernet::default() }).with(arp),
        discovery(133),
        discovery(134),
        discovery(135),
        discovery(136),
        discovery(137),
        dhcp_discover(),
        Frame::udp("10.9.0.2:67", "10.9.0.1:68", b"offer"),
        Frame::udp("[fd00:a::2]:547", "[fd00:9::1]:546", b"advertise"),
        mld_report(v6("fe80::1"), v6("ff02::5")),
        Frame::ip(CLIENTS[0].parse().unwrap(), "224.0.0.1".parse().unwrap())
            .with(Igmp::new(0x11, 0)),
        icmp(3, 4),
        icmpv6(2),
        Frame::new().with(Ethernet::default()).with(Opaque::EtherType(0x88cc, vec![2; 40])),
    ];
    let port = Port::open(&world.veth.client);
    let counters = || limiter_tests::counters::Counters::of(&limiter);
    let before = counters();
    // Each often: there is no limit on it.
    for frame in &needed {
        let bytes = world.frame(frame.clone());
        // A broadcast stays one.
        port.send_many(&bytes, 20, 100_000);
    }
    let all = 20 * needed.len() as u64;
    eventually(SOON, "all have passed", || {
        let now = counters();
        assert_eq!(now.total(Action::Drop), before.total(Action::Drop));
        now.get(Action::Pass, Reason::Essential) - before.get(Action::Pass, Reason::Essential)
            >= all
    });
    // What only looks like them does not pass.
    let pretended = [
        discovery(135).map::<Ipv6>(|ip| ip.hop_limit = 64),
        icmp(3, 3),
        icmp(8, 0),
        icmpv6(1),
        icmpv6(128),
        Frame::udp("10.9.0.2:67", "10.9.0.1:67", b"x"),
        Frame::udp("10.9.0.2:53", "10.9.0.1:68", b"x"),
    ];
    counts(&limiter, &[(Action::Drop, Reason::Banned, 7)], || {
        for frame in pretended {
            port.send(&world.frame(frame));
        }
    });
}
