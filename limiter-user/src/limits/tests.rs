//! Counters over reloads, processes and cores.

use std::sync::Barrier;

use super::*;

const NOW: u64 = 1_000_000_000_000;
const MINUTE: Duration = Duration::from_mins(1);

fn key(text: &str) -> Key<'static> {
    Key::address(AddressKey::new(text.parse().unwrap()))
}

fn fixed(count: u64) -> Meter {
    Meter::fixed_window(Rate { count, period: MINUTE })
}

/// A policy of these limits is read and in force.
fn load(counters: &mut Counters, limits: &[(&str, Meter)]) -> Vec<Arc<Counter>> {
    counters.begin(NOW);
    let made = limits.iter().map(|(name, meter)| counters.counter(name, *meter, MINUTE).unwrap());
    let made = made.collect();
    counters.commit();
    made
}

fn one(meter: Meter) -> (Counters, Arc<Counter>) {
    let mut counters = Counters::default();
    let counter = load(&mut counters, &[("a", meter)]).remove(0);
    (counters, counter)
}

fn allows(counter: &Counter, key: Key<'_>) -> bool {
    counter.charge(key, 1, NOW).verdict.decision.allowed
}

#[test]
fn going_on_regardless_is_told_from_exceeding() {
    // Twice the limit, but a hundred a minute are nothing.
    for (limit, honest) in [(10, 100), (60, 120)] {
        let (_counters, counter) = one(fixed(limit));
        let charge = |_| counter.charge(key("192.0.2.1"), 1, NOW).verdict;
        assert!((0..limit).map(charge).all(|verdict| verdict.decision.allowed));
        assert!((0..honest).map(charge).all(|v| !v.decision.allowed && !v.far));
        assert!((0..10).map(charge).all(|verdict| verdict.far));
        assert!(allows(&counter, key("192.0.2.2")));
        let later = counter.charge(key("192.0.2.1"), 1, NOW + 61_000_000_000).verdict;
        assert!(later.decision.allowed && !later.far);
    }
}

#[test]
fn what_is_far_beyond_a_limit_is_so_over_a_minute_at_least() {
    let second = Duration::from_secs(1);
    for (limit, period, count, over) in [
        (1, second, 120, MINUTE),
        (10, second, 1200, MINUTE),
        (1, 3 * second, 100, MINUTE),
        (50, second, 100, second),
        (10, Duration::from_hours(1), 100, Duration::from_hours(1)),
        (1000, MINUTE, 2000, MINUTE),
    ] {
        assert_eq!(honest(limit, period), Rate { count, period: over }, "{limit} in {period:?}");
    }
}

#[test]
fn a_reload_keeps_debts_whatever_the_limit_is_then() {
    let (mut counters, counter) = one(fixed(2));
    for _ in 0..2 {
        assert!(allows(&counter, key("192.0.2.1")));
    }
    for (count, more) in [(2, 0), (5, 3), (1, 0), (6, 1), (6, 0)] {
        let counter = load(&mut counters, &[("a", fixed(count))]).remove(0);
        for turn in 0..=more {
            assert_eq!(allows(&counter, key("192.0.2.1")), turn < more, "{count} {turn}");
        }
    }
    let bucket = Meter::bucket(Rate { count: 60, period: MINUTE }, 8);
    let counter = load(&mut counters, &[("a", bucket)]).remove(0);
    assert_eq!(counter.peek(key("192.0.2.1"), 1, NOW).remaining, 1, "six of eight, and this");
    assert_eq!(counters.usage().1, 0);
}

#[test]
fn what_is_read_counts_only_once_it_is_in_force() {
    let (mut counters, counter) = one(fixed(2));
    counters.begin(NOW);
    let again = counters.counter("a", fixed(1), MINUTE).unwrap();
    assert_eq!(again.peek(key("192.0.2.1"), 1, NOW).limit, 2);
    counters.commit();
    assert_eq!(counter.peek(key("192.0.2.1"), 1, NOW).limit, 1, "also for whoever has it still");
}

#[test]
fn what_is_abandoned_leaves_no_trace() {
    let (mut counters, counter) = one(fixed(2));
    assert!(allows(&counter, key("192.0.2.1")));
    // More than there is room for, if they were kept.
    for round in 0..3 * MAX_COUNTERS {
        counters.begin(NOW);
        counters.counter("a", fixed(9), MINUTE).unwrap();
        counters.counter(&format!("other {round}"), fixed(1), MINUTE).unwrap();
        counters.abandon();
    }
    assert_eq!(counter.peek(key("192.0.2.1"), 1, NOW).limit, 2);
    assert!(allows(&counter, key("192.0.2.1")) && !allows(&counter, key("192.0.2.1")));
    let again = load(&mut counters, &[("a", fixed(3))]).remove(0);
    assert!(Arc::ptr_eq(&counter, &again));
    assert!(allows(&again, key("192.0.2.1")) && !allows(&again, key("192.0.2.1")));
}

