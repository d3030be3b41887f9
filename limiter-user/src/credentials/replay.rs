//! Messages that were accepted, so that each is accepted once.
//!
//! In: a digest of a message and when it was made; out: whether this is its first time. A table of
//! fixed size without a lock, shared by all cores: an entry stays until its message is too old to
//! be accepted anyway, and where there is no room for another the message is refused. What the
//! table cannot know of is refused too: messages from before it began, and those that it forgot
//! because the clock was wrong.
//!
//! Of the same message sent to several cores at once, at most one is accepted, perhaps none. A new
//! message is taken for a known one with a probability below 2^-35.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// Entries in a set: one cache line.
const WAYS: usize = 8;

/// Bits of a word that hold until when its entry counts; the others tell messages apart.
const TIME_BITS: u32 = 24;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// An entry that was never used.
const FREE: u64 = 0;

/// Seconds for which an entry can count: a quarter of what [`TIME_BITS`] can tell apart, 48 days.
const MAX_AHEAD_SECONDS: u64 = 1 << (TIME_BITS - 2);

/// Words of a table that are no entries: one cache line.
const HEADER_WORDS: usize = WAYS;

/// A clock that goes back by more was set.
const CLOCK_WAS_SET_SECONDS: u64 = 60;

/// Sets that are looked at to tell how full a table is.
const SAMPLED_SETS: usize = 1 << 12;

/// Places in the header: Unix seconds, or seconds.
const SINCE: usize = 0;
const WINDOW: usize = 1;
const FORGOTTEN: usize = 2;

/// The words of a table, all zero in the beginning: perhaps of several processes.
pub trait Words: fmt::Debug + Send + Sync {
    /// Always the same ones.
    fn words(&self) -> &[AtomicU64];
}

impl Words for Box<[AtomicU64]> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

