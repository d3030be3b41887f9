//! Where a source's slot is: found by its key, or taken over from a source that is idle.

use super::{CLAIMED, KeySet, SlotSet, WAYS, index};
use crate::machine::Machine;

/// A slot: its set and way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// Index of the set.
    pub set: u32,
    /// Way in the set.
    pub way: u64,
}

/// What [`Place::pack`] never returns, nor what is one more.
pub const NO_PLACE: u64 = 1 << 40;

impl Place {
    /// In one word.
    #[inline]
    pub const fn pack(self) -> u64 {
        (self.set as u64) << 3 | self.way
    }

    /// From one word.
    #[inline]
    pub const fn unpack(word: u64) -> Option<Self> {
        if word >= NO_PLACE {
            return None;
        }
        Some(Self { set: low_half(word >> 3), way: word & 7 })
    }
}

/// No slot: one more than the last.
const NO_WAY: u64 = WAYS as u64;

/// The bit of a tag that says that its way is taken.
const TAKEN: u64 = 0x80;

/// The low bit of each of the tags, and that of all 8 bytes.
const LOW_BITS: u64 = 0x0001_0101_0101_0101;
const ALL_LOW_BITS: u64 = 0x0101_0101_0101_0101;

/// Where a source's slot can be: its two sets, indices into the array maps, and its tag.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Home {
    /// The two sets.
    pub sets: [u32; 2],
    /// A byte, never zero: its high bit says that the place is taken.
    pub tag: u64,
}

impl Home {
    /// Of this key. The seed is random, so that an attacker can aim at no set.
    #[inline]
    pub fn of(key: u64, seed: u64, set_mask: u64) -> Self {
        let hash = mix(key ^ seed);
        Self {
            sets: [low_half(hash & set_mask), low_half((hash >> 32) & set_mask)],
            tag: (hash >> 56) | TAKEN,
        }
    }
}

impl KeySet {
    /// The way of this key by the tags read before, [`NO_WAY`] if it is not here; of two with the same key (see [`super`])
    /// always the first. The verifier forgets which way it was, or it would follow each.
    #[inline]
    fn find<M: Machine>(&self, tags: u64, key: u64, tag: u64) -> u64 {
        // Bytes equal to the tag become 0; subtracting 1 from each borrows into its high bit
        // (Warren, Hacker's Delight, 6-1). Some above an equal one may look equal too.
        let different = tags ^ tag.wrapping_mul(ALL_LOW_BITS);
        let mut equal = different.wrapping_sub(ALL_LOW_BITS) & !different & (LOW_BITS * TAKEN);
        for _ in 0..WAYS {
            if equal == 0 {
                break;
            }
            let way = M::forget(lowest_byte(equal), key);
            if let Some(candidate) = self.keys.get(index(way))
                && M::read(candidate) == key
            {
                return way;
            }
            equal = M::forget(equal & equal.wrapping_sub(1), key);
        }
        NO_WAY
    }

    /// How many ways hold a source, idle or not.
    #[inline]
    fn occupied<M: Machine>(&self) -> u64 {
        ((M::read(&self.tags) / TAKEN) & LOW_BITS).wrapping_mul(ALL_LOW_BITS) >> 56
    }
}

impl SlotSet {
    /// The way that has been idle longest, empty ones first; [`NO_WAY`] where all are in debt.
    /// Again without branches: times are below 2^63, so that the sign of a difference compares.
    #[inline]
    fn idlest<M: Machine>(&self, now: u64) -> u64 {
        let mut best = now;
        let mut way = NO_WAY;
        for (number, slot) in self.slots.iter().enumerate() {
            let until = M::read(&slot.busy_until);
            let better = M::opaque(less(until, best));
            best ^= (best ^ until) & better.wrapping_neg();
            way ^= (way ^ number as u64) & better.wrapping_neg();
        }
        way
    }
}

/// The slot of this source, if it has one. No loop over the sets: indexed, they would have to lie
/// in memory.
#[inline]
pub fn find_in<'a, M: Machine>(
    keys: impl Fn(u32) -> Option<&'a KeySet>,
    home: Home,
    key: u64,
) -> Option<Place> {
    let [first, second] = home.sets;
    let (keys_first, keys_second) = (keys(first)?, keys(second)?);
    // Both lines are on their way from memory before the first is looked at.
    let (tags_first, tags_second) = (M::read(&keys_first.tags), M::read(&keys_second.tags));
    let way = keys_first.find::<M>(tags_first, key, home.tag);
    if way != NO_WAY {
        return Some(Place { set: first, way });
    }
    let way = keys_second.find::<M>(tags_second, key, home.tag);
    if way == NO_WAY { None } else { Some(Place { set: second, way }) }
}

