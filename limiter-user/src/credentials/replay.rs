//! Messages that were accepted, so that each is accepted once.
//!
//! In: a digest of a message and when it was made; out: whether this is its first time. A table of
//! fixed size without a lock, shared by all cores: an entry stays until its message is too old to
//! be accepted anyway, and where there is no room for another the message is refused. What the
//! table cannot know of is refused too: messages from before it began or after it ended, and those
//! that it forgot because the clock was wrong.
//!
//! Of the same message sent to several cores at once, at most one is accepted, perhaps none. A new
//! message is taken for a known one with a probability below 2^-35.

use std::sync::atomic::{AtomicU64, Ordering};

/// Entries in a set: one cache line.
const WAYS: usize = 8;

/// Bits of a word that hold until when its entry counts; the others tell messages apart.
const TIME_BITS: u32 = 24;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// An entry that was never used.
const FREE: u64 = 0;

/// Seconds for which an entry can count: a quarter of what [`TIME_BITS`] can tell apart, 48 days.
const MAX_AHEAD_SECONDS: u64 = 1 << (TIME_BITS - 2);

/// The messages.
#[derive(Debug)]
pub struct Replays {
    sets: Box<[Set]>,
    /// For how many seconds after it was made a message is remembered.
    window: AtomicU64,
    /// Unix seconds: what was made earlier is not accepted.
    since: AtomicU64,
    /// Unix seconds: what was made later is not accepted.
    until: AtomicU64,
    /// Unix seconds: entries that counted until then may be gone.
    forgotten: AtomicU64,
    full: AtomicU64,
    repeated: AtomicU64,
    elsewhere: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

/// Whether a message is accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// It is seen for the first time, and from now on known.
    First,
    /// It was accepted before.
    Repeated,
    /// Nobody here knows whether it was accepted: by another process, or before the clock was set.
    Unknown,
    /// Nothing more can be remembered.
    Full,
}

/// What tells messages apart: SHA-256 over all that is signed, and by which key.
pub type Fingerprint = [u8; 32];

