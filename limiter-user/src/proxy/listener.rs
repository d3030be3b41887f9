//! Accepts connections within their bounds.
//!
//! In: a listening socket shared with the other cores; out: connection tasks. What is beyond a
//! bound is answered with 503 and closed, counted and told.

use std::{io::Write, rc::Rc, time::Duration};

use tokio::net::{TcpListener, TcpStream};

use super::{connection, core::Core, reply};
use crate::{clock, limits::AddressKey, link::ObservedOutcome, refusal::Refusal};

/// How long accepting pauses when the process or host has no more descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the task is aborted.
pub(super) async fn accept(core: Rc<Core>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((socket, address)) => open(&core, socket, address.ip().to_canonical()),
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                log::warn!("cannot accept: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn open(core: &Rc<Core>, socket: TcpStream, peer: std::net::IpAddr) {
    let Some(in_force) = core.policy() else {
        return;
    };
    let policy = &in_force.policy;
    let bounds = policy.bounds;
    // All clients behind a proxy share its address.
    let exempt =
        policy.trusted.iter().chain(&policy.trusted_proxies).any(|prefix| prefix.contains(&peer));
    let per_client = if exempt { usize::MAX } else { bounds.max_connections_per_client };
    let key = AddressKey::new(peer);
    if !exempt && core.sheds_connection(policy, key) {
        refuse(core, socket, peer);
        return;
    }
    let Some(permit) = core.clients.admit(key, bounds.max_connections, per_client) else {
        refuse(core, socket, peer);
        return;
    };
    // Only latency is lost without it.
    drop(socket.set_nodelay(true));
    let core = Rc::clone(core);
    tokio::task::spawn_local(connection::serve(core, in_force, socket, peer, permit));
}

fn refuse(core: &Core, socket: TcpStream, peer: std::net::IpAddr) {
    core.counters.connections_refused.bump();
    core.counters.refuse(Refusal::Overloaded);
    let outcome = ObservedOutcome::Refused(Refusal::Overloaded);
    core.report.note(clock::unix_ns(), (peer, peer), outcome, || None);
    // As much as the socket takes without waiting; the runtime does not know it as writable yet.
    if let Ok(mut socket) = socket.into_std() {
        drop(socket.write(&reply::raw(Refusal::Overloaded, &core.new_request_id(), true)));
    }
}

/// Errors of a connection that ended while it waited (`accept(2)`); the next one may be fine.
fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
