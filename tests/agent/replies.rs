//! What this host asked for comes in at full speed, whatever holds for whoever answers; and that
//! one opens nothing.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    frames::{Frame, tcp_flags},
    process::Limiter,
    raw::Port,
    wait::{Deadline, eventually},
    world::{CLIENTS, CLIENTS_V6, SERVER, SERVER_V6, World},
};

use crate::support::{SOON, counts};

/// What a download has.
const BYTES: usize = 64 << 20;

/// Every limit there is, as tight as can be.
const TIGHT: &str = "default = \"deny\"\n\
    [kernel.limits]\npackets = \"1/h\"\npackets_burst = 1\nbytes = \"1B/s\"\nbytes_burst = \"60B\"\n\
    new_connections = \"1/h\"\nudp_packets = \"1/h\"\nicmp_packets = \"1/h\"\n\
    concurrent_connections = 1\n\
    [kernel.total_limits]\npackets = \"1/h\"\npackets_burst = 1\nudp_packets = \"1/h\"\n\
    concurrent_connections = 1\n";

/// Sends [`BYTES`] to each of so many that connect.
fn serve(world: &World, address: SocketAddr, times: usize) -> std::thread::JoinHandle<()> {
    let listener = world.client.run(|| TcpListener::bind(address).unwrap());
    world.client.spawn(move || {
        for _ in 0..times {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_write_timeout(Some(SOON)).unwrap();
            let block = vec![7; 1 << 20];
            for _ in 0..BYTES / block.len() {
                stream.write_all(&block).unwrap();
            }
        }
    })
}

/// How long the host needs for a download.
fn download(world: &World, from: SocketAddr) -> Duration {
    let since = Deadline::after(Duration::ZERO);
    let mut stream = world.server.run(|| TcpStream::connect_timeout(&from, SOON).unwrap());
    stream.set_read_timeout(Some(SOON)).unwrap();
    let (mut block, mut total) = (vec![0; 1 << 20], 0);
    loop {
        match stream.read(&mut block).unwrap() {
            0 => break,
            bytes => total += bytes,
        }
    }
    assert_eq!(total, BYTES);
    since.elapsed()
}

#[test]
fn downloads_run_at_full_speed_under_any_policy() {
    let world = World::new();
    let remotes: [SocketAddr; 2] = [
        (CLIENTS[0].parse::<IpAddr>().unwrap(), 80).into(),
        (CLIENTS_V6[0].parse::<IpAddr>().unwrap(), 80).into(),
    ];
    let servers = remotes.map(|remote| serve(&world, remote, 3));
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let free = remotes.map(|remote| download(&world, remote));
    limiter.configure(&World::kernel(TIGHT));
    limiter.cli(&["reload"]).succeeded();
    for remote in &remotes {
        let ip = remote.ip().to_string();
        let tight = download(&world, *remote);
        limiter.cli(&["ban", &ip]).succeeded();
        let banned = download(&world, *remote);
        for took in [tight, banned] {
            let most = 3 * free[0].max(free[1]) + Duration::from_millis(300);
            assert!(took < most, "{remote}: {took:?}, without limits {free:?}");
        }
    }
    for server in servers {
        server.join().unwrap();
    }
    let counters = Counters::of(&limiter);
    assert_eq!(counters.total(Action::Drop), 0, "{counters:?}");
    assert!(counters.get(Action::Pass, Reason::Reply) > 1_000, "{counters:?}");
}

#[test]
fn questions_are_answered_and_a_connection_outlives_the_ban_of_its_other_end() {
    let world = World::new();
    for (remote, own) in [(CLIENTS[0], SERVER), (CLIENTS_V6[0], SERVER_V6)] {
        let (remote, own): (IpAddr, IpAddr) = (remote.parse().unwrap(), own.parse().unwrap());
        let resolver = world.client.run(|| UdpSocket::bind((remote, 53)).unwrap());
        let store = world.client.run(|| TcpListener::bind((remote, 6379)).unwrap());
        resolver.set_read_timeout(Some(SOON)).unwrap();
        let limiter = Limiter::start(&world.server, &World::kernel(TIGHT));
        let mut long = world.server.run(|| TcpStream::connect((remote, 6379)).unwrap());
        let (mut other, _) = store.accept().unwrap();
        for stream in [&long, &other] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        limiter.cli(&["ban", &remote.to_string()]).succeeded();
        let asking = world.server.run(|| UdpSocket::bind((own, 0)).unwrap());
        asking.connect((remote, 53)).unwrap();
        asking.set_read_timeout(Some(SOON)).unwrap();
        let before = Counters::of(&limiter);
        for _ in 0..200 {
            asking.send(b"question").unwrap();
            let (_, peer) = resolver.recv_from(&mut [0; 64]).unwrap();
            resolver.send_to(b"answer", peer).unwrap();
            assert_eq!(asking.recv(&mut [0; 64]).unwrap(), 6);
            long.write_all(b"GET x").unwrap();
            other.read_exact(&mut [0; 5]).unwrap();
            other.write_all(b"nil").unwrap();
            long.read_exact(&mut [0; 3]).unwrap();
        }
        let more = Counters::of(&limiter).get(Action::Pass, Reason::Reply)
            - before.get(Action::Pass, Reason::Reply);
        assert!(more >= 400, "{more}");
        assert_eq!(Counters::of(&limiter).total(Action::Drop), 0);
    }
}

