//! How long a peer may still keep the proxy waiting for a body.
//!
//! It begins with a grace, earns time with every byte that moves, and spends it while it is waited
//! for; it never has more than the grace. So a peer that stops is given up after the grace, and one
//! that goes on for ever must move the policy's rate on average.

use std::time::Duration;

use crate::policy::Rate;

/// One body's account of time.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    grace_ns: u64,
    left_ns: u64,
    waiting_since_ns: Option<u64>,
}

impl Pace {
    /// At least `rate` (of bytes), after `grace`.
    pub(super) fn new(rate: Rate, grace: Duration) -> Self {
        let grace_ns = u64::try_from(grace.as_nanos()).unwrap_or(u64::MAX);
        Self { rate, grace_ns, left_ns: grace_ns, waiting_since_ns: None }
    }

    /// The peer's turn begins; how long it may take.
    pub(super) fn wait(&mut self, now_ns: u64) -> Duration {
        self.waiting_since_ns = Some(now_ns);
        Duration::from_nanos(self.left_ns)
    }

    /// Its turn is over, if it was.
    pub(super) fn stop_waiting(&mut self, now_ns: impl FnOnce() -> u64) {
        if let Some(since_ns) = self.waiting_since_ns.take() {
            self.left_ns = self.left_ns.saturating_sub(now_ns().saturating_sub(since_ns));
        }
    }

    /// So many bytes moved.
    pub(super) fn earn(&mut self, bytes: usize) {
        if self.left_ns < self.grace_ns {
            let earned = bytes as u128 * self.rate.period.as_nanos();
            let earned_ns = u64::try_from(earned / u128::from(self.rate.count.max(1)));
            let left_ns = self.left_ns.saturating_add(earned_ns.unwrap_or(u64::MAX));
            self.left_ns = left_ns.min(self.grace_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn pace() -> Pace {
        let rate = Rate { count: 100, period: Duration::from_secs(1) };
        Pace::new(rate, Duration::from_secs(10))
    }

    #[test]
    fn whoever_stops_has_the_grace_and_no_more() {
        let mut pace = pace();
        assert_eq!(pace.wait(0), Duration::from_secs(10));
        pace.stop_waiting(|| 4 * SECOND_NS);
        pace.earn(50);
        assert_eq!(pace.wait(100 * SECOND_NS), Duration::from_millis(6_500));
        pace.stop_waiting(|| 101 * SECOND_NS);
        pace.earn(1 << 30);
        assert_eq!(pace.wait(0), Duration::from_secs(10), "time is not saved up");
        pace.stop_waiting(|| 60 * SECOND_NS);
        assert_eq!(pace.wait(0), Duration::ZERO);
    }

    #[test]
    fn a_trickle_ends_and_the_rate_goes_on() {
        let seconds = |bytes: usize| {
            let mut pace = pace();
            (0..1_000_u64)
                .find(|second| {
                    let now_ns = second * SECOND_NS;
                    let is_over = pace.wait(now_ns) < Duration::from_secs(1);
                    pace.stop_waiting(|| now_ns + SECOND_NS);
                    pace.earn(bytes);
                    is_over
                })
                .unwrap_or(1_000)
        };
        assert_eq!(seconds(0), 10);
        assert_eq!(seconds(50), 19);
        assert_eq!(seconds(100), 1_000);
    }
}
