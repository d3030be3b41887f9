//! The arithmetic against exact arithmetic, at its bounds, and between threads.

extern crate std;

use std::{sync::Arc, thread, vec::Vec};

use super::*;
use crate::machine::Native;

const SECOND_NS: u64 = 1_000_000_000;
const HOUR_NS: u64 = 3_600 * SECOND_NS;
/// 18 years, in ticks: below 2^63.
const LAST_NOW: u64 = 18 * 365 * 24 * HOUR_NS * TICKS_PER_NS;

fn take(word: &AtomicU64, rate: BucketRate, now_ns: u64) -> bool {
    take_ticks(word, rate.cost, rate.burst_ticks, ticks(now_ns))
}

fn take_bytes(word: &AtomicU64, rate: BucketRate, bytes: u64, now_ns: u64) -> bool {
    take_ticks(word, rate.ticks_of_bytes(bytes), rate.burst_ticks, ticks(now_ns))
}

fn take_ticks(word: &AtomicU64, cost: u64, burst: u64, now: u64) -> bool {
    let over = is_over::<Native>(Native::read(word), cost, burst, now) != 0;
    if !over {
        charge_shared::<Native>(word, cost, now);
    }
    !over
}

/// Exact reference: tokens times `period_ns`, in 128 bits.
struct Exact {
    level: u128,
    last_ns: u64,
    count: u64,
    period_ns: u64,
    burst: u64,
}

impl Exact {
    fn full(count: u64, period_ns: u64, burst: u64) -> Self {
        let level = u128::from(burst) * u128::from(period_ns);
        Self { level, last_ns: 0, count, period_ns, burst }
    }