/// The same remote that answers has no way in: not to a listener, not to a datagram socket, not
/// to the ports that the host's own connections have, nor with ICMP.
#[test]
fn whoever_answers_can_open_nothing() {
    let world = World::new();
    let listener = world.server.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 7000)).unwrap());
    listener.set_nonblocking(true).unwrap();
    let service = world.server.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 7000)).unwrap());
    service.set_nonblocking(true).unwrap();
    let port = Port::open(&world.veth.client);
    for (remote, own) in [(CLIENTS[0], SERVER), (CLIENTS_V6[0], SERVER_V6)] {
        let (remote, own): (IpAddr, IpAddr) = (remote.parse().unwrap(), own.parse().unwrap());
        let store = world.client.run(|| TcpListener::bind((remote, 80)).unwrap());
        let resolver = world.client.run(|| UdpSocket::bind((remote, 53)).unwrap());
        let limiter = Limiter::start(&world.server, &World::kernel(TIGHT));
        limiter.cli(&["ban", &remote.to_string()]).succeeded();
        let long = world.server.run(|| TcpStream::connect((remote, 80)).unwrap());
        let asking = world.server.run(|| UdpSocket::bind((own, 0)).unwrap());
        asking.connect((remote, 53)).unwrap();
        asking.send(b"question").unwrap();
        resolver.recv_from(&mut [0; 64]).unwrap();
        let tcp_port = long.local_addr().unwrap().port();
        let udp_port = asking.local_addr().unwrap().port();
        let at = |address: IpAddr, port: u16| SocketAddr::new(address, port).to_string();
        let tcp =
            |from: u16, to: u16, flags: u8| Frame::tcp(&at(remote, from), &at(own, to), flags);
        let udp = |from: u16, to: u16| Frame::udp(&at(remote, from), &at(own, to), b"x");
        let foreign = [
            tcp(4000, 7000, tcp_flags::SYN),
            tcp(80, 7000, tcp_flags::SYN),
            tcp(80, 7000, tcp_flags::ACK),
            // To the very port of the host's connection: from another one, and a new one.
            tcp(81, tcp_port, tcp_flags::ACK),
            tcp(80, tcp_port, tcp_flags::SYN),
            tcp(81, tcp_port, tcp_flags::SYN | tcp_flags::ACK),
            udp(4000, 7000),
            udp(53, 7000),
            udp(54, udp_port),
            Frame::ping(remote, own),
        ];
        let frames = foreign.map(|frame| world.frame(frame));
        let count = frames.len() as u64;
        counts(&limiter, &[(Action::Drop, Reason::Banned, count)], || {
            for frame in &frames {
                port.send(frame);
            }
        });
        // Without the ban the default refuses the same.
        limiter.cli(&["unban", "--all"]).succeeded();
        counts(&limiter, &[(Action::Drop, Reason::NotAllowed, count)], || {
            for frame in &frames {
                port.send(frame);
            }
        });
        assert!(listener.accept().is_err(), "nobody is connected");
        assert!(service.recv(&mut [0; 64]).is_err(), "nothing has arrived");
        drop((store, long));
    }
}

