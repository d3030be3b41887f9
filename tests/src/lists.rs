//! Lists as the packet path has them: exact entries, prefixes, and the filters before both, made
//! with the same pure functions as the agent's but by other code; and the naive answer.

use limiter_common::{
    address::{Address, Masks},
    lists::{
        FilterBits, LIST_BITMAP_WORDS, ListValue, V6_LEVELS, bitmap_bit, filter_words, summary_bit,
    },
    settings::{Settings, flags},
};

/// Bits of a v4-mapped address before the IPv4 one.
pub const MAPPED_BITS: u32 = 96;

/// Prefix length over the v4-mapped address, first address, value.
pub type Entry = (u32, Address, ListValue);

/// Service, prefix length, first address: who may reach which service.
pub type Admitted = (u32, u32, Address);

/// One half of the lists, with what lies before them.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The lists of services.
    pub admitted: Vec<Admitted>,
    /// The filter: a power of two of words, or none.
    pub filter: Vec<u64>,
    /// The bitmap of IPv4 /24s, or none.
    pub bitmap: Vec<u64>,
    flags: u64,
}

impl Lists {
    /// Of these entries, for sources that are counted by these masks.
    pub fn new(entries: Vec<Entry>, admitted: Vec<Admitted>, masks: Masks) -> Self {
        let words = filter_words(u32::try_from(entries.len()).expect("fewer than 2^32 entries"));
        let mask = u64::from(words) - 1;
        let mut lists = Self {
            entries,
            admitted,
            filter: vec![0; words as usize],
            bitmap: vec![0; LIST_BITMAP_WORDS as usize],
            flags: 0,
        };
        let (v4_bits, v6_bits) = (32 + masks.v4.count_ones(), masks.v6.count_ones());
        for &(length, address, _) in &lists.entries {
            let is_v4 = address.is_v4() && length >= MAPPED_BITS;
            lists.flags |= match (is_v4, length) {
                (true, 128) => flags::LISTS_EXACT_V4,
                (true, _) => flags::LISTS_PREFIX_V4,
                (false, 128) => flags::LISTS_EXACT_V6,
                (false, 32..) => flags::LISTS_PREFIX_V6,
                (false, _) => flags::LISTS_SHORT_V6,
            };
            if is_v4 && length > v4_bits + 32 {
                lists.flags |= flags::FINE_V4;
            }
            if !is_v4 && length > v6_bits {
                lists.flags |= flags::FINE_V6;
            }
            let bits = match length {
                128 => FilterBits::of_address(address, mask),
                _ if is_v4 => {
                    mark(&mut lists.bitmap, length, address);
                    continue;
                }
                32.. => {
                    let level = V6_LEVELS.into_iter().filter(|level| u32::from(*level) <= length);
                    FilterBits::of_v6_level(address, level.max().expect("the first is 32"), mask)
                }
                _ => continue,
            };
            lists.filter[bits.word as usize] |= bits.mask;
        }
        lists
    }

    /// Makes settings use these lists, in the first or the second half of the maps.
    pub fn apply(&self, settings: &mut Settings, second: bool) {
        settings.flags |= self.flags;
        if second {
            settings.flags |= flags::LISTS_SECOND;
        }
        settings.list_filter_mask = (self.filter.len() as u64).saturating_sub(1);
    }

    /// What the longest of all entries says: no filter, no hash, no trie.
    pub fn naive(&self, address: Address) -> ListValue {
        let covering = self.entries.iter().filter(|entry| covers(entry.0, entry.1, address));
        covering.max_by_key(|entry| entry.0).map_or(ListValue::NONE, |entry| entry.2)
    }
}

/// Sets the bits of every /24 and /16 that the IPv4 prefix touches.
fn mark(bitmap: &mut [u64], length: u32, address: Address) {
    for number in 0..1_u64 << (MAPPED_BITS + 24).saturating_sub(length) {
        let address = Address { high: 0, low: address.low + (number << 8) };
        for (word, bit) in [summary_bit(address), bitmap_bit(address)] {
            bitmap[word as usize] |= bit;
        }
    }
}

/// Whether the address has the same first `length` bits.
pub fn covers(length: u32, prefix: Address, address: Address) -> bool {
    let bits = |address: Address| u128::from_be_bytes(address.to_bytes());
    (bits(prefix) ^ bits(address)).checked_shr(128 - length).unwrap_or(0) == 0
}
