//! Per-source state: a set-associative table of atomic words, in the kernel an array map.
//!
//! A source's key falls into two sets of [`WAYS`] slots each; while either has room, the source is
//! exact ([`set_count`] leaves room). A slot whose buckets are full says nothing that a new slot would not say, so it is
//! reused by whoever comes next, in the kernel itself; a slot in debt never is. An attacker with
//! many addresses therefore evicts nobody who matters.
//!
//! Races, all bounded by one packet per CPU: two CPUs may claim slots for the same new source (the
//! first one found wins, the other goes idle and is reused), or one CPU may still hold a slot that
//! another reuses (it was idle, so what is charged to it wrongly is one packet). The statistics
//! (`packets`, `bytes`, `connections`, `dropped`) are added without a lock and may lose a few when
//! CPUs see the same source at once; the limits do not depend on them.

use core::sync::atomic::AtomicU64;

#[cfg(target_has_atomic = "64")]
use crate::{address::Address, machine::Native};
use crate::{bucket, machine::Machine, settings::ListVerdict};

/// Slots in a set: their keys fill one cache line.
pub const WAYS: usize = 8;

/// Words of a set, as user space reads it.
pub const SET_WORDS: usize = WAYS + WAYS * SLOT_WORDS;

/// Words of a slot, one cache line.
pub const SLOT_WORDS: usize = 8;

/// A slot that is being claimed: no source has this key (`ffff::/16` is multicast).
const CLAIMED: u64 = u64::MAX;

/// No slot: one more than the last.
const NO_WAY: u64 = WAYS as u64;

/// One set of the table: the value of the array map.
#[derive(Debug)]
#[repr(C)]
pub struct SourceSet {
    keys: [AtomicU64; WAYS],
    slots: [SourceSlot; WAYS],
}

/// What is known about one source.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SourceSlot {
    /// Bucket of packets.
    pub packet_bucket: AtomicU64,
    /// Bucket of new connections.
    pub connection_bucket: AtomicU64,
    /// When the last packet came, `CLOCK_MONOTONIC` ns (coarse).
    pub seen_ns: AtomicU64,
    /// What the lists said, see [`CachedAccess`].
    pub access: AtomicU64,
    /// Packets seen, admitted or not.
    pub packets: AtomicU64,
    /// Bytes seen.
    pub bytes: AtomicU64,
    /// New connections seen (TCP SYN).
    pub connections: AtomicU64,
    /// Packets dropped.
    pub dropped: AtomicU64,
}

impl SourceSet {
    /// A set without a source.
    pub fn empty() -> Self {
        Self { keys: Default::default(), slots: Default::default() }
    }

    /// The slot of this source, if it has one here.
    ///
    /// Without branches, so that the verifier follows one path instead of one per way; of two
    /// slots with the same key (see the module) always the first.
    #[inline]
    pub fn find<M: Machine>(&self, key: u64) -> Option<&SourceSlot> {
        let mut others = 0_u64;
        for (number, candidate) in self.keys.iter().enumerate() {
            others |= differs::<M>(M::read(candidate), key) << number;
        }
        let hits = others ^ ((1 << WAYS) - 1);
        if hits == 0 {
            return None;
        }
        self.slots.get(index(lowest_bit(hits)))
    }

    /// Takes over an empty or idle slot for a new source; which one. [`NO_WAY`] where every slot
    /// is in debt, or another CPU was faster.
    #[inline]
    fn claim<M: Machine>(&self, key: u64, now_ns: u64) -> u64 {
        // The empty or idle slot seen longest ago, again without branches. Times and ticks are
        // below 2^63, so that the sign of a difference is a comparison.
        let mut best = u64::MAX >> 1;
        let mut way = NO_WAY;
        for number in 0..WAYS {
            let slot = &self.slots[number];
            let empty = differs::<M>(M::read(&self.keys[number]), 0) ^ 1;
            let rank = M::read(&slot.seen_ns) & empty.wrapping_sub(1);
            let better = M::opaque((empty | slot.is_idle::<M>(now_ns)) & less(rank, best));
            best ^= (best ^ rank) & better.wrapping_neg();
            way ^= (way ^ number as u64) & better.wrapping_neg();
        }
        if way == NO_WAY {
            return NO_WAY;
        }
        let (Some(word), Some(slot)) = (self.keys.get(index(way)), self.slots.get(index(way)))
        else {
            return NO_WAY;
        };
        let previous = M::read(word);
        if previous == CLAIMED || !M::replace(word, previous, CLAIMED) {
            return NO_WAY;
        }
        slot.reset::<M>();
        M::write(word, key);
        way
    }

