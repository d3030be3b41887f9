//! What an answer says of limits: `X-RateLimit-*`, `RateLimit-Policy`, `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-10) and `Retry-After`.
//!
//! What the upstream says of limits of its own stays: in the lists beside ours, and in
//! `X-RateLimit-*`, where there is room for one only, if it is the tighter one.

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use super::{Quota, Standing, State};
use crate::{
    policy::Mode,
    proxy::{
        compiled::Compiled,
        compiled_limits::Limit,
        reply::{decimal, push_decimal},
    },
};

/// Most fields that a response with one limit gets.
const FIELDS: usize = 6;

const SECOND_NS: u64 = 1_000_000_000;

/// Largest sf-integer (RFC 9651, 3.3.1).
const MAX_INTEGER: u64 = 999_999_999_999_999;

/// Retry-After is later than it need be by up to a tenth of the wait, so that not all who were
/// refused come back at once, but not by more than this.
const MAX_JITTER_SECONDS: u64 = 60;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// How much of one limit is left.
#[derive(Clone, Copy)]
struct Left {
    limit: u64,
    remaining: u64,
    reset_after_ns: u64,
}

impl Left {
    /// Whether a smaller part is left of this than of `other`. Of nothing, nothing is left.
    fn is_tighter(self, other: Self) -> bool {
        let part = |one: Self, other: Self| u128::from(one.remaining) * u128::from(other.limit);
        match (self.remaining, other.remaining) {
            (0, 0) => false,
            (0, _) => true,
            (_, 0) => false,
            _ => part(self, other) < part(other, self),
        }
    }

    /// What an upstream says; of as much as `ours` where it does not say of how much.
    fn said(headers: &HeaderMap, ours: Self) -> Option<Self> {
        let remaining = leading_number(headers, REMAINING)?;
        let limit = leading_number(headers, LIMIT).unwrap_or(ours.limit);
        Some(Self { limit, remaining, reset_after_ns: 0 })
    }
}

/// A number, which older drafts let other things follow: `10, 10;w=60`.
fn leading_number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?;
    text.split([',', ';']).next()?.trim().parse().ok()
}

impl Quota {
    /// Sets the fields of a limited response. `unix_seconds` is now.
    pub(in crate::proxy) fn apply(
        &self,
        policy: &Compiled,
        unix_seconds: u64,
        random: u64,
        headers: &mut HeaderMap,
    ) {
        if !self.is_told(policy) {
            return;
        }
        headers.reserve(FIELDS);
        self.older_fields(policy, unix_seconds, headers);
        let mut text = Vec::with_capacity(64 * self.standings.len());
        let mut wait_ns = None;
        for (standing, limit) in self.told(policy) {
            let Some(fields) = standing.fields(limit) else { continue };
            headers.append(RATE_LIMIT_POLICY, fields.policy.clone());
            let (remaining, after_ns) = match &standing.state {
                State::Counted { answer, .. } => {
                    let decision = answer.verdict.decision;
                    if !decision.allowed {
                        wait_ns = wait_ns.max(Some(decision.retry_after_ns));
                    }
                    let (reset, retry) = (decision.reset_after_ns, decision.retry_after_ns);
                    (decision.remaining, Some(if decision.allowed { reset } else { retry }))
                }
                State::UnderWay { count, is_admitted, .. } => {
                    if !is_admitted {
                        wait_ns = wait_ns.max(Some(SECOND_NS));
                    }
                    let most = limit.concurrent.as_ref().map_or(0, |concurrent| concurrent.most);
                    // When a place is free again, nobody knows.
                    (most.saturating_sub(*count), None)
                }
            };
            if !text.is_empty() {
                text.extend_from_slice(b", ");
            }
            text.extend_from_slice(fields.quoted_name.as_bytes());
            text.extend_from_slice(b";r=");
            push_decimal(&mut text, remaining.min(MAX_INTEGER));
            if let Some(after_ns) = after_ns {
                text.extend_from_slice(b";t=");
                push_decimal(&mut text, after_ns.div_ceil(SECOND_NS));
            }
        }
        if let Ok(value) = HeaderValue::from_bytes(&text) {
            headers.append(RATE_LIMIT, value);
        }
        if let Some(wait_ns) = wait_ns {
            headers.insert(RETRY_AFTER, decimal(retry_after(wait_ns, random)));
        }
    }

