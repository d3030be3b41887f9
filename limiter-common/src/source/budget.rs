//! How many idle slots may change hands: taking one over costs several times what anything else
//! does, and under a flood of new sources nearly every packet would.
//!
//! While a set has a slot that never was used, a source gets it. Beyond that each CPU may take so
//! many idle slots in each tick; of further packets one in [`SAMPLE`] may, so that who sends a lot
//! is tracked soon and who sends one packet hardly ever (sample and hold; Estan and Varghese,
//! 2002). What passes without a slot is counted as `untracked`.

use core::sync::atomic::AtomicU64;

use crate::machine::Machine;

/// Of the packets beyond the budget, one in so many claims a slot.
pub(super) const SAMPLE: u32 = 32;

/// What one CPU has left: the value of a per-CPU array map.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ClaimBudget {
    /// The tick (coarse time, ns) of which `claims` is the count.
    pub tick_ns: AtomicU64,
    /// Slots taken in it.
    pub claims: AtomicU64,
}

impl ClaimBudget {
    /// Whether a slot may be taken. `random` decides beyond the budget.
    #[inline]
    pub fn allows<M: Machine>(&self, per_tick: u64, coarse_ns: u64, random: u32) -> bool {
        if M::read(&self.tick_ns) != coarse_ns {
            M::write(&self.tick_ns, coarse_ns);
            M::write(&self.claims, 1);
            return true;
        }
        let claims = M::read(&self.claims);
        if claims < per_tick {
            M::write(&self.claims, claims.wrapping_add(1));
            return true;
        }
        random.is_multiple_of(SAMPLE)
    }
}