    /// How many slots hold a source, idle or not.
    #[inline]
    pub fn occupied<M: Machine>(&self) -> u64 {
        let mut count = 0;
        for key in &self.keys {
            count += differs::<M>(M::read(key), 0);
        }
        count
    }

    /// From the words that user space read from the map.
    #[cfg(target_has_atomic = "64")]
    pub fn from_words(words: &[u64; SET_WORDS]) -> Self {
        let set = Self::empty();
        let (keys, slots) = words.split_at(WAYS);
        for (word, value) in set.keys.iter().zip(keys) {
            Native::write(word, *value);
        }
        for (slot, values) in set.slots.iter().zip(slots.chunks_exact(SLOT_WORDS)) {
            for (word, value) in slot.words().into_iter().zip(values) {
                Native::write(word, *value);
            }
        }
        set
    }

    /// The words as user space writes them to the map.
    #[cfg(target_has_atomic = "64")]
    pub fn to_words(&self) -> [u64; SET_WORDS] {
        let mut words = [0; SET_WORDS];
        let (keys, slots) = words.split_at_mut(WAYS);
        for (value, word) in keys.iter_mut().zip(&self.keys) {
            *value = Native::read(word);
        }
        for (values, slot) in slots.chunks_exact_mut(SLOT_WORDS).zip(&self.slots) {
            for (value, word) in values.iter_mut().zip(slot.words()) {
                *value = Native::read(word);
            }
        }
        words
    }

    /// The sources in this set: address (the first of its prefix) and slot.
    #[cfg(target_has_atomic = "64")]
    pub fn sources(&self) -> impl Iterator<Item = (Address, &SourceSlot)> {
        self.keys.iter().zip(&self.slots).filter_map(|(key, slot)| match Native::read(key) {
            0 | CLAIMED => None,
            key => Some((Address::from_key(key), slot)),
        })
    }
}

impl SourceSlot {
    fn words(&self) -> [&AtomicU64; SLOT_WORDS] {
        [
            &self.packet_bucket,
            &self.connection_bucket,
            &self.seen_ns,
            &self.access,
            &self.packets,
            &self.bytes,
            &self.connections,
            &self.dropped,
        ]
    }

    /// The words, in the order of the fields.
    #[cfg(target_has_atomic = "64")]
    pub fn snapshot(&self) -> [u64; SLOT_WORDS] {
        self.words().map(Native::read)
    }

    #[inline]
    fn reset<M: Machine>(&self) {
        for word in self.words() {
            M::write(word, 0);
        }
    }

    #[inline]
    fn is_idle<M: Machine>(&self, now_ns: u64) -> u64 {
        bucket::is_full::<M>(&self.packet_bucket, now_ns)
            & bucket::is_full::<M>(&self.connection_bucket, now_ns)
    }

    /// Adds to a statistic without a lock (see the module on what that can lose).
    #[inline]
    pub fn add<M: Machine>(statistic: &AtomicU64, amount: u64) {
        M::write(statistic, M::read(statistic).wrapping_add(amount));
    }
}

/// 1 where not equal, else 0: a number or its negative has the sign bit, unless it is 0. Opaque in
/// the middle, or the compiler recognises a comparison and makes it a branch.
#[inline]
fn differs<M: Machine>(left: u64, right: u64) -> u64 {
    let difference = left ^ right;
    (difference | M::opaque(difference.wrapping_neg())) >> 63
}

