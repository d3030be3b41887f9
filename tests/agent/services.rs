//! Services: who reaches a group of ports, by real sockets and by single packets.

use std::{
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    frames::{Frame, Ipv4, tcp_flags},
    process::Limiter,
    raw::Port,
    wait::eventually,
    world::{CLIENTS, CLIENTS_V6, SERVER, SERVER_V6, World},
};

use crate::support::{SOON, counts};

const PASS: (Action, Reason) = (Action::Pass, Reason::Allowed);
const REFUSED: (Action, Reason) = (Action::Drop, Reason::NotAllowed);

fn host_of(source: &str) -> (String, String) {
    if source.contains(':') {
        (format!("[{source}]:4000"), format!("[{SERVER_V6}]"))
    } else {
        (format!("{source}:4000"), SERVER.to_owned())
    }
}

fn udp(world: &World, source: &str, port: u16) -> Vec<u8> {
    let (from, host) = host_of(source);
    world.frame(Frame::udp(&from, &format!("{host}:{port}"), b"x"))
}

fn syn(world: &World, source: &str, port: u16) -> Vec<u8> {
    let (from, host) = host_of(source);
    world.frame(Frame::tcp(&from, &format!("{host}:{port}"), tcp_flags::SYN))
}

#[test]
fn only_its_list_reaches_a_service() {
    let world = World::new();
    let lines = "[[kernel.service]]\nname = \"inside\"\n\
                 ports = [\"udp/53\", \"tcp/53\", \"tcp/8000-8010\"]\n\
                 allow = [\"10.9.0.2/32\", \"10.9.0.4/31\", \"fd00:a::/64\"]\n\
                 [[kernel.service]]\nname = \"nobody\"\nports = [\"tcp/9000\"]\nallow = []\n\
                 [[kernel.service]]\nname = \"open\"\nports = [\"tcp/9100\"]\n\
                 limits = { packets = \"1000/s\" }";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    let is = |(action, reason): (Action, Reason), frame: Vec<u8>| {
        counts(&limiter, &[(action, reason, 2)], || port.send_many(&frame, 2, 100_000));
    };
    for listed in [CLIENTS[0], CLIENTS[2], CLIENTS[3], CLIENTS_V6[0], CLIENTS_V6[1]] {
        is(PASS, udp(&world, listed, 53));
        is(PASS, syn(&world, listed, 53));
        is(PASS, syn(&world, listed, 8_000));
        is(PASS, syn(&world, listed, 8_010));
        is(REFUSED, syn(&world, listed, 9_000));
        is(PASS, syn(&world, listed, 9_100));
    }
    for other in [CLIENTS[1], CLIENTS[4], CLIENTS_V6[2]] {
        is(REFUSED, udp(&world, other, 53));
        is(REFUSED, syn(&world, other, 53));
        is(REFUSED, syn(&world, other, 8_000));
        is(REFUSED, syn(&world, other, 8_010));
        is(PASS, syn(&world, other, 7_999));
        is(PASS, syn(&world, other, 8_011));
        is(PASS, udp(&world, other, 8_000));
        is(REFUSED, syn(&world, other, 9_000));
        is(PASS, syn(&world, other, 9_100));
    }
    // A reload changes who may.
    limiter.configure(&World::kernel(&lines.replace("10.9.0.2/32", "10.9.0.3/32")));
    limiter.cli(&["reload"]).succeeded();
    is(REFUSED, udp(&world, CLIENTS[0], 53));
    is(PASS, udp(&world, CLIENTS[1], 53));
    // Its replies come in all the same, although nobody is on its list: see `replies`.
    limiter.configure(&World::kernel(
        &lines.replace("name = \"nobody\"", "name = \"nobody\"\nmode = \"monitor\""),
    ));
    limiter.cli(&["reload"]).succeeded();
    is((Action::Monitor, Reason::NotAllowed), syn(&world, CLIENTS[1], 9_000));
}

/// As the sockets of both sides see it.
#[test]
fn listed_clients_talk_to_a_service_and_others_do_not() {
    let world = World::new();
    let listener = world.server.run(|| TcpListener::bind("10.9.0.1:8005").unwrap());
    let server = world.server.run(|| UdpSocket::bind("10.9.0.1:53").unwrap());
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let lines = "[[kernel.service]]\nname = \"inside\"\nports = [\"udp/53\", \"tcp/8000-8010\"]\n\
                 allow = [\"10.9.0.2\"]";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let ask = |source: &str| {
        let source: IpAddr = source.parse().unwrap();
        let client = world.client.run(|| UdpSocket::bind((source, 0)).unwrap());
        client.send_to(b"question", "10.9.0.1:53").unwrap();
        server.recv_from(&mut [0; 64]).is_ok_and(|(_, from)| from.ip() == source)
    };
    assert!(ask(CLIENTS[0]));
    assert!(!ask(CLIENTS[1]));
    // The kernel takes the first address of the interface, which is on the list.
    let connect =
        || world.client.run(|| TcpStream::connect_timeout(&"10.9.0.1:8005".parse().unwrap(), SOON));
    let _stream = connect().unwrap();
    listener.accept().unwrap();
    limiter.configure(&World::kernel(&lines.replace("\"10.9.0.2\"", "")));
    limiter.cli(&["reload"]).succeeded();
    let short = Duration::from_millis(300);
    let refused =
        world.client.run(|| TcpStream::connect_timeout(&"10.9.0.1:8005".parse().unwrap(), short));
    assert!(refused.is_err());
    eventually(SOON, "it is counted", || {
        Counters::of(&limiter).get(Action::Drop, Reason::NotAllowed) >= 2
    });
}

#[test]
fn later_fragments_have_no_ports_and_are_charged_to_their_source() {
    let world = World::new();
    let lines = "[kernel.limits]\npackets = \"1/h\"\npackets_burst = 8\n\
                 [[kernel.service]]\nname = \"nobody\"\nports = [\"udp/9\"]\nallow = []";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    let datagram = |source: &str| {
        Frame::udp(&format!("{source}:1"), "10.9.0.1:9", &[7; 64])
            .map::<Ipv4>(|ip| ip.dont_fragment = false)
            .macs(world.veth.client.mac, world.veth.server.mac)
    };
    let fragments = datagram(CLIENTS[0]).fragments(24, 77);
    let [first, later @ ..] = fragments.as_slice() else { panic!("{fragments:?}") };
    counts(&limiter, &[(REFUSED.0, REFUSED.1, 1)], || port.send(first));
    let expected = [(PASS.0, PASS.1, 8), (Action::Drop, Reason::PacketRate, 2)];
    counts(&limiter, &expected, || {
        for _ in 0..5 {
            for fragment in later {
                port.send(fragment);
            }
        }
    });
    // The first fragment of what is for an open port is judged by it, of IPv6 as well.
    let v6 = Frame::udp("[fd00:b::2]:1", "[fd00:9::1]:9", &[7; 64])
        .macs(world.veth.client.mac, world.veth.server.mac)
        .fragments(24, 78);
    counts(&limiter, &[(REFUSED.0, REFUSED.1, 1), (PASS.0, PASS.1, 2)], || {
        for fragment in &v6 {
            port.send(fragment);
        }
    });
}