impl Replays {
    /// An empty table for `entries` messages at once (rounded up to a power of two), beginning at
    /// `now`, in Unix seconds.
    pub fn new(entries: usize, now: u64) -> Self {
        let sets = entries.div_ceil(WAYS).next_power_of_two().max(2);
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            window: AtomicU64::new(0),
            since: AtomicU64::new(now),
            until: AtomicU64::new(u64::MAX),
            forgotten: AtomicU64::new(0),
            full: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            elsewhere: AtomicU64::new(0),
        }
    }

    /// From `now` on, messages may be accepted for `seconds` after they were made. Those made
    /// earlier are not if this is longer than before: they may be forgotten by then.
    pub fn widen(&self, seconds: u64, now: u64) {
        let before = self.window.fetch_max(seconds.min(MAX_AHEAD_SECONDS / 2), Ordering::Relaxed);
        if before != 0 && before < seconds {
            self.since.fetch_max(now, Ordering::Relaxed);
        }
    }

    /// Accepts what is made up to `now`, and nothing that is made later: another table does.
    pub fn close(&self, now: u64) {
        self.until.fetch_min(now, Ordering::Relaxed);
    }

    /// Whether a message made at `made` was not accepted before; afterwards it was. Unix seconds;
    /// the caller has refused what is older than the window.
    pub fn admit(&self, message: &Fingerprint, made: u64, now: u64) -> Admission {
        let admission = self.put(message, made, now);
        let counter = match admission {
            Admission::First => return admission,
            Admission::Repeated => &self.repeated,
            Admission::Unknown => &self.elsewhere,
            Admission::Full => &self.full,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        admission
    }

    fn put(&self, message: &Fingerprint, made: u64, now: u64) -> Admission {
        let Some(places) = self.look(message, made) else { return Admission::Unknown };
        let word = places.identity << TIME_BITS | (places.until & TIME_MASK);
        loop {
            let mut room = None;
            for place in places.words() {
                let found = place.load(Ordering::SeqCst);
                if found != FREE && is_in_force(found, now) {
                    if found >> TIME_BITS == places.identity {
                        return Admission::Repeated;
                    }
                } else if room.is_none() {
                    room = Some((place, found));
                }
            }
            let Some((place, found)) = room else { return Admission::Full };
            if found != FREE && self.forgotten.load(Ordering::Relaxed) < now - 1 {
                self.forgotten.fetch_max(now - 1, Ordering::SeqCst);
            }
            if place.compare_exchange(found, word, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                continue;
            }
            // Who sees an expiry a moment later may have put the same message elsewhere: whichever
            // of the two looks last sees both, and does not accept.
            let same = |place: &&AtomicU64| {
                let found = place.load(Ordering::SeqCst);
                found >> TIME_BITS == places.identity && is_in_force(found, now)
            };
            return if places.words().filter(same).count() > 1 {
                Admission::Repeated
            } else if self.is_forgotten(places.until) {
                Admission::Unknown
            } else {
                Admission::First
            };
        }
    }

    /// What [`Self::admit`] would say, without remembering or counting the message.
    pub fn peek(&self, message: &Fingerprint, made: u64, now: u64) -> Admission {
        let Some(places) = self.look(message, made) else { return Admission::Unknown };
        let mut room = false;
        for found in places.words().map(|place| place.load(Ordering::SeqCst)) {
            if found == FREE || !is_in_force(found, now) {
                room = true;
            } else if found >> TIME_BITS == places.identity {
                return Admission::Repeated;
            }
        }
        if room { Admission::First } else { Admission::Full }
    }

    /// How many entries there are, and how many there may be. Reads the whole table.
    pub fn room(&self, now: u64) -> (usize, usize) {
        let words = self.sets.iter().flat_map(|set| &set.0);
        let held = words.filter(|word| {
            let found = word.load(Ordering::Relaxed);
            found != FREE && is_in_force(found, now)
        });
        (held.count(), self.sets.len() * WAYS)
    }

    /// Messages that were refused for want of room, because they had been accepted before, and
    /// because nobody knows.
    pub fn refused(&self) -> [u64; 3] {
        [&self.full, &self.repeated, &self.elsewhere].map(|count| count.load(Ordering::Relaxed))
    }

    fn is_forgotten(&self, until: u64) -> bool {
        until <= self.forgotten.load(Ordering::SeqCst)
    }

    fn look(&self, message: &Fingerprint, made: u64) -> Option<Places<'_>> {
        let until = made.saturating_add(self.window.load(Ordering::Relaxed));
        let known = made >= self.since.load(Ordering::Relaxed)
            && made <= self.until.load(Ordering::Relaxed)
            && !self.is_forgotten(until);
        if !known {
            return None;
        }
        let part = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&message[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let mask = self.sets.len() - 1;
        let set = |at: usize| usize::try_from(part(at) & mask as u64).unwrap_or_default();
        let first = set(0);
        let second = if set(8) == first { first ^ 1 } else { set(8) };
        // Never the pattern of a free word.
        let identity = (part(16) >> TIME_BITS).max(1);
        Some(Places { sets: [&self.sets[first], &self.sets[second]], identity, until })
    }
}

/// Where a message can be.
struct Places<'a> {
    sets: [&'a Set; 2],
    identity: u64,
    until: u64,
}

impl<'a> Places<'a> {
    fn words(&self) -> impl Iterator<Item = &'a AtomicU64> {
        self.sets.into_iter().flat_map(|set| &set.0)
    }
}

