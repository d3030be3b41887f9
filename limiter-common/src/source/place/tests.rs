//! What is done without branches is what branches would do.

extern crate std;

use super::*;
use crate::machine::Native;

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
fn less_without_branches_is_less() {
    let values = [0, 1, 2, 1 << 31, 1 << 32, (1 << 63) - 2, (1 << 63) - 1];
    for left in values {
        for right in values {
            assert_eq!(less(left, right), u64::from(left < right), "{left} {right}");
        }
    }
}

#[test]
fn sets_are_as_many_as_sources_need() {
    for (sources, sets) in [(1, 4), (20, 4), (21, 8), (100_000, 32_768), (1_000_000, 262_144)] {
        assert_eq!(set_count(sources), sets, "{sources}");
    }
    for key in 0..10_000 {
        assert!(set_indices(key, 7, 63).iter().all(|set| *set < 64));
    }
}
