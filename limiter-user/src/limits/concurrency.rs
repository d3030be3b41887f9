//! How many requests of each client are under way, of limits with `concurrent`.
//!
//! In this process alone: what a proxy that ended had under way is over with it. Locked in shards;
//! bounded by the requests that there may be in all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{hash::Secret, key::Key};

const SHARDS: usize = 64;

/// The counts, of all limits.
#[derive(Debug)]
pub struct UnderWay {
    secret: Secret,
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
        let secret = super::random_secret();
        Self { secret, shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl UnderWay {
    /// What a limit is known by here.
    pub fn identity(&self, name: &str) -> u64 {
        self.secret.of_bytes(0, name.as_bytes())
    }

    /// Counts one more of this key of a limit, unless there are `most`. How many there are now.
    pub fn admit(self: &Arc<Self>, limit: u64, key: Key<'_>, most: u64) -> (Option<Permit>, u64) {
        let client = key.hash(self.secret, limit);
        let mut shard = self.shard(client).lock().unwrap_or_else(PoisonError::into_inner);
        let count = shard.get(&client).copied().unwrap_or_default();
        if count >= most {
            return (None, count);
        }
        shard.insert(client, count + 1);
        (Some(Permit { counts: Arc::clone(self), client }), count + 1)
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
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{super::Part, *};

    fn key(name: &str) -> Key<'_> {
        Key::new([Part::Principal(name)])
    }

    #[test]
    fn as_many_as_allowed_and_each_ends_once() {
        let counts = Arc::new(UnderWay::default());
        let (first, one) = counts.admit(7, key("a"), 2);
        let (second, two) = counts.admit(7, key("a"), 2);
        assert_eq!((one, two), (1, 2));
        assert!(first.is_some() && second.is_some());
        assert_eq!(counts.admit(7, key("a"), 2).1, 2, "no third");
        assert!(counts.admit(7, key("b"), 2).0.is_some(), "another client");
        assert!(counts.admit(8, key("a"), 2).0.is_some(), "another limit");
        drop(first);
        assert_eq!(counts.admit(7, key("a"), 2).1, 2);
        drop(second);
        assert!(counts.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }

    #[test]
    fn threads_never_go_beyond() {
        let counts = Arc::new(UnderWay::default());
        let there = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let (permit, count) = counts.admit(1, key("a"), 3);
                        assert!(count <= 3);
                        if permit.is_some() {
                            assert!(there.fetch_add(1, Ordering::SeqCst) < 3);
                            there.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!(counts.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