/// Number of the lowest bit of `bits`, which has one among its lowest [`WAYS`]: a de Bruijn
/// sequence, multiplied by a power of two, has different upper bits for each (Leiserson, Prokop
/// and Randall, 1998).
#[inline]
const fn lowest_bit(bits: u64) -> u64 {
    const SEQUENCE: u64 = 0b0001_0111;
    // What the upper three of eight bits say, one hexadecimal digit each.
    const NUMBERS: u64 = 0x5637_4210;
    let upper = (bits & bits.wrapping_neg()).wrapping_mul(SEQUENCE) >> 5 & 7;
    NUMBERS >> (4 * upper) & 7
}

/// 1 where `left < right`, both below 2^63, else 0.
#[inline]
const fn less(left: u64, right: u64) -> u64 {
    left.wrapping_sub(right) >> 63
}

/// The way in the low bits: the mask tells the verifier that it is in bounds.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "three bits")]
const fn index(way: u64) -> usize {
    way as usize & (WAYS - 1)
}

/// The low 32 bits.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the cut is the purpose")]
const fn low_half(word: u64) -> u32 {
    word as u32
}

/// Claims a slot in the emptier of a source's two sets, else in the other.
///
/// Sets are looked up by index again and again, so that the verifier sees one slot, wherever it
/// lies, and not one for each way to get there.
#[inline]
pub fn claim_in<'a, M: Machine>(
    set: impl Fn(u32) -> Option<&'a SourceSet>,
    [first, second]: [u32; 2],
    key: u64,
    now_ns: u64,
) -> Option<&'a SourceSlot> {
    let second_is_emptier = less(set(second)?.occupied::<M>(), set(first)?.occupied::<M>());
    let difference = (first ^ second) & low_half(M::opaque(second_is_emptier).wrapping_neg());
    let (emptier, fuller) = (first ^ difference, second ^ difference);
    let (index, way) = match set(emptier)?.claim::<M>(key, now_ns) {
        NO_WAY => (fuller, set(fuller)?.claim::<M>(key, now_ns)),
        way => (emptier, way),
    };
    if way == NO_WAY {
        return None;
    }
    set(index)?.slots.get(self::index(M::forget(way, now_ns)))
}

/// How many sets (a power of two) hold `max_sources` sources: with at most 5 of 8 slots in use and
/// two sets to choose from, both being full is a matter of less than one source in a million.
pub const fn set_count(max_sources: u32) -> u32 {
    let sets = max_sources.div_ceil(5);
    if sets < 4 { 4 } else { sets.next_power_of_two() }
}

/// The two sets of a key: indices into the array map.
///
/// The seed is random, so that an attacker cannot aim at a set. The finaliser is that of
/// splitmix64 (Steele, Lea and Flood, 2014).
#[inline]
pub fn set_indices(key: u64, seed: u64, set_mask: u64) -> [u32; 2] {
    let mut hash = key ^ seed;
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    [low_half(hash & set_mask), low_half((hash >> 32) & set_mask)]
}

/// What the lists said about a source, packed into a word of its slot: 4 bits of verdict, 12 bits
/// of the key (a slot that changed hands is not believed), 48 bits of the policy generation (a
/// change makes it stale).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CachedAccess(u64);

impl CachedAccess {
    /// This list verdict.
    #[inline]
    pub const fn new(verdict: ListVerdict, key: u64, generation: u64) -> Self {
        Self(Self::stamp(key, generation) | verdict as u64 | 8)
    }

    /// The verdict in a slot's word, if it still holds.
    #[inline]
    pub const fn read(word: u64, key: u64, generation: u64) -> Option<ListVerdict> {
        if word & !7 == Self::stamp(key, generation) | 8 {
            Some(ListVerdict::from_value(word & 7))
        } else {
            None
        }
    }

    /// The verdict in a slot's word, whether it still holds or not: for people.
    pub const fn last(word: u64) -> ListVerdict {
        ListVerdict::from_value(word & 7)
    }

    /// The word.
    #[inline]
    pub const fn word(self) -> u64 {
        self.0
    }

    #[inline]
    const fn stamp(key: u64, generation: u64) -> u64 {
        let tag = (key ^ (key >> 12) ^ (key >> 24)) & 0xfff;
        (tag << 4) | (generation << 16)
    }
}

#[cfg(test)]
mod tests;
