//! A rate limit in one word, without a lock: the generic cell rate algorithm (ITU-T I.371, A).
//!
//! The word holds the theoretical arrival time (TAT), in ticks of 1/16 ns of `CLOCK_MONOTONIC`:
//! the time at which the bucket is full again. Refilling is the passing of time, so that nothing
//! is lost by rounding, however rarely or often a packet comes.
//!
//! Bounds. 2^64 ticks are 36 years of uptime. A cost is at least 1 600 ticks (10 million a
//! second), so that cutting it to whole ticks admits at most 0.07 % more than configured and never
//! less. A cost is at most 365 days and a burst at most [`MAX_BURST_TICKS`] (9 years), so that
//! `tat + cost` stays below 2^64 while `now` is below 18 years.
//!
//! Bytes cost in 1/256 of a tick each, from 327 (12.5 GB/s: cutting admits 0.2 % more) to 2^44
//! (one in 4.3 s); a frame of up to 2^20 bytes then costs below 2^64 / 256 ticks.
//!
//! Races. Testing and charging are two steps, so that several buckets are charged together or not
//! at all. Two CPUs may both see room for the last packet: over-admission is at most one packet per
//! CPU, once, because what both admit is charged by an atomic addition. Who charges without one
//! must own the word (see [`crate::source`]).

use core::sync::atomic::AtomicU64;

use crate::machine::Machine;

/// Resolution of the arithmetic.
pub const TICKS_PER_NS: u64 = 16;

/// Highest rate, per second.
pub const MAX_PER_SECOND: u64 = 10_000_000;

/// Highest rate of bytes, per second: 100 Gbit/s.
pub const MAX_BYTES_PER_SECOND: u64 = 12_500_000_000;

/// Longest time that one packet can cost: 365 days.
pub const MAX_COST_TICKS: u64 = 365 * 86_400 * 1_000_000_000 * TICKS_PER_NS;

/// Longest time that a whole burst can cost.
pub const MAX_BURST_TICKS: u64 = 1 << 62;

/// Parts of a tick in which the cost of a byte is stated.
const PARTS_PER_TICK: u64 = 256;

/// Longest time that one byte can cost, in parts of a tick: 4.3 s.
const MAX_BYTE_COST: u64 = (1 << 44) - 1;

/// A rate and its burst, as the packet path uses them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct BucketRate {
    /// Ticks that one packet costs, or 1/256 ticks that one byte costs; 0: no limit.
    pub cost: u64,
    /// Ticks that a full bucket holds.
    pub burst_ticks: u64,
}

impl Default for BucketRate {
    fn default() -> Self {
        Self::UNLIMITED
    }
}

impl BucketRate {
    /// No limit: whatever the word says, there is room.
    pub const UNLIMITED: Self = Self { cost: 0, burst_ticks: u64::MAX >> 1 };

    /// `count` packets in each `period_ns`, of which `burst` may come at once. `None` where the
    /// numbers leave the bounds of this module.
    pub fn new(count: u64, period_ns: u64, burst: u64) -> Option<Self> {
        let cost = period_ns.checked_mul(TICKS_PER_NS)?.checked_div(count)?;
        let lowest = 1_000_000_000 * TICKS_PER_NS / MAX_PER_SECOND;
        if burst == 0 || !(lowest..=MAX_COST_TICKS).contains(&cost) {
            return None;
        }
        let burst_ticks = cost.checked_mul(burst)?;
        (burst_ticks <= MAX_BURST_TICKS).then_some(Self { cost, burst_ticks })
    }

