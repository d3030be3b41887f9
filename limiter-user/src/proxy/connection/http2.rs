//! hyper's HTTP/2 on one connection.
//!
//! In: a stream that begins with HTTP/2's preface; out: requests to the pipeline, many at a time,
//! each a task of its own. What a peer can make grow (streams, header lists, windows, resets) is
//! bounded here; GOAWAY goes out when the connection drains.

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use http::{HeaderValue, header::HOST};
use hyper::{body::Incoming, rt::Executor, server::conn::http2, service::service_fn};
use hyper_util::rt::TokioIo;

use super::{
    resets::{Broken, Watched},
    tell,
};
use crate::{
    policy::http::HttpBounds,
    proxy::{
        core::Core,
        pipeline::{self, Answering},
        registry::{Connection, Ended},
        stream::ClientStream,
        watch::{Phase, Watch},
    },
    refusal::Refusal,
};

/// Requests at a time on one connection (RFC 9113, 6.5.2 recommends no fewer).
const MAX_STREAMS: u32 = 100;

/// Bytes of request bodies that a client may send ahead of what upstreams take: per request, and
/// per connection, which is more, so that one stalled upload does not stop the others.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;

/// Bytes of responses that wait for one request's client.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// How many times what a head may have is read of one, so that the pipeline can say that it is too
/// large; of what is larger nothing is kept, and h2 answers 431 without a body.
const READ_HEADS: u32 = 4;

/// Requests that were reset before they reached the pipeline, and resets that the client provoked,
/// until the connection ends (CVE-2023-44487 and its kin).
const MAX_PENDING_RESETS: usize = 20;
const MAX_PROVOKED_RESETS: usize = 128;

/// Serves requests until the connection ends.
pub(super) async fn drive(
    core: &Rc<Core>,
    state: &Rc<Connection>,
    bounds: HttpBounds,
    stream: ClientStream,
) {
    let streams = Streams { connection: Rc::clone(state), newest: Rc::default() };
    let newest = Rc::clone(&streams.newest);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        // Sockets are accepted only under a policy, and there is always one from then on.
        let Some(in_force) = core.policy() else {
            return Answering::Never;
        };
        into_http1(&mut request);
        let watch = state.open_stream();
        newest.replace(Some(Rc::clone(&watch)));
        pipeline::handle(core, state, watch, in_force, request)
    });
    let broken = Broken::default();
    let stream = Watched::new(stream, Rc::clone(&broken), Rc::clone(state));
    let mut http = builder(bounds, streams).serve_connection(TokioIo::new(stream), service);
    let mut going_away = false;
    let ended = poll_fn(|context| {
        if state.is_draining() && !going_away {
            going_away = true;
            Pin::new(&mut http).graceful_shutdown();
        }
        let polled = Pin::new(&mut http).poll(context);
        for _ in 0..broken.take() {
            tell(core, state, Refusal::MalformedRequest);
        }
        if let Poll::Ready(result) = polled {
            let broken = result.is_err_and(|error| is_protocol_error(&error));
            return Poll::Ready(broken.then_some(Refusal::MalformedRequest));
        }
        if state.is_resetting() {
            return Poll::Ready(Some(Refusal::MalformedRequest));
        }
        let mut ended = state.poll_ended(context);
        if ended == Some(Ended::Idle) && !going_away {
            // A request may be on its way: the client learns which ones were not taken.
            going_away = true;
            Pin::new(&mut http).graceful_shutdown();
            state.drain();
            // Writes what the shutdown says.
            if Pin::new(&mut http).poll(context).is_ready() {
                return Poll::Ready(None);
            }
            ended = state.poll_ended(context);
        }
        match ended {
            Some(Ended::HeadTimeout) => Poll::Ready(Some(Refusal::Timeout)),
            Some(Ended::Idle | Ended::Opening | Ended::Aborted) => Poll::Ready(None),
            None => Poll::Pending,
        }
    })
    .await;
    if let Some(refusal) = ended {
        tell(core, state, refusal);
    }
}

fn builder(bounds: HttpBounds, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    let list = u32::try_from(bounds.max_header_bytes).unwrap_or(u32::MAX);
    let list = list.saturating_mul(READ_HEADS);
    builder
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(list)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_PROVOKED_RESETS);
    builder
}

/// Whether the peer broke the protocol, rather than going away.
fn is_protocol_error(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return error.is_library()
                && error.reason().is_some_and(|reason| reason != h2::Reason::NO_ERROR);
        }
        source = cause.source();
    }
    false
}

/// Lets a head say its host where HTTP/1 does too. Whether it contradicts itself is the pipeline's
/// to see.
fn into_http1(request: &mut hyper::Request<Incoming>) {
    if !request.headers().contains_key(HOST)
        && let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
}

/// Makes a task of each request.
#[derive(Clone, Debug)]
struct Streams {
    connection: Rc<Connection>,
    /// What watches the request that the service was called with last: hyper makes a task of it
    /// right after.
    newest: Rc<RefCell<Option<Rc<Watch>>>>,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, request: F) {
        let watch = self.newest.take();
        let connection = Rc::clone(&self.connection);
        tokio::task::spawn_local(attend(connection, watch, Box::pin(request)));
    }
}

/// Runs a request until it has ended or its client does not take the response: dropped, it is reset.
async fn attend<F: Future<Output = ()>>(
    connection: Rc<Connection>,
    watch: Option<Rc<Watch>>,
    mut request: Pin<Box<F>>,
) {
    let Some(watch) = watch else {
        return request.await;
    };
    poll_fn(|context: &mut Context<'_>| {
        watch.remember(context);
        match request.as_mut().poll(context) {
            Poll::Pending if watch.phase() == Phase::Response && watch.is_expired() => {
                Poll::Ready(())
            }
            other => other,
        }
    })
    .await;
    connection.ended_stream(watch.phase() != Phase::Request);
}
