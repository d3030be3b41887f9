//! Rate limit arithmetic: pure functions on one word of 62 bits, with `now_ns` handed in.
//!
//! In: the word of one client, the cost of a request and the time; out: the decision and the next
//! word. A word whose time has passed means the same as a fresh one (0), which is what lets the
//! table reuse it. Refused attempts leave the word as it was. Never reads a clock, never touches
//! memory.

use std::time::Duration;

pub use super::windows::MAX_WINDOW_COUNT;
use super::windows::{self, Place, Windows};
use crate::policy::{
    Rate, RateLimit,
    limits::{Algorithm, QuotaPolicy},
};

/// Bits of a word; the two above say which parameters it was written by.
pub(super) const WORD_BITS: u32 = 62;

/// Bucket times are in quarters of a nanosecond: 27 years of uptime fit into a word beside a bucket
/// that takes nine years to drain.
pub const TICKS_PER_NS: u64 = 4;

/// The whole bucket.
const MAX_DEPTH_TICKS: u64 = 1 << 60;

/// The last moment that buckets know.
const MAX_NOW_TICKS: u64 = (1 << WORD_BITS) - 1 - MAX_DEPTH_TICKS;

/// What a limit says to one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Whether the request is within the limit.
    pub allowed: bool,
    /// How much the limit allows at once, or in one window.
    pub limit: u64,
    /// How much more would be allowed now.
    pub remaining: u64,
    /// Until the limit is whole again (buckets) or the window ends.
    pub reset_after_ns: u64,
    /// Until as much would be allowed; 0 if it is now.
    pub retry_after_ns: u64,
    /// Until what came before has leaked out of the bucket, if this waits its turn; 0 in windows.
    pub turn_after_ns: u64,
}

/// One limit, ready to calculate with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Meter {
    /// Generic cell rate algorithm (a bucket that fills or leaks, which is the same); the word is
    /// when the bucket is as if untouched, in ticks.
    Bucket {
        /// Ticks that a cost of one takes to leak.
        cost_ticks: u64,
        /// Ticks that the whole bucket takes.
        depth_ticks: u64,
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

/// A limit at one moment: what of its arithmetic is the same for every client is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ready {
    Bucket { now_ticks: u64, cost_ticks: u64, depth_ticks: u64, limit: u64 },
    SlidingWindow { count: u64, now: Place },
    FixedWindow { count: u64, now: Place },
}

impl Ready {
    /// Decides one request of this cost; the next word is the same one if it is not allowed. A cost
    /// of 0 only looks: it is always allowed.
    #[inline]
    pub(super) fn charge(&self, word: u64, cost: u64) -> (Decision, u64) {
        match *self {
            Self::Bucket { now_ticks, cost_ticks, depth_ticks, limit } => {
                bucket(word, cost, now_ticks, (cost_ticks, depth_ticks, limit))
            }
            Self::SlidingWindow { count, now } => windows::sliding(word, cost, count, now),
            Self::FixedWindow { count, now } => windows::fixed(word, cost, count, now),
        }
    }
}

impl Meter {
    /// What a limit of this quota counts by whose amount this is.
    pub fn of(quota: &QuotaPolicy, RateLimit { rate, burst }: RateLimit) -> Self {
        match quota.algorithm {
            Algorithm::TokenBucket => Self::bucket(rate, burst),
            Algorithm::LeakyBucket if quota.max_delay.is_zero() => Self::bucket(rate, burst),
            Algorithm::LeakyBucket => Self::queue(rate, burst, quota.max_delay),
            Algorithm::SlidingWindow => Self::sliding_window(rate),
            Algorithm::FixedWindow => Self::fixed_window(rate),
        }
    }

    /// A bucket that holds `burst` and takes or gives back `rate`.
    pub fn bucket(rate: Rate, burst: u64) -> Self {
        // Rounded up: never more than the rate.
        let ticks = u128::from(period_ns(rate.period)) * u128::from(TICKS_PER_NS);
        let cost = ticks.div_ceil(u128::from(rate.count.max(1)));
        let cost_ticks = u64::try_from(cost).unwrap_or(u64::MAX).clamp(1, 1 << 58);
        let depth = cost_ticks.saturating_mul(burst.max(1));
        Self::Bucket { cost_ticks, depth_ticks: depth.min(MAX_DEPTH_TICKS) }
    }

