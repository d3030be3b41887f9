//! The policy as the packet path reads it: records of plain words, swapped whole.

use crate::{
    address::{Address, Masks},
    limits::{LIMIT_WORDS, Limits},
    machine::{Machine, differs},
};

/// Highest number of a service; 0 is none.
pub const MAX_SERVICES: u32 = 31;

/// How many of the host's own addresses the settings hold; of others the stack is asked.
pub const OWN_ADDRESSES: usize = 8;

/// The policy as the packet path reads it. Two of these lie in one map and an index says which
/// one holds, so that no packet sees half of a new policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Settings {
    /// Rises with each policy; cached list verdicts of another generation are looked up again.
    pub generation: u64,
    /// Bits of [`flags`].
    pub flags: u64,
    /// Bits of an address that make its source key.
    pub masks: Masks,
    /// Number of source sets less one; the number is a power of two.
    pub set_mask: u64,
    /// Random: which set a source falls into cannot be told from outside.
    pub hash_seed: u64,
    /// Per source, over all ports.
    pub limits: Limits,
    /// All sources together.
    pub total_limits: Limits,
    /// Idle slots that each CPU may take from their sources in one tick, see [`crate::source`].
    pub claims_per_tick: u64,
    /// Words of the filter before the exact list entries less one; the number is a power of two.
    pub list_filter_mask: u64,
    /// Nanoseconds of one jiffy.
    pub tick_ns: u64,
    /// `CLOCK_MONOTONIC` less jiffies times `tick_ns`, wrapping.
    pub tick_offset_ns: u64,
    /// For tests only, with the program's `FIXED_CLOCK` set: what both clocks say.
    pub fixed_now_ns: u64,
    /// A bit for each of the own addresses, see [`OwnAddresses::bit`].
    pub own_filter: u64,
    /// Addresses of this host, as many as there is room for; `::` for none.
    pub own: [Address; OWN_ADDRESSES],
}

/// Words of a [`Settings`], as user space writes it.
pub const SETTINGS_WORDS: usize = 12 + 2 * LIMIT_WORDS + 2 * OWN_ADDRESSES;

const _: () = assert!(SETTINGS_WORDS * 8 == size_of::<Settings>());

/// Bits of [`Settings::flags`].
pub mod flags {
    /// Decide and count, drop nothing.
    pub const MONITOR: u64 = 1 << 0;
    /// Sources that no list names may not enter.
    pub const DEFAULT_DENY: u64 = 1 << 1;
    /// A source for which no slot is left is dropped, else passed.
    pub const TABLE_FULL_DROP: u64 = 1 << 2;
    /// Malformed packets pass, else are dropped.
    pub const MALFORMED_PASS: u64 = 1 << 3;
    /// Fragments are dropped.
    pub const FRAGMENTS_DROP: u64 = 1 << 4;
    /// Fragments pass without being limited.
    pub const FRAGMENTS_PASS: u64 = 1 << 5;
    /// The lists have exact IPv4 entries.
    pub const LISTS_EXACT_V4: u64 = 1 << 6;
    /// The second halves of the list maps hold, else the first.
    pub const LISTS_SECOND: u64 = 1 << 7;
    /// Buckets need the precise clock; jiffies are too coarse for their bursts.
    pub const PRECISE_CLOCK: u64 = 1 << 8;
    /// Lists can tell addresses of one IPv4 source apart: an entry is longer than its prefix.
    pub const FINE_V4: u64 = 1 << 9;
    /// As [`FINE_V4`], for IPv6.
    pub const FINE_V6: u64 = 1 << 10;
    /// The lists have IPv4 prefixes.
    pub const LISTS_PREFIX_V4: u64 = 1 << 11;
    /// The lists have exact IPv6 entries.
    pub const LISTS_EXACT_V6: u64 = 1 << 12;
    /// The lists have IPv6 prefixes.
    pub const LISTS_PREFIX_V6: u64 = 1 << 13;
    /// Some limit on all sources together is set.
    pub const TOTAL_LIMITS: u64 = 1 << 15;
    /// This host forwards packets, and they are not to be limited.
    pub const FORWARDING: u64 = 1 << 16;
    /// The lists have IPv6 prefixes that are too short for the filter.
    pub const LISTS_SHORT_V6: u64 = 1 << 17;
}

