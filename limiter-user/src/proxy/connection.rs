//! One client connection: hyper's HTTP/1.1 on the socket, ended by deadline, ban or drain.
//!
//! In: an accepted socket; out: requests to the pipeline, and an observation for what hyper
//! refused before there was a request.

use std::{future::poll_fn, pin::Pin, rc::Rc, task::Poll, time::Duration};

use http::HeaderValue;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    clients::Permit,
    core::{Core, InForce},
    framing::{Framer, Limits, Violation},
    pipeline::{self, Answering},
    registry::{Connection, Ended},
    reply,
    stream::ClientStream,
};
use crate::{clock, link::{ObservedOutcome, RequestFacts}, policy::http::HttpBounds, refusal::Refusal};

/// hyper keeps header fields on the stack up to this many.
const PARSER_HEADERS: usize = 100;

/// How long, and in how many reads, a connection that was ended here may still send.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 128;

/// hyper's smallest read buffer bound.
const MIN_BUFFER_BYTES: usize = 8192;

/// Serves one connection to its end.
pub(super) async fn serve(
    core: Rc<Core>,
    in_force: Rc<InForce>,
    socket: TcpStream,
    peer: std::net::IpAddr,
    permit: Permit,
) {
    let timeouts = in_force.policy.timeouts;
    let connection = Rc::new(Connection::new(peer, timeouts.header, limits(in_force.policy.bounds)));
    let place = core.connections.insert(Rc::clone(&connection));
    core.opened.notify_one();
    core.counters.connections.bump();

    drive(&core, &connection, in_force.policy.bounds, socket).await;

    core.counters.connections_closed.bump();
    core.connections.remove(place);
    drop(permit);
}

async fn drive(core: &Rc<Core>, state: &Rc<Connection>, bounds: HttpBounds, socket: TcpStream) {
    let io = TokioIo::new(ClientStream { socket, connection: Rc::clone(state) });
    let service = service_fn(|request: hyper::Request<Incoming>| {
        // Sockets are accepted only under a policy, and there is always one from then on.
        match core.policy() {
            Some(in_force) => pipeline::handle(core, state, in_force, request),
            None => Answering::Never,
        }
    });
    let mut http = builder(bounds).serve_connection(io, service);
    let outcome = poll_fn(|context| {
        // First hyper, so that a request may answer to its own deadline.
        if let Poll::Ready(result) = Pin::new(&mut http).poll(context) {
            return Poll::Ready(Ok(result));
        }
        match state.poll_ended(context) {
            Some(ended) => Poll::Ready(Err(ended)),
            None => Poll::Pending,
        }
    })
    .await;
    match outcome {
        Ok(result) => {
            drop(result);
            let socket = http.into_parts().io.into_inner().socket;
            let violation = state.framer().violation();
            if let Some(violation) = violation {
                refuse(core, state, violation, &socket);
            }
            linger(socket).await;
        }
        Err(Ended::Idle) => {}
        Err(Ended::Aborted) => {
            // The peer was banned or takes nothing: nothing waits to be sent to it.
            let stream = http.into_parts().io.into_inner();
            drop(stream.socket.set_zero_linger());
        }
        Err(Ended::HeadTimeout) => {
            tell(core, state, Refusal::Timeout);
            let socket = http.into_parts().io.into_inner().socket;
            // As much as the socket takes without waiting.
            let answer = reply::raw(Refusal::Timeout, &core.new_request_id(), true);
            drop(socket.try_write(&answer));
            linger(socket).await;
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

/// Without `pipeline_flush`: with bytes unread it keeps the answer to a malformed head back for ever.
fn builder(bounds: HttpBounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .half_close(false)
        .max_header_size(bounds.max_header_bytes)
        .max_buf_size(bounds.max_header_bytes.max(MIN_BUFFER_BYTES));
    if bounds.max_headers != PARSER_HEADERS {
        builder.max_headers(bounds.max_headers);
    }
    builder
}

/// Answers what the framing refused, unless it was the body of a request that has an answer.
fn refuse(core: &Core, connection: &Connection, violation: Violation, socket: &TcpStream) {
    let Violation { refusal, unseen } = violation;
    if !unseen {
        if !connection.violation_told.get() {
            tell(core, connection, refusal);
        }
        return;
    }
    let id = core.new_request_id();
    let framer = connection.framer();
    core.counters.refuse(refusal);
    let who = (connection.peer, connection.peer);
    core.report.note(clock::unix_ns(), who, ObservedOutcome::Refused(refusal), || {
        facts(&framer, refusal, &id)
    });
    // As much as the socket takes without waiting.
    drop(socket.try_write(&reply::raw(refusal, &id, !framer.is_bodiless())));
}

/// What a refused head was for, as far as its first line was in order. Without the query.
fn facts(framer: &Framer, refusal: Refusal, id: &HeaderValue) -> Option<Box<RequestFacts>> {
    let line = framer.request_line()?;
    let mut words = line.split(|byte| *byte == b' ');
    let mut next = |most: usize| {
        let word = words.next().unwrap_or_default();
        let word = word.split(|byte| *byte == b'?').next().unwrap_or_default();
        String::from_utf8_lossy(&word[..word.len().min(most)]).into_owned()
    };
    Some(Box::new(RequestFacts {
        id: String::from_utf8_lossy(id.as_bytes()).into_owned(),
        method: next(32),
        path: next(256),
        user_agent: String::new(),
        status: refusal.status(),
        route: String::new(),
        principal: None,
    }))
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
