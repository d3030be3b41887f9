//! What is not for this host: packets that it sends on to another one, and sources that are trusted
//! on another interface.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    frames::Frame,
    netns::Namespace,
    process::Limiter,
    raw::Port,
    veth::Veth,
    wait::eventually,
    world::{CLIENTS, CLIENTS_V6, SERVER, World},
};

use crate::support::{SOON, counts};

/// The world, and a third host behind the protected one, which forwards.
struct Router {
    /// Takes what arrives, which would be refused by ICMP else.
    _sink: UdpSocket,
    behind: Veth,
    inside: Namespace,
    world: World,
}

impl Router {
    fn new() -> Self {
        let world = World::new();
        let inside = Namespace::new("inside");
        let behind = Veth::named(
            ("inside0", &inside, &["10.7.0.2/24", "fd00:7::2/64"]),
            ("behind0", &world.server, &["10.7.0.1/24", "fd00:7::1/64"]),
        );
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            world.server.sysctl(key, "1");
        }
        inside.batch("route add 10.9.0.0/24 via 10.7.0.1\nroute add default via fd00:7::1\n");
        world
            .client
            .batch("route add 10.7.0.0/24 via 10.9.0.1\nroute add fd00:7::/64 via fd00:9::1\n");
        let sink = inside.run(|| UdpSocket::bind("[::]:9").unwrap());
        Self { _sink: sink, behind, inside, world }
    }

    /// `[kernel]` on both sides, by which nobody may do anything.
    fn policy(lines: &str) -> String {
        let limits = "[kernel.limits]\npackets = \"1/h\"\npackets_burst = 1";
        World::kernel(&format!("default = \"deny\"\n{lines}\n{limits}"))
            .replace("[\"server0\"]", "[\"server0\", \"behind0\"]")
    }

    /// A datagram that is for the host behind.
    fn through(&self, source: &str) -> Vec<u8> {
        let (from, to) = if source.contains(':') {
            (format!("[{source}]:4000"), "[fd00:7::2]:9".to_owned())
        } else {
            (format!("{source}:4000"), "10.7.0.2:9".to_owned())
        };
        self.world.frame(Frame::udp(&from, &to, b"through"))
    }

    /// How many of these reach the host behind.
    fn arrive(&self, frames: &[Vec<u8>]) -> usize {
        let mut capture = Port::open(&self.behind.client);
        let port = Port::open(&self.world.veth.client);
        for frame in frames {
            port.send(frame);
        }
        capture.count_matching(crate::support::QUIET, |frame| frame.ends_with(b"through"))
    }
}

#[test]
fn what_the_host_sends_on_is_neither_limited_nor_banned() {
    let router = Router::new();
    let limiter = Limiter::start(&router.world.server, &Router::policy("deny = [\"10.9.0.3\"]"));
    limiter.cli(&["ban", CLIENTS[0]]).succeeded();
    limiter.cli(&["ban", CLIENTS_V6[0]]).succeeded();
    let frames: Vec<Vec<u8>> = [CLIENTS[0], CLIENTS[1], CLIENTS[2], CLIENTS_V6[0], CLIENTS_V6[2]]
        .iter()
        .flat_map(|source| vec![router.through(source); 5])
        .collect();
    counts(&limiter, &[(Action::Pass, Reason::Forwarded, 25)], || {
        assert_eq!(router.arrive(&frames), 25);
    });
    // What is for the router itself, on any of its addresses, is judged.
    let port = Port::open(&router.world.veth.client);
    for to in [SERVER, "10.7.0.1"] {
        let own = |source: &str| {
            router.world.frame(Frame::udp(&format!("{source}:4000"), &format!("{to}:9"), b"x"))
        };
        counts(&limiter, &[(Action::Drop, Reason::Banned, 2)], || {
            port.send_many(&own(CLIENTS[0]), 2, 1_000);
        });
        counts(&limiter, &[(Action::Drop, Reason::Denied, 2)], || {
            port.send_many(&own(CLIENTS[1]), 2, 1_000);
        });
        counts(&limiter, &[(Action::Drop, Reason::NotAllowed, 2)], || {
            port.send_many(&own(CLIENTS[2]), 2, 1_000);
        });
    }
    // A connection through it, both ways, of a banned source.
    for address in ["10.7.0.2:80", "[fd00:7::2]:80"] {
        let address: SocketAddr = address.parse().unwrap();
        let listener = router.inside.run(|| TcpListener::bind(address).unwrap());
        let client = router.world.client.run(|| TcpStream::connect_timeout(&address, SOON));
        let (mut server, _) = listener.accept().unwrap();
        server.write_all(b"hello").unwrap();
        client.unwrap().read_exact(&mut [0; 5]).unwrap();
    }
}

