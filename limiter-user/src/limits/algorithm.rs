//! Rate limit arithmetic: pure functions on one 64-bit word, with `now_ns` handed in.
//!
//! In: the word of one client and the time; out: the decision and the next word. A word whose
//! time has passed means the same as a fresh one (0), which is what lets the table reuse it.
//! Refused attempts leave the word as it was. Never reads a clock, never touches memory.

use std::time::Duration;

pub use super::windows::MAX_WINDOW_COUNT;
use super::{
    hash::Secret,
    windows::{Windows, fixed, sliding},
};
use crate::policy::{
    Rate,
    http::{Algorithm, LimitPolicy},
};

/// Token bucket times are in 1/16 ns, so that the rounding of one token's time does not add up.
const TICKS_PER_NS: u64 = 16;

/// What a limit says to one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Whether the request is within the limit.
    pub allowed: bool,
    /// How many requests the limit allows at once, or in one window.
    pub limit: u64,
    /// How many more would be allowed now.
    pub remaining: u64,
    /// Until the limit is whole again (token bucket) or the window ends.
    pub reset_after_ns: u64,
    /// Until one more would be allowed; 0 if it is now.
    pub retry_after_ns: u64,
}

/// One limit, ready to calculate with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meter {
    /// Generic cell rate algorithm; the word is the theoretical arrival time in ticks.
    TokenBucket {
        /// Ticks that one request costs.
        cost_ticks: u64,
        /// How many at once.
        burst: u64,
    },
    /// Previous window weighted by its overlap, plus the current one.
    SlidingWindow {
        /// Most in any window.
        count: u64,
        /// Length of a window.
        period_ns: u64,
    },
    /// Count per aligned window.
    FixedWindow {
        /// Most in one window.
        count: u64,
        /// Length of a window.
        period_ns: u64,
    },
}

impl Meter {
    /// The meter that a policy describes.
    pub fn new(policy: &LimitPolicy) -> Self {
        match policy.algorithm {
            Algorithm::TokenBucket => Self::token_bucket(policy.rate, policy.burst),
            Algorithm::SlidingWindow => Self::SlidingWindow {
                count: policy.rate.count.clamp(1, MAX_WINDOW_COUNT),
                period_ns: period_ns(policy.rate),
            },
            Algorithm::FixedWindow => Self::fixed_window(policy.rate.count, policy.rate.period),
        }
    }

    /// A token bucket of `burst` tokens, filled at `rate`.
    pub fn token_bucket(rate: Rate, burst: u64) -> Self {
        let ticks = u128::from(period_ns(rate)) * u128::from(TICKS_PER_NS);
        let cost_ticks = (ticks / u128::from(rate.count.max(1))).max(1);
        let cost_ticks = u64::try_from(cost_ticks).unwrap_or(u64::MAX).min(1 << 56);
        Self::TokenBucket {
            cost_ticks,
            // The whole bucket stays below 2^62 ticks (nine years), so that sums cannot overflow.
            burst: burst.clamp(1, (1 << 62) / cost_ticks),
        }
    }

    /// At most `count` in each aligned `period`.
    pub fn fixed_window(count: u64, period: Duration) -> Self {
        Self::FixedWindow {
            count: count.clamp(1, MAX_WINDOW_COUNT),
            period_ns: period_ns(Rate { count, period }),
        }
    }

    /// How many at once, or in one window.
    pub const fn limit(&self) -> u64 {
        match *self {
            Self::TokenBucket { burst, .. } => burst,
            Self::SlidingWindow { count, .. } | Self::FixedWindow { count, .. } => count,
        }
    }

    /// Different for every other meter: what words of one mean, they mean for no other.
    pub(super) fn identity(&self, secret: Secret) -> u64 {
        let [kind, first, second] = match *self {
            Self::TokenBucket { cost_ticks, burst } => [0, cost_ticks, burst],
            Self::SlidingWindow { count, period_ns } => [1, count, period_ns],
            Self::FixedWindow { count, period_ns } => [2, count, period_ns],
        };
        let both = u128::from(first) << 64 | u128::from(second);
        secret.of_bytes(kind, &both.to_le_bytes())
    }

