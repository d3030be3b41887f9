//! How requests ended, by route, status and refusal, and how long they took, by route: one core
//! counts, the conductor reads once a second. Bounded: an upstream may answer with any status, and
//! policies come and go.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    link::{DURATION_BOUNDS_NS, DurationCount, OutcomeCount},
    refusal::Refusal,
};

/// Combinations told apart; further ones are counted by the class of their status.
const MAX_OUTCOMES: usize = 1_024;

/// Route (empty: none was found), status (0: none was sent; below 10: a class) and refusal.
type Key = (Arc<str>, u16, Option<Refusal>);

/// One core's outcomes.
#[derive(Debug, Default)]
pub(super) struct Outcomes(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Places in `outcomes`.
    places: HashMap<Key, usize>,
    outcomes: Vec<Outcome>,
    /// Places in `durations`.
    routes: HashMap<Arc<str>, usize>,
    durations: Vec<Durations>,
    /// Place of the last outcome, which mostly is the next one too.
    last: usize,
}

#[derive(Debug)]
struct Outcome {
    key: Key,
    count: u64,
    durations: usize,
}

#[derive(Debug, Default)]
struct Durations {
    buckets: [u64; DURATION_BOUNDS_NS.len() + 1],
    sum_ns: u64,
}

impl Outcomes {
    /// One request more, and how long it took.
    pub(super) fn count(
        &self,
        route: Option<&Arc<str>>,
        status: u16,
        refusal: Option<Refusal>,
        duration_ns: u64,
    ) {
        let mut counts = self.lock();
        let counts = &mut *counts;
        let place = match counts.outcomes.get(counts.last) {
            Some(last) if last.is(route, status, refusal) => counts.last,
            _ => counts.place((route.cloned().unwrap_or_default(), status, refusal)),
        };
        counts.last = place;
        let outcome = &mut counts.outcomes[place];
        outcome.count += 1;
        let durations = &mut counts.durations[outcome.durations];
        let bucket = DURATION_BOUNDS_NS.partition_point(|bound_ns| *bound_ns < duration_ns);
        durations.buckets[bucket] += 1;
        durations.sum_ns = durations.sum_ns.saturating_add(duration_ns);
    }

    /// Adds this core's counts to `outcomes` and `durations`.
    pub(super) fn add_to(
        &self,
        outcomes: &mut Vec<OutcomeCount>,
        durations: &mut Vec<DurationCount>,
    ) {
        let counts = self.lock();
        for Outcome { key: (route, status, refusal), count, .. } in &counts.outcomes {
            let known = outcomes.iter_mut().find(|sum| {
                *sum.route == **route && sum.status == *status && sum.refusal == *refusal
            });
            match known {
                Some(sum) => sum.count += count,
                None => outcomes.push(OutcomeCount {
                    route: route.to_string(),
                    status: *status,
                    refusal: *refusal,
                    count: *count,
                }),
            }
        }
        for (route, place) in &counts.routes {
            let known = durations.iter().position(|sum| *sum.route == **route);
            let place_of_sum = known.unwrap_or_else(|| {
                durations.push(DurationCount { route: route.to_string(), ..Default::default() });
                durations.len() - 1
            });
            let (sum, own) = (&mut durations[place_of_sum], &counts.durations[*place]);
            sum.sum_ns = sum.sum_ns.saturating_add(own.sum_ns);
            for (total, count) in sum.buckets.iter_mut().zip(own.buckets) {
                *total += count;
            }
        }
    }

    /// Counts are usable whatever panicked.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// Where this outcome is counted.
    fn place(&mut self, key: Key) -> usize {
        let is_full = self.outcomes.len() >= MAX_OUTCOMES && !self.places.contains_key(&key);
        let key = if is_full { (Arc::default(), key.1 / 100, None) } else { key };
        if let Some(place) = self.places.get(&key) {
            // The same name as another policy has it: compared by place the next time.
            self.outcomes[*place].key = key;
            return *place;
        }
        let durations = *self.routes.entry(Arc::clone(&key.0)).or_insert_with(|| {
            self.durations.push(Durations::default());
            self.durations.len() - 1
        });
        let place = self.outcomes.len();
        self.outcomes.push(Outcome { key: key.clone(), count: 0, durations });
        self.places.insert(key, place);
        place
    }
}

impl Outcome {
    /// Whether it is certainly this one, without reading a name.
    fn is(&self, route: Option<&Arc<str>>, status: u16, refusal: Option<Refusal>) -> bool {
        let (own, own_status, own_refusal) = &self.key;
        *own_status == status
            && *own_refusal == refusal
            && route.map_or(own.is_empty(), |route| Arc::ptr_eq(own, route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_counted_apart_and_bounded() {
        let outcomes = Outcomes::default();
        let route: Arc<str> = "api".into();
        let again: Arc<str> = "api".into();
        outcomes.count(Some(&route), 200, None, 1_000_000);
        outcomes.count(Some(&route), 200, None, 1_000_001);
        outcomes.count(Some(&again), 200, None, 0);
        outcomes.count(Some(&again), 200, None, u64::MAX);
        outcomes.count(Some(&route), 429, Some(Refusal::RateLimited), 7_000_000);
        outcomes.count(None, 404, Some(Refusal::NotFound), 0);
        let sums = || {
            let (mut sums, mut durations) = (Vec::new(), Vec::new());
            outcomes.add_to(&mut sums, &mut durations);
            (sums, durations)
        };
        assert_eq!(sums().0.len(), 3);
        let of = |status: u16| {
            let all = sums().0;
            let found = all.iter().filter(|one| one.status == status);
            found.map(|one| one.count).sum::<u64>()
        };
        assert_eq!((of(200), of(429), of(404)), (4, 1, 1));
        let (_, durations) = sums();
        let api = durations.iter().find(|one| one.route == "api").unwrap();
        assert_eq!((api.buckets[..4].to_vec(), api.buckets[13]), (vec![2, 1, 0, 1], 1));
        assert_eq!(api.sum_ns, u64::MAX);
        for number in 0..3 * MAX_OUTCOMES {
            outcomes.count(Some(&number.to_string().into()), 301, None, 0);
        }
        let (all, durations) = sums();
        assert!(all.len() <= MAX_OUTCOMES + 6 && durations.len() <= MAX_OUTCOMES + 6);
        assert_eq!(of(301) + of(3), 3 * MAX_OUTCOMES as u64);
        let took: u64 = durations.iter().flat_map(|one| one.buckets).sum();
        assert_eq!(took, all.iter().map(|one| one.count).sum::<u64>());
    }
}
