//! What the lists say about an address, and the filters in front of them.
//!
//! User space merges trusted, allow and deny into entries whose longest match is the whole answer.
//! Exact addresses lie in a hash, prefixes in a trie; both are dear to ask. Before the hash lies a
//! Bloom filter whose bits for one key share a word (Putze, Sanders and Singler, 2007), so that one
//! array look-up asks it; before the trie a bit for each IPv4 /24, and for IPv6 the same filter,
//! asked for the address's /32, /48 and /64. What no filter has is on no list.

use crate::address::Address;

/// Words of the filter before exact entries and IPv6 prefixes: 16 bits for each of a million.
pub const LIST_FILTER_WORDS: u32 = 1 << 18;

/// Words of the bitmap of IPv4 /24s.
pub const LIST_BITMAP_WORDS: u32 = 1 << 18;

/// Lengths of IPv6 prefixes for which the filter is asked.
pub const V6_LEVELS: [u8; 3] = [32, 48, 64];

/// What the lists say about an address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum ListVerdict {
    /// No list names it.
    None = 0,
    /// May enter under default deny; still limited.
    Allow = 1,
    /// May not enter.
    Deny = 2,
    /// Never banned, denied or limited.
    Trusted = 3,
}

impl ListVerdict {
    /// Stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "default",
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Trusted => "trusted",
        }
    }
}

/// The value of a list entry: the interfaces (by slot) on which the address is trusted, and what
/// holds on the others.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ListValue(u64);

const VERDICT: u64 = 3;
const INTERFACES: u64 = 0xffff;

impl ListValue {
    /// No list names the address.
    pub const NONE: Self = Self(0);
    /// Trusted, wherever it comes from.
    pub const TRUSTED: Self = Self(INTERFACES << 16);
    /// Allowed.
    pub const ALLOW: Self = Self(ListVerdict::Allow as u64);
    /// Denied.
    pub const DENY: Self = Self(ListVerdict::Deny as u64);

    /// From a map's value.
    #[inline]
    pub const fn from_word(word: u64) -> Self {
        Self(word & (VERDICT | (INTERFACES << 16)))
    }

    /// The map's value: 32 bits.
    #[inline]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The same, also trusted on these interfaces (a bit for each slot).
    #[must_use]
    pub const fn trusted_on(self, interfaces: u16) -> Self {
        Self(self.0 | ((interfaces as u64) << 16))
    }

    /// Interfaces on which the address is trusted, a bit for each slot.
    #[expect(clippy::cast_possible_truncation, reason = "sixteen bits")]
    pub const fn interfaces(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// What holds for a packet that came in on the interface with this slot (below 16).
    #[inline]
    pub const fn on(self, slot: u32) -> ListVerdict {
        if self.0 >> (16 + (slot & 15)) & 1 != 0 {
            return ListVerdict::Trusted;
        }
        match self.0 & VERDICT {
            1 => ListVerdict::Allow,
            2 => ListVerdict::Deny,
            _ => ListVerdict::None,
        }
    }
}

/// A word of the filter, and the bits in it that all are set if the key is there.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FilterBits {
    /// Index of the word, below [`LIST_FILTER_WORDS`].
    pub word: u32,
    /// The bits.
    pub mask: u64,
}

impl FilterBits {
    /// For an exact address, in a filter of `filter_mask + 1` words.
    #[inline]
    pub const fn of_address(address: Address, filter_mask: u64) -> Self {
        let mixed = address.high.wrapping_mul(0xc2b2_ae3d_27d4_eb4f) ^ address.low;
        Self::of(mixed, filter_mask)
    }

    /// For the first `length` bits (one of [`V6_LEVELS`]) of an IPv6 address.
    #[inline]
    pub const fn of_v6_level(address: Address, length: u8, filter_mask: u64) -> Self {
        let upper = address.high >> (64 - length) ^ ((length as u64) << 57);
        Self::of(upper.wrapping_mul(0xc2b2_ae3d_27d4_eb4f), filter_mask)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the mask has 18 bits")]
    const fn of(mixed: u64, filter_mask: u64) -> Self {
        // The finaliser of murmur3 (Appleby), of which all bits are good.
        let mut hash = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
        let word = (hash >> 20) & filter_mask & (LIST_FILTER_WORDS as u64 - 1);
        let mask = 1 << (hash & 63) | 1 << (hash >> 6 & 63) | 1 << (hash >> 12 & 63);
        Self { word: word as u32, mask }
    }
}

/// How many words (a power of two) the filter has for so many keys: 16 bits each, as far as there
/// are.
pub const fn filter_words(keys: u32) -> u32 {
    let words = keys / 4 + 1;
    if words > LIST_FILTER_WORDS { LIST_FILTER_WORDS } else { words.next_power_of_two() }
}

/// The bit of an IPv4 address in the bitmap: index of its word, below [`LIST_BITMAP_WORDS`], and
/// the bit in it.
#[inline]
pub const fn bitmap_bit(address: Address) -> (u32, u64) {
    let network = (address.low >> 8) & 0xff_ffff;
    ((network >> 6) as u32, 1 << (network & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_say_what_they_were_made_of() {
        let value = ListValue::DENY.trusted_on(1 << 3);
        for slot in 0..16 {
            let expected = if slot == 3 { ListVerdict::Trusted } else { ListVerdict::Deny };
            assert_eq!(value.on(slot), expected);
            assert_eq!(ListValue::TRUSTED.on(slot), ListVerdict::Trusted);
        }
        assert_eq!(ListValue::from_word(value.word()), value);
        assert_eq!(ListValue::NONE.on(0), ListVerdict::None);
        assert_eq!(value.interfaces(), 8);
    }

    #[test]
    fn the_filter_forgets_nobody_and_stops_nearly_everybody_else() {
        extern crate std;
        let keys = 100_000_u32;
        let mask = u64::from(filter_words(keys)) - 1;
        let mut words = std::vec![0_u64; usize::try_from(mask).unwrap() + 1];
        let address = |number: u32| Address::from_v4(number.to_be_bytes());
        for number in 0..keys {
            let bits = FilterBits::of_address(address(number), mask);
            words[bits.word as usize] |= bits.mask;
        }
        let holds = |number: u32| {
            let bits = FilterBits::of_address(address(number), mask);
            words[bits.word as usize] & bits.mask == bits.mask
        };
        assert!((0..keys).all(holds));
        let wrong = (keys..11 * keys).filter(|number| holds(*number)).count();
        assert!(wrong < 30_000, "{wrong} of 1,000,000 pass the filter wrongly");
    }

    #[test]
    fn every_24_has_a_bit_of_its_own() {
        let bit = |octets| bitmap_bit(Address::from_v4(octets));
        assert_eq!(bit([0, 0, 0, 1]), (0, 1));
        assert_eq!(bit([255, 255, 255, 9]), (LIST_BITMAP_WORDS - 1, 1 << 63));
        assert_eq!(bit([1, 2, 3, 4]), bit([1, 2, 3, 250]));
        assert_ne!(bit([1, 2, 3, 4]), bit([1, 2, 4, 4]));
    }
}
