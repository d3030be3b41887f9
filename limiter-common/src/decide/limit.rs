//! Whether an admitted packet stays within the limits: of its source, of its source at a service,
//! of the service, of the host. Tested in this order, charged only if none refuses it.

use super::{Clock, Tables, View};
use crate::{
    limits::{Buckets, Limits, Load, limit_flags},
    machine::Machine,
    settings::{ServiceSettings, flags, service_flags},
    source::{Home, NO_PLACE, Place, SourceSlot, claim_in, has_room, pair_key},
    verdict::{Action, Reason, Verdict},
};

/// No slot was claimed: the source is one of a flood of new ones.
const UNTRACKED: u64 = NO_PLACE + 1;

/// What the limits tested so far have against the packet.
#[derive(Clone, Copy)]
struct Judgement {
    verdict: Verdict,
}

impl Judgement {
    /// Notes that these limits refuse the packet. The first one that enforces decides; before
    /// that, the first one that only monitors is told.
    #[inline]
    fn refuse(&mut self, reason: Reason, limits: &Limits) {
        if limits.flags & limit_flags::MONITOR == 0 {
            self.verdict = Verdict::drop(reason);
        } else if self.verdict.action == Action::Pass {
            self.verdict = Verdict { action: Action::Monitor, reason };
        }
    }

    /// Notes why the packet is admitted, if it simply is.
    #[inline]
    fn admit(&mut self, reason: Reason) {
        if self.verdict.action == Action::Pass {
            self.verdict = Verdict::pass(reason);
        }
    }

    #[inline]
    fn is_drop(self) -> bool {
        self.verdict.action == Action::Drop
    }
}

/// What is charged if nothing refuses the packet.
struct Due<'a> {
    source: Option<&'a SourceSlot>,
    at_service: Option<&'a SourceSlot>,
    service: bool,
    host: bool,
}

/// The slot of a source, or why it has none.
enum Slot<'a> {
    Found(&'a SourceSlot),
    /// Every slot it could have is in debt.
    Full,
    /// One of a flood of new sources.
    Untracked,
}

