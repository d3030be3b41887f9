//! Rate limits of a route: counts the request and tells the client where it stands.
//!
//! In: client, principal and `now`; out: every limit's verdict, for enforcement and for the
//! `X-RateLimit-*`, `RateLimit-Policy` and `RateLimit` fields
//! (draft-ietf-httpapi-ratelimit-headers-10). With several limits, a request that one refuses is
//! counted against none.

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use crate::{
    limits::{Key, Verdict},
    policy::{
        Mode,
        http::{AppliesTo, LimitKey},
    },
    proxy::{
        compiled::{Compiled, Limit, Route},
        proof::{Client, Principal},
        reply::{decimal, push_decimal},
    },
    refusal::Refusal,
};

/// Most fields that a response with one limit gets.
const FIELDS: usize = 6;

const SECOND_NS: u64 = 1_000_000_000;

/// Where a request stands with the limits that count it (indices into the policy's limits).
#[derive(Debug, Default)]
pub(in crate::proxy) struct Quota {
    standings: Vec<(usize, Verdict)>,
}

/// Counts one request against the limits of its route.
pub(in crate::proxy) fn charge(
    policy: &Compiled,
    route: &Route,
    client: &Client,
    principal: Option<&Principal>,
    now_ns: u64,
) -> Quota {
    let mut quota = Quota::default();
    if client.trusted {
        return quota;
    }
    let counted = || {
        route.limits.iter().copied().filter(|index| {
            principal.is_none() || policy.limits[*index].applies_to == AppliesTo::All
        })
    };
    let key = |limit: &Limit| match (limit.key, principal) {
        (LimitKey::Principal, Some(principal)) => Key::Principal(&principal.identity(policy).name),
        _ => Key::Address(client.key),
    };
    let is_over = |index: &usize| {
        let limit = &policy.limits[*index];
        limit.mode == Mode::Enforce && !limit.counter.peek(key(limit), now_ns).allowed
    };
    // With a single limit, charging decides; looking first would only cost.
    let refused = route.limits.len() > 1 && counted().any(|index| is_over(&index));
    for index in counted() {
        let limit = &policy.limits[index];
        let verdict = if refused {
            limit.counter.check(key(limit), now_ns)
        } else {
            limit.counter.charge(key(limit), now_ns)
        };
        quota.standings.push((index, verdict));
    }
    quota
}

impl Quota {
    /// Whether any limit is exceeded, be it in monitor mode.
    pub(in crate::proxy) fn is_violated(&self) -> bool {
        self.standings.iter().any(|(_, verdict)| !verdict.decision.allowed)
    }

    /// Name of the limit that refuses the request.
    pub(in crate::proxy) fn refusing<'a>(&self, policy: &'a Compiled) -> Option<&'a str> {
        let refuses = |(index, verdict): &&(usize, Verdict)| {
            !verdict.decision.allowed && policy.limits[*index].mode == Mode::Enforce
        };
        self.standings.iter().find(refuses).map(|(index, _)| &*policy.limits[*index].name)
    }

    /// What the limits refuse, each with the mode of its limit.
    pub(in crate::proxy) fn violations<'a>(
        &'a self,
        policy: &'a Compiled,
    ) -> impl Iterator<Item = (Mode, Refusal)> + 'a {
        self.standings.iter().filter(|(_, verdict)| !verdict.decision.allowed).map(
            |(index, verdict)| {
                let refusal =
                    if verdict.far { Refusal::RateLimitedFar } else { Refusal::RateLimited };
                (policy.limits[*index].mode, refusal)
            },
        )
    }

    /// Sets the fields of a limited response. `unix_seconds` is now.
    pub(in crate::proxy) fn apply(
        &self,
        policy: &Compiled,
        unix_seconds: u64,
        headers: &mut HeaderMap,
    ) {
        // The limit with the least remaining fraction speaks for all in the older fields.
        let tightest = self.standings.iter().map(|(_, verdict)| verdict.decision).min_by(|a, b| {
            let left = u128::from(a.remaining) * u128::from(b.limit);
            left.cmp(&(u128::from(b.remaining) * u128::from(a.limit)))
        });
        let Some(tightest) = tightest else {
            return;
        };
        headers.reserve(FIELDS);
        headers.insert(LIMIT, decimal(tightest.limit));
        headers.insert(REMAINING, decimal(tightest.remaining));
        let reset = unix_seconds + tightest.reset_after_ns.div_ceil(SECOND_NS);
        headers.insert(RESET, decimal(reset));
        let mut standing = Vec::with_capacity(64 * self.standings.len());
        for (index, verdict) in &self.standings {
            let limit = &policy.limits[*index];
            headers.append(RATE_LIMIT_POLICY, limit.policy_field.clone());
            let decision = verdict.decision;
            let after_ns =
                if decision.allowed { decision.reset_after_ns } else { decision.retry_after_ns };
            if !standing.is_empty() {
                standing.extend_from_slice(b", ");
            }
            standing.extend_from_slice(limit.quoted_name.as_bytes());
            standing.extend_from_slice(b";r=");
            push_decimal(&mut standing, decision.remaining);
            standing.extend_from_slice(b";t=");
            push_decimal(&mut standing, after_ns.div_ceil(SECOND_NS));
        }
        if let Ok(value) = HeaderValue::from_bytes(&standing) {
            headers.append(RATE_LIMIT, value);
        }
        let wait_ns = self
            .standings
            .iter()
            .filter(|(index, verdict)| {
                !verdict.decision.allowed && policy.limits[*index].mode == Mode::Enforce
            })
            .map(|(_, verdict)| verdict.decision.retry_after_ns)
            .max();
        if let Some(wait_ns) = wait_ns {
            headers.insert(RETRY_AFTER, decimal(wait_ns.div_ceil(SECOND_NS).max(1)));
        }
    }
}

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
