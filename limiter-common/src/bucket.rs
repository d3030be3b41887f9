//! A rate limit in one word, without a lock: the generic cell rate algorithm (ITU-T I.371, A).
//!
//! The word holds the theoretical arrival time (TAT), in ticks of 1/16 ns of `CLOCK_MONOTONIC`:
//! the time at which the bucket is full again. Refilling is the passing of time, so that nothing
//! is lost by rounding, however rarely or often a packet comes.
//!
//! Bounds. 2^64 ticks are 36 years of uptime. A cost is at least 1 600 ticks (10 million a
//! second), so that cutting it to whole ticks admits at most 0.07 % more than configured and never
//! less. A cost is at most a day and a burst at most [`MAX_BURST_TICKS`] (4.5 years): while `now`
//! is below 18 years (2^63), and with one packet and one pending share (a 2 048th of the burst, see
//! [`crate::limits`]) too many from each of up to 2 048 CPUs, a debt stays below 2^63, and
//! `now + debt + cost` below 2^64.
//!
//! Bytes cost in 1/256 of a tick each, from 327 (12.5 GB/s: cutting admits 0.2 % more) to 2^44
//! (one in 4.3 s). What a frame costs is cut to whole ticks again: 0.9 % more for 60 bytes at
//! 12.5 GB/s, less for all others. A frame of up to 2^20 bytes costs below 2^56 ticks, so that the
//! bound above holds for 90 CPUs at the lowest rate, and for 2 048 from 10 bytes a second.
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

/// Longest time that one packet can cost: a day.
pub const MAX_COST_TICKS: u64 = 86_400 * 1_000_000_000 * TICKS_PER_NS;

/// Longest time that a whole burst can cost.
pub const MAX_BURST_TICKS: u64 = 1 << 61;

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
mod tests;
