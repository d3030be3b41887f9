//! Limits in the life of a request: who is counted, what beyond a limit becomes of it, and the wait
//! for its turn.

use std::{rc::Rc, time::Duration};

use http::HeaderMap;

use super::{
    compiled::Route,
    compiled_limits::Caller,
    exchange::Exchange,
    proof::{Client, Quota},
    reply::Reply,
    shared_limits,
    stage::limits,
};
use crate::{
    clock,
    limits::Key,
    policy::{Mode, store::OnFailure},
    refusal::Refusal,
};

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

/// Counts the request against its route's limits, and refuses it beyond one. Waits for the store
/// that hosts share, if there is one.
pub(super) async fn charge(
    exchange: &mut Exchange,
    route: &Route,
    client: &Client,
    headers: &HeaderMap,
) -> Result<(), Reply> {
    exchange.quota = count(exchange, route, client, headers, false).await?;
    keep_to_limits(exchange)
}

/// Limits of failures count one that was refused before them, and refuse it where it is too many.
pub(super) async fn count_failure(
    exchange: &mut Exchange,
    route: &Route,
    client: &Client,
    headers: &HeaderMap,
    reply: Reply,
) -> Reply {
    if client.trusted || route.limits.is_empty() {
        return reply;
    }
    match count(exchange, route, client, headers, true).await {
        Ok(quota) => exchange.quota = quota,
        // Refused all the same.
        Err(_) => return reply,
    }
    keep_to_limits(exchange).err().unwrap_or(reply)
}

/// Counts a request, here or where hosts share limits. `Err`: nobody can, and it must be.
async fn count(
    exchange: &Exchange,
    route: &Route,
    client: &Client,
    headers: &HeaderMap,
    is_failure: bool,
) -> Result<Quota, Reply> {
    let policy = &*exchange.in_force.policy;
    let caller = caller(exchange, route, client, headers);
    let charging = limits::begin(policy, route, &caller, is_failure);
    let now_ns = clock::monotonic_ns();
    let (Some(store), Some(line), false) =
        (&policy.store, &exchange.in_force.store, charging.asks().is_empty())
    else {
        return Ok(charging.here(policy, now_ns));
    };
    if let Ok(answers) = shared_limits::ask(line, policy, &charging, now_ns).await {
        return Ok(charging.finish(policy, answers));
    }
    match store.on_failure() {
        OnFailure::Local => Ok(charging.here(policy, now_ns)),
        OnFailure::Closed if charging.asks().iter().any(|ask| ask.is_enforced) => {
            Err(Reply::overloaded())
        }
        OnFailure::Open | OnFailure::Closed => Ok(charging.finish(policy, [])),
    }
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
        return Err(Reply::overloaded());
    }
    tokio::time::sleep(Duration::from_nanos(wait_ns)).await;
    Ok(())
}
