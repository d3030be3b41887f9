//! The packet flow: what happens to one packet, top to bottom.
//!
//! Pure: reads bytes through [`PacketBytes`], looks keys up through [`Tables`], and is told the
//! time. The kernel program and the tests run this very function.
//!
//! Meaning, whatever the order of look-ups: malformed; forwarded; trusted; bans; deny and allow
//! (the longest prefix wins, deny wins a tie); default; the list of the service; limits of the
//! source, of the source at the service, of the service, of the host. Failsafe ports are exempt
//! from bans, lists and default, not from limits. Replies to connections that this host opened are
//! exempt from all of these, and looked up only when the packet would otherwise be dropped, or
//! charged to the limits of the host.
//!
//! Map operations of the common packet (a known source, allowed): control, settings, one word of
//! ports, one of the ban filter, one set of keys or two, its slots, one counter; with limits on the
//! host, its buckets and this CPU's share of them: all of them array look-ups that the JIT inlines;
//! one coarse clock.

use crate::{
    address::Address,
    ban::{FilterBit, PrefixBit},
    headers::{self, Flaw, Headers, Parsed, protocol},
    limits::Buckets,
    lists::{ListValue, ListVerdict},
    machine::Machine,
    packet::PacketBytes,
    ports::{PortFacts, port_word},
    settings::{ServiceSettings, Settings, flags},
    source::{ClaimBudget, Home, KeySet, NO_PLACE, Place, SlotSet, SourceSlot, find_in},
    verdict::{Action, Reason, Verdict},
};

mod access;
mod limit;

/// Ports below this one are for services (`net.ipv4.ip_unprivileged_port_start`, its default).
const FIRST_UNPRIVILEGED_PORT: u16 = 1_024;

/// What the decision looks up. Each call is one map operation, if not said otherwise.
pub trait Tables {
    /// How shared words are changed.
    type Machine: Machine;

    /// The policy in force.
    fn settings(&self) -> &Settings;

    /// Slot of the interface that the packet came in on; a constant.
    fn interface(&self) -> u32;

    /// Whether that interface is the loopback one, on which every source is an own address; a
    /// constant.
    fn is_loopback(&self) -> bool;

    /// The CPU that runs this; no map operation.
    fn cpu(&self) -> u32;

    /// A random number; no map operation.
    fn random(&self) -> u32;

    /// One word of what is known of ports, see [`port_word`].
    fn port_word(&self, word: u32) -> u64;

    /// A service (1 to [`crate::settings::MAX_SERVICES`]) of the policy in force.
    fn service(&self, number: u32) -> Option<&ServiceSettings>;

    /// One word of the filter before the bans.
    fn ban_filter(&self, word: u32) -> u64;

    /// When the ban of this key ends, `CLOCK_MONOTONIC` ns, and counts one hit on it.
    fn ban_expiry_ns(&self, key: u64) -> Option<u64>;

    /// Whether there is any ban of a prefix; no map operation.
    fn has_prefix_bans(&self) -> bool;

    /// As [`Self::ban_expiry_ns`], for the longest banned prefix that covers the address.
    fn prefix_ban_expiry_ns(&self, address: Address) -> Option<u64>;

    /// One word of the filter before the list entries.
    fn list_filter(&self, word: u32) -> u64;

    /// One word of the bitmap before the IPv4 prefixes of the lists.
    fn list_bitmap(&self, word: u32) -> u64;

    /// The list entry of exactly this address.
    fn list_exact(&self, address: Address) -> Option<ListValue>;

    /// The list entry of the longest prefix that covers the address.
    fn list_prefix(&self, address: Address) -> Option<ListValue>;

    /// Whether the list of a service has the address.
    fn is_listed(&self, service: u32, address: Address) -> bool;

    /// The keys of one set of the source table.
    fn keys(&self, set: u32) -> Option<&KeySet>;

    /// The slots of one set of the source table.
    fn slots(&self, set: u32) -> Option<&SlotSet>;

    /// This CPU's budget of claims.
    fn claim_budget(&self) -> Option<&ClaimBudget>;

    /// What all sources together may still send to a service, or (0) to the host.
    fn totals(&self, service: u32) -> Option<&Buckets>;

    /// This CPU's share of [`Self::totals`] that is not charged there yet.
    fn pending(&self, service: u32) -> Option<&Buckets>;

    /// Open connections of a source, or of a source at a service, by key.
    fn open_connections(&self, key: u64) -> u64;

    /// Open connections of all sources together, to a service or (0) to the host.
    fn open_total(&self, service: u32) -> u64;

    /// Whether the packet belongs to a connection or connected socket that this host opened: asked
    /// of the network stack.
    fn is_reply(&self, headers: &Headers) -> bool;

    /// Whether the packet is for another host and this one would send it on: asked of the network
    /// stack.
    fn is_forwarded(&self, headers: &Headers) -> bool;

    /// Whether connection requests to flooded listeners are answered; no map operation.
    fn has_syn_cookies(&self) -> bool;

