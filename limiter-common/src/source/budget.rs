//! How many idle slots may change hands: taking one over costs several times what anything else
//! does, and under a flood of new sources nearly every packet would.
//!
//! While a set has a slot that never was used, a source gets it. Beyond that each CPU may take so
//! many idle slots in each window; of further packets one in [`SAMPLE`] may, so that who sends a lot
//! is tracked soon and who sends one packet hardly ever (sample and hold; Estan and Varghese,
//! 2002). What passes without a slot is counted as `untracked`.

use core::sync::atomic::AtomicU64;

use crate::machine::Machine;

/// Of the packets beyond the budget, one in so many claims a slot.
pub(super) const SAMPLE: u32 = 32;

/// A window is so many ticks, as a power of two: 4.2 ms, as long as the longest tick of a clock.
pub(super) const WINDOW_BITS: u32 = 26;

/// What one CPU has left: the value of a per-CPU array map.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ClaimBudget {
    /// The window of which `claims` is the count: the upper bits of its time.
    pub window: AtomicU64,
    /// Slots taken in it.
    pub claims: AtomicU64,
}

impl ClaimBudget {
    /// Whether a slot may be taken at `now` (ticks). `random` decides beyond the budget.
    #[inline]
    pub fn allows<M: Machine>(&self, per_window: u64, now: u64, random: u32) -> bool {
        let window = now >> WINDOW_BITS;
        if M::read(&self.window) != window {
            M::write(&self.window, window);
            M::write(&self.claims, 1);
            return true;
        }
        let claims = M::read(&self.claims);
        if claims < per_window {
            M::write(&self.claims, claims.wrapping_add(1));
            return true;
        }
        random.is_multiple_of(SAMPLE)
    }
}
