//! Per-source state: a set-associative table of atomic words, in the kernel two array maps.
//!
//! A source's key falls into two sets of [`WAYS`] ways each; while either has room, the source is
//! exact ([`set_count`] leaves room). Keys and slots lie apart: a set's keys are one cache line.
//! A slot whose buckets are full says nothing that a new slot would not say, so it is reused by
//! whoever comes next, in the kernel itself; a slot in debt never is. An attacker with many
//! addresses therefore evicts nobody who matters.
//!
//! A source's state at one service is a source of its own, with the key of [`pair_key`].
//!
//! Races, all bounded by one packet per CPU: two CPUs may claim slots for the same new source (the
//! first one found wins, the other goes idle and is reused), or one CPU may still hold a slot that
//! another reuses (it was idle, so what is charged to it wrongly is one packet). The statistics
//! (`packets`, `bytes`, `connections`, `dropped`) are added without a lock and may lose a few when
//! CPUs see the same source at once; the limits do not depend on them.

use core::sync::atomic::AtomicU64;

#[cfg(target_has_atomic = "64")]
use crate::machine::Native;
use crate::{limits::Buckets, machine::Machine};

mod access;
mod budget;
mod place;

pub use self::{
    access::CachedAccess,
    budget::ClaimBudget,
    place::{NO_PLACE, Place, claim_in, find_in, has_room, pair_key, set_count, set_indices},
};

/// Slots in a set: their keys fill one cache line.
pub const WAYS: usize = 8;

/// Words of a slot: two cache lines, of which the first is what limits need.
pub const SLOT_WORDS: usize = 16;

/// Words of the slots of a set, as user space reads them.
pub const SET_WORDS: usize = WAYS * SLOT_WORDS;

/// A slot that is being claimed: no source has this key (`ffff::/16` is multicast).
pub const CLAIMED: u64 = u64::MAX;

/// [`SourceSlot::owner`]: several CPUs charge the slot.
const SHARED: u64 = u64::MAX;

/// How long a slot stays its source's after its buckets are full again, in ticks (1 ms): what is
/// noted of it is then written once in that time, not with each packet.
const LEASE_TICKS: u64 = 1_000_000 * crate::bucket::TICKS_PER_NS;

/// The keys of one set: the value of an array map.
#[derive(Debug, Default)]
#[repr(C)]
pub struct KeySet {
    keys: [AtomicU64; WAYS],
}

/// The slots of one set: the value of an array map.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SlotSet {
    slots: [SourceSlot; WAYS],
}

/// What is known about one source.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SourceSlot {
    /// What it may still send.
    pub buckets: Buckets,
    /// Not before this time, in ticks, may another source have the slot.
    pub busy_until: AtomicU64,
    /// The CPU that alone charges the buckets, plus 1; or that there are several.
    pub owner: AtomicU64,
    /// What the lists said, see [`CachedAccess`].
    pub access: AtomicU64,
    /// When the last packet came, `CLOCK_MONOTONIC` ns (coarse).
    pub seen_ns: AtomicU64,
    /// Packets seen, admitted or not.
    pub packets: AtomicU64,
    /// Bytes seen.
    pub bytes: AtomicU64,
    /// New connections seen (TCP SYN).
    pub connections: AtomicU64,
    /// Packets dropped.
    pub dropped: AtomicU64,
    /// Source key, also where the slot is that of a source at a service.
    pub source_key: AtomicU64,
    /// The service, 0 for the source as a whole.
    pub service: AtomicU64,
}

const _: () = assert!(SLOT_WORDS * 8 == size_of::<SourceSlot>());

impl KeySet {
    /// From the words that user space read from the map.
    pub const fn from_words(words: [u64; WAYS]) -> Self {
        let [k0, k1, k2, k3, k4, k5, k6, k7] = words;

        Self {
            keys: [
                AtomicU64::new(k0),
                AtomicU64::new(k1),
                AtomicU64::new(k2),
                AtomicU64::new(k3),
                AtomicU64::new(k4),
                AtomicU64::new(k5),
                AtomicU64::new(k6),
                AtomicU64::new(k7),
            ],
        }
    }

    /// How many sources are here.
    #[cfg(target_has_atomic = "64")]
    pub fn count(&self) -> usize {
        self.keys.iter().filter(|key| !matches!(Native::read(key), 0 | CLAIMED)).count()
    }

