//! The life of a request, top to bottom: admission stage by stage, the upstream, the answer.
//!
//! In: a head that hyper read; out: a response. Nothing reaches an upstream but as [`Cleared`],
//! which only [`admit`] makes. The order of the stages is the order of the lines.

use std::rc::Rc;

use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{CONTENT_LENGTH, RETRY_AFTER, WWW_AUTHENTICATE},
    request::Parts,
};
use hyper::body::Incoming;

use super::{
    body::{RequestBody, ResponseBody},
    compiled::{Compiled, Route},
    core::{Core, InForce},
    exchange::Exchange,
    proof::{Client, Grant, Principal},
    registry::Connection,
    reply::Reply,
    stage::{address, auth, bans, client_address, cors, guard, limits, route, target, transform},
    upstream,
};
use crate::{policy::Mode, refusal::Refusal};

/// A request that passed every stage, as its upstream gets it.
#[derive(Debug)]
pub(super) struct Cleared {
    request: Request<RequestBody>,
    upstream: usize,
}

impl Cleared {
    /// The request, and the index of its upstream.
    pub(super) fn into_request(self) -> (Request<RequestBody>, usize) {
        (self.request, self.upstream)
    }
}

/// Answers one request.
pub(super) async fn handle(
    core: Rc<Core>,
    connection: Rc<Connection>,
    in_force: Rc<InForce>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let (mut parts, body) = request.into_parts();
    let mut exchange = Exchange::begin(&core, &connection, in_force, &mut parts);
    let outcome = match admit(&mut exchange, parts, body) {
        Ok(cleared) => upstream::send(&mut exchange, cleared).await,
        Err(reply) => Err(reply),
    };
    let response = outcome.unwrap_or_else(|reply| exchange.reply(reply));
    exchange.follow(response)
}

fn admit(exchange: &mut Exchange, mut parts: Parts, body: Incoming) -> Result<Cleared, Reply> {
    let in_force = Rc::clone(&exchange.in_force);
    let policy = &*in_force.policy;
    let now_ns = exchange.now_ns;

    let head = exchange.connection.begin_request();
    let target = target::check(&parts, &head);
    exchange.connection.return_buffer(head);
    let target = target?;
    let client = client_address::resolve(policy, exchange.peer(), &parts.headers);
    exchange.client = Some(client);
    bans::check(&exchange.core.bans.borrow(), &client, now_ns)?;
    let index = route::select(policy, &target, &parts.method)?;
    let route = &policy.routes[index];
    exchange.route = Some(index);
    if let Some(cors) = route.cors.map(|index| &policy.cors[index]) {
        exchange.grant = cors::grant(cors, &parts.headers);
        address::by_route(route, &client)?;
        if let Some(refusal) = cors::violation(cors, &target, &parts.headers) {
            if cors.mode == Mode::Enforce {
                exchange.grant = Grant::Vary;
            }
            exchange.enforce(cors.mode, refusal)?;
        }
        if target.preflight.is_some() {
            return Err(cors::answer(cors));
        }
    } else {
        address::by_route(route, &client)?;
    }
    let principal = authenticate(exchange, policy, route, &client, &parts.headers)?;
    exchange.principal = principal;
    exchange.quota = limits::charge(policy, route, &client, principal, now_ns);
    let violations: Vec<(Mode, Refusal)> = exchange.quota.violations(policy).collect();
    for (mode, refusal) in violations {
        exchange.enforce(mode, refusal)?;
    }
    declared_length(policy, &parts.headers)?;
    let forwarded = exchange.forwarded_for(&client);
    let who = (&client, &*forwarded);
    transform::request(policy, route, &mut parts, target, who, principal);
    Ok(Cleared {
        request: Request::from_parts(parts, RequestBody::new(body, exchange)),
        upstream: route.upstream,
    })
}

/// Guard and authentication: a failed attempt is charged to the client's budget.
fn authenticate(
    exchange: &mut Exchange,
    policy: &Compiled,
    route: &Route,
    client: &Client,
    headers: &HeaderMap,
) -> Result<Option<Principal>, Reply> {
    let refusal = match auth::authenticate(policy, route, headers, exchange.unix_seconds()) {
        Ok(principal) => return Ok(principal),
        Err(Refusal::InvalidCredential) => {
            if let Err(wait_ns) = guard::failed(&policy.guard, client, exchange.now_ns) {
                let seconds = wait_ns.div_ceil(1_000_000_000).max(1);
                let reply =
                    Reply::refuse(Refusal::Guarded).with(RETRY_AFTER, HeaderValue::from(seconds));
                exchange.enforce(policy.guard.mode, reply)?;
            }
            Refusal::InvalidCredential
        }
        Err(refusal) => refusal,
    };
    let enforced = route.auth.iter().any(|scheme| policy.auth[*scheme].mode == Mode::Enforce);
    let mode = if enforced { Mode::Enforce } else { Mode::Monitor };
    exchange.enforce(mode, challenge(refusal))?;
    Ok(None)
}

/// 401 says how to authenticate (RFC 6750, 3): without a code where nothing was presented.
fn challenge(refusal: Refusal) -> Reply {
    let challenge = match refusal {
        Refusal::Unauthorized => "Bearer realm=\"api\"",
        Refusal::InvalidCredential => "Bearer realm=\"api\", error=\"invalid_token\"",
        other => return other.into(),
    };
    Reply::refuse(refusal).with(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// Refuses a body that announces to be too large; one that does not is bounded as it streams.
fn declared_length(policy: &Compiled, headers: &HeaderMap) -> Result<(), Reply> {
    let length =
        headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(length) if length > policy.bounds.max_body_bytes => Err(Refusal::BodyTooLarge.into()),
        _ => Ok(()),
    }
}
