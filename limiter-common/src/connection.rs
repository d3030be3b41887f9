//! Open connections: one record for each that a peer opened, and how many each source has.
//!
//! The record is what makes counting exact: whoever inserts it adds, whoever removes it subtracts,
//! and both fail for everybody else. So a transition may be told twice, or to two programs.
//!
//! Counts lie in a hash table whose entries vanish at 0. Such a word has its count in the lower
//! half and in the upper one a number that changes with each change, from a random one on: two
//! equal words are the same count with nothing in between, also where an entry was removed and its
//! memory reused. A count of 0 is final: nobody adds to it, and only who made it 0 removes the
//! entry, so that no addition falls into an entry that is being removed. Whoever meets one tries
//! again. Who is kept from removing its 0 for longer than others try makes them give up: such a
//! connection is counted as lost, and counted by the agent, which compares counts, records and
//! the stack now and then.

use core::sync::atomic::AtomicU64;

use crate::{machine::Machine, maps::SERVICE_COUNT, source::pair_key};

/// How often a word is tried that others change at the same time.
const ATTEMPTS: u32 = 16;

/// A connection that a peer opened, as it was counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Connection {
    /// The peer's [source key](crate::address::Address::source_key).
    pub source: u64,
    /// The key of the source at this service; 0 where there is no service.
    pub pair: u64,
    /// The service that the local port belongs to; 0: none.
    pub service: u64,
}

impl Connection {
    /// Of this source, to a port of this service (0: none).
    #[inline]
    pub fn new(source: u64, service: u32, seed: u64) -> Self {
        let pair = if service == 0 { 0 } else { pair_key(source, service, seed) };
        Self { source, pair, service: u64::from(service) }
    }
}

/// Services that are counted apart, and 0 for the whole host.
pub const TOTALS: u32 = SERVICE_COUNT;

/// Indices of what could not be counted.
pub mod losses {
    /// A connection found no room in the table of sockets, or its source none in that of counts:
    /// it is not counted at all.
    pub const FULL: u32 = 0;
    /// A count was not reduced because others changed it all the time.
    pub const CONTENDED: u32 = 1;
    /// How many there are.
    pub const COUNT: u32 = 2;
}

/// What happened to an insertion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Insertion {
    /// The entry is there.
    Done,
    /// Somebody else was faster.
    Exists,
    /// There is no room.
    Full,
}

/// How many connections a key has: a hash table of words.
pub trait Counts {
    /// Where this runs.
    type Machine: Machine;

    /// The word of a key.
    fn word(&self, key: u64) -> Option<&AtomicU64>;

    /// Adds an entry, unless there is one.
    fn insert(&self, key: u64, word: u64) -> Insertion;

    /// Any number.
    fn random(&self) -> u32;

    /// Removes an entry.
    fn remove(&self, key: u64);
}

/// One change.
const CHANGE: u64 = 1 << 32;

/// The count in a word of [`Counts`], or of the totals.
#[inline]
pub const fn count_in(word: u64) -> u64 {
    word & (CHANGE - 1)
}

/// What to add to a total's word for so many connections more, or (wrapping) less.
#[inline]
pub const fn total_step(amount: u64) -> u64 {
    CHANGE.wrapping_add(amount)
}

/// Adds to a key; whether there was room.
#[inline]
pub fn add<T: Counts>(counts: &T, key: u64, amount: u64) -> bool {
    for _ in 0..ATTEMPTS {
        if let Some(word) = counts.word(key) {
            let current = T::Machine::read(word);
            let sum = current.wrapping_add(CHANGE).wrapping_add(amount);
            if count_in(current) != 0 && T::Machine::replace(word, current, sum) {
                return true;
            }
        } else {
            match counts.insert(key, (u64::from(counts.random())) << 32 | amount) {
                Insertion::Done => return true,
                Insertion::Exists => {}
                Insertion::Full => return false,
            }
        }
    }
    false
}

/// Subtracts from a key, not below 0, and removes the entry at 0; whether that was possible.
#[inline]
pub fn subtract<T: Counts>(counts: &T, key: u64, amount: u64) -> bool {
    for _ in 0..ATTEMPTS {
        let Some(word) = counts.word(key) else { return true };
        let current = T::Machine::read(word);
        let count = count_in(current);
        if count == 0 {
            return true;
        }
        let left = count.saturating_sub(amount);
        if T::Machine::replace(word, current, current.wrapping_add(CHANGE) - (count - left)) {
            if left == 0 {
                counts.remove(key);
            }
            return true;
        }
    }
    false
}

/// What the agent asks of the kernel program, which alone changes counts: a frame of these words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Correction {
    /// Record and count the socket with this cookie, unless it is recorded.
    Open(u64, Connection),
    /// Remove and count out the socket with this cookie, if it is recorded.
    Close(u64),
    /// Add to the count of a key.
    Add(u64, u64),
    /// Subtract from the count of a key.
    Subtract(u64, u64),
    /// Add (wrapping) to the total of a service, 0 for the whole host.
    Total(u64, u64),
}

