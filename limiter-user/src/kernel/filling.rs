//! A long list on its way into the kernel, apart from the agent's thread: merged, compared with
//! what lies in the half that is not in force, and written there. Nothing here puts it in force.

use super::{
    Kernel, KernelError,
    image::{HostFacts, Listed},
    list_maps::ListMaps,
    lists::{Filters, Lists},
};
use crate::policy::KernelPolicy;

/// The lists of a policy, and the half of the maps they go to, which is nobody else's meanwhile.
pub struct Filling {
    listed: Listed,
    /// The same, merged, if they are.
    lists: Option<Lists>,
    half: usize,
    maps: ListMaps,
}

/// The half again, and what lies there now.
pub struct Filled {
    half: usize,
    maps: ListMaps,
    outcome: Result<Prepared, KernelError>,
}

/// Lists that lie in the maps or are about to, with all that is made from them.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) listed: Listed,
    pub(super) lists: Lists,
    pub(super) filters: Filters,
}

impl std::fmt::Debug for Filling {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Filling").field("half", &self.half).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Filled {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Filled").field("half", &self.half).finish_non_exhaustive()
    }
}

impl Filling {
    /// Does the work: about two seconds for a million entries that are all new.
    pub fn run(mut self) -> Filled {
        let outcome = self.fill();
        Filled { half: self.half, maps: self.maps, outcome }
    }

    fn fill(&mut self) -> Result<Prepared, KernelError> {
        let lists = match self.lists.take() {
            Some(lists) => lists,
            None => self.listed.merge()?,
        };
        self.maps.fill(&lists)?;
        let filters = lists.filters();
        Ok(Prepared { listed: self.listed.clone(), lists, filters })
    }
}

impl Kernel {
    /// Begins to bring the lists of a policy into the half that is not in force. `None`: they are
    /// in force, or another change has the half.
    pub fn begin_filling(&mut self, policy: &KernelPolicy, host: &HostFacts) -> Option<Filling> {
        let slots = self.interfaces.slots_by_name();
        let listed = Listed::of(policy, &HostFacts { slots, ..host.clone() });
        if self.merged.0 == listed {
            return None;
        }
        let half = usize::from(!self.in_force.lists_second);
        Some(Filling { listed, lists: None, half, maps: self.maps.take_half(half)? })
    }

    /// Begins to bring the lists in force into the other half too, so that the next change finds
    /// there nearly what it needs. `None`: they lie there.
    pub fn begin_catching_up(&mut self) -> Option<Filling> {
        let half = usize::from(!self.in_force.lists_second);
        let (listed, lists) = self.merged.clone();
        let maps = self.maps.take_half(half)?;
        if maps.holds(&lists) {
            self.maps.give_half(half, maps);
            return None;
        }
        Some(Filling { listed, lists: Some(lists), half, maps })
    }

    /// Takes the half back; [`Kernel::apply`] with the same lists has little left to do.
    pub fn end_filling(&mut self, filled: Filled) -> Result<(), KernelError> {
        self.maps.give_half(filled.half, filled.maps);
        self.prepared = Some(filled.outcome?);
        Ok(())
    }

    /// Whether a half of the lists is on its way.
    pub fn is_filling(&self) -> bool {
        self.maps.is_filling()
    }

    /// The lists of this policy, merged only if they have not been.
    pub(super) fn merged(&self, listed: &Listed) -> Result<Lists, KernelError> {
        if self.merged.0 == *listed {
            return Ok(self.merged.1.clone());
        }
        match &self.prepared {
            Some(prepared) if prepared.listed == *listed => Ok(prepared.lists.clone()),
            _ => listed.merge(),
        }
    }
}
