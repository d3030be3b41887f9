//! Slots are found, claimed, kept and reused as the module promises.

extern crate std;

use core::sync::atomic::Ordering::Relaxed;
use std::{collections::HashSet, vec::Vec};

use super::*;
use crate::{address::Address, lists::ListValue, machine::Native};

/// Ticks.
const NOW: u64 = 1 << 40;
const HOUR: u64 = 3_600_000_000_000 * crate::bucket::TICKS_PER_NS;

/// A table of some sets.
struct Table {
    keys: Vec<KeySet>,
    slots: Vec<SlotSet>,
}

impl Table {
    fn new(sets: u32) -> Self {
        let keys = (0..sets).map(|_| KeySet::default()).collect();
        Self { keys, slots: (0..sets).map(|_| SlotSet::default()).collect() }
    }

    fn keys(&self, set: u32) -> Option<&KeySet> {
        self.keys.get(set as usize)
    }

    fn find(&self, sets: [u32; 2], key: u64) -> Option<Place> {
        find_in::<Native>(|set| self.keys(set), home(sets, key), key)
    }

    fn claim(&self, sets: [u32; 2], key: u64, now: u64) -> Option<&SourceSlot> {
        let slots = |set: u32| self.slots.get(set as usize);
        let home = home(sets, key);
        let place = claim_in::<Native>(|set| self.keys(set), slots, home, key, now)?;
        Some(self.slot(place))
    }

    fn slot(&self, place: Place) -> &SourceSlot {
        self.slots[place.set as usize].slot(place.way).unwrap()
    }

    fn has_room(&self, sets: [u32; 2]) -> bool {
        has_room::<Native>(|set| self.keys(set), home(sets, 1))
    }
}

/// In these sets, with the tag that the key would have.
fn home(sets: [u32; 2], key: u64) -> Home {
    Home { sets, ..Home::of(key, 0, 0) }
}

#[test]
fn places_are_packed_and_unpacked() {
    for set in [0, 1, 77, u32::MAX] {
        for way in 0..WAYS as u64 {
            let place = Place { set, way };
            assert!(place.pack() < NO_PLACE);
            assert_eq!(Place::unpack(place.pack()), Some(place));
        }
    }
    assert_eq!(Place::unpack(NO_PLACE), None);
    assert_eq!(Place::unpack(NO_PLACE + 1), None);
}

#[test]
fn claims_empty_then_idle_slots_and_never_one_in_debt() {
    let table = Table::new(1);
    let sets = [0, 0];
    for key in 1..=WAYS as u64 {
        assert!(table.has_room(sets) && table.find(sets, key).is_none());
        table.claim(sets, key, NOW).unwrap().keep::<Native>(NOW + HOUR + key, NOW);
    }
    assert!(!table.has_room(sets));
    for now in [NOW, NOW + HOUR, NOW + HOUR + 1 + LEASE_TICKS] {
        assert!(table.claim(sets, 99, now).is_none(), "every slot is in debt or kept");
    }
    let slot = table.slot(table.find(sets, 3).unwrap());
    slot.packets.store(77, Relaxed);
    slot.busy_until.store(NOW + 5, Relaxed);
    let claimed = table.claim(sets, 99, NOW + HOUR).unwrap();
    assert!(claimed.words().iter().all(|word| word.load(Relaxed) == 0), "a slot says nothing old");
    assert!(table.find(sets, 3).is_none(), "the slot idle longest is reused");
    assert!(table.find(sets, 99).is_some());
    let all = table.claim(sets, 100, u64::MAX >> 2).unwrap();
    assert!(core::ptr::eq(all, claimed), "that of 99, which nobody kept");
}

#[test]
fn the_slot_idle_longest_is_reused_first() {
    let table = Table::new(1);
    let order = [5_u64, 2, 1, 7, 3, 6, 4];
    for key in 1..=WAYS as u64 {
        table.claim([0, 0], key, NOW).unwrap().keep::<Native>(NOW, NOW);
    }
    for (position, key) in order.iter().enumerate() {
        let place = table.find([0, 0], *key).unwrap();
        table.slot(place).busy_until.store(NOW + position as u64, Relaxed);
    }
    for (number, key) in order.iter().enumerate() {
        let slot = table.claim([0, 0], 100 + number as u64, NOW + 100).unwrap();
        slot.keep::<Native>(NOW + HOUR, NOW + 100);
        assert!(table.find([0, 0], *key).is_none(), "{key} has been idle longest");
    }
}