    /// Whether an answer says anything of limits of ours.
    pub(in crate::proxy) fn is_told(&self, policy: &Compiled) -> bool {
        self.told(policy).next().is_some()
    }

    /// The limits that clients are told of: one that is only watched tells nobody anything.
    fn told<'a>(&'a self, policy: &'a Compiled) -> impl Iterator<Item = (&'a Standing, &'a Limit)> {
        let standings = self.standings.iter();
        let limits = standings.map(|standing| (standing, &policy.limits[standing.limit]));
        limits.filter(|(_, limit)| limit.mode == Mode::Enforce)
    }

    /// The limit with the least remaining fraction speaks for all in the older fields.
    fn older_fields(&self, policy: &Compiled, unix_seconds: u64, headers: &mut HeaderMap) {
        let decisions = self.told(policy).filter_map(|(standing, _)| standing.decision());
        let left = decisions.map(|decision| Left {
            limit: decision.limit,
            remaining: decision.remaining,
            reset_after_ns: decision.reset_after_ns,
        });
        let tightest = left.reduce(|one, other| if other.is_tighter(one) { other } else { one });
        let Some(ours) = tightest else { return };
        if Left::said(headers, ours).is_some_and(|theirs| theirs.is_tighter(ours)) {
            return;
        }
        headers.insert(LIMIT, decimal(ours.limit));
        headers.insert(REMAINING, decimal(ours.remaining));
        let reset = unix_seconds + ours.reset_after_ns.div_ceil(SECOND_NS);
        headers.insert(RESET, decimal(reset));
    }
}

/// Whole seconds, never before the wait is over.
fn retry_after(wait_ns: u64, random: u64) -> u64 {
    let seconds = wait_ns.div_ceil(SECOND_NS).max(1);
    let jitter = (seconds / 10).clamp(1, MAX_JITTER_SECONDS);
    seconds + random % (jitter + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_spread_and_never_too_early() {
        for (wait_ns, earliest, latest) in [
            (1, 1, 2),
            (SECOND_NS, 1, 2),
            (SECOND_NS + 1, 2, 3),
            (100 * SECOND_NS, 100, 110),
            (100_000 * SECOND_NS, 100_000, 100_060),
        ] {
            let all: Vec<u64> = (0..1_000).map(|random| retry_after(wait_ns, random)).collect();
            assert_eq!(all.iter().min(), Some(&earliest));
            assert_eq!(all.iter().max(), Some(&latest));
        }
    }

    #[test]
    fn the_tighter_one_is_told() {
        let left = |limit, remaining| Left { limit, remaining, reset_after_ns: 0 };
        assert!(left(10, 1).is_tighter(left(10, 2)) && !left(10, 1).is_tighter(left(5, 0)));
        assert!(!left(10, 2).is_tighter(left(5, 1)), "the same part");
        assert!(left(0, 0).is_tighter(left(10, 1)) && !left(10, 1).is_tighter(left(0, 0)));
        let said = |limit: Option<&'static str>, remaining: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            for (name, value) in [(LIMIT, limit), (REMAINING, remaining)] {
                headers.extend(value.map(|value| (name, HeaderValue::from_static(value))));
            }
            Left::said(&headers, left(7, 7)).map(|left| (left.limit, left.remaining))
        };
        assert_eq!(said(Some("10"), None), None);
        assert_eq!(said(Some("10"), Some(" 3")), Some((10, 3)));
        assert_eq!(said(Some("10, 10;w=60"), Some("0")), Some((10, 0)));
        assert_eq!(said(None, Some("3")), Some((7, 3)));
        assert_eq!(said(Some("10"), Some("many")), None);
    }
}
