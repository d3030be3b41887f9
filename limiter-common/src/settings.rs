//! The policy as the packet path reads it: records of plain words, swapped whole.

use crate::{
    address::{Address, Masks},
    limits::{LIMIT_WORDS, Limits},
};

/// Highest number of a service; 0 is none.
pub const MAX_SERVICES: u32 = 31;

/// Places for the host's own addresses, of which half can be taken; of others the stack is asked.
pub const OWN_ADDRESSES: usize = 16;

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
    /// Idle slots that each CPU may take from their sources in 4 ms, see [`crate::source`].
    pub claims_per_window: u64,
    /// Words of the filter before the exact list entries less one; the number is a power of two.
    pub list_filter_mask: u64,
    /// Nanoseconds of one jiffy.
    pub tick_ns: u64,
    /// `CLOCK_MONOTONIC` less jiffies times `tick_ns`, wrapping.
    pub tick_offset_ns: u64,
    /// For tests only, with the program's `FIXED_CLOCK` set: what both clocks say.
    pub fixed_now_ns: u64,
    /// With this factor each of the own addresses has a place of its own.
    pub own_factor: u64,
    /// Addresses of this host, as many as there is room for, each at its place.
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
            claims_per_window: 128,
            list_filter_mask: 0,
            tick_ns: 0,
            tick_offset_ns: 0,
            fixed_now_ns: 0,
            own_factor: 1,
            own: [NOBODY; OWN_ADDRESSES],
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
            self.claims_per_window,
            self.list_filter_mask,
            self.tick_ns,
            self.tick_offset_ns,
            self.fixed_now_ns,
            self.own_factor,
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

    /// Makes the first of these addresses the host's own; those that find no room are left to the
    /// stack.
    pub fn set_own(&mut self, addresses: impl IntoIterator<Item = Address>) {
        let mut own = [NOBODY; OWN_ADDRESSES / 2];
        for (place, address) in own.iter_mut().zip(addresses) {
            *place = address;
        }
        // Half of the places are free: one factor in a dozen gives each address one of its own.
        for number in 0..1_000_u64 {
            self.own_factor = (number << 1 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.own = [NOBODY; OWN_ADDRESSES];
            for address in own {
                self.own[own_place(address, self.own_factor)] = address;
            }
            if own.iter().all(|address| self.is_own(*address)) {
                break;
            }
        }
    }

    /// Whether this is one of the addresses in the settings.
    #[inline]
    pub fn is_own(&self, address: Address) -> bool {
        let own = self.own[own_place(address, self.own_factor)];
        own.high == address.high && own.low == address.low
    }
}

/// Where no own address is: multicast, the source or destination of nothing that is looked up.
const NOBODY: Address = Address { high: u64::MAX, low: u64::MAX };

/// The place of an address among the own ones: multiplicative hashing (Knuth, TAOCP 3, 6.4).
#[inline]
const fn own_place(address: Address, factor: u64) -> usize {
    ((address.high ^ address.low).wrapping_mul(factor) >> 60) as usize
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

    #[test]
    fn own_addresses_are_known_and_others_are_not() {
        let address = |last: u8| Address::from_v4([192, 0, 2, last]);
        let mut settings = Settings::open(1, 0);
        assert!(!settings.is_own(Address::default()));
        settings.set_own((0..20).map(address));
        for last in 0..=255 {
            assert_eq!(settings.is_own(address(last)), last < 8, "{last}");
        }
        settings.set_own([address(9)]);
        assert!(settings.is_own(address(9)) && !settings.is_own(address(1)));
    }

    /// As the kernel reads it: each word where the field lies.
    #[test]
    fn words_are_where_the_fields_are() {
        use core::mem::offset_of;
        let mut settings = Settings::open(8, 2);
        settings.generation = 1;
        settings.flags = flags::MONITOR;
        settings.limits.flags = 4;
        settings.total_limits.flags = 5;
        settings.claims_per_window = 6;
        settings.list_filter_mask = 9;
        settings.tick_ns = 10;
        settings.tick_offset_ns = 11;
        settings.fixed_now_ns = 12;
        settings.own_factor = 13;
        settings.own[7] = Address { high: 14, low: 15 };
        let words = settings.to_words();
        for (offset, value) in [
            (offset_of!(Settings, generation), 1),
            (offset_of!(Settings, flags), 1),
            (offset_of!(Settings, masks), settings.masks.v4),
            (offset_of!(Settings, masks) + 8, settings.masks.v6),
            (offset_of!(Settings, set_mask), 7),
            (offset_of!(Settings, hash_seed), 2),
            (offset_of!(Settings, limits) + offset_of!(Limits, flags), 4),
            (offset_of!(Settings, total_limits) + offset_of!(Limits, flags), 5),
            (offset_of!(Settings, claims_per_window), 6),
            (offset_of!(Settings, list_filter_mask), 9),
            (offset_of!(Settings, tick_ns), 10),
            (offset_of!(Settings, tick_offset_ns), 11),
            (offset_of!(Settings, fixed_now_ns), 12),
            (offset_of!(Settings, own_factor), 13),
            (offset_of!(Settings, own) + 7 * 16, 14),
            (offset_of!(Settings, own) + 7 * 16 + 8, 15),
        ] {
            assert_eq!(words[offset / 8], value, "at {offset}");
        }
        let mut service = ServiceSettings { flags: 1, ..ServiceSettings::default() };
        service.limits.flags = 2;
        service.total_limits.flags = 3;
        let words = service.to_words();
        assert_eq!(words[offset_of!(ServiceSettings, flags) / 8], 1);
        let limits = offset_of!(ServiceSettings, limits) + offset_of!(Limits, flags);
        assert_eq!(words[limits / 8], 2);
        let totals = offset_of!(ServiceSettings, total_limits) + offset_of!(Limits, flags);
        assert_eq!(words[totals / 8], 3);
    }

    #[test]
    fn the_unspecified_address_is_never_own() {
        let mut settings = Settings::open(1, 0);
        for last in 0..=255 {
            settings.set_own([Address::from_v4([192, 0, 2, last])]);
            assert!(!settings.is_own(Address::default()), "{last}");
        }
    }
}
