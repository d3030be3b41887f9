//! How many connections are open, in all and per client address, over all cores.
//!
//! Locked in shards, and only when a connection opens or ends. Bounded by the connections there
//! may be in all.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::limits::AddressKey;

const SHARDS: usize = 64;

/// The counts.
#[derive(Debug)]
pub(super) struct ClientConnections {
    open: AtomicUsize,
    hasher: RandomState,
    shards: [Mutex<HashMap<AddressKey, usize>>; SHARDS],
}

/// One counted connection; it is no longer when this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    counts: Arc<ClientConnections>,
    client: AddressKey,
}

impl Default for ClientConnections {
    fn default() -> Self {
        Self {
            open: AtomicUsize::new(0),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }
}

impl ClientConnections {
    /// Counts one more connection of `client`, unless a bound is reached.
    pub(super) fn admit(
        self: &Arc<Self>,
        client: AddressKey,
        max: usize,
        max_per_client: usize,
    ) -> Option<Permit> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        let count = shard.entry(client).or_default();
        if *count >= max_per_client {
            if *count == 0 {
                shard.remove(&client);
            }
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        Some(Permit { counts: Arc::clone(self), client })
    }

    /// Connections open now.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn shard(&self, client: AddressKey) -> &Mutex<HashMap<AddressKey, usize>> {
        #[expect(clippy::cast_possible_truncation, reason = "reduced to the number of shards")]
        let index = self.hasher.hash_one(client) as usize % SHARDS;
        &self.shards[index]
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let counts = &self.counts;
        counts.open.fetch_sub(1, Ordering::Relaxed);
        let mut shard = counts.shard(self.client).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = shard.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_hold_and_places_come_back() {
        let counts = Arc::new(ClientConnections::default());
        let one = AddressKey::new("192.0.2.1".parse().unwrap());
        let two = AddressKey::new("192.0.2.2".parse().unwrap());
        let held: Vec<_> = (0..2).map(|_| counts.admit(one, 3, 2).unwrap()).collect();
        assert!(counts.admit(one, 3, 2).is_none(), "per client");
        let other = counts.admit(two, 3, 2).unwrap();
        assert!(counts.admit(two, 3, 2).is_none(), "in all");
        drop((held, other));
        assert!(counts.admit(one, 3, 2).is_some());
        assert_eq!(counts.open.load(Ordering::Relaxed), 0);
        assert!(counts.shard(one).lock().unwrap().is_empty());
    }
}