    /// `count` bytes in each `period_ns`, of which `burst` may come at once. `None` where the
    /// numbers leave the bounds of this module.
    pub fn of_bytes(count: u64, period_ns: u64, burst: u64) -> Option<Self> {
        let parts = u128::from(period_ns) * u128::from(TICKS_PER_NS * PARTS_PER_TICK);
        let cost = u64::try_from(parts.checked_div(u128::from(count))?).ok()?;
        let lowest = 1_000_000_000 * TICKS_PER_NS * PARTS_PER_TICK / MAX_BYTES_PER_SECOND;
        if burst == 0 || !(lowest..=MAX_BYTE_COST).contains(&cost) {
            return None;
        }
        let burst_ticks = u128::from(cost) * u128::from(burst) / u128::from(PARTS_PER_TICK);
        let burst_ticks = u64::try_from(burst_ticks).ok()?;
        (burst_ticks <= MAX_BURST_TICKS).then_some(Self { cost, burst_ticks })
    }

    /// Ticks that a frame of so many bytes (below 2^20) costs, where the rate is one of bytes.
    #[inline]
    pub const fn ticks_of_bytes(self, bytes: u64) -> u64 {
        self.cost.wrapping_mul(bytes & 0xf_ffff) / PARTS_PER_TICK
    }

    /// Whether there is no limit.
    pub const fn is_unlimited(self) -> bool {
        self.cost == 0
    }

    /// Whether a clock that lags by up to `lag_ns` costs a steady sender at exactly this rate
    /// nothing: the burst must outlast the lag twice.
    pub const fn tolerates_lag(self, lag_ns: u64) -> bool {
        self.cost == 0 || self.burst_ticks / 2 >= lag_ns.saturating_mul(TICKS_PER_NS)
    }
}

/// A time in ticks.
#[inline]
pub const fn ticks(now_ns: u64) -> u64 {
    now_ns.wrapping_mul(TICKS_PER_NS)
}

/// The later of two times. Without a branch: both are below 2^63.
#[inline]
pub fn later<M: Machine>(left: u64, right: u64) -> u64 {
    let difference = left.wrapping_sub(right);
    let is_left = M::opaque(difference >> 63).wrapping_sub(1);
    right.wrapping_add(difference & is_left)
}

/// 1 if a bucket that is full again at `arrival` has no room for `cost_ticks` more, else 0.
/// Without a branch, so that the verifier follows one path.
#[inline]
pub fn is_over<M: Machine>(arrival: u64, cost_ticks: u64, burst_ticks: u64, now: u64) -> u64 {
    let debt = later::<M>(arrival, now).wrapping_sub(now);
    M::opaque(burst_ticks.wrapping_sub(debt.wrapping_add(cost_ticks)) >> 63)
}

/// Charges a word that this CPU alone charges; the new arrival.
#[inline]
pub fn charge<M: Machine>(word: &AtomicU64, cost_ticks: u64, now: u64) -> u64 {
    let arrival = later::<M>(M::read(word), now).wrapping_add(cost_ticks);
    M::write(word, arrival);
    arrival
}

