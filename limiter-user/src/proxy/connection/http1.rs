//! hyper's HTTP/1.1 on one connection.
//!
//! In: a stream on which a request began; out: requests to the pipeline, one at a time, and the
//! answers to those that the framing refused. hyper sees no other, and refuses none by itself.

use std::{future::poll_fn, pin::Pin, rc::Rc, task::Poll};

use http::HeaderValue;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;

use super::{end, linger, tell, unless_ended};
use crate::{
    clock,
    link::{ObservedOutcome, RequestFacts},
    policy::http::HttpBounds,
    proxy::{
        core::Core,
        framing::{Framer, Violation},
        pipeline::{self, Answering},
        registry::Connection,
        reply,
        stream::ClientStream,
    },
    refusal::Refusal,
};

/// hyper keeps header fields on the stack up to this many.
const PARSER_HEADERS: usize = 100;

/// hyper's smallest read buffer bound.
const MIN_BUFFER_BYTES: usize = 8192;

/// Serves requests until the connection ends. hyper and its buffers are there only while there are
/// requests, and a little longer.
pub(super) async fn drive(
    core: &Rc<Core>,
    state: &Rc<Connection>,
    bounds: HttpBounds,
    mut stream: ClientStream,
) {
    stream.frame();
    while let Some(mut resting) = serve(core, state, bounds, stream).await {
        match unless_ended(state, resting.read_ahead()).await {
            Ok(Ok(1..)) => state.begin_head(),
            Ok(_) => return,
            Err(ended) => return end(core, state, ended, resting).await,
        }
        stream = resting;
    }
}

/// Serves requests until none has come for a while: the stream then; or to the end.
async fn serve(
    core: &Rc<Core>,
    state: &Rc<Connection>,
    bounds: HttpBounds,
    stream: ClientStream,
) -> Option<ClientStream> {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        // Sockets are accepted only under a policy, and there is always one from then on.
        match core.policy() {
            Some(in_force) => {
                pipeline::handle(core, state, Rc::clone(state.watch()), in_force, request)
            }
            None => Answering::Never,
        }
    });
    let mut http = Box::new(builder(bounds).serve_connection(TokioIo::new(stream), service));
    let served = poll_fn(|context| match Pin::new(&mut *http).poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending if state.is_at_rest() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let outcome = unless_ended(state, served).await;
    let parts = http.into_parts();
    let mut stream = parts.io.into_inner();
    let tunnel = state.tunnel.take();
    match outcome {
        // What hyper has read of a request it has not begun would be lost.
        Ok(None) if parts.read_buf.is_empty() => return Some(stream),
        Ok(Some(Ok(()))) if let Some(tunnel) = tunnel => {
            let passing = tunnel.run(state.watch(), &mut stream, parts.read_buf);
            if let Err(ended) = unless_ended(state, Box::pin(passing)).await {
                end(core, state, ended, stream).await;
            }
        }
        Ok(_) => {
            let violation = state.framer().violation();
            if let Some(violation) = violation {
                refuse(core, state, violation, &mut stream);
            }
            linger(stream).await;
        }
        Err(ended) => end(core, state, ended, stream).await,
    }
    None
}

/// Answers what the framing refused, unless it was in the body of a request, which has an answer.
fn refuse(core: &Core, state: &Connection, violation: Violation, stream: &mut ClientStream) {
    let Violation { refusal, unseen } = violation;
    if !unseen {
        // Nothing was told if the answer ended before.
        if state.watch().violation.take().is_some() {
            tell(core, state, refusal);
        }
        return;
    }
    let id = core.new_request_id();
    let framer = state.framer();
    core.counters.refuse_head(refusal);
    let who = (state.peer, state.client());
    core.report.note(clock::unix_ns(), who, ObservedOutcome::Refused(refusal), || {
        facts(&framer, refusal, &id)
    });
    // As much as the socket takes without waiting.
    stream.transport.send_now(&reply::raw(refusal, core.error_shape(), &id, !framer.is_bodiless()));
}

/// What a refused head was for, without the query, if its first line was in order.
fn facts(framer: &Framer, refusal: Refusal, id: &HeaderValue) -> Option<Box<RequestFacts>> {
    let mut words = framer.request_line()?.split(|byte| *byte == b' ');
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
        limit: None,
    }))
}

/// The bounds are those of the framing, which looks first.
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