    /// A leaky bucket in which nobody waits for longer than `max_delay`.
    pub fn queue(rate: Rate, burst: u64, max_delay: Duration) -> Self {
        match Self::bucket(rate, burst) {
            Self::Bucket { cost_ticks, depth_ticks } => {
                let delay = u64::try_from(max_delay.as_nanos()).unwrap_or(u64::MAX);
                // Who comes last waits for all before it, not for itself.
                let room = delay.saturating_mul(TICKS_PER_NS).saturating_add(cost_ticks);
                Self::Bucket { cost_ticks, depth_ticks: depth_ticks.min(room) }
            }
            other => other,
        }
    }

    /// At most `rate` in each aligned window.
    pub fn fixed_window(rate: Rate) -> Self {
        Self::FixedWindow {
            count: rate.count.clamp(1, MAX_WINDOW_COUNT),
            period_ns: period_ns(rate.period),
        }
    }

    /// At most `rate` in the current window and what still counts of the one before.
    pub fn sliding_window(rate: Rate) -> Self {
        Self::SlidingWindow {
            count: rate.count.clamp(1, MAX_WINDOW_COUNT),
            period_ns: period_ns(rate.period),
        }
    }

    /// How much at once, or in one window.
    pub const fn limit(&self) -> u64 {
        match *self {
            Self::Bucket { cost_ticks, depth_ticks } => depth_ticks / cost_ticks,
            Self::SlidingWindow { count, .. } | Self::FixedWindow { count, .. } => count,
        }
    }

    /// Three words that say the same.
    pub(super) const fn words(&self) -> [u64; 3] {
        match *self {
            Self::Bucket { cost_ticks, depth_ticks } => [1, cost_ticks, depth_ticks],
            Self::SlidingWindow { count, period_ns } => [2, count, period_ns],
            Self::FixedWindow { count, period_ns } => [3, count, period_ns],
        }
    }

    /// What [`Self::words`] said. Whatever the words are, the arithmetic does not overflow.
    pub(super) fn from_words([kind, first, second]: [u64; 3]) -> Self {
        let (count, period_ns) = (first.clamp(1, MAX_WINDOW_COUNT), second.clamp(1_000, 1 << 57));
        match kind {
            2 => Self::SlidingWindow { count, period_ns },
            3 => Self::FixedWindow { count, period_ns },
            _ => {
                let cost_ticks = first.clamp(1, 1 << 58);
                Self::Bucket { cost_ticks, depth_ticks: second.clamp(cost_ticks, MAX_DEPTH_TICKS) }
            }
        }
    }

    /// Whether `word` says nothing that a fresh one would not.
    pub fn is_idle(&self, word: u64, now_ns: u64) -> bool {
        match *self {
            Self::Bucket { .. } => word <= ticks(now_ns),
            Self::SlidingWindow { period_ns, .. } => {
                let windows = Windows::at(word, Place::of(now_ns, period_ns));
                windows.previous == 0 && windows.current == 0
            }
            Self::FixedWindow { period_ns, .. } => {
                Windows::at(word, Place::of(now_ns, period_ns)).current == 0
            }
        }
    }

    /// What a window says about one request of this cost where it and the one before have these
    /// counts.
    pub fn charge_windows(
        &self,
        [previous, current]: [u64; 2],
        cost: u64,
        now_ns: u64,
    ) -> Decision {
        let (Self::SlidingWindow { period_ns, .. } | Self::FixedWindow { period_ns, .. }) = *self
        else {
            return self.charge(0, cost, now_ns).0;
        };
        let windows = Windows::counted(now_ns / period_ns, previous, current);
        self.charge(windows.word(), cost, now_ns).0
    }

    /// Decides one request of this cost at `now_ns`; the next word is the same one if it is not
    /// allowed. A cost of 0 only looks: it is always allowed.
    pub fn charge(&self, word: u64, cost: u64, now_ns: u64) -> (Decision, u64) {
        self.ready(now_ns).charge(word, cost)
    }

    /// This limit at `now_ns`, for a word that is not there yet.
    #[inline]
    pub(super) fn ready(&self, now_ns: u64) -> Ready {
        match *self {
            Self::Bucket { cost_ticks, depth_ticks } => Ready::Bucket {
                now_ticks: ticks(now_ns),
                cost_ticks,
                depth_ticks,
                limit: depth_ticks / cost_ticks,
            },
            Self::SlidingWindow { count, period_ns } => {
                Ready::SlidingWindow { count, now: Place::of(now_ns, period_ns) }
            }
            Self::FixedWindow { count, period_ns } => {
                Ready::FixedWindow { count, now: Place::of(now_ns, period_ns) }
            }
        }
    }

