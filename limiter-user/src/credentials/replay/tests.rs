//! One table: what it accepts once, forgets, and never forgets.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    thread,
};

use super::*;
use crate::keys::digest;

const NOW: u64 = 1_700_000_000;

fn message(number: usize) -> Fingerprint {
    digest(&number.to_le_bytes())
}

fn table(entries: usize) -> Arc<Replays> {
    let replays = Arc::new(Replays::alone(entries, NOW));
    replays.widen(300, NOW);
    replays
}

/// Claims a message and uses it.
fn admit(replays: &Arc<Replays>, number: usize, made: u64, now: u64) -> Result<(), NotFirst> {
    let claim = replays.claim(&[message(number)], made, now)?;
    assert!(claim.spend());
    Ok(())
}

#[test]
fn a_message_is_accepted_once_until_it_is_too_old() {
    let replays = table(1000);
    assert_eq!(replays.peek(&[message(1)], NOW, NOW), Ok(()));
    assert_eq!(admit(&replays, 1, NOW, NOW), Ok(()));
    assert_eq!(replays.peek(&[message(1)], NOW, NOW), Err(NotFirst::Repeated));
    for now in [NOW, NOW + 299, NOW + 300] {
        assert_eq!(admit(&replays, 1, NOW, now), Err(NotFirst::Repeated));
    }
    assert_eq!(replays.refused(), [0, 3, 0, 0]);
    assert_eq!(replays.room(NOW + 300).0, 1);
    assert_eq!(replays.room(NOW + 301).0, 0, "from here on its age refuses it");
    assert_eq!(admit(&replays, 2, NOW, NOW), Ok(()));
}

#[test]
fn what_was_made_before_the_table_is_not_accepted() {
    let replays = table(1000);
    assert_eq!(admit(&replays, 1, NOW - 1, NOW), Err(NotFirst::Unknown));
    assert_eq!(replays.refused(), [0, 0, 0, 1]);
    let none: Box<[AtomicU64]> = Box::default();
    let nothing = Arc::new(Replays::new(Box::new(none), NOW));
    assert_eq!(admit(&nothing, 1, NOW, NOW), Err(NotFirst::Unknown));
}

#[test]
fn what_one_process_accepted_the_next_one_does_not() {
    #[derive(Clone, Debug)]
    struct Shared(Arc<[AtomicU64]>);
    impl Words for Shared {
        fn words(&self) -> &[AtomicU64] {
            &self.0
        }
    }
    let memory = Shared((0..1032).map(|_| AtomicU64::new(0)).collect());
    let one = Arc::new(Replays::new(Box::new(memory.clone()), NOW));
    one.widen(300, NOW);
    assert_eq!(admit(&one, 1, NOW + 5, NOW), Ok(()));
    let next = Arc::new(Replays::new(Box::new(memory), NOW + 100));
    next.widen(300, NOW + 100);
    assert_eq!(admit(&next, 1, NOW + 5, NOW + 100), Err(NotFirst::Repeated));
    assert_eq!(admit(&next, 2, NOW + 5, NOW + 100), Ok(()));
    assert_eq!(admit(&one, 2, NOW + 5, NOW + 100), Err(NotFirst::Repeated));
}

#[test]
fn a_longer_window_begins_with_what_is_made_from_then_on() {
    let replays = table(1000);
    assert_eq!(admit(&replays, 1, NOW + 100, NOW + 100), Ok(()));
    replays.widen(200, NOW + 200);
    assert_eq!(admit(&replays, 2, NOW + 150, NOW + 200), Ok(()));
    replays.widen(1000, NOW + 300);
    assert_eq!(admit(&replays, 1, NOW + 100, NOW + 500), Err(NotFirst::Unknown));
    assert_eq!(admit(&replays, 3, NOW + 300, NOW + 500), Ok(()));
    assert_eq!(admit(&replays, 3, NOW + 300, NOW + 1300), Err(NotFirst::Repeated));
}