/// Charges a word that others charge at the same time; about what the new arrival is.
#[inline]
pub fn charge_shared<M: Machine>(word: &AtomicU64, cost_ticks: u64, now: u64) -> u64 {
    let arrival = M::read(word);
    if arrival > now {
        // In debt: whoever has room adds its cost, in any order.
        M::add(word, cost_ticks);
        return arrival.wrapping_add(cost_ticks);
    }
    // Full: the debt starts at `now`. Another CPU that got here first has started it, and this
    // packet only adds its cost.
    let started = now.wrapping_add(cost_ticks);
    if !M::replace(word, arrival, started) {
        M::add(word, cost_ticks);
    }
    started
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{sync::Arc, thread, vec::Vec};

    use super::*;
    use crate::machine::Native;

    fn take(word: &AtomicU64, rate: BucketRate, now_ns: u64) -> bool {
        take_ticks(word, rate.cost, rate.burst_ticks, now_ns)
    }

    fn take_ticks(word: &AtomicU64, cost: u64, burst: u64, now_ns: u64) -> bool {
        let now = ticks(now_ns);
        let over = is_over::<Native>(Native::read(word), cost, burst, now) != 0;
        if !over {
            charge_shared::<Native>(word, cost, now);
        }
        !over
    }

    const SECOND_NS: u64 = 1_000_000_000;

    /// Exact reference: tokens as a fraction of `period_ns`, in 128 bits.
    struct Exact {
        level: u128,
        last_ns: u64,
        count: u64,
        period_ns: u64,
        burst: u64,
    }

    impl Exact {
        fn take(&mut self, now_ns: u64) -> bool {
            let full = u128::from(self.burst) * u128::from(self.period_ns);
            let refill = u128::from(now_ns - self.last_ns) * u128::from(self.count);
            self.level = (self.level + refill).min(full);
            self.last_ns = now_ns;
            if self.level >= u128::from(self.period_ns) {
                self.level -= u128::from(self.period_ns);
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
    fn a_steady_sender_at_exactly_its_rate_loses_nothing() {
        for (count, period_ns) in [
            (1, 3_600 * SECOND_NS),
            (3, SECOND_NS),
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
    fn agrees_with_exact_arithmetic_at_rates_that_are_whole_ticks() {
        let mut state = 0x9e37_79b9_7f4a_7c15;
        for (count, period_ns, burst) in
            [(20_000, SECOND_NS, 40_000), (1, SECOND_NS, 3), (1_000, 900 * SECOND_NS, 1_000)]
        {
            let rate = BucketRate::new(count, period_ns, burst).unwrap();
            let word = AtomicU64::new(0);
            let full = u128::from(burst) * u128::from(period_ns);
            let mut exact = Exact { level: full, last_ns: 0, count, period_ns, burst };
            let mut now = SECOND_NS;
            for step in 0..200_000 {
                now += random(&mut state) % (2 * period_ns / count);
                let expected = exact.take(now);
                assert_eq!(take(&word, rate, now), expected, "step {step} of {count}");
            }
        }
    }

    #[test]
    fn never_admits_more_than_burst_and_rate_allow_by_more_than_the_stated_error() {
        let mut state = 7;
        for _ in 0..200 {
            let count = 1 + random(&mut state) % MAX_PER_SECOND;
            let burst = 1 + random(&mut state) % 1_000;
            let rate = BucketRate::new(count, SECOND_NS, burst).unwrap();
            let word = AtomicU64::new(0);
            let (start, mut now, mut admitted) = (SECOND_NS, SECOND_NS, 0_u64);
            for _ in 0..20_000 {
                now += random(&mut state) % 2_000;
                admitted += u64::from(take(&word, rate, now));
            }
            let refilled = u128::from(now - start) * u128::from(count) * 10_007 / 10_000;
            let allowed = u128::from(burst) + refilled / u128::from(SECOND_NS) + 2;
            assert!(u128::from(admitted) <= allowed, "{admitted} of {allowed} at {count}, {burst}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_represent() {
        assert_eq!(BucketRate::new(0, SECOND_NS, 1), None);
        assert_eq!(BucketRate::new(1, SECOND_NS, 0), None);
        assert_eq!(BucketRate::new(MAX_PER_SECOND + 10_000, SECOND_NS, 1), None);
        assert_eq!(BucketRate::new(1, 366 * 86_400 * SECOND_NS, 1), None);
        assert_eq!(BucketRate::new(1, 365 * 86_400 * SECOND_NS, u64::MAX), None);
        assert!(BucketRate::new(1, 365 * 86_400 * SECOND_NS, 9).is_some());
        assert!(take(&AtomicU64::new(MAX_BURST_TICKS), BucketRate::UNLIMITED, 0));
    }

    #[test]
    fn a_lagging_clock_is_tolerated_by_long_bursts_only() {
        let tick_ns = 4_000_000;
        assert!(BucketRate::new(20_000, SECOND_NS, 40_000).unwrap().tolerates_lag(tick_ns));
        assert!(!BucketRate::new(20_000, SECOND_NS, 10).unwrap().tolerates_lag(tick_ns));
    }

    #[test]
    fn concurrent_takers_exceed_the_burst_by_at_most_one_each() {
        const THREADS: u64 = 8;
        for round in 0..50 {
            let rate = BucketRate::new(1, 3_600 * SECOND_NS, 1_000).unwrap();
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
}
