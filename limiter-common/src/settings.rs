//! The policy as the packet path reads it: one record of plain words, swapped whole.

use crate::{address::Masks, bucket::BucketRate, ports::PortSet};

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
    /// Packets per source.
    pub packets: BucketRate,
    /// TCP SYN per source.
    pub connections: BucketRate,
    /// Nanoseconds of one jiffy.
    pub tick_ns: u64,
    /// `CLOCK_MONOTONIC` less jiffies times `tick_ns`, wrapping.
    pub tick_offset_ns: u64,
    /// For tests only, with the program's `FIXED_CLOCK` set: what both clocks say.
    pub fixed_now_ns: u64,
    /// Local TCP ports exempt from bans and lists.
    pub failsafe_ports: PortSet,
    /// Local TCP ports on which this host certainly listens, so that packets to them are no
    /// replies.
    pub listening_ports: PortSet,
}

/// Words of a [`Settings`], as user space writes it.
pub const SETTINGS_WORDS: usize = 21;

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
    /// Some list has an entry.
    pub const LISTS: u64 = 1 << 6;
    /// The second of the two list tries holds, else the first.
    pub const LISTS_SECOND: u64 = 1 << 7;
    /// Buckets need the precise clock; jiffies are too coarse for their bursts.
    pub const PRECISE_CLOCK: u64 = 1 << 8;
    /// Lists can tell addresses of one source apart: an entry is longer than a source prefix.
    pub const FINE_LISTS: u64 = 1 << 9;
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
            packets: BucketRate::UNLIMITED,
            connections: BucketRate::UNLIMITED,
            tick_ns: 0,
            tick_offset_ns: 0,
            fixed_now_ns: 0,
            failsafe_ports: PortSet::EMPTY,
            listening_ports: PortSet::EMPTY,
        }
    }

    /// The words as user space writes them to the map: every field in order.
    pub const fn to_words(&self) -> [u64; SETTINGS_WORDS] {
        let [failsafe0, failsafe1, failsafe2, failsafe3] = self.failsafe_ports.words();
        let [listening0, listening1, listening2, listening3] = self.listening_ports.words();
        [
            self.generation,
            self.flags,
            self.masks.v4,
            self.masks.v6,
            self.set_mask,
            self.hash_seed,
            self.packets.cost_ticks,
            self.packets.burst_ticks,
            self.connections.cost_ticks,
            self.connections.burst_ticks,
            self.tick_ns,
            self.tick_offset_ns,
            self.fixed_now_ns,
            failsafe0,
            failsafe1,
            failsafe2,
            failsafe3,
            listening0,
            listening1,
            listening2,
            listening3,
        ]
    }

    /// Whether a bit of [`flags`] is set.
    #[inline]
    pub const fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }
}

/// What the lists say about an address: the value of the prefix tries.
///
/// User space merges the three lists into one trie whose longest match is the whole answer, so
/// that one lookup decides.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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
    /// From a map's value; anything unknown is no verdict.
    #[inline]
    pub const fn from_value(value: u64) -> Self {
        match value {
            1 => Self::Allow,
            2 => Self::Deny,
            3 => Self::Trusted,
            _ => Self::None,
        }
    }

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
