//! The packet flow: what happens to one packet, top to bottom.
//!
//! Pure: reads bytes through [`PacketBytes`], looks keys up through [`Tables`], and is told the
//! time. The kernel program and the tests run this very function.
//!
//! Meaning, whatever the order of look-ups: malformed; trusted; bans; deny and allow (the longest
//! prefix wins, deny wins a tie); default; limits. Failsafe ports are exempt from bans, lists and
//! default, not from limits. Replies to connections that this host opened are exempt from all of
//! these, and looked up only when the packet would otherwise be dropped.
//!
//! Map operations of the common packet (a known source, allowed): settings, one control word, one
//! filter word, one source set, one counter, all of them array look-ups that the JIT inlines; one coarse clock.

use core::sync::atomic::AtomicU64;

use crate::{
    address::Address,
    ban::FilterBit,
    bucket::{self, BucketRate},
    headers::{self, Headers, Parsed, protocol},
    machine::Machine,
    packet::PacketBytes,
    settings::{ListVerdict, Settings, flags},
    source::{CachedAccess, SourceSet, SourceSlot, claim_in, set_indices},
    verdict::{Action, Reason, Verdict},
};

/// Ports below this one are for services (`net.ipv4.ip_unprivileged_port_start`, its default).
const FIRST_UNPRIVILEGED_PORT: u16 = 1_024;

/// What the decision looks up. Each call is one map operation.
pub trait Tables {
    /// How the words of a source are changed.
    type Machine: Machine;

    /// The policy in force.
    fn settings(&self) -> &Settings;

    /// One word of the filter before the bans.
    fn ban_filter(&self, word: u32) -> u64;

    /// One set of the source table.
    fn source_set(&self, index: u32) -> Option<&SourceSet>;

    /// When the ban of this key ends, `CLOCK_MONOTONIC` ns, and counts one hit on it.
    fn ban_expiry_ns(&self, key: u64) -> Option<u64>;

    /// What the lists say about an address; called only where some list has an entry.
    fn list(&self, address: Address) -> ListVerdict;

    /// Whether the packet belongs to a connection or connected socket that this host opened.
    fn is_reply(&self, headers: &Headers) -> bool;

    /// Whether this SYN, which is admitted, was turned into an answer with a SYN cookie.
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
    let (source, verdict) = match headers::parse(packet) {
        Parsed::NotIp => (Address::default(), Verdict::pass(Reason::Essential)),
        Parsed::Malformed(source) if settings.has(flags::MALFORMED_PASS) => {
            (source, Verdict::pass(Reason::Malformed))
        }
        Parsed::Malformed(source) => (source, Verdict::drop(Reason::Malformed)),
        Parsed::Ip(headers) if headers.is_essential => {
            (headers.source, Verdict::pass(Reason::Essential))
        }
        Parsed::Ip(headers) => {
            let headers = headers.forget::<T::Machine>(settings.hash_seed);
            let view = View { settings, tables, clock, headers: &headers, bytes: packet.length() };
            (headers.source, view.decide())
        }
    };
    let action = match verdict.action {
        Action::Drop if settings.has(flags::MONITOR) => Action::Monitor,
        action => action,
    };
    Decision { verdict: Verdict { action, ..verdict }, source }
}

/// One packet and what it is decided by.
struct View<'a, T, C> {
    settings: &'a Settings,
    tables: &'a T,
    clock: &'a C,
    headers: &'a Headers,
    bytes: u64,
}

/// Whether the source may enter at all.
enum Access {
    Trusted,
    Open,
    Refused(Reason),
}