    /// Turns a connection request into its answer with a SYN cookie. `false` where its listener is
    /// not flooded, or the packet is not of the plainest kind; it is then as it was.
    fn answer(&self, headers: &Headers) -> bool;
}

/// The time, read at most once each.
pub trait Clock {
    /// `CLOCK_MONOTONIC` ns, up to one tick late: cheap.
    fn coarse_ns(&self) -> u64;

    /// `CLOCK_MONOTONIC` ns.
    fn precise_ns(&self) -> u64;
}

/// What was decided, and about whom.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// What happens, and why.
    pub verdict: Verdict,
    /// Source address; `::` where it could not be read.
    pub source: Address,
    /// What is wrong with a malformed packet.
    pub flaw: Flaw,
}

/// Decides about one packet.
#[inline]
pub fn decide<P, T, C>(packet: &P, tables: &T, clock: &C) -> Decision
where
    P: PacketBytes + ?Sized,
    T: Tables,
    C: Clock,
{
    let settings = tables.settings();
    let (source, verdict, flaw) = match headers::parse(packet) {
        Parsed::NotIp => (Address::default(), Verdict::pass(Reason::Essential), Flaw::None),
        Parsed::Malformed(source, flaw) => (source, malformed(settings), flaw),
        Parsed::Ip(headers) if headers.is_essential => {
            (headers.source, Verdict::pass(Reason::Essential), Flaw::None)
        }
        Parsed::Ip(headers) => {
            let headers = headers.forget::<T::Machine>(settings.hash_seed);
            let ports = PortFacts::default();
            let bytes = packet.length();
            let mut view = View { settings, tables, clock, headers: &headers, ports, bytes };
            let flaw = view.flaw();
            let verdict = if let Flaw::None = flaw { view.decide() } else { malformed(settings) };
            (headers.source, verdict, flaw)
        }
    };
    let action = match verdict.action {
        Action::Drop if settings.has(flags::MONITOR) => Action::Monitor,
        action => action,
    };
    Decision { verdict: Verdict { action, ..verdict }, source, flaw }
}

/// What happens to a malformed packet.
#[inline]
const fn malformed(settings: &Settings) -> Verdict {
    if settings.has(flags::MALFORMED_PASS) {
        Verdict::pass(Reason::Malformed)
    } else {
        Verdict::drop(Reason::Malformed)
    }
}

/// One packet and what it is decided by.
struct View<'a, T, C> {
    settings: &'a Settings,
    tables: &'a T,
    clock: &'a C,
    headers: &'a Headers,
    ports: PortFacts,
    bytes: u64,
}