#[test]
fn a_clock_that_goes_back_lets_nothing_in_twice() {
    let replays = table(16);
    let accepted: Vec<usize> =
        (0..100).filter(|n| admit(&replays, *n, NOW, NOW) == Ok(())).collect();
    // A day ahead, others take their places.
    let day = NOW + 86_400;
    let others = 200..300;
    let later = others.filter(|n| admit(&replays, *n, day, day) == Ok(()));
    assert_eq!(later.count(), 16);
    for number in accepted {
        assert_eq!(admit(&replays, number, NOW, NOW + 1), Err(NotFirst::Unknown));
    }
}

#[test]
fn a_full_table_refuses_and_forgets_nothing() {
    let replays = table(4096);
    let verdicts: Vec<Result<(), NotFirst>> =
        (0..8000).map(|n| admit(&replays, n, NOW, NOW)).collect();
    let full = verdicts.iter().filter(|verdict| **verdict == Err(NotFirst::Full)).count();
    assert!((8000 - 4096..8000 - 3900).contains(&full), "{full}");
    assert_eq!(replays.refused()[0], full as u64);
    for (number, verdict) in verdicts.iter().enumerate() {
        let again = admit(&replays, number, NOW, NOW + 300);
        let accepted = *verdict == Ok(());
        assert_eq!(again, if accepted { Err(NotFirst::Repeated) } else { Err(NotFirst::Full) });
    }
    let after = NOW + 301;
    assert_eq!(admit(&replays, 9000, after, after), Ok(()));
    assert_eq!(replays.room(after), (1, 4096));
}

