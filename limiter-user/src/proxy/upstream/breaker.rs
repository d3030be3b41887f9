//! The circuit breaker of one server, shared by all cores without a lock.
//!
//! Closed it costs one load a request. Two cores that fail at once may count one failure too few:
//! it then opens one failure later.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::policy::upstream::BreakerPolicy;

/// Closed, or open until a time after which one request at a time may try.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: u32,
    window_ns: u64,
    open_ns: u64,
    count: AtomicU32,
    since_ns: AtomicU64,
    /// 0: closed.
    open_until_ns: AtomicU64,
}

/// Whether a request may go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Passage {
    /// The breaker is closed.
    Free,
    /// It is open, and this request tries whether it may close.
    Trial,
    /// It is open.
    Barred,
}

impl Breaker {
    pub(super) fn new(policy: &BreakerPolicy) -> Self {
        let nanoseconds =
            |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2);
        Self {
            failures: policy.failures,
            window_ns: nanoseconds(policy.window),
            open_ns: nanoseconds(policy.open).max(1),
            count: AtomicU32::new(0),
            since_ns: AtomicU64::new(0),
            open_until_ns: AtomicU64::new(0),
        }
    }

    /// Whether it is open, waiting or trying.
    pub(super) fn is_open(&self) -> bool {
        self.open_until_ns.load(Relaxed) != 0
    }

    /// Whether a request could go, without taking the place of the one that tries.
    pub(super) fn may_pass(&self, now_ns: u64) -> bool {
        self.open_until_ns.load(Relaxed) <= now_ns
    }

    /// How long no request goes yet.
    pub(super) fn closed_for_ns(&self, now_ns: u64) -> u64 {
        self.open_until_ns.load(Relaxed).saturating_sub(now_ns)
    }

    /// Lets a request go or not. One that tries has as long as the breaker stays open; then another
    /// may, so that one that was given up blocks nobody.
    pub(super) fn pass(&self, now_ns: u64) -> Passage {
        let until_ns = self.open_until_ns.load(Relaxed);
        if until_ns == 0 {
            return Passage::Free;
        }
        let next_ns = now_ns.saturating_add(self.open_ns);
        let wins = until_ns <= now_ns
            && self.open_until_ns.compare_exchange(until_ns, next_ns, Relaxed, Relaxed).is_ok();
        if wins { Passage::Trial } else { Passage::Barred }
    }

    /// A request that tried was answered. Whether that closed it.
    pub(super) fn close(&self) -> bool {
        self.count.store(0, Relaxed);
        self.open_until_ns.swap(0, Relaxed) != 0
    }

    /// A request failed. Whether that opened it.
    pub(super) fn fail(&self, now_ns: u64, passage: Passage) -> bool {
        let next_ns = now_ns.saturating_add(self.open_ns);
        if passage == Passage::Trial {
            self.open_until_ns.store(next_ns, Relaxed);
            return false;
        }
        if now_ns.saturating_sub(self.since_ns.load(Relaxed)) > self.window_ns {
            self.since_ns.store(now_ns, Relaxed);
            self.count.store(0, Relaxed);
        }
        let count = self.count.fetch_add(1, Relaxed) + 1;
        count >= self.failures
            && self.open_until_ns.compare_exchange(0, next_ns, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(&BreakerPolicy {
            failures: 3,
            window: Duration::from_nanos(100),
            open: Duration::from_nanos(50),
        })
    }

    #[test]
    fn failures_within_the_window_open_it_and_a_trial_closes_it() {
        let breaker = breaker();
        assert!(!breaker.fail(1000, Passage::Free));
        assert!(!breaker.fail(1001, Passage::Free));
        assert!(breaker.fail(1002, Passage::Free), "the third opens it");
        assert!(!breaker.fail(1003, Passage::Free), "it is open already");
        assert_eq!(breaker.pass(1051), Passage::Barred);
        assert!(!breaker.may_pass(1051) && breaker.may_pass(1052));
        assert_eq!(breaker.pass(1052), Passage::Trial);
        assert_eq!(breaker.pass(1052), Passage::Barred, "one at a time");
        assert!(!breaker.fail(1060, Passage::Trial));
        assert_eq!(breaker.pass(1109), Passage::Barred);
        assert_eq!(breaker.pass(1110), Passage::Trial);
        assert!(breaker.close() && !breaker.is_open());
        assert_eq!(breaker.pass(1111), Passage::Free);
        assert!(!breaker.fail(1111, Passage::Free), "counted from the beginning");
    }

    #[test]
    fn failures_far_apart_do_not_open_it() {
        let breaker = breaker();
        for time in 1..20 {
            assert!(!breaker.fail(time * 101, Passage::Free));
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_trial_that_was_given_up_makes_room_for_another() {
        let breaker = breaker();
        for time in 0..3 {
            breaker.fail(1000 + time, Passage::Free);
        }
        assert_eq!(breaker.pass(2000), Passage::Trial);
        assert_eq!(breaker.pass(2049), Passage::Barred);
        assert_eq!(breaker.pass(2050), Passage::Trial);
    }
}
