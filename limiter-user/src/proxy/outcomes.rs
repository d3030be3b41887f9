//! How requests ended, by route, status and refusal: one core counts, the conductor reads once a
//! second. Bounded: an upstream may answer with any status, and policies come and go.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{link::OutcomeCount, refusal::Refusal};

/// Combinations told apart; further ones are counted by the class of their status.
const MAX_OUTCOMES: usize = 1_024;

/// Route (empty: none was found), status (0: none was sent; below 10: a class) and refusal.
type Key = (Arc<str>, u16, Option<Refusal>);

/// One core's outcomes.
#[derive(Debug, Default)]
pub(super) struct Outcomes(Mutex<HashMap<Key, u64>>);

impl Outcomes {
    /// One request more.
    pub(super) fn count(&self, route: Option<&Arc<str>>, status: u16, refusal: Option<Refusal>) {
        let mut counts = self.lock();
        let key = (route.cloned().unwrap_or_default(), status, refusal);
        let is_full = counts.len() >= MAX_OUTCOMES && !counts.contains_key(&key);
        let key = if is_full { (Arc::default(), status / 100, None) } else { key };
        *counts.entry(key).or_default() += 1;
    }

    /// Adds this core's counts to `sums`.
    pub(super) fn add_to(&self, sums: &mut Vec<OutcomeCount>) {
        for ((route, status, refusal), count) in &*self.lock() {
            let known = sums.iter_mut().find(|sum| {
                *sum.route == **route && sum.status == *status && sum.refusal == *refusal
            });
            match known {
                Some(sum) => sum.count += count,
                None => sums.push(OutcomeCount {
                    route: route.to_string(),
                    status: *status,
                    refusal: *refusal,
                    count: *count,
                }),
            }
        }
    }

    /// Counts are usable whatever panicked.
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_counted_apart_and_bounded() {
        let outcomes = Outcomes::default();
        let route: Arc<str> = "api".into();
        outcomes.count(Some(&route), 200, None);
        outcomes.count(Some(&route), 200, None);
        outcomes.count(Some(&route), 429, Some(Refusal::RateLimited));
        outcomes.count(None, 404, Some(Refusal::NotFound));
        let sums = || {
            let mut sums = Vec::new();
            outcomes.add_to(&mut sums);
            sums
        };
        assert_eq!(sums().len(), 3);
        let of = |status: u16| {
            let all = sums();
            let found = all.iter().filter(|one| one.status == status);
            found.map(|one| one.count).sum::<u64>()
        };
        assert_eq!((of(200), of(429), of(404)), (2, 1, 1));
        for number in 0..3 * MAX_OUTCOMES {
            outcomes.count(Some(&number.to_string().into()), 301, None);
        }
        assert!(sums().len() <= MAX_OUTCOMES + 6);
        assert_eq!(of(301) + of(3), 3 * MAX_OUTCOMES as u64);
    }
}
