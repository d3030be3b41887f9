//! A plain TCP server behind the limiter, its connections, and what the limiter says of them.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::PathBuf,
};

use aya::maps::{HashMap, Map, MapData};
use limiter_tests::{
    process::Limiter,
    wait::eventually_some,
    world::{SERVER, SERVER_V6, World},
};
use limiter_user::admin::view::ConnectionsView;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_socket,
    setsockopt, socket, sockopt,
};

use crate::support::SOON;

/// The world, two listeners of the host on any address of either family, and the limiter.
pub(super) struct Scene {
    pub(super) limiter: Limiter,
    /// On ports 7000 and 7001.
    pub(super) listeners: [TcpListener; 2],
    pub(super) world: World,
}

impl Scene {
    pub(super) fn start(lines: &str) -> Self {
        let world = World::new();
        let listeners = [7000, 7001]
            .map(|port| world.server.run(|| TcpListener::bind(format!("[::]:{port}")).unwrap()));
        let text = World::kernel(lines);
        let text = text.replace("failsafe_ports = []\nfailsafe_ports", "failsafe_ports");
        let limiter = Limiter::start(&world.server, &text);
        Self { limiter, listeners, world }
    }

    /// A connection from this source to the first listener.
    #[track_caller]
    pub(super) fn open(&self, source: &str) -> Pair {
        Pair::open(&self.world, source, &self.listeners[0])
    }

    /// Waits until these sources have so many connections and nobody else has any.
    #[track_caller]
    pub(super) fn settles(&self, expected: &[(&str, u64)]) {
        let total: u64 = expected.iter().map(|(_, count)| count).sum();
        let mut seen = String::new();
        let right = || {
            let state = state(&self.limiter);
            let sources: Vec<(&str, u64)> = expected
                .iter()
                .map(|(source, _)| (*source, of_source(&self.limiter, source)))
                .collect();
            seen = format!("{sources:?} {state:?}");
            let right = sources == expected && (state.open, state.tracked) == (total, total);
            right.then_some(())
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually_some(SOON, "the counts are right", right);
        }));
        assert!(result.is_ok(), "expected {expected:?}, found {seen}");
    }

    /// Names of what is pinned.
    pub(super) fn pins(&self) -> impl Iterator<Item = String> {
        let entries = fs::read_dir(generation(&self.limiter)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
    }
}

/// Both ends of a connection.
pub(super) struct Pair {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
}

impl Pair {
    #[track_caller]
    pub(super) fn open(world: &World, source: &str, listener: &TcpListener) -> Self {
        let host = if source.contains(':') { SERVER_V6 } else { SERVER };
        let address = SocketAddr::new(host.parse().unwrap(), listener.local_addr().unwrap().port());
        let client = world.client.run(|| connect(source, address));
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON)).unwrap();
        }
        Self { client, server }
    }
}

/// Connects from this address, in the namespace of this thread.
#[track_caller]
pub(super) fn connect(source: &str, to: SocketAddr) -> TcpStream {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let descriptor = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&descriptor, sockopt::IpBindAddressNoPort, &true).unwrap();
    let source = SocketAddr::new(source.parse().unwrap(), 0);
    bind(descriptor.as_raw_fd(), &SockaddrStorage::from(source)).unwrap();
    connect_socket(descriptor.as_raw_fd(), &SockaddrStorage::from(to)).unwrap();
    TcpStream::from(descriptor)
}

/// Ends a connection with a reset.
pub(super) fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
    drop(stream);
}

#[track_caller]
pub(super) fn state(limiter: &Limiter) -> ConnectionsView {
    let state = limiter.status().connections.expect("the kernel half is on");
    assert_eq!(state.off, None);
    state
}

#[track_caller]
pub(super) fn open(limiter: &Limiter) -> u64 {
    state(limiter).open
}

/// How many connections a source has open, by `limiter why`.
#[track_caller]
pub(super) fn of_source(limiter: &Limiter, source: &str) -> u64 {
    let why = limiter.json(&["why", source, "--json"]);
    let sentences = why["explanation"].as_array().unwrap();
    sentences
        .iter()
        .find_map(|sentence| {
            let rest = sentence.as_str()?.strip_prefix("its source has ")?;
            rest.split(' ').next()?.parse().ok()
        })
        .unwrap_or(0)
}

fn generation(limiter: &Limiter) -> PathBuf {
    fs::read_dir(limiter.pins()).unwrap().next().unwrap().unwrap().path()
}

/// A pinned table of words.
pub(super) fn table(limiter: &Limiter, name: &str) -> HashMap<MapData, u64, u64> {
    let data = MapData::from_pin(generation(limiter).join(name)).unwrap();
    Map::from_map_data(data).unwrap().try_into().unwrap()
}
