//! The word that tells the packet program to answer SYNs, and how many it answered.

use limiter_common::{
    maps::{self, control},
    verdict::{Reason, Verdict},
};

use super::Kernel;

impl Kernel {
    /// Whether SYNs to listeners that want a cookie are answered by the packet program. Holds for
    /// as long as the maps do, also without an agent.
    pub fn set_syn_cookies(&self, on: bool) {
        self.maps.set_word(control::SYN_COOKIES, u64::from(on));
    }

    /// SYNs answered so far, by interface.
    pub fn answers(&self) -> Vec<(String, u64)> {
        let verdict = Verdict::answer(Reason::SynCookie);
        let count = |(name, slot): (String, u32)| {
            let index = maps::counter_index(slot, verdict);
            (name, self.maps.counter(index).packets)
        };
        self.interfaces.slots_by_name().into_iter().map(count).collect()
    }
}
