//! Replies for real: the program attached, and stacks on both sides. What this host opens works
//! although its peer may not enter; the peer opens nothing.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use limiter_common::{
    maps::counter_index,
    ports::PortFacts,
    settings::{Settings, flags},
    verdict::{Reason, Verdict},
};
use limiter_tests::{
    netns::Namespace,
    policy::Policy,
    program::{Options, Program},
    veth::Veth,
    wait::Deadline,
};
use limiter_user::clock;

const REMOTE: [&str; 2] = ["10.9.0.2/24", "fd00:9::2/64"];
const HOST: [&str; 2] = ["10.9.0.1/24", "fd00:9::1/64"];
/// Ports: of a service of the remote's, and of one of this host's.
const REMOTE_PORT: u16 = 7000;
const HOST_PORT: u16 = 8000;
const SETS: u32 = 64;
const TRANSFER_BYTES: usize = 2 << 20;
/// A transfer that lost packets would wait for retransmissions, 200 ms each.
const QUICKLY: Duration = Duration::from_secs(5);
const FAR_NS: u64 = 3_600_000_000_000;

struct Site {
    remote: Namespace,
    host: Namespace,
    program: Program,
    // Last: the program is detached before its interface goes.
    veth: Veth,
}

impl Site {
    /// A host with the program attached to its interface, and a remote behind it.
    fn new(flags: u64) -> Self {
        let (remote, host) = (Namespace::new("remote"), Namespace::new("host"));
        let veth = Veth::between(&remote, &REMOTE, &host, &HOST);
        let mut program =
            Program::load(Options { sets: SETS, fixed_clock: false, ..Options::default() });
        let settings = Settings { generation: 1, flags, ..Settings::open(u64::from(SETS), 0x5eed) };
        let listening = PortFacts::default().listening();
        let mut policy = Policy::new(settings).port(false, HOST_PORT, listening);
        program.calibrate(&mut policy.settings);
        program.switch(&policy);
        program.attach(&veth.server);
        Self { remote, host, program, veth }
    }

    /// Bans all addresses of the remote until then.
    fn ban_remote(&mut self, expires_ns: u64) {
        for address in self.veth.client.addresses.clone() {
            self.program.ban(address.into(), expires_ns);
        }
    }

    fn packets(&self, verdict: Verdict) -> u64 {
        self.program.counter(counter_index(0, verdict)).packets
    }

    /// TCP and connected UDP of both families, opened by the host, answered by the remote.
    fn host_opens(&self) {
        for address in &self.veth.client.addresses {
            let service = SocketAddr::new(*address, REMOTE_PORT);
            let before = self.packets(Verdict::pass(Reason::Reply));
            self.host_transfers(service);
            self.host_asks(service);
            let replies = self.packets(Verdict::pass(Reason::Reply)) - before;
            assert!(replies > 20, "{address}: only {replies} replies");
        }
    }

