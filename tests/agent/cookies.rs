//! SYN cookies: honest clients of a listener that is flooded from addresses which are nobody's, and
//! what becomes of the host's own setting.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    flood::{self, Flood},
    frames::{Frame, Tcp, tcp_flags},
    process::{Finished, Limiter, binary, finish},
    program::{Others, object},
    raw::Port,
    wait::eventually,
    world::{CLIENTS, CLIENTS_V6, SERVER, SERVER_V6, World},
};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, bind, listen,
    setsockopt, shutdown, socket, sockopt,
};

use crate::support::SOON;

/// Connection requests that the listener keeps.
const BACKLOG: i32 = 512;
const PORT: u16 = 7_000;
const FLOOD_PER_SECOND: u32 = 5_000;
const FLOOD_TIME: Duration = Duration::from_mins(1);
/// Different SYNs of a flood: many more than a queue holds.
const FLOOD_SYNS: usize = 8_192;
/// After which a flood is certainly over: the agent waits 10 s.
const OVER: Duration = Duration::from_secs(20);
const SETTING: &str = "net/ipv4/tcp_syncookies";

/// Kinds of TCP options (IANA).
const SEGMENT_SIZE: u8 = 2;
const SCALE: u8 = 3;
const SELECTIVE: u8 = 4;
const TIMESTAMPS: u8 = 8;

/// The host with one listener, and a wire on which both ends can send what XDP gives them.
struct Arena {
    /// The XDP program of the clients' end, which ends with it.
    clients: Option<Others>,
    listener: TcpListener,
    address: SocketAddr,
    world: World,
}

impl Arena {
    fn new(host: &str) -> Self {
        let mut arena = Self::without_xdp_at_clients(host);
        let path = object().with_file_name("limiter-bench.o");
        let mut others = Others::load(&path, &["empty"], "NEXT");
        // A veth interface takes what the other end's XDP sends only where it runs XDP, too.
        others.attach("empty", &arena.world.veth.client);
        arena.clients = Some(others);
        arena
    }

    fn without_xdp_at_clients(host: &str) -> Self {
        let world = World::new();
        flood::route(&world);
        let address = SocketAddr::new(host.parse().unwrap(), PORT);
        let listener = world.server.run(|| listener(address));
        let accepting = listener.try_clone().unwrap();
        world.server.spawn(move || while accepting.accept().is_ok() {});
        Self { clients: None, listener, address, world }
    }

    fn set(&self, value: u8) {
        self.world.server.sysctl(SETTING, &value.to_string());
    }

    fn setting(&self) -> u8 {
        self.world.server.read_sysctl(SETTING).parse().unwrap()
    }

    /// Floods the listener until the value is dropped; its queue is full then.
    fn flood(&self, per_second: u32) -> Flood {
        let syns = flood::syns(&self.world, self.address, FLOOD_SYNS, 1);
        let flood = Flood::start(&self.world, syns, per_second, FLOOD_TIME);
        eventually(SOON, "the flood fills the queue", || flood.sent() > 1_000);
        flood
    }

    /// How many honest clients of so many connect within a second, several at a time.
    fn honest(&self, count: usize) -> usize {
        let connect = |_: &usize| {
            let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
            stream.is_ok()
        };
        let workers = 16;
        thread::scope(|scope| {
            let client = || self.world.client.run(|| (0..count / workers).filter(connect).count());
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(client)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        })
    }

    /// Whether at least 99 in 100 honest clients connect within a second. What a busy machine loses
    /// on the wire is no cookie's fault: three attempts.
    #[track_caller]
    fn lets_honest_in(&self) {
        let rounds: Vec<_> = (0..3)
            .map(|_| self.honest(320))
            .take_while(|connected| connected * 100 < 320 * 99)
            .collect();
        assert!(rounds.len() < 3, "{rounds:?} of 320 each");
    }

