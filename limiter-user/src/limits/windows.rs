//! Windowed counting: the current window's count and the one before, in one word of 62 bits.
//!
//! Windows are aligned to the clock's beginning. The table is swept long before a window's number
//! comes again (after 2^22 windows).

use super::algorithm::Decision;

/// Most that a window can count; a larger rate with a window algorithm is held to it.
pub const MAX_WINDOW_COUNT: u64 = (1 << 20) - 1;

/// Where a time lies among the windows of one length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Number of the window.
    index: u64,
    /// Until it ends.
    left_ns: u64,
    period_ns: u64,
}

impl Place {
    pub(super) fn of(now_ns: u64, period_ns: u64) -> Self {
        Self { index: now_ns / period_ns, left_ns: period_ns - now_ns % period_ns, period_ns }
    }
}

/// Window index (22 bits), count of the window before (20), count of this window (20).
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    index: u64,
    /// The word was written at a later time than this: another core is ahead.
    is_ahead: bool,
    pub(super) previous: u64,
    pub(super) current: u64,
}

/// Decides by the previous window weighted by its overlap, plus the current one.
#[inline]
pub(super) fn sliding(word: u64, cost: u64, count: u64, now: Place) -> (Decision, u64) {
    let mut windows = Windows::at(word, now);
    let (left_ns, period_ns) = (windows.left_ns(now), now.period_ns);
    let used = windows.weight(now);
    let allowed = used.saturating_add(cost) <= count;
    let retry_after_ns = if allowed {
        0
    } else if windows.current.saturating_add(cost) <= count {
        // The previous window must fade until there is room.
        let room = count - cost - windows.current;
        left_ns.saturating_sub(faded(windows.previous, room, period_ns)).max(1)
    } else {
        // This window becomes the previous one, then must fade.
        let room = count.saturating_sub(cost);
        left_ns + (period_ns - faded(windows.current, room, period_ns))
    };
    if allowed {
        windows.current += cost;
    }
    let decision = Decision {
        allowed,
        limit: count,
        remaining: count.saturating_sub(used + if allowed { cost } else { 0 }),
        reset_after_ns: left_ns,
        retry_after_ns,
        turn_after_ns: 0,
    };
    (decision, if allowed { windows.word() } else { word })
}

/// Decides by the current window alone.
#[inline]
pub(super) fn fixed(word: u64, cost: u64, count: u64, now: Place) -> (Decision, u64) {
    let mut windows = Windows::at(word, now);
    let left_ns = windows.left_ns(now);
    let allowed = windows.current.saturating_add(cost) <= count;
    if allowed {
        windows.current += cost;
    }
    let decision = Decision {
        allowed,
        limit: count,
        remaining: count.saturating_sub(windows.current),
        reset_after_ns: left_ns,
        retry_after_ns: if allowed { 0 } else { left_ns },
        turn_after_ns: 0,
    };
    (decision, if allowed { windows.word() } else { word })
}

/// Takes `cost` off the window of this number, if it still counts.
pub(super) fn give_back(word: u64, cost: u64, window: u64) -> u64 {
    let mut windows = Windows::read(word);
    let window = window & Windows::INDEX_MASK;
    if windows.index == window {
        windows.current = windows.current.saturating_sub(cost);
    } else if windows.index == (window + 1) & Windows::INDEX_MASK {
        windows.previous = windows.previous.saturating_sub(cost);
    }
    windows.word()
}

/// A word that says that `used` were counted in the window of `now`.
pub(super) fn holding(used: u64, now: Place) -> u64 {
    let mut windows = Windows::at(0, now);
    windows.current = used;
    windows.word()
}

/// What a window's count still weighs with `left_ns` of overlap, rounded up.
fn weighted(count: u64, left_ns: u64, period_ns: u64) -> u64 {
    // Nearly always; dividing twice as many bits takes longer than all the rest.
    if let Some(product) = count.checked_mul(left_ns) {
        return product.div_ceil(period_ns);
    }
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
    const INDEX_MASK: u64 = (1 << 22) - 1;

    fn read(word: u64) -> Self {
        Self {
            index: (word >> (2 * Self::COUNT_BITS)) & Self::INDEX_MASK,
            is_ahead: false,
            previous: (word >> Self::COUNT_BITS) & MAX_WINDOW_COUNT,
            current: word & MAX_WINDOW_COUNT,
        }
    }

    /// What `word` says at `now`: windows that have passed count no more.
    pub(super) fn at(word: u64, now: Place) -> Self {
        let index = now.index & Self::INDEX_MASK;
        let kept = Self::read(word);
        match index.wrapping_sub(kept.index) & Self::INDEX_MASK {
            0 => kept,
            1 => Self { index, is_ahead: false, previous: kept.current, current: 0 },
            // Somebody who began a moment later was faster; its window has begun for all.
            Self::INDEX_MASK if kept.current > 0 || kept.previous > 0 => {
                Self { is_ahead: true, ..kept }
            }
            _ => Self { index, is_ahead: false, previous: 0, current: 0 },
        }
    }

    /// What counts now: the previous window's share, rounded up, and the current one.
    pub(super) fn weight(&self, now: Place) -> u64 {
        // How much of a window that ends now lies in the previous one.
        let overlap_ns = self.left_ns(now).min(now.period_ns);
        weighted(self.previous, overlap_ns, now.period_ns) + self.current
    }

    /// Until the current window ends.
    fn left_ns(&self, now: Place) -> u64 {
        if self.is_ahead { now.left_ns + now.period_ns } else { now.left_ns }
    }

    /// Counts of window `index` and of the one before.
    pub(super) fn counted(index: u64, previous: u64, current: u64) -> Self {
        Self { index: index & Self::INDEX_MASK, is_ahead: false, previous, current }
    }

    pub(super) fn word(self) -> u64 {
        (self.index & Self::INDEX_MASK) << (2 * Self::COUNT_BITS)
            | self.previous.min(MAX_WINDOW_COUNT) << Self::COUNT_BITS
            | self.current.min(MAX_WINDOW_COUNT)
    }
}