/// Whether the time in `word` is not yet over, counted around the circle that its bits are.
fn is_in_force(word: u64, now: u64) -> bool {
    (word & TIME_MASK).wrapping_sub(now) & TIME_MASK <= MAX_AHEAD_SECONDS
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, atomic::AtomicUsize},
        thread,
    };

    use super::*;
    use crate::keys::digest;

    const NOW: u64 = 1_700_000_000;

    fn message(number: usize) -> Fingerprint {
        digest(&number.to_le_bytes())
    }

    fn table(entries: usize) -> Replays {
        let replays = Replays::new(entries, NOW);
        replays.widen(300, NOW);
        replays
    }

    #[test]
    fn a_message_is_accepted_once_until_it_is_too_old() {
        let replays = table(1000);
        assert_eq!(replays.peek(&message(1), NOW, NOW), Admission::First);
        assert_eq!(replays.admit(&message(1), NOW, NOW), Admission::First);
        assert_eq!(replays.peek(&message(1), NOW, NOW), Admission::Repeated);
        for now in [NOW, NOW + 299, NOW + 300] {
            assert_eq!(replays.admit(&message(1), NOW, now), Admission::Repeated);
        }
        assert_eq!(replays.refused(), [0, 3, 0]);
        assert_eq!(replays.room(NOW + 300).0, 1);
        assert_eq!(replays.room(NOW + 301).0, 0, "from here on its age refuses it");
        assert_eq!(replays.admit(&message(2), NOW, NOW), Admission::First);
    }

    #[test]
    fn what_another_process_may_have_accepted_is_not() {
        let replays = table(1000);
        assert_eq!(replays.admit(&message(1), NOW - 1, NOW), Admission::Unknown);
        replays.close(NOW + 10);
        assert_eq!(replays.admit(&message(1), NOW + 10, NOW + 11), Admission::First);
        assert_eq!(replays.admit(&message(2), NOW + 11, NOW + 11), Admission::Unknown);
        let next = Replays::new(1000, NOW + 11);
        next.widen(300, NOW + 11);
        assert_eq!(next.admit(&message(1), NOW + 10, NOW + 11), Admission::Unknown);
        assert_eq!(next.admit(&message(2), NOW + 11, NOW + 11), Admission::First);
    }

    #[test]
    fn a_longer_window_begins_with_what_is_made_from_then_on() {
        let replays = table(1000);
        assert_eq!(replays.admit(&message(1), NOW + 100, NOW + 100), Admission::First);
        replays.widen(200, NOW + 200);
        assert_eq!(replays.admit(&message(2), NOW + 150, NOW + 200), Admission::First);
        replays.widen(1000, NOW + 300);
        assert_eq!(replays.admit(&message(1), NOW + 100, NOW + 500), Admission::Unknown);
        assert_eq!(replays.admit(&message(3), NOW + 300, NOW + 500), Admission::First);
        assert_eq!(replays.admit(&message(3), NOW + 300, NOW + 1300), Admission::Repeated);
    }

    #[test]
    fn a_clock_that_goes_back_lets_nothing_in_twice() {
        let replays = table(16);
        let accepted: Vec<usize> = (0..100)
            .filter(|n| replays.admit(&message(*n), NOW, NOW) == Admission::First)
            .collect();
        // A day ahead, others take their places.
        let day = NOW + 86_400;
        let others = 200..300;
        let later = others.filter(|n| replays.admit(&message(*n), day, day) == Admission::First);
        assert_eq!(later.count(), 16);
        for number in accepted {
            assert_eq!(replays.admit(&message(number), NOW, NOW + 1), Admission::Unknown);
        }
    }

    #[test]
    fn a_full_table_refuses_and_forgets_nothing() {
        let replays = table(4096);
        let verdicts: Vec<Admission> =
            (0..8000).map(|n| replays.admit(&message(n), NOW, NOW)).collect();
        let full = verdicts.iter().filter(|verdict| **verdict == Admission::Full).count();
        assert!((8000 - 4096..8000 - 3600).contains(&full), "{full}");
        assert_eq!(replays.refused()[0], full as u64);
        for (number, verdict) in verdicts.iter().enumerate() {
            let again = replays.admit(&message(number), NOW, NOW + 300);
            let accepted = *verdict == Admission::First;
            assert_eq!(again, if accepted { Admission::Repeated } else { Admission::Full });
        }
        let after = NOW + 301;
        assert_eq!(replays.admit(&message(9000), after, after), Admission::First);
        assert_eq!(replays.room(after), (1, 4096));
    }

    #[test]
    fn of_the_same_message_on_all_cores_one_at_most_is_accepted() {
        let replays = Arc::new(table(1 << 16));
        // Entries that expire while others look for a place.
        for number in 100_000..140_000 {
            replays.admit(&message(number), NOW, NOW);
        }
        let accepted: Arc<Vec<AtomicUsize>> = Arc::new((0..5000).map(|_| 0.into()).collect());
        thread::scope(|scope| {
            for shift in 0..4 {
                let (replays, accepted) = (Arc::clone(&replays), Arc::clone(&accepted));
                scope.spawn(move || {
                    for number in 0..5000 {
                        let now = NOW + 300 + (number as u64 + shift) % 2;
                        let verdict = replays.admit(&message(number), NOW + 250, now);
                        if verdict == Admission::First {
                            accepted[number].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert!(accepted.iter().all(|count| count.load(Ordering::Relaxed) <= 1));
        let once = accepted.iter().filter(|count| count.load(Ordering::Relaxed) == 1).count();
        assert!(once > 4900, "{once}");
    }
}
