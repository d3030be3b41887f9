//! SYN cookies: honest clients of a listener that is flooded from addresses which are nobody's.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread::{self, JoinHandle},
    time::Duration,
};

use limiter_tests::{
    flood::{self, Flood},
    program::{Options, Others, Program, object},
    wait::Deadline,
    world::{SERVER, SERVER_V6, World},
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

/// Connection requests that the listener keeps.
const BACKLOG: i32 = 128;
const FLOOD_PER_SECOND: u32 = 20_000;
const FLOOD_TIME: Duration = Duration::from_secs(60);
const HONEST: usize = 200;

fn target(host: &str) -> SocketAddr {
    SocketAddr::new(host.parse().unwrap(), 7_000)
}

/// Accepts until the process ends or the listener is shut down.
fn serve(world: &World, address: SocketAddr) -> (TcpListener, JoinHandle<()>) {
    let listener: TcpListener = world.server.run(|| {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let descriptor = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&descriptor, sockopt::ReuseAddr, &true).unwrap();
        bind(descriptor.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
        listen(&descriptor, Backlog::new(BACKLOG).unwrap()).unwrap();
        descriptor.into()
    });
    let accepting = listener.try_clone().unwrap();
    let thread = world.server.spawn(move || while accepting.accept().is_ok() {});
    (listener, thread)
}

/// How many of so many honest clients, one after the other, connect within a second.
fn honest(world: &World, address: SocketAddr, count: usize) -> usize {
    let workers = 8;
    world.client.run(|| {
        thread::scope(|scope| {
            let workers: Vec<_> = (0..workers)
                .map(|_| {
                    scope.spawn(|| {
                        world.client.run(|| {
                            (0..count / workers)
                                .filter(|_| {
                                    TcpStream::connect_timeout(&address, Duration::from_secs(1))
                                        .is_ok()
                                })
                                .count()
                        })
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        })
    })
}

#[test]
fn experiment() {
    let world = World::new();
    flood::route(&world);
    let mut others = Others::load(&object().with_file_name("limiter-bench.o"), &["empty"], "NEXT");
    others.attach("empty", &world.veth.client);
    for host in [SERVER, SERVER_V6] {
        let address = target(host);
        let (_listener, _thread) = serve(&world, address);
        let syns = flood::syns(&world, address, 16_384, 1);
        for (sysctl, ours) in [("0", false), ("1", false), ("1", true), ("2", true)] {
            world.server.sysctl("net/ipv4/tcp_syncookies", sysctl);
            let mut program = None;
            if ours {
                let mut loaded =
                    Program::load(Options { fixed_clock: false, ..Options::default() });
                loaded.set_settings(&limiter_common::settings::Settings::open(64, 7));
                loaded.set_control(limiter_common::maps::control::SYN_COOKIES, 1);
                loaded.attach(&world.veth.server);
                program = Some(loaded);
            }
            let flood = Flood::start(&world, syns.clone(), FLOOD_PER_SECOND, FLOOD_TIME);
            let deadline = Deadline::after(Duration::from_millis(1000));
            while !deadline.is_over() {
                thread::sleep(Duration::from_millis(10));
            }
            let count = if sysctl == "0" { 40 } else { HONEST };
            let start = Deadline::after(Duration::ZERO);
            let good = honest(&world, address, count);
            let took = start.elapsed();
            let netstat = world
                .server
                .run(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
            let mut lines = netstat.lines().filter(|l| l.starts_with("TcpExt"));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let stats: Vec<_> = names
                .split(' ')
                .zip(values.split(' '))
                .filter(|(n, v)| {
                    *v != "0"
                        && (n.contains("ookie") || n.contains("QFull") || n.contains("Listen"))
                })
                .collect();
            eprintln!(
                "{host} sysctl {sysctl} ours {ours}: {good}/{count} in {took:?}, sent {} {stats:?}",
                flood.sent()
            );
            if let Some(program) = &program {
                for action in limiter_common::verdict::Action::ALL {
                    for reason in limiter_common::verdict::Reason::ALL {
                        let c = program.counter(limiter_common::maps::counter_index(
                            0,
                            limiter_common::verdict::Verdict { action, reason: *reason },
                        ));
                        if c.packets > 0 {
                            eprintln!("   {} {}: {}", action.label(), reason.label(), c.packets);
                        }
                    }
                }
            }
        }
    }
}
