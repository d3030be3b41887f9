//! One client connection from accept to close: which version of HTTP it speaks, served until
//! deadline, ban or drain.
//!
//! In: an accepted socket; out: requests to the pipeline, and an observation for what was refused
//! before there was a request.

mod http1;
mod http2;

use std::{future::poll_fn, io, rc::Rc, task::Poll, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    clients::Permit,
    core::{Core, InForce},
    framing::Limits,
    registry::{Connection, Ended},
    reply,
    stream::ClientStream,
};
use crate::{clock, link::ObservedOutcome, policy::http::HttpBounds, refusal::Refusal};

/// How long, and in how many reads, a connection that was ended here may still send.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 128;

/// What a client that speaks HTTP/2 without being asked begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    Http1,
    Http2,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    core: Rc<Core>,
    in_force: Rc<InForce>,
    socket: TcpStream,
    peer: std::net::IpAddr,
    permit: Permit,
) {
    let timeouts = in_force.policy.timeouts;
    let connection =
        Rc::new(Connection::new(peer, timeouts.header, limits(in_force.policy.bounds)));
    let place = core.connections.insert(Rc::clone(&connection));
    core.opened.notify_one();
    core.counters.connections.bump();

    let stream = ClientStream::new(socket, Rc::clone(&connection));
    drive(&core, &connection, in_force.policy.bounds, stream).await;

    core.counters.connections_closed.bump();
    core.connections.remove(place);
    drop(permit);
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
    let mut future = std::pin::pin!(future);
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
    loop {
        if stream.read_ahead().await? == 0 {
            // The end is hyper's to find, after what came before it.
            return Ok(Version::Http1);
        }
        state.begin_head();
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
async fn end(core: &Core, state: &Connection, ended: Ended, stream: ClientStream) {
    match ended {
        Ended::Idle => {}
        // The peer was banned or takes nothing: nothing waits to be sent to it.
        Ended::Aborted => drop(stream.socket.set_zero_linger()),
        Ended::HeadTimeout => {
            tell(core, state, Refusal::Timeout);
            // As much as the socket takes without waiting.
            drop(stream.socket.try_write(&reply::raw(
                Refusal::Timeout,
                &core.new_request_id(),
                true,
            )));
            linger(stream.socket).await;
        }
    }
}

/// Closes without losing the answer: a socket closed with bytes unread resets the connection, and
/// the client may never see what was sent before (RFC 9112, 9.6). Bounded in time and bytes.
async fn linger(mut socket: TcpStream) {
    let drained = async {
        if socket.shutdown().await.is_err() {
            return;
        }
        let mut unread = [0; 2048];
        for _ in 0..LINGER_READS {
            if !matches!(socket.read(&mut unread).await, Ok(1..)) {
                return;
            }
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
    let who = (connection.peer, connection.peer);
    core.report.note(clock::unix_ns(), who, ObservedOutcome::Refused(refusal), || None);
}
