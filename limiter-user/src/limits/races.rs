//! Threads and one table: every access to a shared word is a point at which another may go on, in
//! schedules drawn at random: evenly, and with few but long interruptions (probabilistic concurrency
//! testing; Burckhardt and others, 2010).

use std::{cell::Cell, sync::Arc, thread_local, time::Duration};

use shuttle::thread;

use super::{
    Meter,
    algorithm::Decision,
    arena::{self, Arena},
    slot::Slot,
    sweep, table,
};
use crate::policy::Rate;

const SCHEDULES: usize = 1_500;
const INTERRUPTIONS: usize = 4;
const NOW: u64 = 1_000_000_000_000;
const LONG_AGO: u64 = NOW - 900_000_000_000;

thread_local! {
    /// Whether the threads of this one are shuttle's.
    static INTERLEAVED: Cell<bool> = const { Cell::new(false) };
}

pub(super) fn is_interleaved() -> bool {
    INTERLEAVED.get()
}

/// Another thread may go on: at any access to a word that shuttle knows.
pub(super) fn switch() {
    if is_interleaved() {
        shuttle::sync::atomic::AtomicBool::new(false).load(std::sync::atomic::Ordering::SeqCst);
    }
}

fn per_minute(count: u64) -> Rate {
    Rate { count, period: Duration::from_mins(1) }
}

/// One limit over a table of one set.
fn slot(meter: Meter) -> Slot {
    let arena = Arena::open(arena::create_for([1, 2], 1).unwrap()).unwrap();
    Slot::claim(&arena, 7, meter, || {}).unwrap()
}

/// A hash of one of few clients.
fn client(number: u64) -> u64 {
    number << 40
}

fn charge(slot: &Slot, number: u64, now_ns: u64) -> Decision {
    table::charge(slot, client(number), 1, now_ns).0
}

/// Runs the threads at once, then `check` on what each of them returned, in many schedules.
fn explore(
    threads: u64,
    start: impl Fn() -> Slot + Send + Sync + Copy + 'static,
    run: impl Fn(&Slot, u64) -> u64 + Send + Sync + Copy + 'static,
    check: impl Fn(&Slot, &[u64]) + Send + Sync + Copy + 'static,
) {
    let schedule = move || {
        INTERLEAVED.set(false);
        let shared = Arc::new(start());
        INTERLEAVED.set(true);
        let begin = |number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || run(&shared, number))
        };
        let running: Vec<_> = (0..threads).map(begin).collect();
        let results: Vec<u64> = running.into_iter().map(|t| t.join().unwrap()).collect();
        INTERLEAVED.set(false);
        check(&shared, &results);
    };
    shuttle::check_random(schedule, SCHEDULES);
    shuttle::check_pct(schedule, SCHEDULES, INTERRUPTIONS);
}

#[test]
fn a_client_that_begins_on_many_cores_is_admitted_as_often_as_allowed() {
    explore(
        3,
        || slot(Meter::fixed_window(per_minute(2))),
        |slot, _| (0..2).map(|_| u64::from(charge(slot, 1, NOW).allowed)).sum(),
        |slot, admitted| {
            assert_eq!(admitted.iter().sum::<u64>(), 2);
            assert_eq!(slot.arena.entries().load(std::sync::atomic::Ordering::Relaxed), 1);
        },
    );
}

#[test]
fn an_entry_changes_hands_without_loss() {
    explore(
        4,
        || {
            let slot = slot(Meter::bucket(per_minute(1), 1));
            for number in 0..8 {
                assert!(charge(&slot, number, LONG_AGO).allowed);
            }
            slot
        },
        // Eight idle entries: two who come back, and three who are new.
        |slot, thread| {
            let clients = [[0, 100], [1, 101], [0, 102], [100, 1]];
            let admitted = clients[usize::try_from(thread).unwrap()].map(|number| {
                let bit = [0, 1, 100, 101, 102].iter().position(|known| *known == number);
                u64::from(charge(slot, number, NOW).allowed) << (8 * bit.unwrap())
            });
            admitted.iter().sum()
        },
        |slot, admitted| {
            let sum: u64 = admitted.iter().sum();
            assert_eq!(sum, 0x01_0101_0101, "each exactly once");
            for number in [0, 1, 100, 101, 102] {
                assert!(!charge(slot, number, NOW).allowed);
            }
            assert_eq!(slot.view().full().load(std::sync::atomic::Ordering::Relaxed), 0);
        },
    );
}

#[test]
fn a_limit_that_changes_forgets_and_repeats_nothing() {
    explore(
        3,
        || {
            let slot = slot(Meter::bucket(per_minute(3), 3));
            assert!(charge(&slot, 1, NOW).allowed);
            slot
        },
        |slot, thread| {
            if thread == 0 {
                for meter in [Meter::fixed_window(per_minute(3)), Meter::bucket(per_minute(6), 3)] {
                    sweep::all(&slot.arena, NOW);
                    slot.view().change(&meter);
                    sweep::all(&slot.arena, NOW);
                }
                return 0;
            }
            (0..2).map(|_| u64::from(charge(slot, 1, NOW).allowed)).sum()
        },
        |slot, admitted| {
            assert_eq!(admitted.iter().sum::<u64>(), 2);
            assert!(!charge(slot, 1, NOW).allowed);
        },
    );
}

#[test]
fn what_is_given_back_is_there_for_others_once() {
    explore(
        3,
        || slot(Meter::fixed_window(per_minute(3))),
        |slot, thread| {
            let (decision, receipt) = table::charge(slot, client(1), 2, NOW);
            match receipt {
                Some(receipt) if thread > 0 => {
                    table::give_back(slot, &receipt, NOW);
                    0
                }
                _ => 2 * u64::from(decision.allowed),
            }
        },
        |slot, kept| {
            let left = 3 - kept.iter().sum::<u64>();
            for _ in 0..left {
                assert!(charge(slot, 1, NOW).allowed);
            }
            assert!(!charge(slot, 1, NOW).allowed);
        },
    );
}

#[test]
fn what_is_swept_meanwhile_counts_all_the_same() {
    explore(
        3,
        || {
            let slot = slot(Meter::sliding_window(per_minute(1)));
            assert!(charge(&slot, 1, LONG_AGO).allowed);
            slot
        },
        |slot, thread| {
            if thread == 0 {
                sweep::all(&slot.arena, NOW);
                return 0;
            }
            u64::from(charge(slot, 1, NOW).allowed)
        },
        |slot, admitted| {
            assert_eq!(admitted.iter().sum::<u64>(), 1);
            assert_eq!(slot.arena.entries().load(std::sync::atomic::Ordering::Relaxed), 1);
        },
    );
}
