//! Bans: what lies in their table, and a filter before it.
//!
//! The filter is an array of words, one bit of which stands for each ban key; an array look-up is
//! inlined, a hash look-up is a call. A clear bit says "not banned" to nearly every packet; a set
//! one sends it to the table, which alone decides. User space sets the bit after it has inserted a
//! ban and clears it when no ban needs it any more.

use crate::address::Address;

/// Words of the filter for bans of one address, a power of two: 64 KiB, so that 65,536 bans set one
/// bit in eight.
pub const EXACT_WORDS: u32 = 8_192;

/// Words of the filter for banned IPv4 prefixes, which follow: a bit for each /16.
pub const V4_PREFIX_WORDS: u32 = 1_024;

/// Words of the filter for banned IPv6 prefixes, which come last: 65,536 bits for all /32.
pub const V6_PREFIX_WORDS: u32 = 1_024;

/// Words of the filter.
pub const FILTER_WORDS: u32 = EXACT_WORDS + V4_PREFIX_WORDS + V6_PREFIX_WORDS;

/// One ban.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Ban {
    /// When it ends, `CLOCK_MONOTONIC` ns.
    pub expires_ns: u64,
    /// Packets that met it, those let through for a failsafe port or as replies included.
    pub packets: u64,
}

/// The bit of a ban key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FilterBit {
    /// Index of its word.
    pub word: u32,
    /// Mask of the bit in the word.
    pub mask: u64,
}

impl FilterBit {
    /// Where the key falls: multiplicative hashing (Knuth, TAOCP 3, 6.4), upper bits.
    #[inline]
    pub const fn of(key: u64) -> Self {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let word = (hash >> 51) as u32 & (EXACT_WORDS - 1);
        Self { word, mask: 1 << ((hash >> 45) & 63) }
    }
}

/// The bit that says whether the address may lie in a banned prefix.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PrefixBit {
    /// Index of its word.
    pub word: u32,
    /// Mask of the bit in the word.
    pub mask: u64,
}

impl PrefixBit {
    /// The bit of an address: of its /16, or (hashed) of its /32.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "ten bits")]
    pub const fn of(address: Address) -> Self {
        let (first, bit) = if address.is_v4() {
            (EXACT_WORDS, address.low >> 16)
        } else {
            let hash = (address.high >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (EXACT_WORDS + V4_PREFIX_WORDS, hash >> 48)
        };
        Self { word: first + ((bit >> 6) as u32 & 1_023), mask: 1 << (bit & 63) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashSet;

    use super::*;

    #[test]
    fn bits_are_in_the_filter_and_spread() {
        let bits: HashSet<_> = (0..10_000_u64)
            .map(|number| {
                let bit = FilterBit::of(0xffff_c000_0200 + number);
                assert!(bit.word < FILTER_WORDS);
                assert_eq!(bit.mask.count_ones(), 1);
                bit
            })
            .collect();
        assert!(bits.len() > 9_800, "{} of 10,000 neighbours have a bit of their own", bits.len());
    }
}