impl<T: Tables, C: Clock> View<'_, T, C> {
    /// What is wrong with addresses that are well formed: no packet on a wire has a loopback
    /// address, nobody else's has this host's own address as its source, and nobody's has the same
    /// address as source and destination ("land", CERT CA-1997-28).
    #[inline]
    fn flaw(&self) -> Flaw {
        if self.tables.is_loopback() {
            Flaw::None
        } else if self.headers.source.is_loopback() {
            Flaw::Source
        } else if self.settings.is_own(self.headers.source) {
            Flaw::OwnSource
        } else if self.headers.source == self.headers.destination {
            Flaw::Land
        } else {
            Flaw::None
        }
    }

    #[inline]
    fn decide(&mut self) -> Verdict {
        if self.is_forwarded() {
            return Verdict::pass(Reason::Forwarded);
        }
        let ban_key = self.headers.source.ban_key();
        let banned = self.is_banned(ban_key);
        // Of a banned source's datagram nobody asks what its port is to the host.
        if self.headers.has_ports && (!banned || self.headers.protocol == protocol::TCP) {
            let port = self.headers.destination_port;
            let word = port_word(self.headers.protocol == protocol::UDP, port);
            self.ports = PortFacts::in_word(self.tables.port_word(word), port);
        }
        let (mut verdict, slot) = if banned && !self.is_failsafe() {
            (Verdict::drop(Reason::Banned), None)
        } else {
            self.admit(ban_key, banned)
        };
        if verdict.action != Action::Pass && self.is_reply() {
            verdict = Verdict::pass(Reason::Reply);
        }
        if let Some(slot) = slot {
            self.record(slot, verdict);
        }
        if self.is_to_be_answered(verdict) && self.tables.answer(self.headers) {
            verdict = Verdict::answer(Reason::SynCookie);
        }
        verdict
    }

    /// Whether the packet only passes through this host. Most are for one of the addresses in the
    /// settings; of the others the stack is asked, so that an address that is newer than the
    /// policy counts as own.
    #[inline]
    fn is_forwarded(&self) -> bool {
        self.settings.has(flags::FORWARDING)
            && !self.settings.is_own(self.headers.destination)
            && self.tables.is_forwarded(self.headers)
    }

    /// Whether a ban of the source is in force. Ban insertion refuses trusted sources, so that a
    /// ban needs no look at the lists.
    #[inline]
    fn is_banned(&self, key: u64) -> bool {
        let bit = FilterBit::of(key);
        // A ban that ends at 0 is none. One that has ended does not hide a prefix that is banned.
        let mut expiry_ns = 0;
        if self.tables.ban_filter(bit.word) & bit.mask != 0 {
            expiry_ns = self.tables.ban_expiry_ns(key).unwrap_or(0);
        }
        if expiry_ns <= self.clock.coarse_ns() && self.tables.has_prefix_bans() {
            let bit = PrefixBit::of(self.headers.source);
            if self.tables.ban_filter(bit.word) & bit.mask != 0 {
                expiry_ns = self.tables.prefix_ban_expiry_ns(self.headers.source).unwrap_or(0);
            }
        }
        self.clock.coarse_ns() < expiry_ns
    }

    /// Lists and limits of a source that is not banned, or whose packet is for a failsafe port;
    /// also its slot, if it has one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF functions take five arguments")]
    fn admit(&self, ban_key: u64, banned: bool) -> (Verdict, Option<&SourceSlot>) {
        let key = Address::source_key_of(ban_key, self.settings.masks);
        let slot = self.find(key);
        let admitted = match self.list(key, slot) {
            _ if banned => Verdict::pass(Reason::Failsafe),
            ListVerdict::Trusted => return (Verdict::pass(Reason::Trusted), slot),
            ListVerdict::Deny if self.is_failsafe() => Verdict::pass(Reason::Failsafe),
            ListVerdict::Deny => return (Verdict::drop(Reason::Denied), slot),
            ListVerdict::None if self.settings.has(flags::DEFAULT_DENY) => {
                if !self.is_failsafe() {
                    return (Verdict::drop(Reason::NotAllowed), slot);
                }
                Verdict::pass(Reason::Failsafe)
            }
            ListVerdict::Allow | ListVerdict::None => Verdict::pass(Reason::Allowed),
        };
        self.limit(key, slot, admitted)
    }

    #[inline]
    fn find(&self, key: u64) -> Option<&SourceSlot> {
        let place = Place::unpack(self.place(key))?;
        self.tables.slots(place.set)?.slot(place.way)
    }

    /// Where a source's slot is: a packed [`Place`] or [`NO_PLACE`]. A function of its own in the
    /// kernel, whose verifier thereby forgets how it got here.
    #[inline(never)]
    fn place(&self, key: u64) -> u64 {
        let home = Home::of(key, self.settings.hash_seed, self.settings.set_mask);
        let found = find_in::<T::Machine>(|set| self.tables.keys(set), home, key);
        T::Machine::forget(found.map_or(NO_PLACE, Place::pack), self.settings.hash_seed)
    }

    /// Whether a packet that is to be dropped belongs to a connection that this host opened.
    #[inline]
    fn is_reply(&self) -> bool {
        self.can_be_reply() && self.tables.is_reply(self.headers)
    }

    /// Whether looking for a socket can find one: a packet that opens a connection, or that is
    /// addressed to a port this host listens on, is certainly no reply. Nor is a datagram to a
    /// privileged port: a socket connected to its peer there is a service's (QUIC and DTLS servers
    /// make one for each client), and its peer opened it.
    #[inline]
    fn can_be_reply(&self) -> bool {
        match self.headers.protocol {
            protocol::TCP if self.headers.has_ports => {
                !self.headers.is_tcp_open() && !self.ports.is_listening()
            }
            protocol::UDP if self.headers.has_ports => {
                self.headers.destination_port >= FIRST_UNPRIVILEGED_PORT
            }
            _ => false,
        }
    }

    #[inline]
    fn is_failsafe(&self) -> bool {
        self.headers.protocol == protocol::TCP && self.ports.is_failsafe()
    }

    /// Whether the packet asks for a connection that is to be answered in the stack's place: one to
    /// an address that is certainly this host's, because a listener on all addresses is found by
    /// those of others too.
    #[inline]
    fn is_to_be_answered(&self, verdict: Verdict) -> bool {
        verdict.action == Action::Pass
            && self.tables.has_syn_cookies()
            && self.headers.is_tcp_open()
            && !self.headers.is_fragment
            && !self.settings.has(flags::MONITOR)
            && self.settings.is_own(self.headers.destination)
    }

    /// Adds the packet to its source's statistics.
    #[inline]
    fn record(&self, slot: &SourceSlot, verdict: Verdict) {
        SourceSlot::add::<T::Machine>(&slot.packets, 1);
        SourceSlot::add::<T::Machine>(&slot.bytes, self.bytes);
        if self.headers.is_tcp_open() {
            SourceSlot::add::<T::Machine>(&slot.connections, 1);
        }
        if let Action::Drop = verdict.action {
            SourceSlot::add::<T::Machine>(&slot.dropped, 1);
        }
    }
}

#[cfg(test)]
mod tests;