/// An unconnected datagram socket of this host is anybody's: what comes to it is no reply.
#[test]
fn an_unconnected_socket_gets_no_exemption() {
    let world = World::new();
    let socket = world.server.run(|| UdpSocket::bind((SERVER, 5_353)).unwrap());
    let limiter = Limiter::start(&world.server, &World::kernel(TIGHT));
    socket.send_to(b"question", (CLIENTS[0], 53)).unwrap();
    let port = Port::open(&world.veth.client);
    let answer = world.frame(Frame::udp("10.9.0.2:53", "10.9.0.1:5353", b"x"));
    counts(&limiter, &[(Action::Drop, Reason::NotAllowed, 3)], || {
        port.send_many(&answer, 3, 1_000);
    });
    eventually(SOON, "it is told", || {
        limiter.events().iter().any(|line| line.contains("not_allowed"))
    });
}

/// Sockets of both families at once talk to an IPv4 remote by its mapped address.
#[test]
fn dual_stack_sockets_get_their_replies() {
    let world = World::new();
    let store = world.client.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
    let resolver = world.client.run(|| UdpSocket::bind("10.9.0.2:53").unwrap());
    let limiter = Limiter::start(&world.server, &World::kernel(TIGHT));
    limiter.cli(&["ban", CLIENTS[0]]).succeeded();
    let mapped: IpAddr = "::ffff:10.9.0.2".parse().unwrap();
    let mut stream = world
        .server
        .run(|| TcpStream::connect_timeout(&SocketAddr::new(mapped, 80), SOON).unwrap());
    let (mut other, _) = store.accept().unwrap();
    other.write_all(b"hello").unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let asking = world.server.run(|| UdpSocket::bind("[::]:0").unwrap());
    asking.set_read_timeout(Some(SOON)).unwrap();
    asking.connect((mapped, 53)).unwrap();
    asking.send(b"question").unwrap();
    let (_, peer) = resolver.recv_from(&mut [0; 64]).unwrap();
    resolver.send_to(b"answer", peer).unwrap();
    assert_eq!(asking.recv(&mut [0; 64]).unwrap(), 6);
    assert_eq!(Counters::of(&limiter).total(Action::Drop), 0);
}

/// A port on which somebody listened a moment ago is the local one of a connection now.
#[test]
fn a_port_that_nobody_listens_on_any_more_gets_its_replies() {
    let world = World::new();
    let store = world.client.run(|| TcpListener::bind("10.9.0.2:80").unwrap());
    let before = world.server.run(|| TcpListener::bind("10.9.0.1:45678").unwrap());
    let limiter = Limiter::start(&world.server, &World::kernel(TIGHT));
    std::thread::sleep(Duration::from_millis(1_500));
    drop(before);
    std::thread::sleep(Duration::from_millis(1_500));
    let client = world.server.run(|| {
        use nix::sys::socket as os;
        use std::os::fd::AsRawFd as _;
        let socket = os::socket(
            os::AddressFamily::Inet,
            os::SockType::Stream,
            os::SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        os::setsockopt(&socket, os::sockopt::ReuseAddr, &true).unwrap();
        let address: SocketAddr = "10.9.0.1:45678".parse().unwrap();
        os::bind(socket.as_raw_fd(), &os::SockaddrStorage::from(address)).unwrap();
        let remote: SocketAddr = "10.9.0.2:80".parse().unwrap();
        let since = Deadline::after(Duration::ZERO);
        os::connect(socket.as_raw_fd(), &os::SockaddrStorage::from(remote)).unwrap();
        eprintln!("connected in {:?}", since.elapsed());
        assert!(since.elapsed() < SOON);
        socket
    });
    drop((store, client));
    assert_eq!(Counters::of(&limiter).total(Action::Drop), 0);
}

/// What the host downloads must not use up what all clients together may send.
#[test]
fn downloads_leave_the_total_to_the_clients() {
    let world = World::new();
    let lines = "[kernel.total_limits]\npackets = \"2000/s\"\npackets_burst = 500";
    let remote = SocketAddr::new(CLIENTS[0].parse().unwrap(), 80);
    let server = serve(&world, remote, 8);
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let port = Port::open(&world.veth.client);
    let frame = world.datagram(CLIENTS[1]);
    let before = Counters::of(&limiter);
    std::thread::scope(|scope| {
        let downloading = scope.spawn(|| {
            for _ in 0..8 {
                download(&world, remote);
            }
        });
        let mut sent = 0;
        while !downloading.is_finished() {
            port.send(&frame);
            sent += 1;
            std::thread::sleep(Duration::from_millis(5));
        }
        eprintln!("{sent} sent");
    });
    let counters = Counters::of(&limiter);
    eprintln!("{}", counters.since(&before));
    server.join().unwrap();
    assert_eq!(counters.get(Action::Drop, Reason::TotalRate), 0);
}
