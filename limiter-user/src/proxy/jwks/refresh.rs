//! The one task that asks an issuer for its keys, on the conductor's thread.
//!
//! In: an issuer's place; out: its keys, and whether it can be reached. What it answers is believed
//! only as far as it holds a usable key: an empty set, an error page or half a document leaves the
//! keys as they are.

use std::{
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{Issuer, LEAST_BETWEEN_NS, Upstream};
use crate::{
    clock,
    credentials::jwks::{self, KeySet},
    proxy::upstream::{Fetched, fetch},
};

/// How often an issuer is asked that says nothing about it, and the bounds of what it may say.
const EVERY: Duration = Duration::from_mins(5);
const MIN_AGE: Duration = Duration::from_mins(1);
const MAX_AGE: Duration = Duration::from_hours(1);

/// After an answer that is of no use: at first, and at most.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(1);

/// From the connection to the last byte.
const WITHIN: Duration = Duration::from_secs(10);

/// Begins to ask for the keys of an issuer, unless that was begun before.
pub(in crate::proxy) fn start(issuer: &Arc<Issuer>, upstream: &Arc<Upstream>) {
    if !issuer.started.swap(true, Relaxed) {
        let (issuer, upstream) = (Arc::downgrade(issuer), Arc::clone(upstream));
        tokio::task::spawn_local(keep(issuer, upstream));
    }
}

async fn keep(issuer: Weak<Issuer>, upstream: Arc<Upstream>) {
    let mut failures = 0_u32;
    while let Some(known) = issuer.upgrade() {
        known.busy.store(true, Relaxed);
        let now_ns = clock::monotonic_ns();
        known.next_ns.fetch_max(now_ns + LEAST_BETWEEN_NS, Relaxed);
        known.asked_ns.store(now_ns, Relaxed);
        let fetched = fetch(&upstream, &known.place.path, jwks::MAX_BYTES, WITHIN).await;
        let read = fetched.and_then(|answer| {
            let set = KeySet::read(&answer.body, &known.place.algorithms)
                .map_err(|why| format!("no keys: {why}"))?;
            Ok((set, every(&answer)))
        });
        let next = match read {
            Ok((set, next)) => {
                failures = 0;
                if known.replace(set) {
                    log::info!("keys of {} changed", known.place.upstream.name);
                }
                upstream.examine(Ok(()));
                next
            }
            Err(why) => {
                upstream.examine(Err(why));
                let retry = FIRST_RETRY.saturating_mul(1 << failures.min(10)).min(LAST_RETRY);
                failures = failures.saturating_add(1);
                retry
            }
        };
        known.busy.store(false, Relaxed);
        known.asked.send_modify(|count| *count = count.wrapping_add(1));
        let wanted = Arc::clone(&known.wanted);
        drop(known);
        // Either way it is time.
        drop(tokio::time::timeout(next, wanted.notified()).await);
    }
}

/// How long the answer is good for, within bounds (RFC 9111, 5.2.2.1).
fn every(answer: &Fetched) -> Duration {
    let directives = answer.cache_control.as_deref().unwrap_or_default().split(',');
    let age = directives
        .filter_map(|directive| directive.trim().strip_prefix("max-age="))
        .find_map(|seconds| seconds.parse().ok());
    age.map_or(EVERY, |seconds| Duration::from_secs(seconds).clamp(MIN_AGE, MAX_AGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_issuer_may_say_about_its_keys_is_bounded() {
        for (said, expected) in [
            (None, EVERY),
            (Some("public, max-age=120"), Duration::from_mins(2)),
            (Some("max-age=0"), MIN_AGE),
            (Some("max-age=99999999999"), MAX_AGE),
            (Some("max-age=x"), EVERY),
            (Some("no-store"), EVERY),
        ] {
            let answer = Fetched { body: Vec::new(), cache_control: said.map(str::to_owned) };
            assert_eq!(every(&answer), expected, "{said:?}");
        }
    }
}
