//! Accepts connections within their bounds.
//!
//! In: a listening socket shared with the other cores; out: connection tasks. What is beyond a
//! bound is answered with 503 and closed, counted and told.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, TcpListener as StdTcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener as StdUnixListener},
    rc::Rc,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::net::{TcpListener, UnixListener};

use super::{
    clients::Permit,
    connection,
    core::{Core, InForce},
    reply,
    transport::Socket,
};
use crate::{
    clock, limits::AddressKey, link::ObservedOutcome, policy::listener::ListenAddress,
    refusal::Refusal,
};

/// How long accepting pauses when the process or host has no more descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// Whoever connects to a Unix socket is on this host, and counts as this address.
const UNIX_PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    /// Takes one over; to be called within a runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let name: SockaddrStorage = getsockname(std::os::fd::AsRawFd::as_raw_fd(&socket))?;
        if name.family() == Some(AddressFamily::Unix) {
            let socket = StdUnixListener::from(socket);
            socket.set_nonblocking(true)?;
            UnixListener::from_std(socket).map(Self::Unix)
        } else {
            let socket = StdTcpListener::from(socket);
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket).map(Self::Tcp)
        }
    }

    async fn accept(&self) -> io::Result<(Socket, IpAddr)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                // Only latency is lost without it.
                drop(socket.set_nodelay(true));
                Ok((Socket::tcp(socket), address.ip().to_canonical()))
            }
            Self::Unix(listener) => {
                let (socket, _) = listener.accept().await?;
                Ok((Socket::unix(socket), UNIX_PEER))
            }
        }
    }
}

/// Accepts until the task is aborted.
pub(super) async fn accept(core: Rc<Core>, address: ListenAddress, listener: Listening) {
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => open(&core, &address, socket, peer),
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                log::warn!("cannot accept: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn open(core: &Rc<Core>, address: &ListenAddress, socket: Socket, peer: IpAddr) {
    let Some(in_force) = core.policy() else {
        return;
    };
    // A socket that the policy does not know any more is about to be closed.
    let Some(listener) = in_force.listener(address).cloned() else {
        return;
    };
    let Some(permit) = admit(core, &in_force, peer) else {
        let speaks_http = listener.tls.is_none() && !listener.proxy_protocol;
        refuse(core, speaks_http.then_some(socket), peer);
        return;
    };
    let core = Rc::clone(core);
    let arrival = connection::Arrival { listener, peer, permit };
    tokio::task::spawn_local(connection::serve(core, in_force, socket, arrival));
}

/// Counts a connection of `client`, unless there are too many, or too much to do for a stranger.
pub(super) fn admit(core: &Core, in_force: &InForce, client: IpAddr) -> Option<Permit> {
    let policy = &in_force.policy;
    let bounds = policy.bounds;
    // All clients behind a proxy share its address.
    let exempt =
        policy.trusted.iter().chain(&policy.trusted_proxies).any(|prefix| prefix.contains(&client));
    let per_client = if exempt { usize::MAX } else { bounds.max_connections_per_client };
    let key = AddressKey::new(client);
    if !exempt && core.sheds_connection(policy, key) {
        return None;
    }
    core.clients.admit(key, bounds.max_connections, per_client)
}

/// Counts and tells a connection beyond a bound, and answers where that can be understood.
pub(super) fn refuse(core: &Rc<Core>, socket: Option<Socket>, peer: IpAddr) {
    core.counters.connections_refused.bump();
    core.counters.refuse(Refusal::Overloaded);
    let outcome = ObservedOutcome::Refused(Refusal::Overloaded);
    core.report.note(clock::unix_ns(), (peer, peer), outcome, || None);
    if let Some(socket) = socket {
        let (shape, id) = (core.error_shape(), core.new_request_id());
        core.part(socket, &reply::raw(Refusal::Overloaded, shape, &id, true));
    }
}

/// Errors of a connection that ended while it waited (`accept(2)`); the next one may be fine.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
