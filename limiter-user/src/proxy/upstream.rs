//! Sends what was cleared, over per-core pools of kept-alive connections.
//!
//! In: a [`Cleared`] request, nothing else; out: the upstream's response, its body streamed. A
//! request on a kept connection that died before it answered is sent once more on a fresh one, if
//! it was never sent or may be repeated (no body, idempotent method).

use std::{cell::RefCell, rc::Rc};

use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    body::{RequestBody, Source},
    compiled::Upstream,
    exchange::Exchange,
    pipeline::{self, Cleared},
    reply::Reply,
    stage::transform::hop_by_hop,
    stream::UpstreamStream,
};
use crate::{clock, policy::http::HttpTimeouts, refusal::Refusal};

/// Connections kept for one upstream by one core.
const MAX_IDLE: usize = 256;

/// How long a connection is kept without a request. Shorter than common servers keep theirs, so
/// that the side that closes first is ours.
const IDLE_NS: u64 = 4_000_000_000;

type Sender = SendRequest<RequestBody>;

/// One core's connections to one upstream, last used first.
#[derive(Debug)]
pub(super) struct Pool {
    upstream: Upstream,
    idle: RefCell<Vec<(Sender, u64)>>,
}

/// All pools of a core; one that no policy names is dropped with its last request.
#[derive(Debug, Default)]
pub(super) struct Pools(RefCell<Vec<Rc<Pool>>>);

/// A connection in use.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Rc<Pool>,
    sender: Option<Sender>,
}

impl Lease {
    /// Keeps the connection for the next request.
    pub(super) fn give_back(&mut self) {
        if let Some(sender) = self.sender.take().filter(|sender| !sender.is_closed()) {
            let mut idle = self.pool.idle.borrow_mut();
            if idle.len() < MAX_IDLE {
                idle.push((sender, clock::coarse_monotonic_ns().saturating_add(IDLE_NS)));
            }
        }
    }
}

impl Pools {
    /// The pools of these upstreams, those before where host and port are the same.
    pub(super) fn select(&self, upstreams: &[Upstream]) -> Vec<Rc<Pool>> {
        let mut pools = self.0.borrow_mut();
        let selected: Vec<Rc<Pool>> = upstreams
            .iter()
            .map(|upstream| {
                let known = pools.iter().find(|pool| pool.upstream == *upstream);
                known.map_or_else(
                    || Rc::new(Pool { upstream: upstream.clone(), idle: RefCell::default() }),
                    Rc::clone,
                )
            })
            .collect();
        pools.clone_from(&selected);
        selected
    }

    /// Drops connections that ended or were not used for long.
    pub(super) fn prune(&self, now_ns: u64) {
        for pool in self.0.borrow().iter() {
            pool.idle
                .borrow_mut()
                .retain(|(sender, until_ns)| !sender.is_closed() && now_ns < *until_ns);
        }
    }
}

impl Pool {
    fn take(&self, now_ns: u64) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        while let Some((sender, until_ns)) = idle.pop() {
            if !sender.is_closed() && now_ns < until_ns {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Sender, ()> {
        let target = (self.upstream.host.as_str(), self.upstream.port);
        let socket = TcpStream::connect(target).await.map_err(drop)?;
        // Only latency is lost without it.
        drop(socket.set_nodelay(true));
        let (sender, connection) =
            http1::handshake(TokioIo::new(UpstreamStream(socket))).await.map_err(drop)?;
        tokio::task::spawn_local(async move {
            // Its errors are those of the request in flight, which is told.
            drop(connection.await);
        });
        Ok(sender)
    }
}

/// Sends a cleared request and waits for the head of its response.
pub(super) async fn send(
    exchange: &mut Exchange,
    cleared: Cleared,
) -> Result<Response<Source>, Reply> {
    let (mut request, upstream) = cleared.into_request();
    let pool = Rc::clone(&exchange.in_force.pools[upstream]);
    let in_force = Rc::clone(&exchange.in_force);
    let timeouts = &in_force.policy.timeouts;
    exchange.forwarded = true;
    if let Some(sender) = pool.take(exchange.now_ns) {
        let again = repeatable(&request);
        match attempt(exchange, timeouts, sender, request).await? {
            Attempt::Answered(sender, response) => return finish(&pool, sender, response),
            Attempt::Unsent(unsent) => request = unsent,
            Attempt::Failed => {
                let again = again.and_then(|(method, uri)| pipeline::again(exchange, method, uri));
                request = again.ok_or(Refusal::UpstreamFailed)?;
            }
        }
    }
    // Rare, and large: apart, so that the usual future is small.
    Box::pin(send_fresh(exchange, &pool, timeouts, request)).await
}

async fn send_fresh(
    exchange: &Exchange,
    pool: &Rc<Pool>,
    timeouts: &HttpTimeouts,
    request: Request<RequestBody>,
) -> Result<Response<Source>, Reply> {
    let connection = exchange.within(timeouts.connect, pool.connect()).await;
    let sender = match connection {
        Some(Ok(sender)) => sender,
        Some(Err(())) => return Err(Refusal::UpstreamFailed.into()),
        None => return Err(Refusal::UpstreamTimeout.into()),
    };
    match attempt(exchange, timeouts, sender, request).await? {
        Attempt::Answered(sender, response) => finish(pool, sender, response),
        Attempt::Unsent(_) | Attempt::Failed => Err(Refusal::UpstreamFailed.into()),
    }
}

enum Attempt {
    Answered(Sender, Response<Incoming>),
    /// The connection had ended; nothing was sent.
    Unsent(Request<RequestBody>),
    Failed,
}

async fn attempt(
    exchange: &Exchange,
    timeouts: &HttpTimeouts,
    mut sender: Sender,
    request: Request<RequestBody>,
) -> Result<Attempt, Reply> {
    let answer = exchange
        .within(timeouts.upstream, async {
            if sender.ready().await.is_err() {
                return Err(Attempt::Unsent(request));
            }
            sender
                .try_send_request(request)
                .await
                .map_err(|mut error| error.take_message().map_or(Attempt::Failed, Attempt::Unsent))
        })
        .await;
    match answer {
        Some(Ok(response)) => Ok(Attempt::Answered(sender, response)),
        // What was wrong with the request's body explains the failure.
        Some(Err(failure)) => match exchange.watch.body_fault.get() {
            Some(fault) => Err(fault.into()),
            None => Ok(failure),
        },
        None if exchange.watch.awaits_body.get() => Err(Refusal::Timeout.into()),
        None => Err(Refusal::UpstreamTimeout.into()),
    }
}

fn finish(
    pool: &Rc<Pool>,
    sender: Sender,
    response: Response<Incoming>,
) -> Result<Response<Source>, Reply> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::UpstreamFailed.into());
    }
    let (mut parts, body) = response.into_parts();
    hop_by_hop(&mut parts.headers);
    let lease = Lease { pool: Rc::clone(pool), sender: Some(sender) };
    Ok(Response::from_parts(parts, Source::Upstream(body, lease)))
}

/// What a request was for, if it may be sent twice.
fn repeatable(request: &Request<RequestBody>) -> Option<(Method, Uri)> {
    let repeatable = request.body().is_end_stream() && request.method().is_idempotent();
    repeatable.then(|| (request.method().clone(), request.uri().clone()))
}