/// How often each of many messages is accepted that all threads have at once; `skew`: seconds
/// by which their clocks may differ.
fn accepted(skew: u64) -> Vec<usize> {
    let replays = table(1 << 16);
    // Entries that expire while others look for a place.
    for number in 100_000..140_000 {
        _ = admit(&replays, number, NOW, NOW);
    }
    let accepted: Arc<Vec<AtomicUsize>> = Arc::new((0..5000).map(|_| 0.into()).collect());
    thread::scope(|scope| {
        for thread in 0..4 {
            let (replays, accepted) = (Arc::clone(&replays), Arc::clone(&accepted));
            scope.spawn(move || {
                for number in 0..5000 {
                    let now = NOW + 300 + (number as u64 + thread) % (1 + skew);
                    let verdict = admit(&replays, number, NOW + 250, now);
                    if verdict == Ok(()) {
                        accepted[number].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    accepted.iter().map(|count| count.load(Ordering::Relaxed)).collect()
}

#[test]
fn of_the_same_message_on_all_cores_one_at_most_is_accepted() {
    for skew in 0..2 {
        let counts = accepted(skew);
        assert!(counts.iter().all(|count| *count <= 1));
        assert!(counts.contains(&1));
    }
}

fn held(replays: &Arc<Replays>, number: usize) -> Result<Claim, NotFirst> {
    replays.claim(&[message(number)], NOW, NOW)
}

#[test]
fn what_is_given_back_is_new_and_leaves_its_place() {
    let replays = table(1000);
    let claim = held(&replays, 1).unwrap();
    assert_eq!(replays.room(NOW).0, 1);
    assert_eq!(held(&replays, 1).err(), Some(NotFirst::UnderWay));
    assert_eq!(replays.peek(&[message(1)], NOW, NOW), Err(NotFirst::UnderWay));
    drop(claim);
    assert_eq!(replays.room(NOW).0, 0);
    assert_eq!(replays.peek(&[message(1)], NOW, NOW), Ok(()));

    let claim = held(&replays, 1).unwrap();
    assert!(claim.spend() && claim.spend() && claim.is_spent());
    assert_eq!(held(&replays, 1).err(), Some(NotFirst::Repeated));
    // It did not go on, and is on its way to somebody else.
    claim.unspend();
    assert_eq!(held(&replays, 1).err(), Some(NotFirst::UnderWay));
    assert!(claim.spend());
    claim.unspend();
    claim.give_back();
    assert!(!claim.spend() && !claim.is_spent());
    assert_eq!(admit(&replays, 1, NOW, NOW), Ok(()));
    assert_eq!(replays.refused(), [0, 1, 2, 0]);
}

#[test]
fn a_full_table_has_room_again_for_what_was_given_back() {
    let replays = table(16);
    let mut claims: Vec<Claim> =
        (0..100).filter_map(|number| held(&replays, number).ok()).collect();
    assert_eq!(claims.len(), 16);
    assert_eq!(held(&replays, 200).err(), Some(NotFirst::Full));
    drop(claims.pop());
    let last = held(&replays, 200).unwrap();
    assert_eq!(held(&replays, 201).err(), Some(NotFirst::Full));
    assert!(last.spend());
}

#[test]
fn what_a_process_held_that_was_killed_is_nobody_s() {
    let replays = table(1000);
    std::mem::forget(held(&replays, 1).unwrap());
    for now in [NOW, NOW + 300] {
        assert_eq!(admit(&replays, 1, NOW, now), Err(NotFirst::UnderWay));
    }
    assert_eq!(replays.room(NOW + 301).0, 0, "from here on its age refuses it");
}

#[test]
fn a_claim_that_outlived_its_message_is_worth_nothing() {
    let replays = table(16);
    let claims: Vec<Claim> = (0..100).filter_map(|number| held(&replays, number).ok()).collect();
    let later = NOW + 301;
    let others = (200..300).filter(|number| admit(&replays, *number, later, later).is_ok());
    assert_eq!(others.count(), 16);
    assert!(claims.iter().all(|claim| !claim.spend()));
    drop(claims);
    assert_eq!(replays.room(later).0, 16, "what is in its place now stays");
}

#[test]
fn a_message_with_two_fingerprints_goes_on_by_one_of_them_only() {
    let replays = table(1000);
    let (one, two) = (message(1), message(2));
    let claim = |message: &[Fingerprint]| replays.claim(message, NOW, NOW);
    let both = claim(&[one, two]).unwrap();
    for message in [&[one][..], &[two], &[two, one]] {
        assert_eq!(claim(message).err(), Some(NotFirst::UnderWay));
    }
    both.give_back();
    assert_eq!(replays.room(NOW).0, 0);

    // One of them was taken off on the way: whichever copy goes on, it is the only one.
    let alone = claim(&[two]).unwrap();
    assert_eq!(claim(&[one, two]).err(), Some(NotFirst::UnderWay));
    assert!(alone.spend());
    for message in [&[one][..], &[two], &[one, two], &[two, one]] {
        assert_eq!(claim(message).err(), Some(NotFirst::Repeated));
    }
    let alone = claim(&[message(3)]).unwrap();
    let mut all = Claims::default();
    all.add(alone);
    all.add(claim(&[message(4)]).unwrap());
    assert!(all.spend() && !all.give_back());
    all.unspend();
    assert!(all.give_back() && !all.spend());
    assert!(Claims::default().spend() && !Claims::default().give_back());
}

/// Whatever is done in whatever order, a message is used once at most, and known exactly as long as
/// it is held or was used.
#[test]
fn what_is_known_is_what_was_done() {
    let mut random = 7_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from((random >> 33) % below).unwrap()
    };
    let replays = table(4096);
    let mut claims: Vec<Option<Claim>> = (0..64).map(|_| None).collect();
    let mut used = [false; 64];
    for _ in 0..20_000 {
        let number = next(64);
        match (next(4), claims[number].take()) {
            (0, Some(claim)) => drop(claim),
            (1, Some(claim)) => {
                assert!(claim.spend());
                used[number] = true;
                // Mostly it may have gone on.
                if next(8) > 0 {
                    drop(claim);
                } else {
                    claim.unspend();
                    used[number] = false;
                    claims[number] = Some(claim);
                }
            }
            (_, known) => {
                let found = held(&replays, number);
                let expected = match (used[number], &known) {
                    (true, _) => Some(NotFirst::Repeated),
                    (false, Some(_)) => Some(NotFirst::UnderWay),
                    (false, None) => None,
                };
                assert_eq!(found.as_ref().err(), expected.as_ref());
                claims[number] = known.or(found.ok());
            }
        }
        let known = (0..64).filter(|number| used[*number] || claims[*number].is_some());
        assert_eq!(replays.room(NOW).0, known.count());
    }
    assert!(used.iter().filter(|used| **used).count() > 32);
}