impl<T: Tables, C: Clock> View<'_, T, C> {
    #[inline]
    fn decide(&self) -> Verdict {
        let banned = self.is_banned();
        let (mut verdict, slot) = if banned && !self.is_failsafe() {
            (Verdict::drop(Reason::Banned), None)
        } else {
            self.admit(banned)
        };
        if verdict.action == Action::Drop && self.is_reply() {
            verdict = Verdict::pass(Reason::Reply);
        }
        if verdict.action == Action::Pass
            && self.headers.is_tcp_open()
            && !self.headers.is_fragment
            && self.tables.answer(self.headers)
        {
            verdict = Verdict::answer(Reason::SynCookie);
        }
        if let Some(slot) = slot {
            self.record(slot, verdict);
        }
        verdict
    }

    /// Whether a ban of the source is in force. Ban insertion refuses trusted sources, so that a
    /// ban needs no look at the lists.
    #[inline]
    fn is_banned(&self) -> bool {
        let key = self.headers.source.ban_key();
        let bit = FilterBit::of(key);
        if self.tables.ban_filter(bit.word) & bit.mask == 0 {
            return false;
        }
        self.tables.ban_expiry_ns(key).is_some_and(|expiry_ns| self.clock.coarse_ns() < expiry_ns)
    }

    /// Lists and limits of a source that is not banned, or whose packet is for a failsafe port;
    /// also its slot, if it has one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF functions take five arguments")]
    fn admit(&self, banned: bool) -> (Verdict, Option<&SourceSlot>) {
        let key = self.headers.source.source_key(self.settings.masks);
        let sets = set_indices(key, self.settings.hash_seed, self.settings.set_mask);
        let slot = self.find(key, sets);
        let admitted = match self.judge(self.list(key, slot)) {
            _ if banned => Verdict::pass(Reason::Failsafe),
            Access::Trusted => return (Verdict::pass(Reason::Trusted), slot),
            Access::Open => Verdict::pass(Reason::Allowed),
            Access::Refused(_) if self.is_failsafe() => Verdict::pass(Reason::Failsafe),
            Access::Refused(reason) => return (Verdict::drop(reason), slot),
        };
        self.limit(key, sets, slot, admitted)
    }

    #[inline]
    fn find(&self, key: u64, sets: [u32; 2]) -> Option<&SourceSlot> {
        for index in sets {
            if let Some(slot) =
                self.tables.source_set(index).and_then(|set| set.find::<T::Machine>(key))
            {
                return Some(slot);
            }
        }
        None
    }

    /// What the lists say, or what the source's slot remembers of it.
    #[inline]
    fn list(&self, key: u64, slot: Option<&SourceSlot>) -> ListVerdict {
        let generation = self.settings.generation;
        if let Some(slot) = slot
            && let Some(list) = CachedAccess::read(T::Machine::read(&slot.access), key, generation)
        {
            return list;
        }
        let list = if self.settings.has(flags::LISTS) {
            self.tables.list(self.headers.source)
        } else {
            ListVerdict::None
        };
        // A slot cannot remember what holds for some of its addresses only.
        if let Some(slot) = slot
            && !self.settings.has(flags::FINE_LISTS)
        {
            T::Machine::write(&slot.access, CachedAccess::new(list, key, generation).word());
        }
        list
    }

    #[inline]
    fn judge(&self, list: ListVerdict) -> Access {
        match list {
            ListVerdict::Trusted => Access::Trusted,
            ListVerdict::Deny => Access::Refused(Reason::Denied),
            ListVerdict::None if self.settings.has(flags::DEFAULT_DENY) => {
                Access::Refused(Reason::NotAllowed)
            }
            ListVerdict::Allow | ListVerdict::None => Access::Open,
        }
    }

    /// Charges an admitted source; `admitted` holds if it stays within its limits. Also the slot
    /// that was charged, if there is one.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "BPF functions take five arguments")]
    fn limit<'s>(
        &'s self,
        key: u64,
        sets: [u32; 2],
        slot: Option<&'s SourceSlot>,
        admitted: Verdict,
    ) -> (Verdict, Option<&'s SourceSlot>) {
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
        let Some(slot) = slot.or_else(|| self.claim(key, sets, now_ns)) else {
            let verdict = if self.settings.has(flags::TABLE_FULL_DROP) {
                Verdict::drop(Reason::TableFull)
            } else {
                Verdict::pass(Reason::TableFull)
            };
            return (verdict, None);
        };
        T::Machine::write(&slot.seen_ns, now_ns);
        let verdict = if !Self::take(&slot.packet_bucket, self.settings.packets, now_ns) {
            Verdict::drop(Reason::PacketRate)
        } else if self.headers.is_tcp_open()
            && !Self::take(&slot.connection_bucket, self.settings.connections, now_ns)
        {
            Verdict::drop(Reason::ConnectionRate)
        } else {
            admitted
        };
        (verdict, Some(slot))
    }

    #[inline]
    fn take(bucket: &AtomicU64, rate: BucketRate, now_ns: u64) -> bool {
        bucket::take::<T::Machine>(bucket, rate, now_ns)
    }

    #[inline]
    fn claim(&self, key: u64, sets: [u32; 2], now_ns: u64) -> Option<&SourceSlot> {
        claim_in::<T::Machine>(|index| self.tables.source_set(index), sets, key, now_ns)
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
                !self.headers.is_tcp_open()
                    && !self.settings.listening_ports.holds(self.headers.destination_port)
            }
            protocol::UDP if self.headers.has_ports => {
                self.headers.destination_port >= FIRST_UNPRIVILEGED_PORT
            }
            _ => false,
        }
    }

    #[inline]
    fn is_failsafe(&self) -> bool {
        self.headers.has_ports
            && self.headers.protocol == protocol::TCP
            && self.settings.failsafe_ports.holds(self.headers.destination_port)
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