    /// The kinds of the options in the answer to a SYN that asks for all of them, and the segment
    /// size.
    fn options(&self, source_port: u16) -> (Vec<u8>, u16) {
        let world = &self.world;
        let client = if self.address.is_ipv4() { CLIENTS[1] } else { CLIENTS_V6[2] };
        let source = SocketAddr::new(client.parse().unwrap(), source_port);
        let syn = Frame::tcp(&source.to_string(), &self.address.to_string(), tcp_flags::SYN)
            .map::<Tcp>(|tcp| {
                tcp.options = flood::OPTIONS.to_vec();
                tcp.sequence = 77;
            });
        let mut capture = Port::open(&world.veth.client);
        capture.send(&world.frame(syn));
        let header = 14 + if self.address.is_ipv4() { 20 } else { 40 };
        let answer = capture.receive_matching(SOON, |frame| {
            frame.get(header + 2..header + 4) == Some(&source_port.to_be_bytes()[..])
                && frame.get(header..header + 2) == Some(&PORT.to_be_bytes()[..])
                && frame.get(header + 13) == Some(&(tcp_flags::SYN | tcp_flags::ACK))
        });
        let answer = answer.expect("the SYN is answered");
        assert_eq!(answer[header + 8..header + 12], 78_u32.to_be_bytes(), "acknowledges the SYN");
        let length = usize::from(answer[header + 12] >> 4) * 4;
        kinds(&answer[header + 20..header + length])
    }

    fn detach_without_an_agent(&self, limiter: &Limiter) -> Finished {
        let mut command = self.world.server.command(binary());
        command.arg("detach").arg("-c").arg(limiter.configuration());
        finish(&mut command, limiter.scratch(), Duration::from_secs(20)).succeeded()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // Ends the thread that accepts.
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).ok();
    }
}

fn listener(address: SocketAddr) -> TcpListener {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let descriptor = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&descriptor, sockopt::ReuseAddr, &true).unwrap();
    bind(descriptor.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&descriptor, Backlog::new(BACKLOG).unwrap()).unwrap();
    descriptor.into()
}

/// Kinds of TCP options in order, without padding, and the segment size.
fn kinds(mut options: &[u8]) -> (Vec<u8>, u16) {
    let (mut kinds, mut size) = (Vec::new(), 0);
    while let Some((&kind, rest)) = options.split_first() {
        let length = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(rest[0]),
        };
        if kind == SEGMENT_SIZE {
            size = u16::from_be_bytes([options[2], options[3]]);
        }
        if kind > 1 {
            kinds.push(kind);
        }
        options = &options[length..];
    }
    kinds.sort_unstable();
    (kinds, size)
}

fn answered(limiter: &Limiter) -> u64 {
    Counters::of(limiter).get(Action::Tx, Reason::SynCookie)
}

/// The three rows: nothing, the kernel's own cookies, and the packet program's.
fn three_rows(host: &str, segment_size: u16) {
    let arena = Arena::new(host);
    arena.set(0);
    {
        let _flood = arena.flood(FLOOD_PER_SECOND);
        let connected = arena.honest(32);
        assert!(connected <= 8, "{connected} of 32 got through without cookies");
    }
    arena.set(1);
    {
        let _flood = arena.flood(FLOOD_PER_SECOND);
        arena.lets_honest_in();
    }
    arena.set(0);
    let limiter = Limiter::start(&arena.world.server, &World::kernel(""));
    let flood = arena.flood(FLOOD_PER_SECOND);
    limiter.event("Flood of connection requests: begun");
    eventually(SOON, "SYNs are answered", || answered(&limiter) > 0);
    assert_eq!(arena.setting(), 1);
    arena.lets_honest_in();
    assert_eq!(arena.options(30_001), (vec![SEGMENT_SIZE], segment_size));
    // Nearly all of the flood was answered before the stack saw it.
    let (before, sent) = (answered(&limiter), flood.sent());
    eventually(SOON, "10,000 more SYNs", || flood.sent() > sent + 10_000);
    let (answers, sent) = (answered(&limiter) - before, flood.sent() - sent);
    assert!(answers * 100 >= sent * 90, "{answers} of {sent} SYNs were answered");
    drop(flood);
    assert_eq!(limiter.status().degraded, Vec::<String>::new());
    eventually(OVER, "the flood is over", || arena.setting() == 0);
    limiter.event("Flood of connection requests: over");
    let all = vec![SEGMENT_SIZE, SCALE, SELECTIVE, TIMESTAMPS];
    assert_eq!(arena.options(30_002).0, all, "in peace a connection has all options");
}

#[test]
fn honest_clients_connect_during_a_flood_ipv4() {
    three_rows(SERVER, 1_460);
}

#[test]
fn honest_clients_connect_during_a_flood_ipv6() {
    three_rows(SERVER_V6, 1_440);
}

