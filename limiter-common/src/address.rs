//! Addresses as both halves know them, and the keys under which sources are counted and banned.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `::ffff:0:0/96`, as the upper part of the low word (RFC 4291, 2.5.5.2).
const MAPPED: u64 = 0xffff_0000_0000;

/// Marks the key of an IPv6 source in `::/16`, so that it is neither empty nor an IPv4 key.
/// `8000::/16` is not global unicast (RFC 4291, 2.4): no other source has such a key.
const LOW_IPV6: u64 = 1 << 63;

/// An IPv6 address, or an IPv4 one in its v4-mapped form, as two big-endian words.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(C)]
pub struct Address {
    /// First 8 bytes.
    pub high: u64,
    /// Last 8 bytes.
    pub low: u64,
}

impl Address {
    /// From the 4 bytes of an IPv4 address in network order.
    #[inline]
    pub const fn from_v4(bytes: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_be_bytes(bytes))
    }

    /// From an IPv4 address as a big-endian word.
    #[inline]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { high: 0, low: MAPPED | word as u64 }
    }

    /// From the two halves of an IPv6 address in network order.
    #[inline]
    pub const fn from_v6(high: [u8; 8], low: [u8; 8]) -> Self {
        Self { high: u64::from_be_bytes(high), low: u64::from_be_bytes(low) }
    }

    /// Whether this is a v4-mapped address.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.high == 0 && self.low >> 32 == MAPPED >> 32
    }

    /// Whether this is 127.0.0.0/8 or `::1`.
    #[inline]
    pub const fn is_loopback(self) -> bool {
        self.high == 0 && (self.low >> 24 == (MAPPED >> 24) | 127 || self.low == 1)
    }

    /// The 16 bytes in network order: the key of prefix tries.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 16] {
        (((self.high as u128) << 64) | self.low as u128).to_be_bytes()
    }

    /// The key under which this address can be banned: IPv4 exactly, IPv6 by /64.
    #[inline]
    pub const fn ban_key(self) -> u64 {
        self.key(u64::MAX, u64::MAX)
    }

    /// The key under which this address is counted, see [`Masks`].
    #[inline]
    pub const fn source_key(self, masks: Masks) -> u64 {
        self.key(masks.v4, masks.v6)
    }

    #[inline]
    const fn key(self, v4_mask: u64, v6_mask: u64) -> u64 {
        if self.is_v4() {
            return self.low & v4_mask;
        }
        let masked = self.high & v6_mask;
        if masked >> 48 == 0 { masked | LOW_IPV6 } else { masked }
    }

    /// The first address that has this key: the inverse of [`Self::source_key`] up to the mask.
    pub const fn from_key(key: u64) -> Self {
        if key >> 32 == MAPPED >> 32 {
            Self { high: 0, low: key }
        } else if key >> 48 == LOW_IPV6 >> 48 {
            Self { high: key & !LOW_IPV6, low: 0 }
        } else {
            Self { high: key, low: 0 }
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => return Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => v6.octets(),
        };
        let [h0, h1, h2, h3, h4, h5, h6, h7, l0, l1, l2, l3, l4, l5, l6, l7] = octets;
        Self::from_v6([h0, h1, h2, h3, h4, h5, h6, h7], [l0, l1, l2, l3, l4, l5, l6, l7])
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            let [.., a, b, c, d] = address.low.to_be_bytes();
            Self::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            Self::V6(Ipv6Addr::from(address.to_bytes()))
        }
    }
}

/// Which bits of an address make its source key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Masks {
    /// For the low word of a v4-mapped address.
    pub v4: u64,
    /// For the high word of an IPv6 address.
    pub v6: u64,
}

impl Masks {
    /// Counts IPv4 by `v4_prefix` (at most 32) and IPv6 by `v6_prefix` (at most 64) bits.
    pub const fn new(v4_prefix: u8, v6_prefix: u8) -> Self {
        Self { v4: upper_bits(32 + v4_prefix), v6: upper_bits(v6_prefix) }
    }
}

const fn upper_bits(count: u8) -> u64 {
    match count {
        0 => 0,
        64.. => u64::MAX,
        _ => u64::MAX << (64 - count),
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn converts_both_ways() {
        for text in ["0.0.0.0", "192.0.2.1", "255.255.255.255", "::1", "2001:db8::1", "::"] {
            let address = address(text);
            assert_eq!(IpAddr::from(address), text.parse::<IpAddr>().unwrap());
        }
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_eq!(address("192.0.2.1").to_bytes()[10..], [0xff, 0xff, 192, 0, 2, 1]);
    }

    #[test]
    fn keys_are_never_empty_and_families_never_meet() {
        let masks = Masks::new(32, 64);
        for text in ["0.0.0.0", "::", "::1", "0:ffff:c000:201::", "0:0:0:1::", "2001:db8::"] {
            assert_ne!(address(text).source_key(masks), 0, "{text}");
        }
        assert_ne!(address("0:ffff:c000:201::").ban_key(), address("192.0.2.1").ban_key());
        for text in ["192.0.2.1", "2001:db8:1:2::", "0:ffff:c000:201::", "::"] {
            assert_eq!(Address::from_key(address(text).ban_key()), address(text), "{text}");
        }
    }

    #[test]
    fn prefixes_aggregate() {
        let masks = Masks::new(24, 56);
        let key = |text| address(text).source_key(masks);
        assert_eq!(key("192.0.2.1"), key("192.0.2.200"));
        assert_ne!(key("192.0.2.1"), key("192.0.3.1"));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:ff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:100::1"));
        assert_eq!(address("2001:db8::1").ban_key(), address("2001:db8::ffff:1").ban_key());
        assert_eq!(
            IpAddr::from(Address::from_key(key("192.0.2.9"))).to_string_lossy(),
            "192.0.2.0"
        );
    }

    trait Lossy {
        fn to_string_lossy(&self) -> std::string::String;
    }
    impl Lossy for IpAddr {
        fn to_string_lossy(&self) -> std::string::String {
            std::format!("{self}")
        }
    }
}
