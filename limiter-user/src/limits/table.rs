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

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    algorithm::{Decision, Meter},
    arena::{LINE_WORDS, Line, Slot},
};

/// Entries in one set; a set spans two cache lines.
const WAYS: usize = LINE_WORDS / 2;

/// Fingerprint of an entry that was never used.
const FREE: u64 = 0;

/// One table, for one limit.
#[derive(Debug)]
pub struct Table {
    lines: Lines,
    /// How many, a power of two; one more line is for totals.
    sets: usize,
}

/// Where the words are.
#[derive(Debug)]
enum Lines {
    /// In this process.
    Own(Box<[Aligned]>),
    /// Shared with other processes, from this line of the slot on.
    Shared(Arc<Slot>, usize),
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Aligned(Line);

/// Fingerprints and words in turn.
#[derive(Clone, Copy)]
struct Set<'a>(&'a Line);

/// Places in the line of totals.
const OVERFLOW: usize = 0;
const ENTRIES: usize = 1;
const FULL: usize = 2;

impl Table {
    /// A table for about `capacity` clients (rounded up to a power of two, 128 bytes per 8).
    pub fn new(capacity: usize) -> Self {
        let sets = Self::sets(capacity);
        Self { lines: Lines::Own((0..=sets).map(|_| Aligned::default()).collect()), sets }
    }

    /// As [`Self::new`], in memory that outlives this process: from line `start` of `slot` on.
    pub(super) fn shared(slot: &Arc<Slot>, start: usize, capacity: usize) -> Self {
        Self { lines: Lines::Shared(Arc::clone(slot), start), sets: Self::sets(capacity) }
    }

    /// Lines that a table for `capacity` clients takes.
    pub(super) fn lines(capacity: usize) -> usize {
        Self::sets(capacity) + 1
    }

    fn sets(capacity: usize) -> usize {
        capacity.div_ceil(WAYS).clamp(1, 1 << 24).next_power_of_two()
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
        let word =
            self.set(fingerprint).find(fingerprint).map_or(0, |word| word.load(Ordering::Relaxed));
        meter.charge(word, now_ns).0
    }

    /// Entries in use, and requests that found no entry.
    pub fn usage(&self) -> (u64, u64) {
        let totals = self.line(self.sets);
        (totals[ENTRIES].load(Ordering::Relaxed), totals[FULL].load(Ordering::Relaxed))
    }

    fn line(&self, index: usize) -> &Line {
        match &self.lines {
            Lines::Own(lines) => &lines[index].0,
            Lines::Shared(slot, start) => &slot.lines()[start + index],
        }
    }

    fn set(&self, fingerprint: u64) -> Set<'_> {
        // The low bits choose the set.
        #[expect(clippy::cast_possible_truncation, reason = "masked by the number of sets")]
        let index = fingerprint as usize & (self.sets - 1);
        Set(self.line(index))
    }

    /// The word that counts for this client.
    fn word(&self, fingerprint: u64, meter: &Meter, now_ns: u64) -> &AtomicU64 {
        let fingerprint = fingerprint.max(1);
        let set = self.set(fingerprint);
        loop {
            if let Some(word) = set.find(fingerprint) {
                return word;
            }
            let Some((way, held)) = set.reusable(meter, now_ns) else {
                let totals = self.line(self.sets);
                totals[FULL].fetch_add(1, Ordering::Relaxed);
                return &totals[OVERFLOW];
            };
            let (owner, word) = set.way(way);
            // An idle word means the same as a fresh one, so only the fingerprint changes hands.
            if owner
                .compare_exchange(held, fingerprint, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            if held == FREE {
                self.line(self.sets)[ENTRIES].fetch_add(1, Ordering::Relaxed);
            }
            // Another thread may have inserted the same client in an earlier way meanwhile: the
            // first one counts for everybody, this one stays unused until it is taken again.
            return set.find(fingerprint).unwrap_or(word);
        }
    }
}

impl<'a> Set<'a> {
    /// Fingerprint and word of a way.
    fn way(self, way: usize) -> (&'a AtomicU64, &'a AtomicU64) {
        (&self.0[2 * way], &self.0[2 * way + 1])
    }

    fn ways(self) -> impl Iterator<Item = (&'a AtomicU64, &'a AtomicU64)> {
        let (pairs, _) = self.0.as_chunks::<2>();
        pairs.iter().map(|[fingerprint, word]| (fingerprint, word))
    }

    /// The word of this fingerprint.
    fn find(self, fingerprint: u64) -> Option<&'a AtomicU64> {
        self.ways()
            .find(|(owner, _)| owner.load(Ordering::Acquire) == fingerprint)
            .map(|(_, word)| word)
    }

    /// The first way that may be taken, and the fingerprint it holds.
    fn reusable(self, meter: &Meter, now_ns: u64) -> Option<(usize, u64)> {
        self.ways().enumerate().find_map(|(way, (owner, word))| {
            let held = owner.load(Ordering::Acquire);
            (held == FREE || meter.is_idle(word.load(Ordering::Relaxed), now_ns))
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