impl Settings {
    /// A policy that admits everything and limits nothing, over a table of `sets` sets (a power
    /// of two).
    pub const fn open(sets: u64, hash_seed: u64) -> Self {
        Self {
            generation: 0,
            flags: 0,
            masks: Masks::new(32, 64),
            set_mask: sets - 1,
            hash_seed,
            limits: Limits::NONE,
            total_limits: Limits::NONE,
            claims_per_tick: 128,
            list_filter_mask: 0,
            tick_ns: 0,
            tick_offset_ns: 0,
            fixed_now_ns: 0,
            own_filter: 0,
            own: [Address { high: 0, low: 0 }; OWN_ADDRESSES],
        }
    }

    /// The words as user space writes them to the map: every field in order.
    pub fn to_words(&self) -> [u64; SETTINGS_WORDS] {
        let head = [
            self.generation,
            self.flags,
            self.masks.v4,
            self.masks.v6,
            self.set_mask,
            self.hash_seed,
        ];
        let tail = [
            self.claims_per_tick,
            self.list_filter_mask,
            self.tick_ns,
            self.tick_offset_ns,
            self.fixed_now_ns,
            self.own_filter,
        ];
        let own = self.own.iter().flat_map(|address| [address.high, address.low]);
        let all = head
            .into_iter()
            .chain(self.limits.to_words())
            .chain(self.total_limits.to_words())
            .chain(tail)
            .chain(own);
        let mut words = [0; SETTINGS_WORDS];
        for (word, value) in words.iter_mut().zip(all) {
            *word = value;
        }
        words
    }

    /// Whether a bit of [`flags`] is set.
    #[inline]
    pub const fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Makes these addresses the host's own; those that find no room are left to the stack.
    pub fn set_own(&mut self, addresses: impl IntoIterator<Item = Address>) {
        self.own_filter = 0;
        self.own = [Address::default(); OWN_ADDRESSES];
        for (place, address) in self.own.iter_mut().zip(addresses) {
            *place = address;
            self.own_filter |= own_bit(address);
        }
    }

    /// Whether this is one of the addresses in the settings.
    #[inline]
    pub fn is_own<M: Machine>(&self, address: Address) -> bool {
        if self.own_filter & own_bit(address) == 0 {
            return false;
        }
        let mut others = 1;
        for own in &self.own {
            others &= differs::<M>((own.high ^ address.high) | (own.low ^ address.low), 0);
        }
        others == 0
    }
}

/// The bit of an own address.
#[inline]
const fn own_bit(address: Address) -> u64 {
    let hash = (address.high ^ address.low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 << (hash >> 58)
}

/// Limits and access of one service: a group of ports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct ServiceSettings {
    /// Bits of [`service_flags`].
    pub flags: u64,
    /// Per source.
    pub limits: Limits,
    /// All sources together.
    pub total_limits: Limits,
}

/// Bits of [`ServiceSettings::flags`].
pub mod service_flags {
    /// Only sources of its list may enter.
    pub const LISTED: u64 = 1 << 0;
    /// Some source limit is set.
    pub const SOURCE_LIMITS: u64 = 1 << 1;
    /// Some limit on all sources together is set.
    pub const TOTAL_LIMITS: u64 = 1 << 2;
    /// Sources that are not on its list are counted, not dropped.
    pub const LIST_MONITOR: u64 = 1 << 3;
}

/// Words of a [`ServiceSettings`].
pub const SERVICE_WORDS: usize = 1 + 2 * LIMIT_WORDS;

const _: () = assert!(SERVICE_WORDS * 8 == size_of::<ServiceSettings>());

impl ServiceSettings {
    /// The words as user space writes them to the map: every field in order.
    pub fn to_words(&self) -> [u64; SERVICE_WORDS] {
        let mut words = [0; SERVICE_WORDS];
        let all = [self.flags]
            .into_iter()
            .chain(self.limits.to_words())
            .chain(self.total_limits.to_words());
        for (word, value) in words.iter_mut().zip(all) {
            *word = value;
        }
        words
    }

    /// Whether a bit of [`service_flags`] is set.
    #[inline]
    pub const fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Native;

    #[test]
    fn own_addresses_are_known_and_others_are_not() {
        let address = |last: u8| Address::from_v4([192, 0, 2, last]);
        let mut settings = Settings::open(1, 0);
        assert!(!settings.is_own::<Native>(Address::default()));
        settings.set_own((0..20).map(address));
        for last in 0..=255 {
            assert_eq!(settings.is_own::<Native>(address(last)), last < 8, "{last}");
        }
        settings.set_own([address(9)]);
        assert!(settings.is_own::<Native>(address(9)) && !settings.is_own::<Native>(address(1)));
    }
}
