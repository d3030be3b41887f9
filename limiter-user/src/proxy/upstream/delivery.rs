//! What is rare: a new connection, HTTP/2, another server, another try.
//!
//! A request that was not sent goes to the next server, whatever it is; one whose stream a server
//! refused too, if it has no body. One that was sent and not answered is sent again only if it has no body and an idempotent method, within the upstream's
//! `retries` and a budget of one in ten; one that took too long is not.

use std::{cell::Cell, pin::pin, rc::Rc};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, Version,
    header::{HOST, TE},
    uri::{Authority, Scheme},
};
use http_body::Body;

use super::{
    Attempt, attempt,
    breaker::Passage,
    dial, failure, finish,
    lane::{Lane, MAX_STREAMS},
    pool::{Chosen, Lease, Link, Pool},
    server::Verdict,
};
use crate::{
    clock,
    proxy::{
        body::{RequestBody, Source},
        exchange::Exchange,
        once::Once,
        pipeline,
        reply::Reply,
    },
    refusal::Refusal,
};

/// Requests found unsent on connections that had just ended, before that is taken for a failure.
const MAX_UNSENT: u32 = 4;

/// What a request was, if it may be sent twice.
#[derive(Debug)]
pub(super) struct Replay {
    /// Not only if nothing was done with it.
    always: bool,
    /// Where there is no head to read once more: over HTTP/2, and of our own questions.
    kept: Option<Box<(Method, Uri, HeaderMap)>>,
}

impl Replay {
    pub(super) fn of(exchange: &Exchange, request: &Request<RequestBody>) -> Option<Self> {
        request.body().is_end_stream().then(|| Self {
            always: request.method().is_idempotent(),
            kept: exchange.connection.is_stream(&exchange.watch).then(|| head_of(request)),
        })
    }

    pub(super) fn of_question(question: &Request<RequestBody>) -> Self {
        Self { always: true, kept: Some(head_of(question)) }
    }

    fn request(&self, exchange: &Exchange) -> Option<Request<RequestBody>> {
        let Some(kept) = &self.kept else {
            return pipeline::again(exchange);
        };
        let mut request = Request::new(RequestBody::none(exchange));
        let (method, uri, headers) = &**kept;
        method.clone_into(request.method_mut());
        uri.clone_into(request.uri_mut());
        headers.clone_into(request.headers_mut());
        Some(request)
    }
}

fn head_of(request: &Request<RequestBody>) -> Box<(Method, Uri, HeaderMap)> {
    Box::new((request.method().clone(), request.uri().clone(), request.headers().clone()))
}

/// A request on its way from server to server.
pub(super) struct Delivery<'a> {
    exchange: &'a Exchange,
    pool: &'a Pool,
    replay: Option<Replay>,
    once: Once,
    /// Something of it may have reached a server.
    is_used: bool,
    retries: u32,
    unsent: u32,
    /// Servers that could not be reached, and those that failed.
    unreachable: u64,
    failed: u64,
    last: Option<Refusal>,
}

enum Next {
    Send(Request<RequestBody>),
    Answer(Result<Response<Source>, Reply>),
}

impl<'a> Delivery<'a> {
    /// `once`: is used up by the first attempt that sends anything.
    pub(super) fn new(
        exchange: &'a Exchange,
        pool: &'a Pool,
        replay: Option<Replay>,
        once: Once,
    ) -> Self {
        Self {
            retries: pool.upstream.retries,
            exchange,
            pool,
            replay,
            once,
            is_used: false,
            unsent: 0,
            unreachable: 0,
            failed: 0,
            last: None,
        }
    }

    /// Sends a request, first to the server that was chosen.
    pub(super) async fn begin(
        mut self,
        chosen: Chosen,
        request: Request<RequestBody>,
    ) -> Result<Response<Source>, Reply> {
        self.go_on(Some(chosen), request).await
    }

    /// Goes on after an attempt on a kept connection.
    pub(super) async fn after(
        mut self,
        lease: Lease,
        bit: u64,
        attempt: Attempt,
    ) -> Result<Response<Source>, Reply> {
        match self.judge(lease, attempt, (bit, Passage::Free), true) {
            Next::Send(request) => self.go_on(None, request).await,
            Next::Answer(answer) => answer,
        }
    }

