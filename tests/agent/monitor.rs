//! `mode = "monitor"`: everything decided as if enforcing, told, and let in.

use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    frames::{Frame, Ipv4, tcp_flags},
    process::Limiter,
    raw::Port,
    wait::eventually,
    world::{CLIENTS, World},
};

use crate::support::{QUIET, SOON};

const LINES: &str = "deny = [\"10.9.0.3\"]\nfragments = \"drop\"\nsyn_cookies = \"always\"\n\
    [kernel.limits]\npackets = \"1/h\"\npackets_burst = 40\nudp_packets = \"1/h\"\n\
    udp_packets_burst = 2\nicmp_packets = \"1/h\"\nbytes = \"1B/s\"\nbytes_burst = \"9kB\"\n\
    new_connections = \"1/h\"\n\
    [kernel.total_limits]\npackets = \"1/h\"\npackets_burst = 60\n\
    [[kernel.service]]\nname = \"closed\"\nports = [\"tcp/9000\"]\nallow = []";

fn told(limiter: &Limiter, action: Action) -> Vec<(Reason, u64)> {
    let counters = Counters::of(limiter);
    Reason::ALL
        .iter()
        .map(|reason| (*reason, counters.get(action, *reason)))
        .filter(|(_, packets)| *packets > 0)
        .collect()
}

/// One packet for each reason, some of them several times, in a fixed order.
fn send_everything(world: &World) -> Vec<Vec<u8>> {
    let port = Port::open(&world.veth.client);
    let udp = |source: &str| world.datagram(source);
    let tcp = |source: &str, to: u16, flags: u8| {
        world.frame(Frame::tcp(&format!("{source}:1"), &format!("10.9.0.1:{to}"), flags))
    };
    let large = world.frame(
        Frame::tcp("10.9.0.5:1", "10.9.0.1:80", tcp_flags::ACK)
            .with(limiter_tests::frames::Payload(vec![7; 1_300])),
    );
    let fragment = Frame::udp("10.9.0.4:1", "10.9.0.1:9", &[7; 64])
        .map::<Ipv4>(|ip| ip.dont_fragment = false)
        .macs(world.veth.client.mac, world.veth.server.mac)
        .fragments(32, 5);
    let ping = |source: &str| {
        world.frame(Frame::ping(source.parse().unwrap(), "10.9.0.1".parse().unwrap()))
    };
    let mut frames = vec![udp(CLIENTS[0]), udp(CLIENTS[1])];
    frames.extend(vec![udp(CLIENTS[2]); 4]);
    frames.extend(fragment);
    frames.extend(vec![ping(CLIENTS[2]); 3]);
    frames.extend(vec![tcp(CLIENTS[2], 80, tcp_flags::SYN); 3]);
    frames.push(tcp(CLIENTS[3], 9_000, tcp_flags::SYN));
    frames.push(tcp(CLIENTS[3], 80, tcp_flags::SYN | tcp_flags::FIN));
    frames.extend(vec![large; 9]);
    frames.extend(vec![tcp(CLIENTS[2], 80, tcp_flags::ACK); 50]);
    frames.extend(vec![tcp(CLIENTS[4], 80, tcp_flags::ACK); 40]);
    for frame in &frames {
        port.send(frame);
    }
    frames
}

#[test]
fn monitoring_decides_as_enforcing_does_and_lets_everything_in() {
    let run = |line: &str| {
        let world = World::new();
        let limiter = Limiter::start(&world.server, &World::kernel(&format!("{line}\n{LINES}")));
        limiter.cli(&["ban", CLIENTS[0]]).succeeded();
        let mut capture = Port::open(&world.veth.server);
        let sent = send_everything(&world);
        // Not by the sender's address: the client's own stack asks and answers who is where.
        let arrived = capture.count_matching(QUIET, |frame| sent.iter().any(|sent| sent == frame));
        let all = |limiter: &Limiter| {
            let counters = Counters::of(limiter);
            Action::ALL.iter().map(|action| counters.total(*action)).sum::<u64>()
        };
        eventually(SOON, "all are counted", || all(&limiter) >= sent.len() as u64);
        (told(&limiter, Action::Drop), told(&limiter, Action::Monitor), arrived, sent.len())
    };
    let (dropped, none, _, _) = run("");
    assert_eq!(none, []);
    let (none, monitored, arrived, sent) = run("mode = \"monitor\"");
    assert_eq!(none, []);
    assert_eq!(monitored, dropped, "as it would have been");
    assert_eq!(arrived, sent);
    let reasons: Vec<Reason> = dropped.iter().map(|(reason, _)| *reason).collect();
    for reason in [
        Reason::Banned,
        Reason::Denied,
        Reason::NotAllowed,
        Reason::PacketRate,
        Reason::ByteRate,
        Reason::ConnectionRate,
        Reason::UdpRate,
        Reason::IcmpRate,
        Reason::TotalRate,
        Reason::Malformed,
        Reason::Fragment,
    ] {
        assert!(reasons.contains(&reason), "{reason:?} of {dropped:?}");
    }
}

/// No SYN is answered in the stack's place either, and connections are made by the stack.
#[test]
fn monitoring_answers_nothing_itself() {
    let world = World::new();
    let listener = world.server.run(|| TcpListener::bind("10.9.0.1:7000").unwrap());
    let lines = "mode = \"monitor\"\nsyn_cookies = \"always\"\n\
                 [kernel.limits]\nconcurrent_connections = 1";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let streams: Vec<TcpStream> = (0..3)
        .map(|_| {
            let stream = world.client.run(|| {
                TcpStream::connect_timeout(
                    &"10.9.0.1:7000".parse().unwrap(),
                    Duration::from_millis(900),
                )
            });
            listener.accept().unwrap();
            stream.unwrap()
        })
        .collect();
    assert_eq!(Counters::of(&limiter).total(Action::Tx), 0);
    assert_eq!(Counters::of(&limiter).total(Action::Drop), 0);
    drop(streams);
}
