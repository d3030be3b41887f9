//! Limits in the life of a request: who is counted, what beyond a limit becomes of it, and the wait
//! for its turn.

use std::{rc::Rc, time::Duration};

use http::{HeaderMap, HeaderValue, header::RETRY_AFTER};

use super::{
    compiled::Route, compiled_limits::Caller, exchange::Exchange, proof::Client, reply::Reply,
    stage::limits,
};
use crate::{clock, limits::Key, policy::Mode, refusal::Refusal};

/// Of the requests that there may be in all, so many may wait for their turn.
const WAITING_SHARE: usize = 4;

/// What those are known by among the requests under way, of no limit.
const WAITING: u64 = 0;

/// Whom limits count this request by.
fn caller<'a>(
    exchange: &'a Exchange,
    route: &'a Route,
    client: &Client,
    headers: &'a HeaderMap,
) -> Caller<'a> {
    let policy = &*exchange.in_force.policy;
    let principal = exchange.principal.as_ref();
    let identity = principal.map(|principal| principal.identity(policy));
    Caller { address: client.key, identity, route: &route.name, headers }
}

/// Refuses what goes beyond a limit.
fn keep_to_limits(exchange: &mut Exchange) -> Result<(), Reply> {
    if !exchange.quota.is_violated() {
        return Ok(());
    }
    let in_force = Rc::clone(&exchange.in_force);
    let violations: Vec<(Mode, Refusal)> = exchange.quota.violations(&in_force.policy).collect();
    for (mode, refusal) in violations {
        let names = exchange.quota.violated(&in_force.policy);
        let reply = Reply::refuse(refusal).violating(&names);
        exchange.enforce(mode, reply)?;
    }
    Ok(())
}

/// Counts the request against its route's limits, and refuses it beyond one.
pub(super) fn charge(
    exchange: &mut Exchange,
    route: &Route,
    client: &Client,
    headers: &HeaderMap,
) -> Result<(), Reply> {
    let in_force = Rc::clone(&exchange.in_force);
    let caller = caller(exchange, route, client, headers);
    exchange.quota = limits::charge(&in_force.policy, route, &caller, clock::monotonic_ns());
    keep_to_limits(exchange)
}

/// Limits of failures count one that was refused before them, and refuse it where it is too many.
pub(super) fn count_failure(
    exchange: &mut Exchange,
    route: &Route,
    client: &Client,
    headers: &HeaderMap,
    reply: Reply,
) -> Reply {
    let in_force = Rc::clone(&exchange.in_force);
    if client.trusted || route.limits.is_empty() {
        return reply;
    }
    let caller = caller(exchange, route, client, headers);
    let now_ns = clock::monotonic_ns();
    exchange.quota = limits::charge_failure(&in_force.policy, route, &caller, now_ns);
    keep_to_limits(exchange).err().unwrap_or(reply)
}

/// Waits until what came before in a leaky bucket has leaked. How many wait is bounded.
pub(super) async fn wait_turn(exchange: &mut Exchange) -> Result<(), Reply> {
    let in_force = Rc::clone(&exchange.in_force);
    let policy = &*in_force.policy;
    let wait_ns = exchange.quota.turn_after_ns(policy);
    if wait_ns == 0 {
        return Ok(());
    }
    let most = u64::try_from(policy.bounds.max_requests / WAITING_SHARE).unwrap_or(u64::MAX);
    let (place, _) = policy.waiting.admit(WAITING, Key::new([]), most.max(1));
    if place.is_none() {
        exchange.quota.withdraw(policy, clock::monotonic_ns());
        return Err(Reply::refuse(Refusal::Overloaded).with(RETRY_AFTER, HeaderValue::from(1)));
    }
    tokio::time::sleep(Duration::from_nanos(wait_ns)).await;
    Ok(())
}