    /// Whether no source is here.
    #[cfg(target_has_atomic = "64")]
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// The words as user space writes them to the map.
    #[cfg(target_has_atomic = "64")]
    pub fn to_words(&self) -> [u64; WAYS] {
        self.keys.each_ref().map(Native::read)
    }
}

impl SlotSet {
    /// The slot of this way (below [`WAYS`]).
    #[inline]
    pub fn slot(&self, way: u64) -> &SourceSlot {
        &self.slots[index(way)]
    }

    /// From the words that user space read from the map.
    #[cfg(target_has_atomic = "64")]
    pub fn from_words(words: &[u64; SET_WORDS]) -> Self {
        let set = Self::default();
        for (slot, values) in set.slots.iter().zip(words.chunks_exact(SLOT_WORDS)) {
            for (word, value) in slot.words().into_iter().zip(values) {
                Native::write(word, *value);
            }
        }
        set
    }

    /// The words as user space writes them to the map.
    #[cfg(target_has_atomic = "64")]
    pub fn to_words(&self) -> [u64; SET_WORDS] {
        let mut words = [0; SET_WORDS];
        for (values, slot) in words.chunks_exact_mut(SLOT_WORDS).zip(&self.slots) {
            for (value, word) in values.iter_mut().zip(slot.words()) {
                *value = Native::read(word);
            }
        }
        words
    }

    /// The slots of a set that hold a source.
    #[cfg(target_has_atomic = "64")]
    pub fn occupied<'a>(&'a self, keys: &'a KeySet) -> impl Iterator<Item = &'a SourceSlot> {
        keys.keys
            .iter()
            .zip(&self.slots)
            .filter(|(key, _)| !matches!(Native::read(key), 0 | CLAIMED))
            .map(|(_, slot)| slot)
    }
}

impl SourceSlot {
    fn words(&self) -> [&AtomicU64; SLOT_WORDS] {
        let [packets, bytes, kind0, kind1, kind2, kind3] = self.buckets.words();
        [
            packets,
            bytes,
            kind0,
            kind1,
            kind2,
            kind3,
            &self.busy_until,
            &self.owner,
            &self.access,
            &self.seen_ns,
            &self.packets,
            &self.bytes,
            &self.connections,
            &self.dropped,
            &self.source_key,
            &self.service,
        ]
    }

    #[inline]
    fn reset<M: Machine>(&self) {
        for word in self.words() {
            M::write(word, 0);
        }
    }

    /// Whether this CPU alone charges the buckets, so that it needs no atomic addition.
    ///
    /// A CPU that finds another's name here writes that there are several, and both charge
    /// atomically from then on; it takes the slot for itself only while the source owes nothing.
    /// The other may have read its own name just before, and overwrite one charge: one packet per
    /// change of hands (biased locking; Kawachiya, Koseki and Onodera, 2002).
    #[inline]
    pub fn is_owned_by<M: Machine>(&self, cpu: u32, now: u64) -> bool {
        let own = u64::from(cpu) + 1;
        let owner = M::read(&self.owner);
        if owner == own {
            return true;
        }
        if M::read(&self.buckets.packets) <= now && M::read(&self.buckets.bytes) <= now {
            M::write(&self.owner, own);
        } else if owner != SHARED {
            M::write(&self.owner, SHARED);
        }
        false
    }

    /// Notes that the slot is in use at `now`, and its buckets not full before `full`.
    #[inline]
    pub fn keep<M: Machine>(&self, full: u64, now: u64) {
        let until = crate::bucket::later::<M>(full, now);
        if M::read(&self.busy_until) < until {
            M::write(&self.busy_until, until.wrapping_add(LEASE_TICKS));
        }
    }

    /// Adds to a statistic without a lock (see the module on what that can lose).
    #[inline]
    pub fn add<M: Machine>(statistic: &AtomicU64, amount: u64) {
        M::write(statistic, M::read(statistic).wrapping_add(amount));
    }
}

/// The way in the low bits: the mask tells the verifier that it is in bounds.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "three bits")]
const fn index(way: u64) -> usize {
    way as usize & (WAYS - 1)
}

#[cfg(test)]
mod tests;
