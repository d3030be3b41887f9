//! How many requests of each client are under way, of limits with `concurrent`.
//!
//! In this process alone: what a proxy that ended had under way is over with it. Locked in shards;
//! bounded by the requests that there may be in all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

const SHARDS: usize = 64;

/// The counts, of all limits.
#[derive(Debug)]
pub struct UnderWay {
    shards: [Mutex<HashMap<u64, u64>>; SHARDS],
}

/// One counted request; it is no longer when this is dropped.
#[derive(Debug)]
pub struct Permit {
    counts: Arc<UnderWay>,
    client: u64,
}

impl Default for UnderWay {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl UnderWay {
    /// Counts one more of `client` (a hash that is another one for each limit), unless there are
    /// `most`. How many there are now.
    pub fn admit(self: &Arc<Self>, client: u64, most: u64) -> (Option<Permit>, u64) {
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        let count = shard.get(&client).copied().unwrap_or_default();
        if count >= most {
            return (None, count);
        }
        shard.insert(client, count + 1);
        (Some(Permit { counts: Arc::clone(self), client }), count + 1)
    }

    /// How many there are of `client`.
    pub fn count(&self, client: u64) -> u64 {
        let shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        shard.get(&client).copied().unwrap_or_default()
    }

    fn shard(&self, client: u64) -> &Mutex<HashMap<u64, u64>> {
        &self.shards[usize::try_from(client >> 58).unwrap_or_default() % SHARDS]
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let shard = self.counts.shard(self.client);
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
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
    fn as_many_as_allowed_and_each_ends_once() {
        let counts = Arc::new(UnderWay::default());
        let (first, one) = counts.admit(7, 2);
        let (second, two) = counts.admit(7, 2);
        assert_eq!((one, two), (1, 2));
        assert!(first.is_some() && second.is_some());
        assert!(counts.admit(7, 2).0.is_none(), "a third");
        assert!(counts.admit(8, 2).0.is_some(), "another client");
        drop(first);
        assert_eq!(counts.count(7), 1);
        assert!(counts.admit(7, 2).0.is_some());
        drop(second);
        assert_eq!(counts.count(7), 0);
        assert!(counts.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn threads_never_go_beyond() {
        let counts = Arc::new(UnderWay::default());
        let most = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let (permit, count) = counts.admit(1, 3);
                        assert!(count <= 3);
                        if permit.is_some() {
                            let there = most.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            assert!(there < 3);
                            most.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(counts.count(1), 0);
    }
}