/// The messages.
#[derive(Debug)]
pub struct Replays {
    memory: Box<dyn Words>,
    /// A power of two.
    sets: usize,
    full: AtomicU64,
    repeated: AtomicU64,
    unknown: AtomicU64,
}

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
    /// A table for about as many messages at once as there are words: as it was left, or beginning
    /// at `now`, in Unix seconds: also if it had begun by a clock that was ahead.
    pub fn new(memory: Box<dyn Words>, now: u64) -> Self {
        let room = memory.words().len().saturating_sub(HEADER_WORDS) / WAYS;
        // Words that are too few remember nothing.
        let sets = room.checked_ilog2().map_or(0, |bits| 1 << bits);
        if let [since, window, forgotten, ..] = memory.words() {
            // Of what is made after a clock that was ahead was set back, nothing was accepted that
            // is not here.
            let is_ahead = |since| since > now.saturating_add(CLOCK_WAS_SET_SECONDS);
            let begin = |since| (since == 0 || is_ahead(since)).then_some(now.max(1));
            since.fetch_update(Ordering::SeqCst, Ordering::SeqCst, begin).unwrap_or_default();
            let window = window.load(Ordering::SeqCst);
            forgotten.fetch_min(now.saturating_add(window), Ordering::SeqCst);
        }
        let [full, repeated, unknown] = Default::default();
        Self { memory, sets, full, repeated, unknown }
    }

    /// As [`Self::new`] in memory of this process, for about `entries` messages.
    pub fn alone(entries: usize, now: u64) -> Self {
        let words = HEADER_WORDS + entries.next_power_of_two().max(2 * WAYS);
        let words: Box<[AtomicU64]> = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self::new(Box::new(words), now)
    }

    /// From `now` on, messages may be accepted for `seconds` after they were made. Those made
    /// earlier are not if this is longer than before: they may be forgotten by then.
    pub fn widen(&self, seconds: u64, now: u64) {
        let seconds = seconds.min(MAX_AHEAD_SECONDS / 2);
        let before = self.header(WINDOW).fetch_max(seconds, Ordering::SeqCst);
        if before != 0 && before < seconds {
            self.header(SINCE).fetch_max(now, Ordering::SeqCst);
        }
    }

    fn header(&self, place: usize) -> &AtomicU64 {
        static NONE: AtomicU64 = AtomicU64::new(u64::MAX);
        self.memory.words().get(place).unwrap_or(&NONE)
    }

    /// Whether a message made at `made` was not accepted before; afterwards it was. Unix seconds;
    /// the caller has refused what is older than the window.
    pub fn admit(&self, message: &Fingerprint, made: u64, now: u64) -> Admission {
        let admission = self.put(message, made, now);
        let counter = match admission {
            Admission::First => return admission,
            Admission::Repeated => &self.repeated,
            Admission::Unknown => &self.unknown,
            Admission::Full => &self.full,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        admission
    }

    fn put(&self, message: &Fingerprint, made: u64, now: u64) -> Admission {
        let Some(places) = self.look(message, made) else { return Admission::Unknown };
        let word = places.identity << TIME_BITS | (places.until & TIME_MASK);
        loop {
            // The emptier set, so that both are full at the same time.
            let mut room = (None, 0);
            for set in places.sets {
                let mut free = (None, 0);
                for place in set {
                    let found = place.load(Ordering::SeqCst);
                    if found == FREE || !is_in_force(found, now) {
                        free = (Some((place, found)), free.1 + 1);
                    } else if found >> TIME_BITS == places.identity {
                        return Admission::Repeated;
                    }
                }
                if free.1 > room.1 {
                    room = free;
                }
            }
            let Some((place, found)) = room.0 else { return Admission::Full };
            let forgotten = self.header(FORGOTTEN);
            if found != FREE && forgotten.load(Ordering::Relaxed) < now - 1 {
                forgotten.fetch_max(now - 1, Ordering::SeqCst);
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

    /// About how many entries there are (exactly in a small table), and how many there may be.
    pub fn room(&self, now: u64) -> (usize, usize) {
        // Where a message is put is random: a part of the table says what all of it is like.
        let step = self.sets.div_ceil(SAMPLED_SETS).max(1);
        let sampled = self.entries().chunks_exact(WAYS).step_by(step).flatten();
        let held = sampled.filter(|word| {
            let found = word.load(Ordering::Relaxed);
            found != FREE && is_in_force(found, now)
        });
        (held.count() * step, self.sets * WAYS)
    }

    /// Messages that were refused for want of room, because they had been accepted before, and
    /// because nobody knows.
    pub fn refused(&self) -> [u64; 3] {
        [&self.full, &self.repeated, &self.unknown].map(|count| count.load(Ordering::Relaxed))
    }

    fn is_forgotten(&self, until: u64) -> bool {
        until <= self.header(FORGOTTEN).load(Ordering::SeqCst)
    }

    fn entries(&self) -> &[AtomicU64] {
        self.memory.words().get(HEADER_WORDS..HEADER_WORDS + self.sets * WAYS).unwrap_or_default()
    }

    fn look(&self, message: &Fingerprint, made: u64) -> Option<Places<'_>> {
        let until = made.saturating_add(self.header(WINDOW).load(Ordering::Relaxed));
        if made < self.header(SINCE).load(Ordering::Relaxed) || self.is_forgotten(until) {
            return None;
        }
        let part = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&message[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let mask = self.sets.checked_sub(1)? as u64;
        let set = |at: usize| usize::try_from(part(at) & mask).unwrap_or_default();
        let first = set(0);
        let second = if set(8) == first { first ^ 1 } else { set(8) };
        let entries = self.entries();
        let of = |set: usize| entries.get(set * WAYS..(set + 1) * WAYS);
        // Never the pattern of a free word.
        let identity = (part(16) >> TIME_BITS).max(1);
        Some(Places { sets: [of(first)?, of(second)?], identity, until })
    }
}

/// Where a message can be.
struct Places<'a> {
    sets: [&'a [AtomicU64]; 2],
    identity: u64,
    until: u64,
}

impl<'a> Places<'a> {
    fn words(&self) -> impl Iterator<Item = &'a AtomicU64> {
        self.sets.into_iter().flatten()
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
        let replays = Replays::alone(entries, NOW);
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
    fn what_was_made_before_the_table_is_not_accepted() {
        let replays = table(1000);
        assert_eq!(replays.admit(&message(1), NOW - 1, NOW), Admission::Unknown);
        assert_eq!(replays.refused(), [0, 0, 1]);
        let none: Box<[AtomicU64]> = Box::default();
        let nothing = Replays::new(Box::new(none), NOW);
        assert_eq!(nothing.admit(&message(1), NOW, NOW), Admission::Unknown);
    }

    #[test]
    fn what_one_process_accepted_the_next_one_does_not() {
        #[derive(Clone, Debug)]
        struct Shared(Arc<[AtomicU64]>);
        impl Words for Shared {
            fn words(&self) -> &[AtomicU64] {
                &self.0
            }
        }
        let memory = Shared((0..1032).map(|_| AtomicU64::new(0)).collect());
        let one = Replays::new(Box::new(memory.clone()), NOW);
        one.widen(300, NOW);
        assert_eq!(one.admit(&message(1), NOW + 5, NOW), Admission::First);
        let next = Replays::new(Box::new(memory), NOW + 100);
        next.widen(300, NOW + 100);
        assert_eq!(next.admit(&message(1), NOW + 5, NOW + 100), Admission::Repeated);
        assert_eq!(next.admit(&message(2), NOW + 5, NOW + 100), Admission::First);
        assert_eq!(one.admit(&message(2), NOW + 5, NOW + 100), Admission::Repeated);
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
        assert!((8000 - 4096..8000 - 3900).contains(&full), "{full}");
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

    /// How often each of many messages is accepted that all threads have at once; `skew`: seconds
    /// by which their clocks may differ.
    fn accepted(skew: u64) -> Vec<usize> {
        let replays = Arc::new(table(1 << 16));
        // Entries that expire while others look for a place.
        for number in 100_000..140_000 {
            replays.admit(&message(number), NOW, NOW);
        }
        let accepted: Arc<Vec<AtomicUsize>> = Arc::new((0..5000).map(|_| 0.into()).collect());
        thread::scope(|scope| {
            for thread in 0..4 {
                let (replays, accepted) = (Arc::clone(&replays), Arc::clone(&accepted));
                scope.spawn(move || {
                    for number in 0..5000 {
                        let now = NOW + 300 + (number as u64 + thread) % (1 + skew);
                        let verdict = replays.admit(&message(number), NOW + 250, now);
                        if verdict == Admission::First {
                            accepted[number].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        accepted.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn of_the_same_message_on_all_cores_one_at_most_is_accepted() {
        for skew in 0..2 {
            let counts = accepted(skew);
            assert!(counts.iter().all(|count| *count <= 1));
            assert!(counts.contains(&1));
        }
    }
}
