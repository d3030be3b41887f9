//! What goes on from policy to policy: counters, upstreams, budgets, and the signed messages that
//! were accepted.

use std::sync::Arc;

use super::{content::Budget, jwks::Issuers, tokens::Verified, upstream::Directory};
use crate::{clock, credentials::replay::Replays, limits::Counters, link::SignedCount};

/// Signed messages that are remembered at once: 7,000 a second for five minutes, in 16 MiB.
const REPLAYS: usize = 1 << 21;

/// All of it.
#[derive(Debug)]
pub(super) struct Lasting {
    pub(super) counters: Counters,
    pub(super) upstreams: Directory,
    pub(super) inspection: Arc<Budget>,
    pub(super) signed: Signed,
    pub(super) issuers: Issuers,
    pub(super) verified: Arc<Verified>,
}

impl Lasting {
    pub(super) fn new(upstreams: Directory) -> Self {
        Self {
            counters: Counters::default(),
            upstreams,
            inspection: Arc::default(),
            signed: Signed::default(),
            issuers: Issuers::default(),
            verified: Arc::default(),
        }
    }
}

/// Signed messages, from the first scheme on that accepts each of them once.
#[derive(Debug, Default)]
pub(super) struct Signed {
    replays: Option<Arc<Replays>>,
}

impl Signed {
    /// Where they are remembered for so many seconds at least after they were made.
    pub(super) fn within(&mut self, seconds: u64) -> Arc<Replays> {
        let now = clock::unix_ns() / 1_000_000_000;
        let replays = self.replays.get_or_insert_with(|| Arc::new(Replays::alone(REPLAYS, now)));
        replays.widen(seconds, now);
        Arc::clone(replays)
    }

    /// What is known of them.
    pub(super) fn count(&self) -> SignedCount {
        let Some(replays) = &self.replays else { return SignedCount::default() };
        let (remembered, capacity) = replays.room(clock::coarse_unix_ns() / 1_000_000_000);
        let [full, repeated, unknown] = replays.refused();
        let (remembered, capacity) = (remembered as u64, capacity as u64);
        SignedCount { remembered, capacity, full, repeated, unknown }
    }
}
