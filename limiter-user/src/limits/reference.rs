//! Each algorithm against the simplest one that does the same, and against what it promises.

use std::time::Duration;

use super::{Meter, algorithm::MAX_WINDOW_COUNT};
use crate::policy::Rate;

const SECOND: u64 = 1_000_000_000;

/// A small generator: the same sequence on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn rate(count: u64, seconds: u64) -> Rate {
    Rate { count, period: Duration::from_secs(seconds) }
}

fn meters() -> [Meter; 8] {
    [
        Meter::bucket(rate(5, 1), 5),
        Meter::bucket(rate(7, 1), 3),
        Meter::queue(rate(10, 1), 20, Duration::from_millis(350)),
        Meter::fixed_window(rate(5, 1)),
        Meter::fixed_window(rate(40, 7)),
        Meter::sliding_window(rate(5, 1)),
        Meter::sliding_window(rate(9, 1)),
        Meter::sliding_window(rate(40, 7)),
    ]
}

/// Runs requests of random cost at random times; checks each decision against `reference`, which
/// gets the time and the cost.
fn compare(meter: Meter, mut reference: impl FnMut(u64, u64) -> bool, gap_ns: u64) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut word, mut now_ns) = (0, 1_000 * SECOND);
    for step in 0..20_000 {
        now_ns += random.below(gap_ns);
        let cost = 1 + random.below(3) * random.below(2);
        let (decision, next) = meter.charge(word, cost, now_ns);
        assert_eq!(decision.allowed, reference(now_ns, cost), "step {step}");
        let more = decision.remaining;
        assert_eq!(more > 0, meter.charge(next, more.max(1), now_ns).0.allowed, "step {step}");
        assert!(!meter.charge(next, more + 1, now_ns).0.allowed, "step {step}");
        if decision.allowed {
            assert_eq!(decision.retry_after_ns, 0);
        } else {
            assert_eq!(next, word, "a refused request changes nothing");
            let soon = now_ns + decision.retry_after_ns;
            assert!(meter.charge(word, cost, soon).0.allowed, "retry-after holds, step {step}");
            let before = meter.charge(word, cost, soon - 1).0.allowed;
            assert!(!before || decision.retry_after_ns <= 1, "and no sooner, step {step}");
        }
        word = next;
    }
}

#[test]
fn a_bucket_agrees_with_exact_arithmetic() {
    for (count, burst) in [(4, 5), (8, 3), (1000, 50)] {
        let cost_ns = SECOND / count;
        let mut left_ns = cost_ns * burst;
        let mut last = 1_000 * SECOND;
        let reference = |now: u64, cost: u64| {
            left_ns = (left_ns + (now - last)).min(cost_ns * burst);
            last = now;
            let allowed = left_ns >= cost_ns * cost;
            if allowed {
                left_ns -= cost_ns * cost;
            }
            allowed
        };
        compare(Meter::bucket(rate(count, 1), burst), reference, 2 * SECOND / count);
    }
}

#[test]
fn a_bucket_keeps_its_rate() {
    let meter = Meter::bucket(rate(20_000, 1), 10);
    let (mut word, mut allowed) = (0, 0);
    for step in 0..400_000_u64 {
        let (decision, next) = meter.charge(word, 1, SECOND + step * 25_000);
        allowed += u64::from(decision.allowed);
        word = next;
    }
    assert!((200_000..=200_011).contains(&allowed), "{allowed} in ten seconds");
}

#[test]
fn a_queue_lets_out_at_its_rate_and_nobody_waits_longer_than_said() {
    for delay_ms in [0, 50, 100, 350, 10_000] {
        let delay = Duration::from_millis(delay_ms);
        let meter = Meter::queue(rate(10, 1), 20, delay);
        let mut random = Random(11);
        let (mut word, mut now_ns, mut free_ns) = (0, 1_000 * SECOND, 0);
        for _ in 0..20_000 {
            now_ns += random.below(SECOND / 7);
            let (decision, next) = meter.charge(word, 1, now_ns);
            // A queue of real requests, each of which takes a tenth of a second to leak.
            let starts = now_ns.max(free_ns);
            let waits = u128::from(starts - now_ns);
            let fits = waits <= delay.as_nanos() && starts + SECOND / 10 <= now_ns + 2 * SECOND;
            assert_eq!(decision.allowed, fits, "{delay_ms} ms, would wait {waits} ns");
            if fits {
                assert_eq!(decision.turn_after_ns, starts - now_ns);
                free_ns = starts + SECOND / 10;
            }
            word = next;
        }
    }
}