impl<T: Tables, C: Clock> View<'_, T, C> {
    /// Charges an admitted source; `admitted` holds if it stays within its limits. Also the slot
    /// that was charged, if there is one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF functions take five arguments")]
    pub(super) fn limit<'s>(
        &'s self,
        key: u64,
        slot: Option<&'s SourceSlot>,
        admitted: Verdict,
    ) -> (Verdict, Option<&'s SourceSlot>) {
        let service_number = self.ports.service();
        let service = if service_number == 0 { None } else { self.tables.service(service_number) };
        let mut judgement = Judgement { verdict: admitted };
        if let Some(service) = service
            && service.has(service_flags::LISTED)
            && !self.tables.is_listed(service_number, self.headers.source)
        {
            judgement.verdict = if self.is_failsafe() {
                Verdict::pass(Reason::Failsafe)
            } else if service.has(service_flags::LIST_MONITOR) {
                Verdict { action: Action::Monitor, reason: Reason::NotAllowed }
            } else {
                return (Verdict::drop(Reason::NotAllowed), slot);
            };
        }
        if self.headers.is_fragment {
            if self.settings.has(flags::FRAGMENTS_DROP) {
                return (Verdict::drop(Reason::Fragment), slot);
            }
            if self.settings.has(flags::FRAGMENTS_PASS) {
                return (Verdict::pass(Reason::Fragment), slot);
            }
        }
        let now_ns = if self.settings.has(flags::PRECISE_CLOCK) {
            self.clock.precise_ns()
        } else {
            self.clock.coarse_ns()
        };
        let load = Load::new::<T::Machine>(self.headers, self.bytes, now_ns);
        let slot = match self.slot(key, slot, 0, &load) {
            Slot::Found(slot) => Some(slot),
            Slot::Full if self.settings.has(flags::TABLE_FULL_DROP) => {
                return (Verdict::drop(Reason::TableFull), None);
            }
            Slot::Full => {
                judgement.admit(Reason::TableFull);
                None
            }
            Slot::Untracked => {
                judgement.admit(Reason::Untracked);
                None
            }
        };
        let mut due = Due { source: slot, at_service: None, service: false, host: false };
        let limits = &self.settings.limits;
        if let Some(slot) = slot
            && !Self::is_within(limits, &slot.buckets, &load, &mut judgement)
        {
            due.source = None;
        }
        if !self.may_open(limits, key, &mut judgement) {
            due.source = None;
        }
        if let (Some(service), false) = (service, judgement.is_drop()) {
            if service.has(service_flags::SOURCE_LIMITS) {
                due.at_service = self.at_service(service, key, &load, &mut judgement);
            }
            if service.has(service_flags::TOTAL_LIMITS) && !judgement.is_drop() {
                let limits = &service.total_limits;
                due.service = self.are_all_within(service_number, limits, &load, &mut judgement);
            }
        }
        if self.settings.has(flags::TOTAL_LIMITS) && !judgement.is_drop() {
            // What this host asked for is not charged, or one download would use up what all
            // clients together may send.
            if service_number == 0 && self.is_reply() {
                return (Verdict::pass(Reason::Reply), slot);
            }
            let limits = &self.settings.total_limits;
            due.host = self.are_all_within(0, limits, &load, &mut judgement);
        }
        if !judgement.is_drop() {
            self.charge(&due, service, service_number, &load);
        }
        if let Some(slot) = slot {
            T::Machine::write(&slot.seen_ns, now_ns);
        }
        (judgement.verdict, slot)
    }

    /// Charges everything that admits the packet.
    #[inline]
    fn charge(&self, due: &Due<'_>, service: Option<&ServiceSettings>, number: u32, load: &Load) {
        if let Some(slot) = due.source {
            self.charge_slot(&self.settings.limits, slot, load);
        }
        if let Some(service) = service {
            if let Some(slot) = due.at_service {
                self.charge_slot(&service.limits, slot, load);
            }
            if due.service {
                self.charge_all(number, &service.total_limits, load);
            }
        }
        if due.host {
            self.charge_all(0, &self.settings.total_limits, load);
        }
    }

    /// The slot that was found, else one that is claimed now.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF functions take five arguments")]
    fn slot<'s>(
        &'s self,
        key: u64,
        found: Option<&'s SourceSlot>,
        service: u32,
        load: &Load,
    ) -> Slot<'s> {
        if let Some(slot) = found {
            return Slot::Found(slot);
        }
        match self.claim(key, service, load.now()) {
            UNTRACKED => Slot::Untracked,
            place => match Place::unpack(place) {
                Some(place) => {
                    let slot = self.tables.slots(place.set).and_then(|set| set.slot(place.way));
                    slot.map_or(Slot::Full, Slot::Found)
                }
                None => Slot::Full,
            },
        }
    }

    /// Claims a slot for a source, if one may be claimed now: a packed [`Place`], [`NO_PLACE`] or
    /// [`UNTRACKED`]. A function of its own in the kernel, whose verifier thereby forgets how it
    /// got here.
    #[inline(never)]
    fn claim(&self, key: u64, service: u32, now: u64) -> u64 {
        let home = Home::of(key, self.settings.hash_seed, self.settings.set_mask);
        let keys = |set| self.tables.keys(set);
        if !has_room::<T::Machine>(keys, home) && !self.may_claim(now) {
            return UNTRACKED;
        }
        let slots = |set| self.tables.slots(set);
        let Some(place) = claim_in::<T::Machine>(keys, slots, home, key, now) else {
            return NO_PLACE;
        };
        if let Some(slot) = self.tables.slots(place.set).and_then(|set| set.slot(place.way)) {
            let source_key = self.headers.source.source_key(self.settings.masks);
            T::Machine::write(&slot.source_key, source_key);
            T::Machine::write(&slot.service, u64::from(service));
        }
        T::Machine::forget(place.pack(), self.settings.hash_seed)
    }

    #[inline]
    fn may_claim(&self, now: u64) -> bool {
        self.tables.claim_budget().is_some_and(|budget| {
            let per_window = self.settings.claims_per_window;
            budget.allows::<T::Machine>(per_window, now, self.tables.random())
        })
    }

    /// Tests the rates of one source (or of one at a service) and says why not.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF functions take five arguments")]
    fn is_within(
        limits: &Limits,
        buckets: &Buckets,
        load: &Load,
        judgement: &mut Judgement,
    ) -> bool {
        let excess = load.excess::<T::Machine>(limits, buckets, None);
        if excess.is_any() {
            judgement.refuse(load.reason(excess), limits);
        }
        !excess.is_any()
    }

    /// Tests whether one source may open a connection, and says why not. The stack counts them: a
    /// source without a slot too.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF functions take five arguments")]
    fn may_open(&self, limits: &Limits, key: u64, judgement: &mut Judgement) -> bool {
        let most = limits.concurrent_connections;
        // No source has more connections than all have together: mostly that spares the look-up.
        let has_too_many = most != 0
            && self.headers.is_tcp_open()
            && self.tables.open_total(0) >= most
            && self.tables.open_connections(key) >= most;
        if has_too_many && !judgement.is_drop() {
            judgement.refuse(Reason::TooManyConnections, limits);
        }
        !has_too_many
    }

    /// Tests the limits of the source at a service; its slot there if they admit the packet.
    #[inline]
    fn at_service(
        &self,
        service: &ServiceSettings,
        source_key: u64,
        load: &Load,
        judgement: &mut Judgement,
    ) -> Option<&SourceSlot> {
        let number = self.ports.service();
        let key = pair_key(source_key, number, self.settings.hash_seed);
        let found = self.find(key);
        // Without a slot its rates are not limited here.
        let mut due = None;
        if let Slot::Found(slot) = self.slot(key, found, number, load)
            && Self::is_within(&service.limits, &slot.buckets, load, judgement)
        {
            due = Some(slot);
        }
        if self.may_open(&service.limits, key, judgement) { due } else { None }
    }

    /// Tests what all sources together may send to a service or (0) to the host.
    #[inline]
    fn are_all_within(
        &self,
        number: u32,
        limits: &Limits,
        load: &Load,
        judgement: &mut Judgement,
    ) -> bool {
        let (Some(buckets), Some(pending)) =
            (self.tables.totals(number), self.tables.pending(number))
        else {
            return false;
        };
        if load.excess::<T::Machine>(limits, buckets, Some(pending)).is_any() {
            judgement.refuse(Reason::TotalRate, limits);
            return false;
        }
        let most = limits.concurrent_connections;
        if most != 0 && self.headers.is_tcp_open() && self.tables.open_total(number) >= most {
            judgement.refuse(Reason::TooManyConnections, limits);
            return false;
        }
        true
    }

    #[inline]
    fn charge_slot(&self, limits: &Limits, slot: &SourceSlot, load: &Load) {
        let full = if slot.is_owned_by::<T::Machine>(self.tables.cpu(), load.now()) {
            load.charge::<T::Machine>(limits, &slot.buckets)
        } else {
            load.charge_shared::<T::Machine>(limits, &slot.buckets)
        };
        slot.keep::<T::Machine>(full, load.now());
    }

    #[inline]
    fn charge_all(&self, number: u32, limits: &Limits, load: &Load) {
        if let (Some(buckets), Some(pending)) =
            (self.tables.totals(number), self.tables.pending(number))
        {
            load.charge_pending::<T::Machine>(limits, buckets, pending);
        }
    }
}