#[test]
fn forwarded_traffic_is_limited_if_the_policy_says_so() {
    let router = Router::new();
    let limiter = Limiter::start(&router.world.server, &Router::policy("forwarded = true"));
    limiter.cli(&["ban", CLIENTS[0]]).succeeded();
    let expected = [(Action::Drop, Reason::Banned, 3), (Action::Drop, Reason::NotAllowed, 3)];
    let frames: Vec<Vec<u8>> = [CLIENTS[0], CLIENTS[1]]
        .iter()
        .flat_map(|source| vec![router.through(source); 3])
        .collect();
    counts(&limiter, &expected, || assert_eq!(router.arrive(&frames), 0));
    let text = Router::policy("forwarded = true").replace("default = \"deny\"", "");
    limiter.configure(&text);
    limiter.cli(&["reload"]).succeeded();
    let expected = [(Action::Pass, Reason::Allowed, 1), (Action::Drop, Reason::PacketRate, 4)];
    let frames = vec![router.through(CLIENTS[1]); 5];
    counts(&limiter, &expected, || assert_eq!(router.arrive(&frames), 1));
}

/// A container runtime switches forwarding on long after this agent has started.
#[test]
fn a_host_that_begins_to_forward_is_noticed() {
    let router = Router::new();
    for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        router.world.server.sysctl(key, "0");
    }
    let limiter = Limiter::start(&router.world.server, &Router::policy(""));
    let frames = vec![router.through(CLIENTS[0]); 3];
    counts(&limiter, &[(Action::Drop, Reason::NotAllowed, 3)], || {
        assert_eq!(router.arrive(&frames), 0);
    });
    router.world.server.sysctl("net/ipv4/ip_forward", "1");
    eventually(2 * SOON, "it forwards", || router.arrive(&frames[..1]) == 1);
    assert!(Counters::of(&limiter).get(Action::Pass, Reason::Forwarded) > 0);
}

#[test]
fn a_source_is_trusted_only_where_it_is_at_home() {
    let world = World::new();
    let home = Veth::named(
        ("home1", &world.client, &["10.0.0.1/24"]),
        ("home0", &world.server, &["10.0.0.254/24"]),
    );
    let lines = "default = \"deny\"\n\
                 trusted = [{ cidr = \"10.0.0.1/32\", interface = \"home0\" }, \"10.0.0.2\"]";
    let text = World::kernel(lines).replace("[\"server0\"]", "[\"server0\", \"home0\"]");
    let limiter = Limiter::start(&world.server, &text);
    let (inside, outside) = (Port::open(&home.client), Port::open(&world.veth.client));
    let frame =
        |source: &str| world.frame(Frame::udp(&format!("{source}:4000"), "10.9.0.1:9", b"x"));
    let spoofed = [(Action::Drop, Reason::NotAllowed, 4)];
    let genuine = [(Action::Pass, Reason::Trusted, 4)];
    // In turn: what is remembered of the source must not make the next one trusted.
    for _ in 0..3 {
        counts(&limiter, &spoofed, || outside.send_many(&frame("10.0.0.1"), 4, 10_000));
        counts(&limiter, &genuine, || inside.send_many(&frame("10.0.0.1"), 4, 10_000));
    }
    counts(&limiter, &genuine, || outside.send_many(&frame("10.0.0.2"), 4, 10_000));
    counts(&limiter, &genuine, || inside.send_many(&frame("10.0.0.2"), 4, 10_000));
    // Spoofed packets must not get the genuine one banned.
    let refused = limiter.cli(&["ban", "10.0.0.1"]).ended_with(1);
    assert!(refused.stderr.contains("`trusted`"), "{refused:?}");
    // Also with limits, where a slot remembers the source.
    let limits = "[kernel.limits]\npackets = \"1/h\"\npackets_burst = 2";
    limiter.configure(&format!("{}\n{limits}", text.replace("default = \"deny\"", "")));
    limiter.cli(&["reload"]).succeeded();
    let over = [(Action::Pass, Reason::Allowed, 2), (Action::Drop, Reason::PacketRate, 2)];
    counts(&limiter, &over, || outside.send_many(&frame("10.0.0.1"), 4, 10_000));
    counts(&limiter, &genuine, || inside.send_many(&frame("10.0.0.1"), 4, 10_000));
    let over = [(Action::Drop, Reason::PacketRate, 4)];
    counts(&limiter, &over, || outside.send_many(&frame("10.0.0.1"), 4, 10_000));
}