    fn take(&mut self, amount: u64, now_ns: u64) -> bool {
        let full = u128::from(self.burst) * u128::from(self.period_ns);
        let refill = u128::from(now_ns - self.last_ns) * u128::from(self.count);
        self.level = (self.level + refill).min(full);
        self.last_ns = now_ns;
        let cost = u128::from(amount) * u128::from(self.period_ns);
        if self.level >= cost {
            self.level -= cost;
            return true;
        }
        false
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_burst_admits_what_it_says_and_refills_steadily() {
    let rate = BucketRate::new(10, SECOND_NS, 5).unwrap();
    let word = AtomicU64::new(0);
    let now = 1_000 * SECOND_NS;
    assert_eq!((0..20).filter(|_| take(&word, rate, now)).count(), 5);
    assert!(!take(&word, rate, now + SECOND_NS / 10 - 1));
    assert!(take(&word, rate, now + SECOND_NS / 10));
    assert!(!take(&word, rate, now + SECOND_NS / 10));
    assert!(Native::read(&word) > ticks(now + SECOND_NS / 2));
    assert!(Native::read(&word) <= ticks(now + SECOND_NS));
}

#[test]
fn a_burst_of_bytes_admits_what_it_says() {
    for (count, period_ns, burst) in [
        (125_000_000, SECOND_NS, 15_000),
        (12_500_000_000, SECOND_NS, 1_500_000),
        (1, HOUR_NS / 1_000, 3_000),
    ] {
        let rate = BucketRate::of_bytes(count, period_ns, burst).unwrap();
        let word = AtomicU64::new(0);
        let admitted = (0..2_000).filter(|_| take_bytes(&word, rate, 1_500, HOUR_NS)).count();
        assert_eq!(u64::try_from(admitted).unwrap(), burst / 1_500, "{count} per {period_ns} ns");
    }
}

#[test]
fn a_steady_sender_at_exactly_its_rate_loses_nothing() {
    for (count, period_ns) in [
        (1, HOUR_NS),
        (3, SECOND_NS),
        (7, 24 * HOUR_NS),
        (7_000_000, SECOND_NS),
        (10_000_000, SECOND_NS),
    ] {
        let rate = BucketRate::new(count, period_ns, 2).unwrap();
        let word = AtomicU64::new(0);
        for packet in 0..10_000_u64 {
            let at = u128::from(packet) * u128::from(period_ns) / u128::from(count);
            let now = SECOND_NS + u64::try_from(at).unwrap() + u64::from(packet > 0);
            assert!(take(&word, rate, now), "{count} per {period_ns} ns, packet {packet}");
        }
    }
}

#[test]
fn a_steady_sender_of_bytes_loses_nothing() {
    for (count, bytes) in [
        (12_500_000_000, 60),
        (12_500_000_000, 9_000),
        (999_999_937, 1_514),
        (1, 60),
        (7, 1_048_575),
    ] {
        let rate = BucketRate::of_bytes(count, SECOND_NS, 2 * bytes).unwrap();
        let word = AtomicU64::new(0);
        for packet in 0..10_000_u64 {
            let at = u128::from(packet) * u128::from(bytes) * u128::from(SECOND_NS);
            let at = u64::try_from(at / u128::from(count)).unwrap();
            let now = SECOND_NS + at + u64::from(packet > 0);
            assert!(take_bytes(&word, rate, bytes, now), "{count} B/s, frame {packet} of {bytes}");
        }
    }
}

#[test]
fn agrees_with_exact_arithmetic_at_rates_that_are_whole_ticks() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for (count, period_ns, burst) in [
        (20_000, SECOND_NS, 40_000),
        (1, SECOND_NS, 3),
        (1_000, 900 * SECOND_NS, 1_000),
        (2, HOUR_NS, 2),
    ] {
        let rate = BucketRate::new(count, period_ns, burst).unwrap();
        let word = AtomicU64::new(0);
        let mut exact = Exact::full(count, period_ns, burst);
        let mut now = SECOND_NS;
        for step in 0..200_000 {
            now += random(&mut state) % (2 * period_ns / count);
            let expected = exact.take(1, now);
            assert_eq!(take(&word, rate, now), expected, "step {step} of {count}");
        }
    }
}

#[test]
fn agrees_with_exact_arithmetic_of_bytes_that_cost_whole_ticks() {
    let mut state = 0x0123_4567_89ab_cdef;
    // 256, 4 096 and 16 * 10^9 parts of a tick for each byte or each 16.
    for (count, burst, step) in
        [(16_000_000_000 / 16, 300_000, 3_000), (1_000_000, 64_000, 900_000)]
    {
        let rate = BucketRate::of_bytes(count, SECOND_NS, burst).unwrap();
        let word = AtomicU64::new(0);
        let mut exact = Exact::full(count, SECOND_NS, burst);
        let mut now = SECOND_NS;
        for number in 0..200_000 {
            now += random(&mut state) % step;
            let bytes = 60 + random(&mut state) % 1_455;
            let expected = exact.take(bytes, now);
            assert_eq!(take_bytes(&word, rate, bytes, now), expected, "{number} of {count} B/s");
        }
    }
}

/// Over any rate from one an hour to ten million a second: what is admitted is at most what exact
/// arithmetic allows, plus the stated error, and at least what it admits.
#[test]
fn admits_what_burst_and_rate_allow_within_the_stated_error() {
    let mut state = 7;
    for round in 0..300 {
        // Evenly over the orders of magnitude.
        let (count, period_ns) = if round % 2 == 0 {
            (
                1 + random(&mut state) % (10_u64 << (random(&mut state) % 20)).min(MAX_PER_SECOND),
                SECOND_NS,
            )
        } else {
            (1 + random(&mut state) % 1_000, HOUR_NS)
        };
        let burst = 1 + random(&mut state) % 1_000;
        let rate = BucketRate::new(count, period_ns, burst).unwrap();
        let word = AtomicU64::new(0);
        let mut exact = Exact::full(count, period_ns, burst);
        let (start, mut now) = (SECOND_NS, SECOND_NS);
        let (mut admitted, mut least) = (0_u64, 0_u64);
        for _ in 0..5_000 {
            now += random(&mut state) % (2 * (period_ns / count) + 2);
            least += u64::from(exact.take(1, now));
            admitted += u64::from(take(&word, rate, now));
            assert!(admitted >= least, "{admitted} of {least} at {count} per {period_ns}");
        }
        let refilled = u128::from(now - start) * u128::from(count) * 10_007 / 10_000;
        let allowed = u128::from(burst) + refilled / u128::from(period_ns) + 1;
        assert!(u128::from(admitted) <= allowed, "{admitted} of {allowed} at {count}, {burst}");
    }
}

#[test]
fn admits_the_bytes_that_burst_and_rate_allow_within_the_stated_error() {
    let mut state = 11;
    for _ in 0..300 {
        let count =
            1 + random(&mut state) % (2_u64 << (random(&mut state) % 33)).min(MAX_BYTES_PER_SECOND);
        let burst = 10_000 + random(&mut state) % 1_000_000;
        let rate = BucketRate::of_bytes(count, SECOND_NS, burst).unwrap();
        let word = AtomicU64::new(0);
        let (start, mut now, mut admitted) = (SECOND_NS, SECOND_NS, 0_u64);
        for _ in 0..5_000 {
            now += random(&mut state) % (3_000 * SECOND_NS / count + 2);
            let bytes = 60 + random(&mut state) % 8_940;
            admitted += bytes * u64::from(take_bytes(&word, rate, bytes, now));
        }
        // 0.2 % for what a byte costs, 0.9 % for what a frame does.
        let refilled = u128::from(now - start) * u128::from(count) * 10_110 / 10_000;
        let allowed = u128::from(burst) * 10_110 / 10_000 + refilled / u128::from(SECOND_NS) + 60;
        assert!(u128::from(admitted) <= allowed, "{admitted} of {allowed} at {count} B/s");
    }
}

#[test]
fn refuses_what_it_cannot_represent() {
    assert_eq!(BucketRate::new(0, SECOND_NS, 1), None);
    assert_eq!(BucketRate::new(1, SECOND_NS, 0), None);
    assert_eq!(BucketRate::new(MAX_PER_SECOND + 10_000, SECOND_NS, 1), None);
    assert_eq!(BucketRate::new(1, 24 * HOUR_NS + 1, 1), None);
    assert_eq!(BucketRate::new(1, 24 * HOUR_NS, u64::MAX), None);
    assert!(BucketRate::new(1, 24 * HOUR_NS, 1_600).is_some());
    assert_eq!(BucketRate::new(1, u64::MAX, 1), None);
    assert!(take(&AtomicU64::new(MAX_BURST_TICKS), BucketRate::UNLIMITED, 0));

    assert_eq!(BucketRate::of_bytes(0, SECOND_NS, 1), None);
    assert_eq!(BucketRate::of_bytes(1, SECOND_NS, 0), None);
    assert_eq!(BucketRate::of_bytes(MAX_BYTES_PER_SECOND + 100_000_000, SECOND_NS, 1), None);
    assert!(BucketRate::of_bytes(MAX_BYTES_PER_SECOND, SECOND_NS, 1 << 30).is_some());
    assert!(BucketRate::of_bytes(1, 4_290_000_000, 2_000).is_some());
    assert_eq!(BucketRate::of_bytes(1, 4_300_000_000, 2_000), None);
    assert_eq!(BucketRate::of_bytes(1, SECOND_NS, u64::MAX), None);
    assert_eq!(BucketRate::of_bytes(u64::MAX, 1, 1), None, "12.5 GB/s is 12.5 a ns");
}

/// The argument of the module, with its numbers: debts are below 2^63, sums below 2^64.
#[test]
fn the_bounds_leave_room_for_every_cpu() {
    let most = |cpus: u64, cost: u64| {
        let too_many = u128::from(cost) + u128::from(MAX_BURST_TICKS / 2_048);
        u128::from(MAX_BURST_TICKS) + u128::from(cpus) * too_many + u128::from(cost)
    };
    assert!(most(2_048, MAX_COST_TICKS) < 1 << 63);
    let frame = |count, period_ns| {
        BucketRate::of_bytes(count, period_ns, 1 << 20).unwrap().ticks_of_bytes((1 << 20) - 1)
    };
    assert!(frame(1, 4_290_000_000) < 1 << 56 && most(90, frame(1, 4_290_000_000)) < 1 << 63);
    assert!(most(2_048, frame(10, SECOND_NS)) < 1 << 63);
    const { assert!(LAST_NOW < 1 << 63) };
    assert!(u128::from(LAST_NOW) + most(2_048, MAX_COST_TICKS) < 1 << 64);
}

/// Everything that the arithmetic may meet within its bounds, against 128 bits.
#[test]
fn tests_and_charges_as_exact_arithmetic_does_up_to_the_bounds() {
    let mut state = 0xfeed_beef_dead_cafe;
    let mut seen = [0_u32; 2];
    for round in 0..1_000_000_u32 {
        let mut edge = |limit: u64| match random(&mut state) % 8 {
            0 => 0,
            1 => limit,
            2 => limit - random(&mut state) % 3,
            3 => random(&mut state) % 3,
            4 => random(&mut state) % (1 + (limit >> (random(&mut state) % 60))),
            _ => random(&mut state) % limit,
        };
        let now = edge(LAST_NOW);
        let cost = edge(MAX_COST_TICKS);
        let burst = if round % 100 == 0 {
            BucketRate::UNLIMITED.burst_ticks
        } else {
            edge(MAX_BURST_TICKS)
        };
        // Debts of a policy before, of whatever size, and the past.
        let arrival = match round % 3 {
            0 => edge(LAST_NOW),
            1 => now + edge((1 << 62) + (1 << 61)),
            _ => now + edge(MAX_BURST_TICKS),
        };
        let debt = u128::from(arrival.max(now)) - u128::from(now);
        let over = debt + u128::from(cost) > u128::from(burst);
        let context = (arrival, cost, burst, now);
        assert_eq!(is_over::<Native>(arrival, cost, burst, now), u64::from(over), "{context:?}");
        seen[usize::from(over)] += 1;
        assert_eq!(later::<Native>(arrival, now), arrival.max(now), "{context:?}");
        if !over {
            let expected = u128::from(arrival.max(now)) + u128::from(cost);
            let words = [AtomicU64::new(arrival), AtomicU64::new(arrival)];
            assert_eq!(u128::from(charge::<Native>(&words[0], cost, now)), expected);
            assert_eq!(u128::from(charge_shared::<Native>(&words[1], cost, now)), expected);
            assert!(words.iter().all(|word| u128::from(Native::read(word)) == expected));
        }
    }
    assert!(seen.iter().all(|count| *count > 100_000), "{seen:?}");
}

#[test]
fn a_lagging_clock_is_tolerated_by_long_bursts_only() {
    let tick_ns = 4_000_000;
    assert!(BucketRate::new(20_000, SECOND_NS, 40_000).unwrap().tolerates_lag(tick_ns));
    assert!(!BucketRate::new(20_000, SECOND_NS, 10).unwrap().tolerates_lag(tick_ns));
    assert!(BucketRate::of_bytes(1_000_000, SECOND_NS, 8_000).unwrap().tolerates_lag(tick_ns));
    assert!(!BucketRate::of_bytes(1_000_000, SECOND_NS, 7_999).unwrap().tolerates_lag(tick_ns));
    assert!(BucketRate::UNLIMITED.tolerates_lag(u64::MAX));
}

/// What is tolerated is harmless: a sender at its rate, and a clock that is late by up to a tick.
#[test]
fn a_steady_sender_loses_nothing_by_a_lagging_clock() {
    let tick_ns = 4_000_000;
    for (count, burst) in [(1_000, 8), (20_000, 160), (1_000_000, 8_000), (300, 3)] {
        let rate = BucketRate::new(count, SECOND_NS, burst).unwrap();
        assert!(rate.tolerates_lag(tick_ns), "{count}");
        let word = AtomicU64::new(0);
        for packet in 0..100_000_u64 {
            let now = SECOND_NS + (packet * SECOND_NS).div_ceil(count);
            assert!(take(&word, rate, now - now % tick_ns), "{count}/s, packet {packet}");
        }
    }
}

#[test]
fn concurrent_takers_exceed_the_burst_by_at_most_one_each() {
    const THREADS: u64 = 8;
    for round in 0..50 {
        let rate = BucketRate::new(1, HOUR_NS, 1_000).unwrap();
        let word = Arc::new(AtomicU64::new(0));
        let now = SECOND_NS * (1 + round);
        let takers: Vec<_> = (0..THREADS)
            .map(|_| {
                let word = Arc::clone(&word);
                thread::spawn(move || (0..1_000).filter(|_| take(&word, rate, now)).count())
            })
            .collect();
        let admitted: usize = takers.into_iter().map(|taker| taker.join().unwrap()).sum();
        assert!((1_000..=1_000 + usize::try_from(THREADS).unwrap()).contains(&admitted));
    }
}