    /// Whether `word` says nothing that a fresh one would not.
    pub fn is_idle(&self, word: u64, now_ns: u64) -> bool {
        match *self {
            Self::TokenBucket { .. } => word <= now_ns.saturating_mul(TICKS_PER_NS),
            Self::SlidingWindow { period_ns, .. } => {
                let windows = Windows::at(word, now_ns / period_ns);
                windows.previous == 0 && windows.current == 0
            }
            Self::FixedWindow { period_ns, .. } => {
                Windows::at(word, now_ns / period_ns).current == 0
            }
        }
    }

    /// What a window of this length says where it and the one before have these counts.
    pub fn charge_windows(&self, [previous, current]: [u64; 2], now_ns: u64) -> Decision {
        let (Self::SlidingWindow { period_ns, .. } | Self::FixedWindow { period_ns, .. }) = *self
        else {
            return self.charge(0, now_ns).0;
        };
        self.charge(Windows::counted(now_ns / period_ns, previous, current).word(), now_ns).0
    }

    /// Decides one request at `now_ns`; the next word is the same one if it is not allowed.
    pub fn charge(&self, word: u64, now_ns: u64) -> (Decision, u64) {
        match *self {
            Self::TokenBucket { cost_ticks, burst } => {
                token_bucket(word, now_ns, cost_ticks, burst)
            }
            Self::SlidingWindow { count, period_ns } => sliding(word, now_ns, count, period_ns),
            Self::FixedWindow { count, period_ns } => fixed(word, now_ns, count, period_ns),
        }
    }
}

fn token_bucket(word: u64, now_ns: u64, cost: u64, burst: u64) -> (Decision, u64) {
    let now = now_ns.saturating_mul(TICKS_PER_NS);
    let depth = cost * burst;
    // A word far in the future can only be an older policy's; it counts as an empty bucket.
    let debt = word.saturating_sub(now).min(depth);
    let after = debt + cost;
    let allowed = after <= depth;
    let debt_after = if allowed { after } else { debt };
    let decision = Decision {
        allowed,
        limit: burst,
        remaining: (depth - debt_after) / cost,
        reset_after_ns: debt_after.div_ceil(TICKS_PER_NS),
        retry_after_ns: if allowed { 0 } else { (after - depth).div_ceil(TICKS_PER_NS) },
    };
    let next = if allowed { now.saturating_add(after) } else { word };
    (decision, next)
}