#[test]
fn the_next_process_goes_on_where_one_was() {
    let file = arena::create([3, 4]).unwrap();
    let process = || {
        let mut counters = Counters::default();
        counters.share(Arena::open(&file).unwrap());
        counters
    };
    let (mut one, mut two) = (process(), process());
    let first = load(&mut one, &[("a", fixed(2))]).remove(0);
    assert!(allows(&first, key("192.0.2.1")));
    let second = load(&mut two, &[("a", fixed(2))]).remove(0);
    assert!(allows(&second, key("192.0.2.1")));
    assert!(!allows(&first, key("192.0.2.1")), "both count together");
    assert!(!allows(&second, key("192.0.2.1")));
    assert!(allows(&second, Key::new([Part::Principal("x")])));
    let others = load(&mut two, &[("a", fixed(3)), ("b", fixed(1))]);
    assert!(allows(&others[0], key("192.0.2.1")));
    assert!(!allows(&first, key("192.0.2.1")), "one that drains counts by the new limit, too");
    assert!(allows(&others[1], key("192.0.2.1")));
    // Left out and back again, also while a request still holds the counter from before.
    load(&mut two, &[("b", fixed(1))]);
    let back = load(&mut two, &[("a", fixed(3))]).remove(0);
    assert!(!allows(&back, key("192.0.2.1")));
    drop((others, back));
    load(&mut two, &[]);
    assert!(!allows(&load(&mut two, &[("a", fixed(3))])[0], key("192.0.2.1")));
}

#[test]
fn more_limits_than_there_is_room_for_are_refused_and_old_ones_make_room() {
    let mut counters = Counters::default();
    for round in 0..4 {
        let names: Vec<String> = (0..MAX_COUNTERS).map(|n| format!("{round} {n}")).collect();
        let limits: Vec<_> = names.iter().map(|name| (name.as_str(), fixed(1))).collect();
        let made = load(&mut counters, &limits);
        assert!(made.iter().all(|counter| allows(counter, key("192.0.2.1"))), "{round}");
        assert!(made.iter().all(|counter| !allows(counter, key("192.0.2.1"))), "{round}");
    }
    let many: Vec<String> = (0..arena::SLOTS).map(|n| n.to_string()).collect();
    counters.begin(NOW);
    assert!(many.iter().any(|name| counters.counter(name, fixed(1), MINUTE).is_err()));
}

#[test]
fn a_request_that_one_limit_refuses_is_counted_against_none() {
    let mut counters = Counters::default();
    let made = load(&mut counters, &[("a", fixed(3)), ("b", fixed(1)), ("c", fixed(9))]);
    let ask = |cost, enforced: [bool; 3]| {
        let asks: Vec<Ask<'_>> = made
            .iter()
            .zip(enforced)
            .map(|(counter, is_enforced)| Ask::new(counter, key("192.0.2.1"), cost, is_enforced))
            .collect();
        let mut answers = Vec::new();
        decide(&asks, NOW, &mut answers);
        answers
            .iter()
            .map(|a| (a.verdict.decision.allowed, a.receipt.is_some()))
            .collect::<Vec<_>>()
    };
    let left = || {
        made.iter()
            .map(|c| c.peek(key("192.0.2.1"), 1, NOW))
            .map(|d| d.remaining + u64::from(d.allowed))
            .collect::<Vec<_>>()
    };
    assert_eq!(ask(1, [true; 3]), [(true, true); 3]);
    assert_eq!(left(), [2, 0, 8]);
    assert_eq!(ask(1, [true; 3]), [(true, false), (false, false), (true, false)]);
    assert_eq!(left(), [2, 0, 8]);
    assert_eq!(ask(1, [true, false, true]), [(true, true), (false, false), (true, true)]);
    assert_eq!(left(), [1, 0, 7]);
}

#[test]
fn receipts_give_back_once_and_not_after_a_change() {
    let (mut counters, counter) = one(fixed(2));
    let receipt = counter.charge(key("192.0.2.1"), 2, NOW).receipt.unwrap();
    assert!(!allows(&counter, key("192.0.2.1")));
    counter.give_back(&receipt, NOW + 1);
    let receipt = counter.charge(key("192.0.2.1"), 2, NOW).receipt.unwrap();
    load(&mut counters, &[("a", fixed(3))]);
    counter.give_back(&receipt, NOW + 1);
    assert_eq!(counter.peek(key("192.0.2.1"), 1, NOW).remaining, 0);
}

#[test]
fn threads_together_admit_what_one_would_while_limits_change() {
    const THREADS: usize = 4;
    let bucket = |count| Meter::bucket(Rate { count, period: Duration::from_hours(1) }, 1000);
    let sliding = |count| Meter::sliding_window(Rate { count, period: Duration::from_hours(1) });
    for (round, meter) in [bucket(1), fixed(1000), sliding(1000)].into_iter().enumerate() {
        let (mut counters, counter) = one(meter);
        let barrier = Barrier::new(THREADS + 1);
        let clients: Vec<String> = (0..50).map(|n| format!("c{n}")).collect();
        let admitted = std::thread::scope(|scope| {
            let work = || {
                barrier.wait();
                let mut admitted = vec![0_u64; clients.len()];
                for turn in 0..60_000 {
                    let at = turn % clients.len();
                    let client = Key::new([Part::Principal(&clients[at])]);
                    admitted[at] += u64::from(allows(&counter, client));
                }
                admitted
            };
            let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            barrier.wait();
            for turn in 0..12 {
                let meter = match (turn + round) % 4 {
                    0 => fixed(1000),
                    1 => bucket(2),
                    2 => sliding(1000),
                    _ => bucket(1),
                };
                load(&mut counters, &[("a", meter)]);
            }
            load(&mut counters, &[("a", meter)]);
            let counts = workers.into_iter().map(|worker| worker.join().unwrap());
            counts.fold(vec![0; clients.len()], |sums: Vec<u64>, counts| {
                sums.iter().zip(counts).map(|(sum, count)| sum + count).collect()
            })
        });
        assert!(admitted.iter().all(|count| *count == 1000), "{meter:?}: {admitted:?}");
        assert_eq!(counters.usage().1, 0);
    }
}