#[test]
fn a_fixed_window_agrees_with_counting() {
    let (mut window, mut used) = (0, 0);
    let reference = |now: u64, cost: u64| {
        if now / (2 * SECOND) != window {
            (window, used) = (now / (2 * SECOND), 0);
        }
        let allowed = used + cost <= 10;
        used += if allowed { cost } else { 0 };
        allowed
    };
    compare(Meter::fixed_window(rate(10, 2)), reference, SECOND / 4);
}

#[test]
fn a_sliding_window_agrees_with_counting() {
    let mut admitted: Vec<u64> = Vec::new();
    let reference = |now: u64, cost: u64| {
        let window = now / SECOND;
        let previous = admitted.iter().filter(|at| *at / SECOND == window - 1).count() as u64;
        let current = admitted.iter().filter(|at| *at / SECOND == window).count() as u64;
        let weight = u128::from(previous) * u128::from(SECOND - now % SECOND);
        let used = weight.div_ceil(u128::from(SECOND)) + u128::from(current);
        let allowed = used + u128::from(cost) <= 10;
        if allowed {
            admitted.extend((0..cost).map(|_| now));
        }
        admitted.retain(|at| *at / SECOND + 1 >= window);
        allowed
    };
    compare(Meter::sliding_window(rate(10, 1)), reference, SECOND / 8);
}

/// What counted in the end, with its time, after random charges of which half are given back.
fn counted(meter: Meter, seed: u64) -> Vec<(u64, u64)> {
    let mut random = Random(seed);
    let (mut word, mut now_ns) = (0, 1_000 * SECOND);
    let (mut open, mut counted) = (Vec::new(), Vec::new());
    for _ in 0..400 {
        now_ns += random.below(SECOND / 8);
        let cost = 1 + random.below(2);
        let (decision, next) = meter.charge(word, cost, now_ns);
        word = next;
        if decision.allowed {
            open.push((now_ns, cost));
        }
        while !open.is_empty() && random.below(3) > 0 {
            let at = usize::try_from(random.below(open.len() as u64)).unwrap();
            let (then_ns, cost) = open.swap_remove(at);
            if random.below(2) == 0 {
                word = meter.give_back(word, cost, then_ns, now_ns);
            } else {
                counted.push((then_ns, cost));
            }
        }
    }
    counted.extend(open);
    counted.sort_unstable();
    counted
}

