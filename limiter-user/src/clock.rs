//! The only reader of time: everything else is handed `now` as an argument.
//!
//! Monotonic time has the same base as the kernel program's `bpf_ktime_get_ns`
//! (`CLOCK_MONOTONIC`: nanoseconds since boot, not counting suspend), so that both halves compare
//! expiries directly. Wall-clock time is only for people: event lines, files on disk.

use std::time::Duration;

use nix::time::{ClockId, clock_getres, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC` (since boot, without suspend).
pub fn monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

/// Nanoseconds since the Unix epoch, UTC. May jump when the clock is set.
pub fn unix_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME)
}

/// As [`monotonic_ns`] at the last kernel tick, several times cheaper: for deadlines.
pub fn coarse_monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC_COARSE)
}

/// As [`unix_ns`] at the last kernel tick, several times cheaper: for what people read.
pub fn coarse_unix_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME_COARSE)
}

/// Length of one kernel tick: the resolution of `CLOCK_MONOTONIC_COARSE` (1e9 / `CONFIG_HZ`).
pub fn tick_ns() -> u64 {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_or(4_000_000, |tick| Duration::from(tick).as_nanos().try_into().unwrap_or(u64::MAX))
}

/// A clock that the vDSO answers cannot fail; zero would only shorten an expiry.
fn read_ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        let (seconds, ns) = (time.tv_sec().cast_unsigned(), time.tv_nsec().cast_unsigned());
        seconds.saturating_mul(1_000_000_000).saturating_add(ns)
    })
}
