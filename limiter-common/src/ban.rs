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

/// IPv6 prefixes shorter than this set every bit of their part; its /32s would anyway.
const SHORTEST_HASHED: u32 = 24;

/// Bits of an address that its bit in the IPv4 part depends on.
const INDEXED_V4: u32 = 16;

/// Bits of an address that its bit in the IPv6 part depends on.
const HASHED_V6: u32 = 32;

/// Length of `::ffff:0:0/96`, below which v4-mapped addresses lie.
const MAPPED: u32 = 96;

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
    pub const fn of(address: Address) -> Self {
        if address.is_v4() {
            Self::of_v4(address.low >> (32 - INDEXED_V4))
        } else {
            Self::of_v6(address.high >> (64 - HASHED_V6))
        }
    }

    /// `upper`: the first 16 bits of the address, whatever stands before them.
    #[inline]
    const fn of_v4(upper: u64) -> Self {
        Self::numbered(EXACT_WORDS, upper)
    }

    /// `upper`: the first 32 bits of the address.
    #[inline]
    const fn of_v6(upper: u64) -> Self {
        let hash = upper.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self::numbered(EXACT_WORDS + V4_PREFIX_WORDS, hash >> 48)
    }

    /// The bit of this number in the part that begins with word `first`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "ten bits")]
    const fn numbered(first: u32, bit: u64) -> Self {
        Self { word: first + ((bit >> 6) as u32 & 1_023), mask: 1 << (bit & 63) }
    }
}

/// The bits that a prefix sets: [`PrefixBit::of`] of each address in it is among them.
/// At most 65,536, some of IPv6 possibly twice.
#[derive(Clone, Debug)]
pub struct PrefixBits {
    part: Part,
    next: u64,
    end: u64,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    /// Numbers are the first 16 bits of addresses.
    V4,
    /// Numbers are the first 32 bits of addresses.
    V6,
    /// Numbers are those of the bits.
    WholeV6,
}

impl PrefixBits {
    /// Of the prefix of this length (0 to 128, counted in the v4-mapped form) that begins with
    /// `first`. An IPv6 prefix of which `::ffff:0:0/96` is a part covers no IPv4 address.
    pub const fn of(first: Address, length: u32) -> Self {
        if length >= MAPPED && first.is_v4() {
            let (index, count) = upper(first.low & 0xffff_ffff, 32, length - MAPPED, INDEXED_V4);
            Self { part: Part::V4, next: index, end: index + count }
        } else if length < SHORTEST_HASHED {
            Self { part: Part::WholeV6, next: 0, end: V6_PREFIX_WORDS as u64 * 64 }
        } else {
            let (index, count) = upper(first.high, 64, length, HASHED_V6);
            Self { part: Part::V6, next: index, end: index + count }
        }
    }
}

/// The first `kept` of `width` bits, and how many values of them a prefix of this length has.
const fn upper(bits: u64, width: u32, length: u32, kept: u32) -> (u64, u64) {
    let index = bits >> (width - kept);
    if length >= kept {
        return (index, 1);
    }
    let count = 1 << (kept - length);
    (index & !(count - 1), count)
}

impl Iterator for PrefixBits {
    type Item = PrefixBit;

    fn next(&mut self) -> Option<PrefixBit> {
        if self.next >= self.end {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some(match self.part {
            Part::V4 => PrefixBit::of_v4(number),
            Part::V6 => PrefixBit::of_v6(number),
            Part::WholeV6 => PrefixBit::numbered(EXACT_WORDS + V4_PREFIX_WORDS, number),
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{collections::HashSet, net::IpAddr, vec::Vec};

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

    #[test]
    fn prefix_bits_are_those_of_the_prefix() {
        let v4 = |octets| PrefixBit::of(Address::from_v4(octets));
        let mut bits = HashSet::new();
        for network in 0..=u16::MAX {
            let [a, b] = network.to_be_bytes();
            let bit = v4([a, b, 0, 0]);
            assert_eq!(bit, v4([a, b, 255, 255]));
            assert!((EXACT_WORDS..EXACT_WORDS + V4_PREFIX_WORDS).contains(&bit.word));
            assert!(bits.insert(bit));
        }
        for network in 0..10_000_u64 {
            let high = (0x2001_0000 + network) << 32;
            let bit = PrefixBit::of(Address { high, low: 0 });
            assert_eq!(bit, PrefixBit::of(Address { high: high | 0xffff_ffff, low: 9 }));
            assert!((EXACT_WORDS + V4_PREFIX_WORDS..FILTER_WORDS).contains(&bit.word));
        }
    }
    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    /// Length as in the text: counted from the start of the address.
    fn prefix(first: &str, length: u32) -> PrefixBits {
        let shift = if first.contains(':') { 0 } else { MAPPED };
        PrefixBits::of(address(first), shift + length)
    }

    #[test]
    fn every_address_of_a_prefix_tests_a_bit_that_it_sets() {
        let mut random = 1_u64;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for round in 0..200 {
            let is_v4 = round % 2 == 0;
            let any = if is_v4 {
                Address::from_v4(next().to_be_bytes()[..4].try_into().unwrap())
            } else {
                Address { high: next(), low: next() }
            };
            let shortest = if is_v4 { MAPPED } else { 0 };
            let length = shortest + u32::try_from(next() % u64::from(129 - shortest)).unwrap();
            let whole = u128::from_be_bytes(any.to_bytes());
            let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
            let at = |bits: u128| Address {
                high: u64::try_from(bits >> 64).unwrap(),
                low: u64::try_from(bits & u128::from(u64::MAX)).unwrap(),
            };
            let mut words = std::vec![0; FILTER_WORDS as usize];
            for bit in PrefixBits::of(at(whole & mask), length) {
                words[bit.word as usize] |= bit.mask;
            }
            for _ in 0..20 {
                let other = (u128::from(next()) << 64) | u128::from(next());
                let inside = at((whole & mask) | (other & !mask));
                let bit = PrefixBit::of(inside);
                assert_ne!(words[bit.word as usize] & bit.mask, 0, "{inside:?}/{length}");
            }
        }
    }

    #[test]
    fn prefixes_set_as_few_bits_as_they_can() {
        for (first, length, count) in [
            ("198.51.100.0", 24, 1),
            ("198.51.0.0", 16, 1),
            ("198.48.0.0", 12, 16),
            ("0.0.0.0", 0, 65_536),
            ("2001:db8::", 48, 1),
            ("2001:db8::", 32, 1),
            ("2001:d00::", 24, 256),
            ("::", 23, 65_536),
            ("::", 0, 65_536),
        ] {
            let bits: Vec<_> = prefix(first, length).collect();
            assert_eq!(bits.len(), count, "{first}/{length}");
        }
        let whole: HashSet<_> = prefix("::", 0).chain(prefix("0.0.0.0", 0)).collect();
        assert_eq!(whole.len(), 131_072);
        assert!(whole.iter().all(|bit| (EXACT_WORDS..FILTER_WORDS).contains(&bit.word)));
    }

    #[test]
    fn families_and_neighbours_are_apart() {
        let set: HashSet<_> = prefix("198.51.100.0", 24).collect();
        let tests = |text| set.contains(&PrefixBit::of(address(text)));
        assert!(tests("198.51.100.7") && tests("198.51.7.7"));
        assert!(!tests("198.52.100.7") && !tests("2001:db8::1"));
        let all: HashSet<_> = prefix("::", 0).collect();
        assert!(!all.contains(&PrefixBit::of(address("198.51.100.7"))));
    }
}