#[test]
fn what_is_not_given_back_keeps_every_promise() {
    for seed in 1..40 {
        for meter in meters() {
            let counted = counted(meter, seed);
            for (from, (begin, _)) in counted.iter().enumerate() {
                let mut sum = 0;
                for (end, cost) in &counted[from..] {
                    sum += cost;
                    let most = match meter {
                        // Burst and rate x time, in ticks of a quarter of a nanosecond.
                        Meter::Bucket { cost_ticks, depth_ticks } => {
                            (depth_ticks + 4 * (end - begin)) / cost_ticks
                        }
                        Meter::FixedWindow { count, period_ns }
                        | Meter::SlidingWindow { count, period_ns } => {
                            count * (end / period_ns - begin / period_ns + 1)
                        }
                    };
                    assert!(sum <= most, "{meter:?}: {sum} of {most}, seed {seed}");
                    if let Meter::FixedWindow { count, period_ns }
                    | Meter::SlidingWindow { count, period_ns } = meter
                        && end - begin < period_ns
                    {
                        assert!(sum <= 2 * count, "in any true window");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_given_back_at_once_was_never_there() {
    for meter in meters() {
        let mut random = Random(5);
        let (mut word, mut now_ns) = (0, 50 * SECOND);
        for _ in 0..5_000 {
            now_ns += random.below(SECOND / 3);
            let cost = 1 + random.below(3);
            let (decision, charged) = meter.charge(word, cost, now_ns);
            if decision.allowed {
                let back = meter.give_back(charged, cost, now_ns, now_ns);
                assert_eq!(meter.used(back, now_ns), meter.used(word, now_ns));
                assert_eq!(meter.charge(back, 1, now_ns).0, meter.charge(word, 1, now_ns).0);
            }
            word = charged;
        }
    }
}

#[test]
fn what_is_idle_decides_as_if_fresh() {
    for meter in meters() {
        let mut random = Random(7);
        let (mut word, mut now_ns) = (0, 50 * SECOND);
        for _ in 0..10_000 {
            now_ns += random.below(SECOND);
            if meter.is_idle(word, now_ns) {
                assert_eq!(meter.charge(word, 1, now_ns).0, meter.charge(0, 1, now_ns).0);
            }
            word = meter.charge(word, 1, now_ns).1;
        }
    }
}

#[test]
fn a_changed_limit_has_used_what_was_used() {
    for before in meters() {
        for after in meters() {
            let mut random = Random(9);
            let (mut word, mut now_ns) = (0, 50 * SECOND);
            for _ in 0..2_000 {
                now_ns += random.below(SECOND / 2);
                word = before.charge(word, 1 + random.below(4), now_ns).1;
                let converted = after.convert(&before, word, now_ns);
                let (was, is) = (before.used(word, now_ns), after.used(converted, now_ns));
                let most = after.limit().max(was.min(after.limit()));
                assert!(is >= was.min(after.limit()), "{before:?} {after:?}: {was} became {is}");
                assert!(is <= was || is <= most, "{before:?} {after:?}: {was} became {is}");
                let room = after.charge(converted, 1, now_ns).0;
                let left = after.limit().saturating_sub(was);
                let room = room.remaining + u64::from(room.allowed);
                // A part of one that has leaked from one bucket has from another, too.
                let parts = u64::from(matches!(
                    (before, after),
                    (Meter::Bucket { .. }, Meter::Bucket { .. })
                ));
                assert!((left..=left + parts).contains(&room), "{before:?} {after:?}");
                let again = before.convert(&after, converted, now_ns);
                assert!(before.used(again, now_ns) >= was.min(after.limit()).min(before.limit()));
            }
        }
    }
}

#[test]
fn a_core_whose_clock_was_read_earlier_undoes_nothing() {
    for meter in [Meter::fixed_window(rate(2, 1)), Meter::sliding_window(rate(2, 1))] {
        let word = meter.charge(0, 1, 10 * SECOND).1;
        let (late, word) = meter.charge(word, 1, 10 * SECOND - 1);
        assert!(late.allowed);
        assert!(!meter.charge(word, 1, 10 * SECOND - 1).0.allowed);
        assert!(!meter.charge(word, 1, 10 * SECOND).0.allowed, "{meter:?}");
    }
}

#[test]
fn extremes_do_not_overflow() {
    let long = Duration::from_secs(u64::MAX);
    let words = [0, 1, (1 << 62) - 1, 1 << 61];
    let mut meters = vec![
        Meter::bucket(Rate { count: 1, period: long }, u64::MAX),
        Meter::bucket(rate(u64::MAX, 1), u64::MAX),
        Meter::queue(rate(1, 1), u64::MAX, long),
        Meter::fixed_window(Rate { count: u64::MAX, period: long }),
        Meter::sliding_window(Rate { count: MAX_WINDOW_COUNT, period: long }),
    ];
    for kind in [0, 1, 2, 3, u64::MAX] {
        meters.extend([0, 1, u64::MAX].map(|word| Meter::from_words([kind, word, word])));
    }
    for meter in &meters {
        assert_eq!(Meter::from_words(meter.words()), *meter);
        assert!(meter.limit() > 0);
        for word in words {
            for now_ns in [0, 1, SECOND, 1 << 58, u64::MAX] {
                for cost in [1, 2, u64::MAX] {
                    let next = meter.charge(word, cost, now_ns).1;
                    assert!(next < 1 << 62, "{meter:?}");
                    meter.give_back(word, cost, 0, now_ns);
                }
                for other in &meters {
                    assert!(other.convert(meter, word, now_ns) < 1 << 62);
                }
            }
        }
    }
}
