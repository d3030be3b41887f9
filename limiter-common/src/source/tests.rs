//! Slots are found, claimed, kept and reused as the module promises.

extern crate std;

use core::sync::atomic::Ordering::Relaxed;
use std::vec::Vec;

use super::*;
use crate::{
    bucket::{BucketRate, take},
    machine::Native,
};

const NOW: u64 = 1_000_000_000;

fn in_debt(slot: &SourceSlot) {
    let rate = BucketRate::new(1, 3_600_000_000_000, 10).unwrap();
    assert!(take::<Native>(&slot.packet_bucket, rate, NOW));
}

fn claim(set: &SourceSet, key: u64, now_ns: u64) -> Option<&SourceSlot> {
    set.slots.get(usize::try_from(set.claim::<Native>(key, now_ns)).unwrap())
}

#[test]
fn the_lowest_bit_is_found_without_branches() {
    for bits in 1_u64..1 << WAYS {
        assert_eq!(lowest_bit(bits), u64::from(bits.trailing_zeros()), "{bits:08b}");
    }
}

#[test]
fn difference_without_branches_is_difference() {
    for bit in 0..64 {
        assert_eq!(differs::<Native>(0, 1 << bit), 1);
        assert_eq!(differs::<Native>(u64::MAX, u64::MAX ^ (1 << bit)), 1);
        assert_eq!(differs::<Native>(1 << bit, 1 << bit), 0);
    }
    assert_eq!(differs::<Native>(u64::MAX, u64::MAX), 0);
}

#[test]
fn claims_empty_then_idle_slots_and_never_one_in_debt() {
    let set = SourceSet::empty();
    for key in 1..=WAYS as u64 {
        assert!(set.find::<Native>(key).is_none());
        in_debt(claim(&set, key, NOW).unwrap());
    }
    assert!(claim(&set, 99, NOW).is_none(), "every slot is in debt");
    assert_eq!(set.occupied::<Native>(), WAYS as u64);
    let later = NOW + 3_600_000_000_000;
    set.find::<Native>(3).unwrap().seen_ns.store(5, Relaxed);
    for key in [1, 2, 4, 5, 6, 7, 8] {
        set.find::<Native>(key).unwrap().seen_ns.store(6, Relaxed);
    }
    claim(&set, 99, later).unwrap();
    assert!(set.find::<Native>(3).is_none(), "the idle slot seen longest ago is reused");
    assert!(set.find::<Native>(99).is_some());
    assert_eq!(set.find::<Native>(99).unwrap().packet_bucket.load(Relaxed), 0);
}

#[test]
fn of_two_slots_with_one_key_the_first_is_found() {
    let set = SourceSet::empty();
    let first: *const SourceSlot = claim(&set, 7, NOW).unwrap();
    claim(&set, 7, NOW).unwrap();
    assert_eq!(first, core::ptr::from_ref(set.find::<Native>(7).unwrap()));
}

#[test]
fn words_round_trip() {
    let set = SourceSet::empty();
    in_debt(claim(&set, Address::from_v4([192, 0, 2, 1]).ban_key(), NOW).unwrap());
    let copy = SourceSet::from_words(&set.to_words());
    assert_eq!(copy.to_words(), set.to_words());
    let sources: Vec<_> = copy.sources().map(|(address, _)| address).collect();
    assert_eq!(sources, [Address::from_v4([192, 0, 2, 1])]);
    assert_eq!(size_of::<SourceSet>(), SET_WORDS * 8);
}

#[test]
fn as_many_sources_as_promised_find_a_slot() {
    for max_sources in [20_u32, 10_000, 80_000] {
        let count = set_count(max_sources);
        let sets: Vec<_> = (0..count).map(|_| SourceSet::empty()).collect();
        for key in 1..=u64::from(max_sources) {
            let two = set_indices((key << 32) | 1, 42, u64::from(count) - 1);
            let slot = claim_in::<Native>(|index| sets.get(index as usize), two, key, NOW);
            in_debt(slot.unwrap_or_else(|| panic!("source {key} of {max_sources}")));
        }
    }
}

#[test]
fn cached_access_goes_stale_with_policy_and_owner() {
    let word = CachedAccess::new(ListVerdict::Allow, 77, 5).word();
    assert_eq!(CachedAccess::read(word, 77, 5), Some(ListVerdict::Allow));
    assert_eq!(CachedAccess::read(word, 77, 6), None);
    assert_eq!(CachedAccess::read(word, 78, 5), None);
    assert_eq!(CachedAccess::read(0, 77, 0), None);
}
