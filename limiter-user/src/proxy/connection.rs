//! One client connection from accept to close: what must come before HTTP, which version of it is
//! spoken, served until deadline, ban or drain.
//!
//! In: an accepted socket; out: requests to the pipeline, and an observation for what was refused
//! before there was a request.

mod http1;
mod http2;
mod opening;
mod resets;

use std::{future::poll_fn, io, net::IpAddr, pin::pin, rc::Rc, sync::Arc, task::Poll};

use tokio::io::AsyncWriteExt as _;

use super::{
    clients::Permit,
    compiled_listener::Listener,
    core::{Core, InForce},
    framing::Limits,
    registry::{Connection, Ended},
    reply,
    stream::ClientStream,
    transport::{LINGER, Socket},
};
use crate::{clock, link::ObservedOutcome, policy::http::HttpBounds, refusal::Refusal};

/// What a client that speaks HTTP/2 without being asked begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    Http1,
    Http2,
}

/// Where a connection came from.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) listener: Arc<Listener>,
    pub(super) peer: IpAddr,
    pub(super) permit: Permit,
}

/// Serves one connection to its end.
pub(super) async fn serve(core: Rc<Core>, in_force: Rc<InForce>, socket: Socket, arrival: Arrival) {
    let Arrival { listener, peer, permit } = arrival;
    let timeouts = in_force.policy.timeouts;
    let limits = limits(in_force.policy.bounds);
    let connection = Rc::new(Connection::new(peer, listener, timeouts.header, limits));
    let place = core.connections.insert(Rc::clone(&connection));
    core.opened.notify_one();
    core.counters.connections.bump();

    // On the heap and gone before HTTP begins: a handshake's state is large.
    let opened = Box::pin(opening::open(&core, &connection, &in_force, socket, permit)).await;
    if let Some((stream, permit)) = opened {
        let bounds = in_force.policy.bounds;
        // An idle connection must not keep an old policy.
        drop(in_force);
        drive(&core, &connection, bounds, stream).await;
        drop(permit);
    }

    core.counters.connections_closed.bump();
    core.connections.remove(place);
}

async fn drive(
    core: &Rc<Core>,
    state: &Rc<Connection>,
    bounds: HttpBounds,
    mut stream: ClientStream,
) {
    let version = match unless_ended(state, look_ahead(state, &mut stream)).await {
        Ok(Ok(version)) => version,
        Ok(Err(_)) => return,
        Err(ended) => return end(core, state, ended, stream).await,
    };
    // One of them is on the heap for as long as it lasts, not both.
    match version {
        Version::Http1 => Box::pin(http1::drive(core, state, bounds, stream)).await,
        Version::Http2 => Box::pin(http2::drive(core, state, bounds, stream)).await,
    }
}

/// What a future comes to, unless the connection is to end before.
async fn unless_ended<F: Future>(state: &Connection, future: F) -> Result<F::Output, Ended> {
    let mut future = pin!(future);
    poll_fn(|context| {
        // The future first, so that a request may answer to its own deadline.
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        match state.poll_ended(context) {
            Some(ended) => Poll::Ready(Err(ended)),
            None => Poll::Pending,
        }
    })
    .await
}

/// Waits for as many bytes as it takes to know the version. Nothing is kept for a connection that
/// says nothing.
async fn look_ahead(state: &Connection, stream: &mut ClientStream) -> io::Result<Version> {
    let chosen = state.tls().map(|tls| if tls.is_http2 { Version::Http2 } else { Version::Http1 });
    loop {
        if stream.read_ahead().await? == 0 {
            // The end is hyper's to find, after what came before it.
            return Ok(Version::Http1);
        }
        state.begin_head();
        if let Some(version) = chosen {
            return Ok(version);
        }
        let ahead = stream.ahead();
        let compared = ahead.len().min(PREFACE.len());
        if ahead[..compared] != PREFACE[..compared] {
            return Ok(Version::Http1);
        }
        if compared == PREFACE.len() {
            return Ok(Version::Http2);
        }
    }
}

/// Ends a connection that speaks HTTP/1, or nothing yet.
async fn end(core: &Core, state: &Connection, ended: Ended, mut stream: ClientStream) {
    match ended {
        Ended::Idle | Ended::Opening => {}
        // The peer was banned or takes nothing: nothing waits to be sent to it.
        Ended::Aborted => stream.transport.socket().set_zero_linger(),
        Ended::HeadTimeout => {
            tell(core, state, Refusal::Timeout);
            let answer =
                reply::raw(Refusal::Timeout, core.error_shape(), &core.new_request_id(), true);
            stream.transport.send_now(&answer);
            linger(stream).await;
        }
    }
}

/// As [`Socket::linger`], of whatever is spoken on the socket.
async fn linger(mut stream: ClientStream) {
    let drained = async {
        if stream.transport.shutdown().await.is_ok() {
            stream.transport.socket().discard().await;
        }
    };
    drop(tokio::time::timeout(LINGER, drained).await);
}

fn limits(bounds: HttpBounds) -> Limits {
    Limits { head_bytes: bounds.max_header_bytes, fields: bounds.max_headers }
}

/// Counts and tells a request of which no head was read.
fn tell(core: &Core, connection: &Connection, refusal: Refusal) {
    core.counters.refuse(refusal);
    let who = (connection.peer, connection.source().unwrap_or(connection.peer));
    core.report.note(clock::unix_ns(), who, ObservedOutcome::Refused(refusal), || None);
}
