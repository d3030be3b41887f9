//! Windowed counting: the current window's count and the one before, in one 64-bit word.

use super::algorithm::Decision;

/// Most that a window can count; a larger rate with a window algorithm is held to it.
pub const MAX_WINDOW_COUNT: u64 = (1 << 20) - 1;

/// Window index (24 bits), count of the window before (20), count of this window (20).
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    index: u64,
    pub(super) previous: u64,
    pub(super) current: u64,
}

/// Decides by the previous window weighted by its overlap, plus the current one.
pub(super) fn sliding(word: u64, now_ns: u64, count: u64, period_ns: u64) -> (Decision, u64) {
    let windows = Windows::at(word, now_ns / period_ns);
    let left_ns = period_ns - now_ns % period_ns;
    let used = weighted(windows.previous, left_ns, period_ns) + windows.current;
    let allowed = used < count;
    let mut next = windows;
    if allowed {
        next.current += 1;
    }
    let decision = Decision {
        allowed,
        limit: count,
        remaining: count.saturating_sub(used + u64::from(allowed)),
        reset_after_ns: left_ns,
        retry_after_ns: if allowed {
            0
        } else if windows.current < count {
            // The previous window must fade until there is room for one.
            left_ns.saturating_sub(faded(windows.previous, count - 1 - windows.current, period_ns))
        } else {
            // This window becomes the previous one, then must fade.
            left_ns + (period_ns - faded(windows.current, count - 1, period_ns))
        }
        .max(u64::from(!allowed)),
    };
    (decision, if allowed { next.word() } else { word })
}

/// Decides by the current window alone.
pub(super) fn fixed(word: u64, now_ns: u64, count: u64, period_ns: u64) -> (Decision, u64) {
    let mut windows = Windows::at(word, now_ns / period_ns);
    windows.previous = 0;
    let left_ns = period_ns - now_ns % period_ns;
    let allowed = windows.current < count;
    if allowed {
        windows.current += 1;
    }
    let decision = Decision {
        allowed,
        limit: count,
        remaining: count.saturating_sub(windows.current),
        reset_after_ns: left_ns,
        retry_after_ns: if allowed { 0 } else { left_ns },
    };
    (decision, if allowed { windows.word() } else { word })
}

/// What a window's count still weighs with `left_ns` of overlap, rounded up.
fn weighted(count: u64, left_ns: u64, period_ns: u64) -> u64 {
    let weight = (u128::from(count) * u128::from(left_ns)).div_ceil(u128::from(period_ns));
    u64::try_from(weight).unwrap_or(u64::MAX)
}

/// The longest overlap at which `count` weighs at most `room`.
fn faded(count: u64, room: u64, period_ns: u64) -> u64 {
    let overlap = u128::from(room) * u128::from(period_ns) / u128::from(count.max(1));
    u64::try_from(overlap).unwrap_or(u64::MAX).min(period_ns)
}

impl Windows {
    const COUNT_BITS: u32 = 20;
    const INDEX_MASK: u64 = (1 << 24) - 1;

    /// What `word` says at window `index`: windows that have passed count no more.
    pub(super) fn at(word: u64, index: u64) -> Self {
        let index = index & Self::INDEX_MASK;
        let before = index.wrapping_sub(1) & Self::INDEX_MASK;
        let kept = word >> (2 * Self::COUNT_BITS);
        let previous = (word >> Self::COUNT_BITS) & MAX_WINDOW_COUNT;
        let current = word & MAX_WINDOW_COUNT;
        let (previous, current) = if kept == index {
            (previous, current)
        } else if kept == before {
            (current, 0)
        } else {
            (0, 0)
        };
        Self { index, previous, current }
    }

    /// Counts of window `index` and of the one before.
    pub(super) fn counted(index: u64, previous: u64, current: u64) -> Self {
        Self { index: index & Self::INDEX_MASK, previous, current }
    }

    pub(super) fn word(self) -> u64 {
        self.index << (2 * Self::COUNT_BITS)
            | self.previous.min(MAX_WINDOW_COUNT) << Self::COUNT_BITS
            | self.current.min(MAX_WINDOW_COUNT)
    }
}
