//! Signed messages that are under way or were used, so that each is used once.
//!
//! In: a digest of a message and when it was made; out: a claim on it, if this is its first time. A
//! claim is spent when the message goes on, and given back if it never does. A table of fixed size
//! without a lock, shared by all cores: an entry stays until its message is too old to be accepted
//! anyway, and where there is no room for another the message is refused. What the table cannot
//! know of is refused too: messages from before it began, and those that it forgot because the
//! clock was wrong.
//!
//! Of the same message on several cores at once, at most one is claimed, perhaps none; the others
//! hear that it is under way. Whoever ends with a claim that is neither spent nor given back (a
//! process that is killed) leaves it so: nobody gets another. A new message is taken for a known
//! one with a probability below 2^-35.

mod claim;
mod word;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

pub use self::claim::{Claim, Claims};
use self::word::{Entry, FREE, MAX_AHEAD_SECONDS};

/// Entries in a set: one cache line.
const WAYS: usize = 8;

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
    under_way: AtomicU64,
    unknown: AtomicU64,
}

/// Why a message is not accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotFirst {
    /// It was used before.
    Repeated,
    /// Somebody else holds it: it may be used, or given back.
    UnderWay,
    /// Nobody here knows whether it was used: by another process, or before the clock was set.
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
        if let Some(since) = memory.words().get(SINCE) {
            // What was used by a clock that was ahead is here, or was forgotten and is not taken.
            let is_ahead = |since| since > now.saturating_add(CLOCK_WAS_SET_SECONDS);
            let begin = |since| (since == 0 || is_ahead(since)).then_some(now.max(1));
            since.fetch_update(Ordering::SeqCst, Ordering::SeqCst, begin).unwrap_or_default();
        }
        let [full, repeated, under_way, unknown] = Default::default();
        Self { memory, sets, full, repeated, under_way, unknown }
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

    /// A claim on a message made at `made` that nobody used or holds. It may have several
    /// fingerprints, of which each is enough to know it. Unix seconds; the caller has refused what
    /// is older than the window.
    pub fn claim(
        self: &Arc<Self>,
        message: &[Fingerprint],
        made: u64,
        now: u64,
    ) -> Result<Claim, NotFirst> {
        let mut claim = Claim::new(Arc::clone(self));
        for fingerprint in message {
            match self.put(fingerprint, made, now) {
                Ok((index, places)) => claim.add(index, (places.identity, places.until)),
                Err(why) => {
                    if matches!(why, NotFirst::Repeated | NotFirst::UnderWay) {
                        // It is the message that goes on by another of its fingerprints: by these
                        // it must not go on once more.
                        _ = claim.spend();
                    }
                    self.count(why);
                    return Err(why);
                }
            }
        }
        Ok(claim)
    }

    fn count(&self, why: NotFirst) {
        let counter = match why {
            NotFirst::Repeated => &self.repeated,
            NotFirst::UnderWay => &self.under_way,
            NotFirst::Unknown => &self.unknown,
            NotFirst::Full => &self.full,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Holds a message in a place, and says which.
    fn put(&self, message: &Fingerprint, made: u64, now: u64) -> Result<(usize, Places), NotFirst> {
        let places = self.look(message, made).ok_or(NotFirst::Unknown)?;
        let held = word::held(places.identity, places.until);
        loop {
            // The emptier set, so that both are full at the same time.
            let mut room = (None, 0);
            for set in places.sets {
                let mut free = (None, 0);
                for index in within(set) {
                    let found = self.entry(index);
                    match (word::read(found, now), places.knows(found, now)) {
                        (_, Some(known)) => return Err(known),
                        (Entry::Free, None) => free = (Some((index, found)), free.1 + 1),
                        _ => {}
                    }
                }
                if free.1 > room.1 {
                    room = free;
                }
            }
            let Some((index, found)) = room.0 else { return Err(NotFirst::Full) };
            let forgotten = self.header(FORGOTTEN);
            let before = now.saturating_sub(1);
            if found != FREE && forgotten.load(Ordering::Relaxed) < before {
                forgotten.fetch_max(before, Ordering::SeqCst);
            }
            if !self.change(index, found, held) {
                continue;
            }
            // Somebody else may have put the same message elsewhere meanwhile: whichever of the two
            // looks last sees both, and takes its own away. What is held or used stays where it is,
            // so that nothing is missed that was there all the while.
            let mut others = places.all().filter(|other| *other != index);
            let known = others.find_map(|other| places.knows(self.entry(other), now));
            if let Some(known) = known {
                self.change(index, held, FREE);
                return Err(known);
            }
            if self.is_forgotten(places.until) {
                return Err(NotFirst::Unknown);
            }
            return Ok((index, places));
        }
    }

    /// What [`Self::claim`] would say, without holding or counting the message.
    pub fn peek(&self, message: &[Fingerprint], made: u64, now: u64) -> Result<(), NotFirst> {
        message.iter().try_for_each(|fingerprint| {
            let places = self.look(fingerprint, made).ok_or(NotFirst::Unknown)?;
            let mut room = Err(NotFirst::Full);
            for index in places.all() {
                let found = self.entry(index);
                if let Some(known) = places.knows(found, now) {
                    return Err(known);
                }
                if word::read(found, now) == Entry::Free {
                    room = Ok(());
                }
            }
            room
        })
    }

    /// About how many entries there are (exactly in a small table), and how many there may be.
    pub fn room(&self, now: u64) -> (usize, usize) {
        // Where a message is put is random: a part of the table says what all of it is like.
        let step = self.sets.div_ceil(SAMPLED_SETS).max(1);
        let sampled = self.entries().chunks_exact(WAYS).step_by(step).flatten();
        let known =
            sampled.filter(|word| word::read(word.load(Ordering::Relaxed), now) != Entry::Free);
        (known.count() * step, self.sets * WAYS)
    }

    /// Messages that were refused for want of room, because they had been used before, because they
    /// were under way, and because nobody knows.
    pub fn refused(&self) -> [u64; 4] {
        let counts = [&self.full, &self.repeated, &self.under_way, &self.unknown];
        counts.map(|count| count.load(Ordering::Relaxed))
    }

    fn is_forgotten(&self, until: u64) -> bool {
        until <= self.header(FORGOTTEN).load(Ordering::SeqCst)
    }

    fn entries(&self) -> &[AtomicU64] {
        self.memory.words().get(HEADER_WORDS..HEADER_WORDS + self.sets * WAYS).unwrap_or_default()
    }

    fn entry(&self, index: usize) -> u64 {
        switch();
        self.entries().get(index).map_or(FREE, |word| word.load(Ordering::SeqCst))
    }

    /// Changes an entry from `seen` to `next`; `false`: it is another one by now.
    fn change(&self, index: usize, seen: u64, next: u64) -> bool {
        switch();
        let Some(word) = self.entries().get(index) else { return false };
        word.compare_exchange(seen, next, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn look(&self, message: &Fingerprint, made: u64) -> Option<Places> {
        let until = made.saturating_add(self.header(WINDOW).load(Ordering::Relaxed));
        if made < self.header(SINCE).load(Ordering::Relaxed) || self.is_forgotten(until) {
            return None;
        }
        let part = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&message[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let mask = self.sets.checked_sub(2)? as u64 + 1;
        let set = |at: usize| usize::try_from(part(at) & mask).unwrap_or_default();
        let first = set(0);
        let second = if set(8) == first { first ^ 1 } else { set(8) };
        Some(Places { sets: [first, second], identity: word::identity(part(16)), until })
    }
}

/// Where a message can be.
struct Places {
    sets: [usize; 2],
    identity: u64,
    until: u64,
}

impl Places {
    fn all(&self) -> impl Iterator<Item = usize> + use<> {
        self.sets.into_iter().flat_map(within)
    }

    /// What it means if this message is in an entry; `None`: it is not.
    fn knows(&self, word: u64, now: u64) -> Option<NotFirst> {
        match word::read(word, now) {
            Entry::Used(identity) if identity == self.identity => Some(NotFirst::Repeated),
            Entry::Held(identity) if identity == self.identity => Some(NotFirst::UnderWay),
            _ => None,
        }
    }
}

/// The entries of a set.
fn within(set: usize) -> std::ops::Range<usize> {
    set * WAYS..(set + 1) * WAYS
}

#[cfg(not(test))]
const fn switch() {}

/// A point at which another thread may go on.
#[cfg(test)]
fn switch() {
    races::switch();
}

#[cfg(test)]
mod races;
#[cfg(test)]
mod tests;
