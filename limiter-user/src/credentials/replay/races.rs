//! Threads and one message: every access to a shared word is a point at which another may go on, in
//! schedules drawn at random: evenly, and with few but long interruptions.

use std::{
    cell::Cell,
    sync::{Arc, atomic::AtomicU64},
    thread_local,
};

use shuttle::thread;

use super::{Fingerprint, HEADER_WORDS, NotFirst, Replays, WAYS, word};
use crate::keys::digest;

const SCHEDULES: usize = 3_000;
const INTERRUPTIONS: usize = 4;
const NOW: u64 = 1_700_000_000;

thread_local! {
    /// Whether the threads of this one are shuttle's.
    static INTERLEAVED: Cell<bool> = const { Cell::new(false) };
}

/// Another thread may go on: at any access to a word that shuttle knows.
pub(super) fn switch() {
    if INTERLEAVED.get() {
        shuttle::sync::atomic::AtomicBool::new(false).load(std::sync::atomic::Ordering::SeqCst);
    }
}

/// What a thread does with its claim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Doing {
    Spend,
    GiveBack,
    /// It is spent, and nothing of it goes on.
    Unspend,
    /// Whoever has it is killed.
    Die,
}

/// Of which of two fingerprints a copy of the message has, in the order in which they are looked at.
type Copy = &'static [u8];

fn fingerprints(copy: Copy) -> Vec<Fingerprint> {
    copy.iter().map(|tag| digest(&[*tag])).collect()
}

/// The smallest table, full of entries that are over but for a few places.
fn table() -> Arc<Replays> {
    let words: Box<[AtomicU64]> = (0..HEADER_WORDS + 2 * WAYS)
        .map(|index| match index {
            _ if index < HEADER_WORDS || index % 5 == 0 => AtomicU64::new(0),
            _ if index % 2 == 0 => AtomicU64::new(word::held(1000 + index as u64, NOW - 400)),
            _ => AtomicU64::new(word::used(1000 + index as u64, NOW - 400)),
        })
        .collect();
    let replays = Arc::new(Replays::new(Box::new(words), NOW - 1000));
    replays.widen(300, NOW - 1000);
    replays
}

/// Copies of one message at once, each with what becomes of it: one at most is used.
fn explore(copies: &'static [(Copy, Doing)]) {
    let schedule = move || {
        INTERLEAVED.set(false);
        let replays = table();
        INTERLEAVED.set(true);
        let begin = |(number, (copy, doing)): (usize, &(Copy, Doing))| {
            let (replays, copy, doing) = (Arc::clone(&replays), *copy, *doing);
            thread::spawn(move || {
                // Clocks of cores are a second apart.
                let now = NOW + number as u64 % 2;
                let claim = match replays.claim(&fingerprints(copy), NOW, now) {
                    Ok(claim) => claim,
                    Err(NotFirst::UnderWay | NotFirst::Repeated) => return false,
                    Err(other) => panic!("{other:?}"),
                };
                match doing {
                    Doing::Spend => assert!(claim.spend()),
                    Doing::GiveBack => {}
                    Doing::Unspend => {
                        assert!(claim.spend());
                        claim.unspend();
                    }
                    Doing::Die => std::mem::forget(claim),
                }
                doing == Doing::Spend
            })
        };
        let running: Vec<_> = copies.iter().enumerate().map(begin).collect();
        let used = running.into_iter().map(|thread| thread.join().unwrap()).filter(|used| *used);
        let used = used.count();
        INTERLEAVED.set(false);
        assert!(used <= 1, "{used} of {copies:?}");
        let after: Vec<_> = copies
            .iter()
            .map(|(copy, _)| replays.peek(&fingerprints(copy), NOW, NOW + 1))
            .collect();
        let may_die = copies.iter().any(|(_, doing)| *doing == Doing::Die);
        let is_one_copy = copies.iter().all(|(copy, _)| *copy == copies[0].0);
        if used == 1 {
            // Copies that share nothing are told apart.
            assert!(after.iter().all(Result::is_err) || !is_one_copy, "{after:?} of {copies:?}");
        } else if is_one_copy && !may_die {
            assert!(after.iter().all(Result::is_ok), "{after:?} of {copies:?}");
            assert_eq!(replays.room(NOW).0, 0, "{copies:?}");
        }
    };
    shuttle::check_random(schedule, SCHEDULES);
    shuttle::check_pct(schedule, SCHEDULES, INTERRUPTIONS);
}

#[test]
fn of_copies_at_once_one_at_most_is_used_and_what_is_given_back_is_free() {
    use Doing::{Die, GiveBack, Spend, Unspend};
    explore(&[(b"1", Spend), (b"1", Spend), (b"1", Spend)]);
    explore(&[(b"1", GiveBack), (b"1", Spend), (b"1", Spend), (b"1", GiveBack)]);
    explore(&[(b"1", Unspend), (b"1", Spend), (b"1", Spend)]);
    explore(&[(b"1", GiveBack), (b"1", Unspend), (b"1", GiveBack)]);
    explore(&[(b"1", Die), (b"1", Spend), (b"1", GiveBack)]);
}

/// Somebody takes fingerprints off: there is a copy that has both.
#[test]
fn of_copies_with_fewer_fingerprints_one_at_most_is_used() {
    use Doing::{GiveBack, Spend, Unspend};
    explore(&[(b"12", Spend), (b"12", GiveBack), (b"12", Spend)]);
    explore(&[(b"12", Spend), (b"2", Spend)]);
    explore(&[(b"12", Spend), (b"1", GiveBack), (b"2", Spend)]);
    explore(&[(b"12", Unspend), (b"12", Spend), (b"2", Spend)]);
}