    /// The word after a cost that was charged at `then_ns` is given back, or as it is.
    ///
    /// Never more than what it still weighs: in a bucket what has leaked since is not given back,
    /// and neither is what belongs to a window that has passed. So what was not given back keeps to
    /// the limit as if the rest had never come.
    pub fn give_back(&self, word: u64, cost: u64, then_ns: u64, now_ns: u64) -> u64 {
        match *self {
            Self::Bucket { cost_ticks, .. } => {
                let since = ticks(now_ns).saturating_sub(ticks(then_ns));
                let left = cost_ticks.saturating_mul(cost).saturating_sub(since);
                // Down to now and no further: beyond it means nothing anyway.
                word.saturating_sub(left).max(word.min(ticks(now_ns)))
            }
            Self::SlidingWindow { period_ns, .. } | Self::FixedWindow { period_ns, .. } => {
                windows::give_back(word, cost, then_ns / period_ns)
            }
        }
    }

    /// What `word` weighs now, rounded up; a bucket never more than it holds.
    pub fn used(&self, word: u64, now_ns: u64) -> u64 {
        match *self {
            Self::Bucket { cost_ticks, depth_ticks } => {
                word.saturating_sub(ticks(now_ns)).min(depth_ticks).div_ceil(cost_ticks)
            }
            Self::SlidingWindow { period_ns, .. } => {
                let now = Place::of(now_ns, period_ns);
                Windows::at(word, now).weight(now)
            }
            Self::FixedWindow { period_ns, .. } => {
                Windows::at(word, Place::of(now_ns, period_ns)).current
            }
        }
    }

    /// The word that means here what `word` means to `before`: as much is used now, up to what this
    /// one holds. Nobody is refilled, and nobody who used less than this limit is refused by it.
    pub fn convert(&self, before: &Self, word: u64, now_ns: u64) -> u64 {
        match (*before, *self) {
            (Self::SlidingWindow { period_ns: old, .. }, Self::SlidingWindow { period_ns, .. })
            | (Self::FixedWindow { period_ns: old, .. }, Self::FixedWindow { period_ns, .. })
                if old == period_ns =>
            {
                word
            }
            (
                Self::Bucket { cost_ticks: old, depth_ticks: most },
                Self::Bucket { cost_ticks, depth_ticks },
            ) => {
                let debt = word.saturating_sub(ticks(now_ns)).min(most);
                let same = (u128::from(debt) * u128::from(cost_ticks)).div_ceil(u128::from(old));
                let same = u64::try_from(same).unwrap_or(u64::MAX).min(depth_ticks);
                if same == 0 { 0 } else { ticks(now_ns) + same }
            }
            (_, Self::Bucket { cost_ticks, depth_ticks }) => match before.used(word, now_ns) {
                0 => 0,
                used => ticks(now_ns) + cost_ticks.saturating_mul(used).min(depth_ticks),
            },
            (_, Self::SlidingWindow { period_ns, .. } | Self::FixedWindow { period_ns, .. }) => {
                match before.used(word, now_ns) {
                    0 => 0,
                    used => windows::holding(used, Place::of(now_ns, period_ns)),
                }
            }
        }
    }
}

fn bucket(
    word: u64,
    cost: u64,
    now: u64,
    (unit, depth, limit): (u64, u64, u64),
) -> (Decision, u64) {
    let debt = word.saturating_sub(now).min(depth);
    let cost = unit.saturating_mul(cost);
    let after = debt.saturating_add(cost);
    let allowed = after <= depth;
    let debt_after = if allowed { after } else { debt };
    let decision = Decision {
        allowed,
        limit,
        remaining: (depth - debt_after) / unit,
        reset_after_ns: debt_after.div_ceil(TICKS_PER_NS),
        // What costs more than the bucket holds never fits; then until the bucket is empty.
        retry_after_ns: if allowed {
            0
        } else {
            (after - depth).min(debt.max(unit)).div_ceil(TICKS_PER_NS)
        },
        turn_after_ns: (after - unit.min(after)).div_ceil(TICKS_PER_NS),
    };
    (decision, if allowed { now + after } else { word })
}

fn ticks(now_ns: u64) -> u64 {
    now_ns.saturating_mul(TICKS_PER_NS).min(MAX_NOW_TICKS)
}

/// A period as checked arithmetic needs it: between a microsecond and four years.
fn period_ns(period: Duration) -> u64 {
    u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).clamp(1_000, 1 << 57)
}