    async fn go_on(
        &mut self,
        mut chosen: Option<Chosen>,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Source>, Reply> {
        loop {
            let Some(choice) = chosen.take().or_else(|| self.choose()) else {
                return Err(self.nobody());
            };
            let link = match self.connect(&choice.lane).await {
                Ok(link) => link,
                Err(refusal) => {
                    choice.unreachable();
                    self.unreachable |= choice.bit;
                    self.last = Some(refusal);
                    continue;
                }
            };
            let mut lease = choice.lease(link);
            let attempt = match &lease.link {
                Link::Http2(shared) => {
                    let mut sender = shared.sender.clone();
                    let request = for_http2(request, lease.lane.server.tls.is_some());
                    let limit = self.exchange.in_force.policy.timeouts.upstream;
                    self.once.hand_over()?;
                    let sent =
                        pin!(async { sender.try_send_request(request).await.map_err(failure) });
                    Attempt::of(self.exchange, self.exchange.within(limit, sent).await)
                }
                _ => attempt(self.exchange, &self.once, &mut lease, for_http1(request)).await,
            };
            match self.judge(lease, attempt, (choice.bit, choice.passage), false) {
                Next::Send(again) => request = again,
                Next::Answer(answer) => return answer,
            }
        }
    }

    /// Another server than those that cannot be reached; if possible none that failed.
    fn choose(&self) -> Option<Chosen> {
        let now_ns = clock::monotonic_ns();
        let choose = |not| self.pool.choose(self.exchange, not, now_ns);
        choose(self.unreachable | self.failed).or_else(|| choose(self.unreachable))
    }

    fn nobody(&self) -> Reply {
        let refusal = self.last.unwrap_or(Refusal::UpstreamFailed);
        self.pool.nobody(refusal, clock::monotonic_ns())
    }

    /// What follows from an attempt.
    fn judge(
        &mut self,
        lease: Lease,
        attempt: Attempt,
        (bit, passage): (u64, Passage),
        was_kept: bool,
    ) -> Next {
        match &attempt {
            // Unless an earlier one was sent.
            Attempt::Unsent(_) if !self.is_used => self.once.unsent(),
            Attempt::Unsent(_) | Attempt::Late(_) => {}
            _ => self.is_used = true,
        }
        let (broken, verdict) = match attempt {
            Attempt::Answered(response) => return Next::Answer(finish(lease, passage, response)),
            Attempt::Fault(refusal) => return Next::Answer(Err(refusal.into())),
            Attempt::Late(reply) => return Next::Answer(Err(reply)),
            Attempt::Unsent(request) => {
                self.unsent += 1;
                if self.unsent <= MAX_UNSENT {
                    return Next::Send(request);
                }
                (false, Refusal::UpstreamFailed)
            }
            Attempt::Refused => {
                self.unsent += 1;
                self.failed |= bit;
                let again = self.replay.as_ref().filter(|_| self.unsent <= MAX_UNSENT);
                if let Some(request) = again.and_then(|replay| replay.request(self.exchange)) {
                    lease.lane.counts().retries.up();
                    return Next::Send(request);
                }
                (false, Refusal::UpstreamFailed)
            }
            Attempt::TimedOut => {
                lease.judge(Verdict::Failed, passage);
                return Next::Answer(Err(Refusal::UpstreamTimeout.into()));
            }
            Attempt::Failed { closed } => (closed, Refusal::UpstreamFailed),
        };
        // The server may have closed the connection while the request was on its way.
        let is_race = was_kept && broken;
        if !is_race {
            lease.judge(Verdict::Failed, passage);
            self.failed |= bit;
        }
        self.last = Some(verdict);
        let afford = || is_race || (self.retries > 0 && self.pool.afford_retry());
        let again = self.replay.as_ref().filter(|replay| replay.always && afford());
        match again.and_then(|replay| replay.request(self.exchange)) {
            Some(request) => {
                lease.lane.counts().retries.up();
                self.retries = self.retries.saturating_sub(u32::from(!is_race));
                Next::Send(request)
            }
            None => Next::Answer(Err(verdict.into())),
        }
    }

    async fn connect(&self, lane: &Rc<Lane>) -> Result<Link, Refusal> {
        let limit = self.exchange.in_force.policy.timeouts.connect;
        match self.exchange.within(limit, pin!(connect(lane, limit))).await {
            Some(Ok(link)) => Ok(link),
            Some(Err(error)) => {
                log::debug!("{}: {error}", lane.server.url);
                Err(Refusal::UpstreamFailed)
            }
            None => Err(Refusal::UpstreamTimeout),
        }
    }
}

/// Tells those who wait that a connection is open, or that they may try.
struct Opening<'a>(&'a Lane);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.opened.notify_waiters();
    }
}

async fn connect(
    lane: &Rc<Lane>,
    limit: std::time::Duration,
) -> Result<Link, Box<dyn std::error::Error + Send + Sync>> {
    let mut opening = None;
    if lane.speaks_http2.get() {
        loop {
            if let Some(shared) = lane.shared() {
                return Ok(Link::Http2(shared));
            }
            if !lane.opening.replace(true) {
                opening = Some(Opening(lane));
                break;
            }
            lane.opened.notified().await;
        }
    }
    let (wire, is_http2) = dial::dial(&lane.server, false, limit).await?;
    lane.speaks_http2.set(is_http2);
    let open = lane.open();
    let link = if is_http2 {
        // Until the server says how many.
        let at_a_time = Rc::new(Cell::new(MAX_STREAMS));
        let told = Rc::clone(&at_a_time);
        let sender = dial::http2(wire, move |count| {
            let _open = &open;
            told.set(count);
        });
        Link::Http2(lane.share(sender.await?, at_a_time))
    } else {
        let (sender, connection) = dial::http1(wire).await?;
        open.run(sender, connection)
    };
    drop(opening);
    Ok(link)
}

/// As HTTP/2 wants it: scheme and authority in the target, and no `Host`.
fn for_http2(request: Request<RequestBody>, is_tls: bool) -> Request<RequestBody> {
    let (mut parts, body) = request.into_parts();
    let host = parts.headers.remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    uri.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = authority.or(uri.authority);
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
    parts.version = Version::HTTP_2;
    // What is behind this takes trailers, which gRPC insists on (RFC 9113, 8.2.2).
    parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    Request::from_parts(parts, body)
}

/// As HTTP/1.1 wants it; changes only what was made for HTTP/2 before.
fn for_http1(request: Request<RequestBody>) -> Request<RequestBody> {
    let Some(authority) = request.uri().authority() else {
        return request;
    };
    let host = HeaderValue::from_str(authority.as_str());
    let (mut parts, body) = request.into_parts();
    if let Ok(host) = host {
        parts.headers.insert(HOST, host);
    }
    let path = std::mem::take(&mut parts.uri).into_parts().path_and_query;
    parts.uri = path.map(Uri::from).unwrap_or_default();
    parts.version = Version::HTTP_11;
    parts.headers.remove(TE);
    Request::from_parts(parts, body)
}