/// A flood that makes the agent raise the setting, and no more.
fn raise(arena: &Arena) -> Flood {
    let flood = arena.flood(5_000);
    eventually(SOON, "the setting is raised", || arena.setting() == 1);
    flood
}

#[test]
fn the_setting_comes_back_after_a_crash_and_a_restart() {
    let arena = Arena::new(SERVER);
    arena.set(0);
    let mut limiter = Limiter::start(&arena.world.server, &World::kernel(""));
    let flood = raise(&arena);
    eventually(SOON, "SYNs are answered", || answered(&limiter) > 0);
    limiter.kill_agent();
    assert_eq!(arena.setting(), 1);
    arena.lets_honest_in();
    limiter.restart();
    assert_eq!(arena.setting(), 1, "the flood is not over");
    arena.lets_honest_in();
    drop(flood);
    eventually(OVER, "the flood is over", || arena.setting() == 0);
    limiter.event("Flood of connection requests: over");
}

#[test]
fn the_setting_comes_back_when_xdp_is_taken_off() {
    let arena = Arena::new(SERVER);
    arena.set(0);
    let mut limiter = Limiter::start(&arena.world.server, &World::kernel(""));
    let flood = raise(&arena);
    limiter.cli(&["detach"]).succeeded();
    assert_eq!(arena.setting(), 0);
    assert!(flood.sent() > 0);
    limiter.terminate(SOON);

    // Without an agent, too.
    limiter.restart();
    eventually(SOON, "the setting is raised", || arena.setting() == 1);
    limiter.kill_agent();
    let elsewhere = limiter.with_file(&["detach"]).succeeded();
    assert!(elsewhere.stdout.contains("is not restored from here"), "{elsewhere:?}");
    assert_eq!(arena.setting(), 1);
    let done = arena.detach_without_an_agent(&limiter);
    assert!(done.stdout.ends_with("\nnet.ipv4.tcp_syncookies is 0 again\n"), "{done:?}");
    assert_eq!(arena.setting(), 0);
    let done = arena.detach_without_an_agent(&limiter);
    assert!(done.stdout.ends_with(": 0\n"), "{done:?}");
    drop(flood);
}

#[test]
fn the_setting_follows_the_policy_and_stays_where_somebody_else_puts_it() {
    let arena = Arena::new(SERVER);
    arena.set(0);
    let kernel = |value: &str| World::kernel(&format!("syn_cookies = \"{value}\""));
    let limiter = Limiter::start(&arena.world.server, &kernel("always"));
    eventually(SOON, "every SYN gets a cookie", || arena.setting() == 2);
    eventually(SOON, "the program makes them", || {
        arena.honest(16) == 16 && answered(&limiter) >= 16
    });
    assert_eq!(arena.options(30_001).0, [SEGMENT_SIZE]);
    limiter.configure(&kernel("off"));
    limiter.cli(&["reload"]).succeeded();
    eventually(SOON, "nobody gets a cookie", || arena.setting() == 0);
    let before = answered(&limiter);
    assert_eq!(arena.honest(16), 16);
    assert_eq!(answered(&limiter), before);
    // Monitoring answers nobody.
    limiter.configure(&kernel("always").replace("[kernel]", "[kernel]\nmode = \"monitor\""));
    limiter.cli(&["reload"]).succeeded();
    assert_eq!((arena.honest(16), arena.setting()), (16, 0));
    assert_eq!(answered(&limiter), before);

    limiter.configure(&kernel("auto"));
    limiter.cli(&["reload"]).succeeded();
    let flood = raise(&arena);
    arena.set(2);
    limiter.wait_for_line(SOON, "was changed by somebody else");
    limiter.cli(&["detach"]).succeeded();
    drop(flood);
    assert_eq!(arena.setting(), 2);
}

#[test]
fn answers_that_cannot_leave_are_told_and_left_to_the_stack() {
    // Without XDP or GRO at the clients' end the driver throws away what XDP sends.
    let arena = Arena::without_xdp_at_clients(SERVER);
    arena.set(0);
    let limiter = Limiter::start(&arena.world.server, &World::kernel(""));
    let flood = raise(&arena);
    limiter.wait_for_line(SOON, "answers to SYNs do not leave by server0");
    arena.lets_honest_in();
    let [problem] = &*limiter.status().degraded else { panic!("{:?}", limiter.status()) };
    assert!(problem.starts_with("answers to SYNs do not leave by server0, so the stack"));
    drop(flood);
}
