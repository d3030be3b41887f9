//! The shared store of rate limit words: fixed size, without a lock, used by every core at once.
//!
//! In: a client's fingerprint and a meter; out: the decision. A set-associative table of
//! (fingerprint, word) pairs: an entry in debt is never evicted; one whose word is idle is reused.
//! Where a set is full of entries in debt, the request is counted against one entry that all such
//! requests share, so that memory is bounded and a flood of clients cannot lift the limit.
//!
//! Over-admission: the word is changed by compare-and-swap, so any number of cores admit exactly
//! what one would. Only while an entry is made may threads that insert the same client at the same
//! moment, or charge an entry as it changes hands, each admit one request more.

use std::sync::atomic::{AtomicU64, Ordering};

use super::algorithm::{Decision, Meter};

/// Entries in one set; a set spans two cache lines.
const WAYS: usize = 8;

/// Fingerprint of an entry that was never used.
const FREE: u64 = 0;

/// One table, for one limit.
#[derive(Debug)]
pub struct Table {
    sets: Box<[Set]>,
    /// Shared by those that find their set full.
    overflow: AtomicU64,
    entries: AtomicU64,
    full: AtomicU64,
}

#[derive(Debug)]
#[repr(align(128))]
struct Set {
    ways: [Entry; WAYS],
}

#[derive(Debug, Default)]
struct Entry {
    fingerprint: AtomicU64,
    word: AtomicU64,
}

impl Table {
    /// A table for about `capacity` clients (rounded up to a power of two, 128 bytes per 8).
    pub fn new(capacity: usize) -> Self {
        let sets = capacity.div_ceil(WAYS).clamp(1, 1 << 24).next_power_of_two();
        Self {
            sets: (0..sets)
                .map(|_| Set { ways: std::array::from_fn(|_| Entry::default()) })
                .collect(),
            overflow: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            full: AtomicU64::new(0),
        }
    }

    /// Decides one request of the client with this fingerprint, and counts it if allowed.
    pub fn charge(&self, fingerprint: u64, meter: &Meter, now_ns: u64) -> Decision {
        let word = self.word(fingerprint, meter, now_ns);
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let (decision, next) = meter.charge(seen, now_ns);
            if next == seen {
                return decision;
            }
            match word.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return decision,
                Err(changed) => seen = changed,
            }
        }
    }

    /// What [`Self::charge`] would say, without counting anything or taking an entry.
    pub fn peek(&self, fingerprint: u64, meter: &Meter, now_ns: u64) -> Decision {
        let fingerprint = fingerprint.max(1);
        let word = self
            .set(fingerprint)
            .find(fingerprint)
            .map_or(0, |entry| entry.word.load(Ordering::Relaxed));
        meter.charge(word, now_ns).0
    }

    /// Entries in use, and requests that found no entry.
    pub fn usage(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.full.load(Ordering::Relaxed))
    }

    fn set(&self, fingerprint: u64) -> &Set {
        // The length is a power of two; the low bits choose the set.
        #[expect(clippy::cast_possible_truncation, reason = "masked by the number of sets")]
        let index = fingerprint as usize & (self.sets.len() - 1);
        &self.sets[index]
    }

    /// The word that counts for this client.
    fn word(&self, fingerprint: u64, meter: &Meter, now_ns: u64) -> &AtomicU64 {
        let fingerprint = fingerprint.max(1);
        let set = self.set(fingerprint);
        loop {
            if let Some(entry) = set.find(fingerprint) {
                return &entry.word;
            }
            let Some((way, held)) = set.reusable(meter, now_ns) else {
                self.full.fetch_add(1, Ordering::Relaxed);
                return &self.overflow;
            };
            let entry = &set.ways[way];
            // An idle word means the same as a fresh one, so only the fingerprint changes hands.
            if entry
                .fingerprint
                .compare_exchange(held, fingerprint, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            if held == FREE {
                self.entries.fetch_add(1, Ordering::Relaxed);
            }
            // Another thread may have inserted the same client in an earlier way meanwhile: the
            // first one counts for everybody, this one stays unused until it is taken again.
            return set.find(fingerprint).map_or(&entry.word, |first| &first.word);
        }
    }
}

impl Set {
    fn find(&self, fingerprint: u64) -> Option<&Entry> {
        self.ways.iter().find(|entry| entry.fingerprint.load(Ordering::Acquire) == fingerprint)
    }

    /// The first way that may be taken, and the fingerprint it holds.
    fn reusable(&self, meter: &Meter, now_ns: u64) -> Option<(usize, u64)> {
        self.ways.iter().enumerate().find_map(|(way, entry)| {
            let held = entry.fingerprint.load(Ordering::Acquire);
            (held == FREE || meter.is_idle(entry.word.load(Ordering::Relaxed), now_ns))
                .then_some((way, held))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, time::Duration};

    use super::*;
    use crate::policy::Rate;

    const NOW: u64 = 1_000_000_000_000;

    fn bucket(count: u64, burst: u64) -> Meter {
        let rate = Rate { count, period: Duration::from_hours(1) };
        Meter::token_bucket(rate, burst)
    }

    #[test]
    fn clients_do_not_share_a_budget() {
        let table = Table::new(1024);
        let meter = bucket(1, 3);
        for client in 1..=200_u64 {
            let fingerprint = client.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for _ in 0..3 {
                assert!(table.charge(fingerprint, &meter, NOW).allowed);
            }
            assert!(!table.peek(fingerprint, &meter, NOW).allowed);
            assert!(!table.charge(fingerprint, &meter, NOW).allowed);
        }
        assert_eq!(table.usage(), (200, 0));
    }

    #[test]
    fn a_full_set_evicts_nobody_in_debt_and_shares_one_entry() {
        let table = Table::new(WAYS);
        let meter = bucket(1, 2);
        for client in 1..=8 {
            table.charge(client, &meter, NOW);
            table.charge(client, &meter, NOW);
        }
        assert!(table.charge(100, &meter, NOW).allowed);
        assert!(table.charge(101, &meter, NOW).allowed);
        assert!(!table.charge(102, &meter, NOW).allowed, "newcomers share a budget");
        for client in 1..=8 {
            assert!(!table.charge(client, &meter, NOW).allowed, "{client} is still in debt");
        }
        assert_eq!(table.usage(), (8, 3));
        let later = NOW + 3 * 3_600_000_000_000;
        assert!(table.charge(103, &meter, later).allowed, "an idle entry is reused");
        assert_eq!(table.usage(), (8, 3));
    }

    #[test]
    fn threads_together_admit_what_one_would() {
        const THREADS: u64 = 4;
        for meter in [
            bucket(1, 1000),
            Meter::fixed_window(1000, Duration::from_hours(1)),
            Meter::SlidingWindow { count: 1000, period_ns: 3_600_000_000_000 },
        ] {
            let table = Table::new(1024);
            let barrier = Barrier::new(usize::try_from(THREADS).unwrap());
            let admitted: u64 = std::thread::scope(|scope| {
                let workers: Vec<_> = (0..THREADS)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            (0..1000).filter(|_| table.charge(42, &meter, NOW).allowed).count()
                                as u64
                        })
                    })
                    .collect();
                workers.into_iter().map(|worker| worker.join().unwrap()).sum()
            });
            assert!((1000..1000 + THREADS).contains(&admitted), "{admitted} of 1000");
        }
    }
}