#[test]
fn the_emptier_of_two_sets_is_claimed_and_the_other_where_it_is_in_debt() {
    let table = Table::new(2);
    let debt = |slot: &SourceSlot| slot.keep::<Native>(NOW + HOUR, NOW);
    for key in 1..=3 {
        debt(table.claim([0, 0], key, NOW).unwrap());
    }
    debt(table.claim([0, 1], 4, NOW).unwrap());
    assert_eq!(table.find([0, 1], 4).unwrap().set, 1);
    for key in 5..=2 * WAYS as u64 {
        debt(table.claim([1, 0], key, NOW).unwrap());
    }
    assert!(table.claim([0, 1], 17, NOW).is_none());
    let occupied = |set: usize| table.slots[set].occupied(&table.keys[set]).count();
    assert_eq!([occupied(0), occupied(1)], [WAYS; 2]);
    // Only the fuller (or as full) second set has an idle slot.
    table.slot(table.find([1, 0], 4).unwrap()).busy_until.store(0, Relaxed);
    debt(table.claim([0, 1], 18, NOW).unwrap());
    assert!(table.find([0, 1], 4).is_none() && table.find([0, 1], 18).is_some());
}

#[test]
fn of_two_slots_with_one_key_the_first_is_found() {
    let table = Table::new(2);
    let first = table.claim([0, 1], 7, NOW).unwrap();
    first.keep::<Native>(NOW + HOUR, NOW);
    table.claim([1, 0], 7, NOW).unwrap();
    assert!(core::ptr::eq(table.slot(table.find([0, 1], 7).unwrap()), first));
}

#[test]
fn a_slot_that_is_being_claimed_is_nobody_s() {
    let table = Table::new(1);
    for key in &table.keys[0].keys {
        key.store(CLAIMED, Relaxed);
    }
    assert!(table.claim([0, 0], 7, NOW).is_none(), "another CPU is faster");
    assert_eq!(table.slots[0].occupied(&table.keys[0]).count(), 0);
    for prefix in ["::", "192.0.2.1", "ffff::1"] {
        let address: Address = prefix.parse::<std::net::IpAddr>().unwrap().into();
        let key = address.source_key(crate::address::Masks::new(32, 64));
        assert!(key != CLAIMED && key != 0, "{prefix}");
    }
}

#[test]
fn what_is_kept_is_written_once_in_a_lease() {
    let slot = SourceSlot::default();
    slot.keep::<Native>(NOW - 5, NOW);
    assert_eq!(slot.busy_until.load(Relaxed), NOW + LEASE_TICKS, "at least as long as now");
    slot.keep::<Native>(NOW + LEASE_TICKS, NOW);
    assert_eq!(slot.busy_until.load(Relaxed), NOW + LEASE_TICKS, "long enough");
    slot.keep::<Native>(NOW + LEASE_TICKS + 1, NOW);
    assert_eq!(slot.busy_until.load(Relaxed), NOW + 1 + 2 * LEASE_TICKS);
}

#[test]
fn one_cpu_owns_a_slot_until_another_comes() {
    let slot = SourceSlot::default();
    let debt = |ticks: u64| {
        slot.buckets.packets.store(NOW + ticks, Relaxed);
        slot.busy_until.store(NOW + ticks, Relaxed);
    };
    assert!(!slot.is_owned_by::<Native>(0, NOW), "the first charge is shared still");
    assert!(slot.is_owned_by::<Native>(0, NOW));
    debt(10);
    assert!(slot.is_owned_by::<Native>(0, NOW));
    assert!(!slot.is_owned_by::<Native>(1, NOW), "another CPU comes");
    assert!(!slot.is_owned_by::<Native>(0, NOW), "then neither owns it");
    assert!(!slot.is_owned_by::<Native>(1, NOW));
    debt(0);
    assert!(!slot.is_owned_by::<Native>(1, NOW + 1), "which owes nothing is taken");
    assert!(slot.is_owned_by::<Native>(1, NOW + 1));
    assert!(!slot.is_owned_by::<Native>(0, NOW + 1));
}