    fn host_transfers(&self, service: SocketAddr) {
        let listener = self.remote.run(|| TcpListener::bind(service)).expect("the remote listens");
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("the host connects");
            stream.write_all(&vec![7; TRANSFER_BYTES]).expect("the host reads");
        });
        let deadline = Deadline::after(QUICKLY);
        let mut stream =
            self.host.run(|| TcpStream::connect_timeout(&service, QUICKLY)).expect("opens");
        stream.set_read_timeout(Some(QUICKLY)).expect("a timeout");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("the remote's bytes arrive");
        assert_eq!(received.len(), TRANSFER_BYTES);
        assert!(!deadline.is_over(), "{service}: took {:?}", deadline.elapsed());
        serving.join().expect("the remote served");
    }

    fn host_asks(&self, service: SocketAddr) {
        let server = self.remote.run(|| UdpSocket::bind(service)).expect("the remote serves");
        let client = self.host.run(|| udp_to(service));
        client.set_read_timeout(Some(QUICKLY)).expect("a timeout");
        let mut buffer = [0; 64];
        for number in 0..20_u8 {
            client.send(&[number]).expect("sent");
            let (length, from) = server.recv_from(&mut buffer).expect("the question arrives");
            server.send_to(&buffer[..length], from).expect("sent");
            let length = client.recv(&mut buffer).expect("the answer arrives");
            assert_eq!(buffer[..length], [number]);
        }
    }

    /// Whatever the remote opens is dropped with this verdict: TCP to a port that is listened on
    /// and to one that is not, UDP to a socket that is not connected.
    fn remote_opens_nothing(&self, refused: Verdict) {
        for address in &self.veth.server.addresses {
            let service = SocketAddr::new(*address, HOST_PORT);
            let listener = self.host.run(|| TcpListener::bind(service)).expect("listens");
            let before = self.packets(refused);
            for port in [HOST_PORT, HOST_PORT + 1] {
                let error = self
                    .remote
                    .run(|| connect(SocketAddr::new(*address, port), Duration::from_millis(300)))
                    .expect_err("no answer");
                assert_eq!(error.kind(), ErrorKind::TimedOut, "{address} {port}");
            }
            assert!(self.packets(refused) >= before + 2, "{address}: SYNs are counted");
            drop(listener);

            let server = self.host.run(|| UdpSocket::bind(service)).expect("serves");
            server.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            let before = self.packets(refused);
            self.remote.run(|| udp_to(service)).send(b"question").expect("sent");
            server.recv(&mut [0; 64]).expect_err("nothing arrives");
            assert_eq!(self.packets(refused), before + 1, "{address}: the datagram is counted");
        }
    }
}

/// A UDP socket connected to `peer`.
fn udp_to(peer: SocketAddr) -> UdpSocket {
    let any: IpAddr = if peer.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).expect("a socket");
    socket.connect(peer).expect("connected");
    socket
}

fn connect(service: SocketAddr, timeout: Duration) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&service, timeout)
}

#[test]
fn under_default_deny_the_host_opens_connections_and_the_remote_does_not() {
    let site = Site::new(flags::DEFAULT_DENY);
    site.host_opens();
    site.remote_opens_nothing(Verdict::drop(Reason::NotAllowed));
    assert_eq!(site.packets(Verdict::pass(Reason::Allowed)), 0);
}

#[test]
fn a_banned_remote_answers_the_host_and_opens_nothing() {
    let mut site = Site::new(0);
    site.ban_remote(clock::monotonic_ns() + FAR_NS);
    site.host_opens();
    site.remote_opens_nothing(Verdict::drop(Reason::Banned));
    assert_eq!(site.packets(Verdict::pass(Reason::Allowed)), 0);
}

#[test]
fn an_inbound_connection_dies_with_the_ban_and_another_follows_its_end() {
    let mut site = Site::new(0);
    for address in site.veth.server.addresses.clone() {
        let service = SocketAddr::new(address, HOST_PORT);
        let listener = site.host.run(|| TcpListener::bind(service)).expect("listens");
        let mut remote = site.remote.run(|| connect(service, QUICKLY)).expect("it may enter");
        let (mut accepted, _) = listener.accept().expect("accepted");
        remote.write_all(b"a").expect("sent");
        accepted.read_exact(&mut [0]).expect("before the ban bytes arrive");

        let ends = clock::monotonic_ns() + 1_500_000_000;
        site.ban_remote(ends);
        let before = site.packets(Verdict::drop(Reason::Banned));
        remote.write_all(b"b").expect("into the send buffer");
        accepted.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let error = accepted.read(&mut [0]).expect_err("nothing arrives any more");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        assert!(site.packets(Verdict::drop(Reason::Banned)) > before);
        let refused = site.remote.run(|| connect(service, Duration::from_millis(200)));
        assert!(refused.is_err(), "{address}: no other connection either");

        // Nobody removes the ban: its time passes, and retransmissions get through.
        let left = ends.saturating_sub(clock::monotonic_ns());
        thread::sleep(Duration::from_nanos(left) + Duration::from_millis(20));
        accepted.set_read_timeout(Some(QUICKLY)).expect("a timeout");
        accepted.read_exact(&mut [0]).expect("after the ban bytes arrive again");
        site.remote.run(|| connect(service, QUICKLY)).expect("and connections open");
    }
}
