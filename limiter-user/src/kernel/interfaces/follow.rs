//! The kernel half follows its interfaces: policy first, then the program.

use super::{Change, InterfaceState, Unattached};
use crate::kernel::{Kernel, KernelError};

impl Kernel {
    /// Makes the interfaces with XDP those that are wanted and there, by name and index; what
    /// changed. The others go on meanwhile. `renew`: also try again what failed lately.
    pub fn follow_interfaces(&mut self, wanted: &[(String, u32)], renew: bool) -> Vec<Change> {
        let how = self.policy.attach;
        let before = self.interfaces.slots_by_name();
        let mut round = self.interfaces.let_go(wanted, how, renew, &self.pins);
        let fresh = self.interfaces.assign(wanted, &self.pins);
        // What the policy says of single interfaces is in force before any packet comes by them.
        let mut prepared = self.clear_counters(&fresh);
        if prepared.is_ok() && self.interfaces.slots_by_name() != before {
            let (policy, host) = (self.policy.clone(), self.host.clone());
            prepared = self.apply(&policy, &host).map(drop);
        }
        match prepared {
            Ok(()) => self.interfaces.add_missing(wanted, how, &mut round, &self.pins),
            Err(error) => log::error!("interfaces are not attached: {error}"),
        }
        round.changes
    }

    pub(in crate::kernel) fn clear_counters(&mut self, slots: &[u32]) -> Result<(), KernelError> {
        slots.iter().try_for_each(|slot| self.maps.clear_counters(*slot))
    }

    /// Interfaces that are wanted and there, and have no XDP.
    pub fn unattached(&self) -> Vec<Unattached> {
        self.interfaces.unattached()
    }

    /// Name of the interface that has this slot.
    pub fn interface_name(&self, slot: u32) -> String {
        self.interfaces.name_of(slot)
    }

    /// Every interface with XDP.
    pub fn interfaces(&self) -> Vec<InterfaceState> {
        self.interfaces.states()
    }
}