/// Whether one of the two sets has a slot that never was used.
#[inline]
pub fn has_room<'a, M: Machine>(keys: impl Fn(u32) -> Option<&'a KeySet>, home: Home) -> bool {
    let [first, second] = home.sets;
    let (Some(first), Some(second)) = (keys(first), keys(second)) else { return false };
    let both = M::read(&first.tags) & M::read(&second.tags);
    both & (LOW_BITS * TAKEN) != LOW_BITS * TAKEN
}

/// Claims a slot in the emptier of a source's two sets, else in the other, for this source (of
/// this service).
///
/// Sets are looked up by index again and again, so that the verifier sees one slot, wherever it
/// lies, and not one for each way to get there. `None` where every slot is in debt, or another CPU
/// was faster.
#[inline]
pub fn claim_in<'a, M: Machine>(
    keys: impl Fn(u32) -> Option<&'a KeySet>,
    slots: impl Fn(u32) -> Option<&'a SlotSet>,
    home: Home,
    key: u64,
    now: u64,
) -> Option<Place> {
    let [first, second] = home.sets;
    let second_is_emptier = less(keys(second)?.occupied::<M>(), keys(first)?.occupied::<M>());
    let difference = (first ^ second) & low_half(M::opaque(second_is_emptier).wrapping_neg());
    let (emptier, fuller) = (first ^ difference, second ^ difference);
    let (set, way) = match slots(emptier)?.idlest::<M>(now) {
        NO_WAY => (fuller, slots(fuller)?.idlest::<M>(now)),
        way => (emptier, way),
    };
    if way == NO_WAY {
        return None;
    }
    let way = M::forget(way, now);
    let (all, slot) = (keys(set)?, slots(set)?.slot(way)?);
    let word = all.keys.get(index(way))?;
    let previous = M::read(word);
    if previous == CLAIMED || !M::replace(word, previous, CLAIMED) {
        return None;
    }
    slot.reset::<M>();
    // Only whoever claimed the way changes its byte, so that it can be added to; and the way stays
    // claimed until that is seen, or the next one to claim it would add to the byte before.
    let shift = (way & 7) * 8;
    let old = M::read(&all.tags) >> shift & 0xff;
    M::add(&all.tags, home.tag.wrapping_sub(old) << shift);
    // Orders what was written before it (a write does not).
    M::replace(word, CLAIMED, key);
    Some(Place { set, way })
}

/// How many sets (a power of two) hold `max_sources` sources: with at most 4 of 7 slots in use and
/// two sets to choose from, both being full is a matter of less than one source in a million.
pub const fn set_count(max_sources: u32) -> u32 {
    let sets = max_sources.div_ceil(4);
    if sets < 4 { 4 } else { sets.next_power_of_two() }
}

/// The key of a source at a service (1 and up): the source key, moved by a distance that is random
/// for each service. That two pairs have one key is as likely as guessing 64 bits: with a million
/// slots in use, one table in 30 million has such a pair.
#[inline]
pub fn pair_key(source_key: u64, service: u32, seed: u64) -> u64 {
    let distance = mix(seed ^ (u64::from(service) << 32));
    (source_key ^ distance).clamp(1, CLAIMED - 1)
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014).
#[inline]
const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Number of the lowest byte of `bits` whose high bit is set; it has one: the isolated bit, spread
/// over the bytes above it, is counted there.
#[inline]
const fn lowest_byte(bits: u64) -> u64 {
    // The bits below the isolated one, one for each whole byte.
    let below = (bits & bits.wrapping_neg()).wrapping_sub(1);
    (below & ALL_LOW_BITS).wrapping_mul(ALL_LOW_BITS).wrapping_sub(ALL_LOW_BITS) >> 56
}

/// 1 where `left < right`, both below 2^63, else 0.
#[inline]
const fn less(left: u64, right: u64) -> u64 {
    left.wrapping_sub(right) >> 63
}

/// The low 32 bits.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the cut is the purpose")]
const fn low_half(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests;