/// Words of a [`Correction`].
pub const CORRECTION_WORDS: usize = 5;

impl Correction {
    /// The words, in the order of the fields after the kind.
    pub const fn to_words(self) -> [u64; CORRECTION_WORDS] {
        match self {
            Self::Open(cookie, Connection { source, pair, service }) => {
                [1, cookie, source, pair, service]
            }
            Self::Close(cookie) => [2, cookie, 0, 0, 0],
            Self::Add(key, amount) => [3, key, amount, 0, 0],
            Self::Subtract(key, amount) => [4, key, amount, 0, 0],
            Self::Total(service, amount) => [5, service, amount, 0, 0],
        }
    }

    /// From its words.
    #[inline]
    pub const fn from_words(words: [u64; CORRECTION_WORDS]) -> Option<Self> {
        let [kind, first, second, third, fourth] = words;
        Some(match kind {
            1 => Self::Open(first, Connection { source: second, pair: third, service: fourth }),
            2 => Self::Close(first),
            3 => Self::Add(first, second),
            4 => Self::Subtract(first, second),
            5 => Self::Total(first, second),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{boxed::Box, collections::HashMap, sync::Mutex, thread, vec::Vec};

    use super::*;
    use crate::machine::Native;

    /// A table whose removed words stay readable, as the kernel's do, and are never reused.
    #[derive(Default)]
    struct Table {
        words: Mutex<HashMap<u64, &'static AtomicU64>>,
        room: usize,
    }

    impl Counts for Table {
        type Machine = Native;

        fn word(&self, key: u64) -> Option<&AtomicU64> {
            self.words.lock().unwrap().get(&key).copied()
        }

        fn random(&self) -> u32 {
            u32::MAX
        }

        fn insert(&self, key: u64, word: u64) -> Insertion {
            let mut words = self.words.lock().unwrap();
            if words.contains_key(&key) {
                return Insertion::Exists;
            }
            if words.len() >= self.room {
                return Insertion::Full;
            }
            words.insert(key, Box::leak(Box::new(AtomicU64::new(word))));
            Insertion::Done
        }

        fn remove(&self, key: u64) {
            self.words.lock().unwrap().remove(&key);
        }
    }

    impl Table {
        fn counts(&self) -> Vec<(u64, u64)> {
            let words = self.words.lock().unwrap();
            words.iter().map(|(key, word)| (*key, count_in(Native::read(word)))).collect()
        }
    }

    #[test]
    fn a_count_that_reaches_0_leaves() {
        let table = Table { room: 1, ..Table::default() };
        assert!(add(&table, 7, 1) && add(&table, 7, 2));
        assert_eq!(table.counts(), [(7, 3)]);
        assert_eq!(Native::read(table.word(7).unwrap()), 3, "the change after the last");
        assert!(!add(&table, 8, 1), "no room");
        assert!(subtract(&table, 7, 1));
        assert_eq!(table.counts(), [(7, 2)]);
        assert!(subtract(&table, 7, 5), "not below 0");
        assert_eq!(table.counts(), []);
        assert!(subtract(&table, 7, 1), "nothing is left to subtract from");
        assert!(add(&table, 8, 1));
    }

    #[test]
    fn a_0_is_not_brought_back_to_life() {
        let table = Table { room: 9, ..Table::default() };
        assert!(add(&table, 7, 1));
        Native::write(table.word(7).unwrap(), 0);
        assert!(!add(&table, 7, 1));
        assert_eq!(table.counts(), [(7, 0)]);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let table = Table { room: 9, ..Table::default() };
        let refused: u64 = thread::scope(|scope| {
            let work = |key: u64| {
                let table = &table;
                scope.spawn(move || {
                    let mut refused = 0;
                    for _ in 0..20_000 {
                        // A thread that is taken off its core with a 0 in its hands.
                        while !add(table, key, 1) {
                            refused += 1;
                            thread::yield_now();
                        }
                        while !subtract(table, key, 1) {
                            refused += 1;
                            thread::yield_now();
                        }
                    }
                    refused
                })
            };
            let threads: Vec<_> = [1, 1, 1, 2].into_iter().map(work).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(table.counts(), [], "{refused} attempts failed");
    }

    #[test]
    fn totals_tell_every_change() {
        let mut word = 0_u64;
        for (step, count, changes) in [(1, 1, 1), (1, 2, 2), (u64::MAX, 1, 3), (u64::MAX, 0, 4)] {
            word = word.wrapping_add(total_step(step));
            assert_eq!((count_in(word), word >> 32), (count, changes));
        }
    }

    #[test]
    fn corrections_round_trip() {
        let connection = Connection { source: 2, pair: 3, service: 4 };
        for correction in [
            Correction::Open(1, connection),
            Correction::Close(1),
            Correction::Add(1, 2),
            Correction::Subtract(1, 2),
            Correction::Total(1, u64::MAX),
        ] {
            assert_eq!(Correction::from_words(correction.to_words()), Some(correction));
        }
        assert_eq!(Correction::from_words([0; CORRECTION_WORDS]), None);
    }
}
