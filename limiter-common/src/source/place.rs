//! Where a source's slot is: found by its key, or taken over from a source that is idle.

use super::{CLAIMED, KeySet, SlotSet, WAYS, index};
use crate::machine::{Machine, differs};

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

impl KeySet {
    /// The ways whose key is this, a bit each. Without branches, so that the verifier follows one
    /// path instead of one per way.
    #[inline]
    fn matches<M: Machine>(&self, key: u64) -> u64 {
        let mut others = 0_u64;
        for (number, candidate) in self.keys.iter().enumerate() {
            others |= differs::<M>(M::read(candidate), key) << number;
        }
        others ^ ((1 << WAYS) - 1)
    }

    /// How many ways hold a source, idle or not.
    #[inline]
    fn occupied<M: Machine>(&self) -> u64 {
        let mut count = 0;
        for key in &self.keys {
            count += differs::<M>(M::read(key), 0);
        }
        count
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

/// The slot of this source, if it has one; of two with the same key (see [`super`]) always the
/// first.
#[inline]
pub fn find_in<'a, M: Machine>(
    keys: impl Fn(u32) -> Option<&'a KeySet>,
    sets: [u32; 2],
    key: u64,
) -> Option<Place> {
    for set in sets {
        let ways = keys(set)?.matches::<M>(key);
        if ways != 0 {
            return Some(Place { set, way: lowest_bit(ways) });
        }
    }
    None
}

/// Whether one of the two sets has a slot that never was used.
#[inline]
pub fn has_room<'a, M: Machine>(
    keys: impl Fn(u32) -> Option<&'a KeySet>,
    [first, second]: [u32; 2],
) -> bool {
    let (Some(first), Some(second)) = (keys(first), keys(second)) else { return false };
    first.occupied::<M>() + second.occupied::<M>() < 2 * NO_WAY
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
    [first, second]: [u32; 2],
    key: u64,
    now: u64,
) -> Option<Place> {
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
    let word = keys(set)?.keys.get(index(way))?;
    let previous = M::read(word);
    if previous == CLAIMED || !M::replace(word, previous, CLAIMED) {
        return None;
    }
    slots(set)?.slot(way).reset::<M>();
    M::write(word, key);
    Some(Place { set, way })
}

/// How many sets (a power of two) hold `max_sources` sources: with at most 5 of 8 slots in use and
/// two sets to choose from, both being full is a matter of less than one source in a million.
pub const fn set_count(max_sources: u32) -> u32 {
    let sets = max_sources.div_ceil(5);
    if sets < 4 { 4 } else { sets.next_power_of_two() }
}

/// The two sets of a key: indices into the array maps.
///
/// The seed is random, so that an attacker cannot aim at a set.
#[inline]
pub fn set_indices(key: u64, seed: u64, set_mask: u64) -> [u32; 2] {
    let hash = mix(key ^ seed);
    [low_half(hash & set_mask), low_half((hash >> 32) & set_mask)]
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

/// The low 32 bits.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the cut is the purpose")]
const fn low_half(word: u64) -> u32 {
    word as u32
}
