//! Sends what was cleared to a server of its upstream.
//!
//! In: a [`Cleared`] request, nothing else; out: the server's response, its body streamed. The
//! usual way, a kept connection to a server that is well, is here; everything else in `delivery`.

mod breaker;
mod choose;
mod delivery;
mod dial;
mod directory;
mod fetch;
mod lane;
mod pool;
mod probe;
mod server;
mod tls;
mod tunnel;
mod upgrade;
mod wire;

use std::{
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{
    HeaderMap, Request, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::{Body as _, Frame};
use hyper::{body::Incoming, client::conn::TrySendError};

use self::{
    breaker::Passage,
    delivery::{Delivery, Replay},
    pool::Link,
    server::Verdict,
};
pub(super) use self::{
    directory::{Directory, Upstream},
    fetch::{Fetched, fetch},
    pool::{Lease, Pool, Pools},
    tunnel::Tunnel,
};
use super::{
    body::{RequestBody, Source},
    exchange::Exchange,
    once::Once,
    pipeline::Cleared,
    reply::Reply,
    stage::transform::hop_by_hop,
};
use crate::{clock, refusal::Refusal};

/// Sends a cleared request and waits for the head of its response.
pub(super) async fn send(
    exchange: &mut Exchange,
    cleared: Cleared,
) -> Result<Response<Source>, Reply> {
    let (request, upstream, protocol, once) = cleared.into_request();
    exchange.forwarded = true;
    let exchange = &*exchange;
    let pool = Rc::clone(&exchange.in_force.pools[upstream]);
    pool.deposit();
    let now_ns = exchange.now_ns;
    let nobody = || pool.nobody(Refusal::UpstreamFailed, now_ns);
    let chosen = pool.choose(exchange, 0, now_ns).ok_or_else(nobody)?;
    // What is rare is large too: apart, so that the usual future is small.
    if let Some(protocol) = protocol {
        let sending = upgrade::send(exchange, &pool, chosen, (request, once), protocol);
        return Box::pin(sending).await;
    }
    let replay = Replay::of(exchange, &request);
    let bit = chosen.bit;
    let mut lease = match chosen.kept(exchange.now_ns) {
        Ok(lease) => lease,
        Err(chosen) => {
            let delivery = Delivery::new(exchange, &pool, replay, once);
            return Box::pin(delivery.begin(chosen, request)).await;
        }
    };
    let attempt = match &mut lease.link {
        // An answer goes straight through: what holds one is large.
        Link::Http1(kept) if kept.sender.is_ready() => {
            let limit = exchange.in_force.policy.timeouts.upstream;
            once.hand_over()?;
            let sent = pin!(kept.sender.try_send_request(request));
            match exchange.within(limit, sent).await {
                Some(Ok(response)) => return finish(lease, Passage::Free, response),
                Some(Err(error)) => Attempt::of(exchange, Some(Err(failure(error)))),
                None => Attempt::of(exchange, None),
            }
        }
        _ => attempt(exchange, &once, &mut lease, request).await,
    };
    Box::pin(Delivery::new(exchange, &pool, replay, once).after(lease, bit, attempt)).await
}

/// Asks a question of our own, which has no body, and waits for the head of the answer.
pub(super) async fn ask(
    exchange: &Exchange,
    upstream: usize,
    question: Request<RequestBody>,
) -> Result<Response<Source>, Reply> {
    let pool = Rc::clone(&exchange.in_force.pools[upstream]);
    pool.deposit();
    let now_ns = clock::monotonic_ns();
    let chosen = pool.choose(exchange, 0, now_ns);
    let chosen = chosen.ok_or_else(|| pool.nobody(Refusal::UpstreamFailed, now_ns))?;
    let replay = Some(Replay::of_question(&question));
    // Whatever the client's request is, this is another one.
    let once = Once::default();
    Box::pin(Delivery::new(exchange, &pool, replay, once).begin(chosen, question)).await
}

/// What became of sending a request once.
#[expect(clippy::large_enum_variant, reason = "lives for a moment; a box would be made each time")]
enum Attempt {
    Answered(Response<Incoming>),
    /// The connection had ended; nothing was sent.
    Unsent(Request<RequestBody>),
    /// The server said that it did nothing with it (RFC 9113, 8.7).
    Refused,
    /// The connection ended before an answer, or what came was none.
    Failed {
        /// It only ended.
        closed: bool,
    },
    /// There was no answer in time.
    TimedOut,
    /// The client's request broke off or is wrong.
    Fault(Refusal),
    /// It must not be sent any more; nothing was.
    Late(Reply),
}

impl Attempt {
    /// `None`: the deadline passed.
    fn of(exchange: &Exchange, answer: Option<Result<Response<Incoming>, Self>>) -> Self {
        match answer {
            Some(Ok(response)) => Self::Answered(response),
            // What was wrong with the request's body explains the failure.
            Some(Err(failure)) => exchange.watch.body_fault.get().map_or(failure, Self::Fault),
            None if exchange.watch.awaits_body.get() => Self::Fault(Refusal::Timeout),
            None => Self::TimedOut,
        }
    }
}

/// Sends a request over a connection for one at a time.
async fn attempt(
    exchange: &Exchange,
    once: &Once,
    lease: &mut Lease,
    request: Request<RequestBody>,
) -> Attempt {
    let Link::Http1(kept) = &mut lease.link else {
        return Attempt::Unsent(request);
    };
    let limit = exchange.in_force.policy.timeouts.upstream;
    let sent = pin!(async {
        if kept.sender.ready().await.is_err() {
            return Err(Attempt::Unsent(request));
        }
        if let Err(late) = once.hand_over() {
            return Err(Attempt::Late(late));
        }
        kept.sender.try_send_request(request).await.map_err(failure)
    });
    let answer = exchange.within(limit, sent).await;
    Attempt::of(exchange, answer)
}

fn failure(mut error: TrySendError<Request<RequestBody>>) -> Attempt {
    match error.take_message() {
        Some(request) => Attempt::Unsent(request),
        None if is_refused(error.error()) => Attempt::Refused,
        None => Attempt::Failed { closed: !error.error().is_parse() },
    }
}

/// Whether a server refused a stream before it did anything with its request.
fn is_refused(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &h2::Error| {
        cause.is_remote() && cause.reason() == Some(h2::Reason::REFUSED_STREAM)
    })
}

/// Checks the head of an answer; one that cannot be passed on ends its connection.
fn finish(
    lease: Lease,
    passage: Passage,
    response: Response<Incoming>,
) -> Result<Response<Source>, Reply> {
    let (mut parts, mut body) = response.into_parts();
    // What came with the head is judged with it: chunks that are none are no answer.
    let early = begin(&parts.headers, &mut body);
    let verdict = match parts.status {
        _ if early.is_err() || is_doubtful(&parts.headers, &body) => Verdict::Failed,
        // Nobody asked for another protocol, and no other status ends in a body that is known.
        StatusCode::SWITCHING_PROTOCOLS => Verdict::Failed,
        status if status.as_u16() > 599 => Verdict::Failed,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Verdict::Unable
        }
        _ => Verdict::Answered,
    };
    lease.judge(verdict, passage);
    let Some(early) = early.ok().filter(|_| verdict != Verdict::Failed) else {
        return Err(Refusal::UpstreamFailed.into());
    };
    hop_by_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    Ok(Response::from_parts(parts, Source::Upstream { body, lease, early }))
}

/// The first part of a chunked body, if it is here already. Whoever gets the body polls it again
/// at once, so nobody has to be woken.
fn begin(headers: &HeaderMap, body: &mut Incoming) -> hyper::Result<Option<Box<Frame<Bytes>>>> {
    if !headers.contains_key(TRANSFER_ENCODING) {
        return Ok(None);
    }
    match Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(frame)) => frame.map(|frame| Some(Box::new(frame))),
        Poll::Ready(None) | Poll::Pending => Ok(None),
    }
}

/// Whether the length of an answer could be read in two ways, or its body would not be what its
/// fields say once it is framed anew: hyper takes chunks for true and leaves the length beside them
/// (RFC 9112, 6.3), and reads other codings to the end of the connection.
fn is_doubtful(headers: &HeaderMap, body: &Incoming) -> bool {
    body.size_hint().exact().is_none()
        && headers.get(TRANSFER_ENCODING).is_some_and(|coding| {
            !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
                || headers.contains_key(CONTENT_LENGTH)
                || headers.get_all(TRANSFER_ENCODING).iter().nth(1).is_some()
        })
}
