//! What goes on from policy to policy: counters, upstreams, budgets, and what is known of signed
//! messages, tokens and credentials.

use std::sync::{Arc, atomic::AtomicU64};

use super::{
    accepted::Accepted, content::Budget, jwks::Issuers, shared_store::Stores, tokens::Verified,
    upstream::Directory,
};
use crate::{
    clock,
    credentials::replay::{Replays, Words},
    limits::{Counters, arena::Arena},
    link::SignedCount,
};

/// Signed messages that a proxy without the agent's memory remembers.
const REPLAYS_ALONE: usize = 1 << 18;

/// All of it.
#[derive(Debug)]
pub(super) struct Lasting {
    pub(super) counters: Counters,
    pub(super) upstreams: Directory,
    pub(super) inspection: Arc<Budget>,
    pub(super) signed: Signed,
    pub(super) issuers: Issuers,
    pub(super) verified: Arc<Verified>,
    pub(super) accepted: Arc<Accepted>,
    pub(super) stores: Stores,
}

impl Lasting {
    pub(super) fn new(upstreams: Directory, stores: Stores) -> Self {
        Self {
            counters: Counters::default(),
            upstreams,
            inspection: Arc::default(),
            signed: Signed::default(),
            issuers: Issuers::default(),
            verified: Arc::default(),
            accepted: Arc::default(),
            stores,
        }
    }
}

/// Signed messages, from the first scheme on that accepts each of them once.
#[derive(Debug, Default)]
pub(super) struct Signed {
    replays: Option<Arc<Replays>>,
    /// Where they are remembered beyond this process.
    memory: Option<Arc<Arena>>,
}

impl Words for Arc<Arena> {
    fn words(&self) -> &[AtomicU64] {
        self.replays()
    }
}

impl Signed {
    /// Remembers them in the agent's memory, if none was remembered before.
    pub(super) fn share(&mut self, memory: Arc<Arena>) {
        self.memory = Some(memory);
    }

    /// Where they are remembered for so many seconds at least after they were made.
    pub(super) fn within(&mut self, seconds: u64) -> Arc<Replays> {
        let now = clock::unix_ns() / 1_000_000_000;
        let replays = self.replays.get_or_insert_with(|| {
            Arc::new(match &self.memory {
                Some(memory) => Replays::new(Box::new(Arc::clone(memory)), now),
                None => Replays::alone(REPLAYS_ALONE, now),
            })
        });
        replays.widen(seconds, now);
        Arc::clone(replays)
    }

    /// What is known of them.
    pub(super) fn count(&self) -> SignedCount {
        let Some(replays) = &self.replays else { return SignedCount::default() };
        let (remembered, capacity) = replays.room(clock::coarse_unix_ns() / 1_000_000_000);
        let [full, repeated, under_way, unknown] = replays.refused();
        let (remembered, capacity) = (remembered as u64, capacity as u64);
        SignedCount { remembered, capacity, full, repeated, under_way, unknown }
    }
}