/// A period as checked arithmetic needs it: between a microsecond and four years.
fn period_ns(rate: Rate) -> u64 {
    u64::try_from(rate.period.as_nanos()).unwrap_or(u64::MAX).clamp(1_000, 1 << 57)
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Runs `steps` requests at random times; checks each decision against `reference`.
    fn compare(meter: Meter, mut reference: impl FnMut(u64) -> bool, gap_ns: u64) {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let (mut word, mut now_ns) = (0, 1_000 * SECOND);
        for step in 0..20_000 {
            now_ns += random.below(gap_ns);
            let (decision, next) = meter.charge(word, now_ns);
            assert_eq!(decision.allowed, reference(now_ns), "step {step}");
            if decision.allowed {
                assert_eq!(decision.retry_after_ns, 0);
            } else {
                assert_eq!(next, word, "a refused request changes nothing");
                let soon = now_ns + decision.retry_after_ns;
                assert!(meter.charge(word, soon).0.allowed, "retry-after holds, step {step}");
                assert!(!meter.charge(word, soon - 1).0.allowed || decision.retry_after_ns <= 1);
            }
            word = next;
        }
    }

    #[test]
    fn token_bucket_agrees_with_exact_arithmetic() {
        for (count, burst) in [(3, 5), (7, 1), (1000, 50)] {
            // Tokens in units of 1/16 ns x count: exact where the period divides, so 1 s is used.
            let cost = SECOND * TICKS_PER_NS / count;
            let mut tokens = cost * burst;
            let mut last = 1_000 * SECOND;
            let reference = |now: u64| {
                tokens = (tokens + (now - last) * TICKS_PER_NS).min(cost * burst);
                last = now;
                let allowed = tokens >= cost;
                if allowed {
                    tokens -= cost;
                }
                allowed
            };
            compare(Meter::token_bucket(rate(count, 1), burst), reference, 2 * SECOND / count);
        }
    }

    #[test]
    fn token_bucket_keeps_its_rate() {
        let meter = Meter::token_bucket(rate(20_000, 1), 10);
        let (mut word, mut allowed) = (0, 0);
        for step in 0..400_000_u64 {
            let (decision, next) = meter.charge(word, SECOND + step * 25_000);
            allowed += u64::from(decision.allowed);
            word = next;
        }
        assert!((200_000..=200_011).contains(&allowed), "{allowed} in ten seconds");
    }

    #[test]
    fn fixed_window_agrees_with_counting() {
        let (mut window, mut used) = (0, 0);
        let reference = |now: u64| {
            if now / (2 * SECOND) != window {
                (window, used) = (now / (2 * SECOND), 0);
            }
            used += 1;
            used <= 10
        };
        compare(Meter::fixed_window(10, Duration::from_secs(2)), reference, SECOND / 4);
    }

    #[test]
    fn sliding_window_agrees_with_counting() {
        let mut admitted: Vec<u64> = Vec::new();
        let reference = |now: u64| {
            let window = now / SECOND;
            let previous = admitted.iter().filter(|at| *at / SECOND == window - 1).count() as u64;
            let current = admitted.iter().filter(|at| *at / SECOND == window).count() as u64;
            let used = (u128::from(previous) * u128::from(SECOND - now % SECOND))
                .div_ceil(u128::from(SECOND))
                + u128::from(current);
            let allowed = used < 10;
            if allowed {
                admitted.push(now);
            }
            admitted.retain(|at| *at / SECOND + 1 >= window);
            allowed
        };
        let policy = LimitPolicy {
            name: "x".into(),
            algorithm: Algorithm::SlidingWindow,
            key: crate::policy::http::LimitKey::Client,
            rate: rate(10, 1),
            burst: 10,
            applies_to: crate::policy::http::AppliesTo::All,
            mode: crate::policy::Mode::Enforce,
        };
        compare(Meter::new(&policy), reference, SECOND / 8);
    }

    #[test]
    fn what_is_idle_decides_as_if_fresh() {
        let meters = [
            Meter::token_bucket(rate(5, 1), 5),
            Meter::fixed_window(5, Duration::from_secs(1)),
            Meter::SlidingWindow { count: 5, period_ns: SECOND },
        ];
        for meter in meters {
            let mut random = Random(7);
            let (mut word, mut now_ns) = (0, 50 * SECOND);
            for _ in 0..10_000 {
                now_ns += random.below(SECOND);
                if meter.is_idle(word, now_ns) {
                    assert_eq!(meter.charge(word, now_ns), meter.charge(0, now_ns));
                }
                word = meter.charge(word, now_ns).1;
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let long = Duration::from_secs(u64::MAX);
        for meter in [
            Meter::token_bucket(Rate { count: 1, period: long }, u64::MAX),
            Meter::token_bucket(rate(u64::MAX, 1), u64::MAX),
            Meter::fixed_window(u64::MAX, long),
            Meter::SlidingWindow { count: MAX_WINDOW_COUNT, period_ns: 1 << 57 },
        ] {
            for word in [0, 1, u64::MAX, u64::MAX >> 1] {
                for now_ns in [0, 1, SECOND, 1 << 58] {
                    meter.charge(word, now_ns);
                    meter.is_idle(word, now_ns);
                }
            }
        }
    }
}
