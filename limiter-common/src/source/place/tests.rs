//! What is done without branches is what branches would do.

extern crate std;

use super::*;
use crate::machine::Native;

#[test]
fn the_lowest_byte_is_found_without_branches() {
    for set in 1_u64..1 << WAYS {
        let bits = (0..WAYS).map(|way| (set >> way & 1) << (8 * way + 7)).sum();
        assert_eq!(lowest_byte(bits), u64::from(set.trailing_zeros()), "{set:07b}");
    }
}

/// Tags that are alike, one bit apart, and in every place.
#[test]
fn keys_are_found_by_their_tags_whatever_lies_beside_them() {
    let tags = [0x80, 0x81, 0x7f | TAKEN, 0xfe, 0xc0];
    for tag in tags {
        for other in tags {
            for way in 0..WAYS {
                let set = KeySet::default();
                let mut word = 0;
                for (number, key) in set.keys.iter().enumerate() {
                    Native::write(key, if number == way { 7 } else { 100 + number as u64 });
                    word |= (if number == way { tag } else { other }) << (8 * number);
                }
                Native::write(&set.tags, word);
                assert_eq!(set.find::<Native>(word, 7, tag), way as u64, "{tag:x} among {other:x}");
                assert_eq!(set.find::<Native>(word, 8, tag), NO_WAY);
                assert_eq!(set.occupied::<Native>(), WAYS as u64);
            }
        }
    }
    assert_eq!(KeySet::default().find::<Native>(0, 0, TAKEN), NO_WAY, "empty ways have no key");
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
    for (sources, sets) in [(1, 4), (16, 4), (17, 8), (100_000, 32_768), (1_000_000, 262_144)] {
        assert_eq!(set_count(sources), sets, "{sources}");
    }
    for key in 0..10_000 {
        assert!(Home::of(key, 7, 63).sets.iter().all(|set| *set < 64));
    }
}