/// A source that is limited in nothing but its connections owes in that bucket alone.
#[test]
fn a_slot_that_owes_in_any_bucket_is_not_taken() {
    for bucket in 0..crate::limits::BUCKET_WORDS {
        let slot = SourceSlot::default();
        slot.is_owned_by::<Native>(0, NOW);
        slot.buckets.words()[bucket].store(NOW + 10, Relaxed);
        slot.keep::<Native>(NOW + 10, NOW);
        for cpu in [1, 1, 0, 0, 1] {
            assert!(!slot.is_owned_by::<Native>(cpu, NOW), "bucket {bucket}, CPU {cpu}");
        }
    }
}

#[test]
fn words_round_trip() {
    let table = Table::new(1);
    let slot = table.claim([0, 0], 77, NOW).unwrap();
    for (number, word) in slot.words().iter().enumerate() {
        word.store(number as u64 + 1, Relaxed);
    }
    let (keys, slots) = (&table.keys[0], &table.slots[0]);
    let copies = (KeySet::from_words(keys.to_words()), SlotSet::from_words(&slots.to_words()));
    assert_eq!((copies.0.to_words(), copies.1.to_words()), (keys.to_words(), slots.to_words()));
    let services: Vec<_> =
        copies.1.occupied(&copies.0).map(|slot| slot.service.load(Relaxed)).collect();
    assert_eq!(services, [16]);
    assert_eq!(size_of::<SlotSet>(), SET_WORDS * 8);
    let first: Vec<u64> = (1..=16).collect();
    assert_eq!(slots.to_words()[..SLOT_WORDS], first[..]);
}

#[test]
fn as_many_sources_as_promised_find_a_slot() {
    for max_sources in [20_u32, 10_000, 80_000] {
        let count = set_count(max_sources);
        let table = Table::new(count);
        for key in 1..=u64::from(max_sources) {
            let Home { sets, .. } = Home::of((key << 32) | 1, 42, u64::from(count) - 1);
            let slot = table.claim(sets, key, NOW);
            let slot = slot.unwrap_or_else(|| panic!("source {key} of {max_sources}"));
            slot.keep::<Native>(NOW + HOUR, NOW);
        }
    }
}

#[test]
fn keys_of_pairs_are_their_own() {
    let mut keys = HashSet::new();
    for number in 0..1_000_u32 {
        let address = Address::from_v4(number.to_be_bytes());
        let key = address.source_key(crate::address::Masks::new(32, 64));
        assert!(keys.insert(key));
        for service in 1..=31 {
            assert!(keys.insert(pair_key(key, service, 0x5eed)));
            assert_ne!(pair_key(key, service, 0x5eed), pair_key(key, service, 0x5eee));
        }
    }
    assert!(!keys.contains(&0) && !keys.contains(&CLAIMED));
}

#[test]
fn a_window_has_so_many_claims_and_then_one_packet_in_some() {
    let budget = ClaimBudget::default();
    let allowed = |window: u64, random: u32| {
        budget.allows::<Native>(5, (window << budget::WINDOW_BITS) + u64::from(random), random)
    };
    for window in [7, 8] {
        assert_eq!((0..100).filter(|_| allowed(window, 1)).count(), 5, "{window}");
        let sampled = (0..320).filter(|random| allowed(window, *random)).count();
        assert_eq!(sampled, 320 / budget::SAMPLE as usize);
    }
    let none = ClaimBudget::default();
    let now = 7 << budget::WINDOW_BITS;
    assert!(none.allows::<Native>(0, now, 1), "the first of a window");
    assert!(!none.allows::<Native>(0, now, 1));
}

#[test]
fn cached_access_goes_stale_with_policy_and_owner() {
    let value = ListValue::DENY.trusted_on(0x8001);
    let word = CachedAccess::new(value, 77, 5).word();
    assert_eq!(CachedAccess::read(word, 77, 5), Some(value));
    assert_eq!(CachedAccess::read(word, 77, 6), None);
    assert_eq!(CachedAccess::read(word, 78, 5), None);
    assert_eq!(CachedAccess::read(0, 77, 0), None, "nothing was said");
    let nothing = CachedAccess::new(ListValue::NONE, 0, 0).word();
    assert_eq!(CachedAccess::read(nothing, 0, 0), Some(ListValue::NONE));
    for value in [ListValue::NONE, ListValue::ALLOW, ListValue::DENY, ListValue::TRUSTED] {
        let word = CachedAccess::new(value, u64::MAX - 1, u64::from(u32::MAX)).word();
        assert_eq!(CachedAccess::read(word, u64::MAX - 1, u64::from(u32::MAX)), Some(value));
    }
}
