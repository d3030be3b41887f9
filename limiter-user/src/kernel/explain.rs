//! What would happen to a packet: the very `decide` that the kernel runs, over copies of its maps.

use std::{collections::HashMap, net::IpAddr};

use limiter_common::{
    address::Address,
    decide::{Clock, Tables, decide},
    headers::{Headers, protocol, tcp_flags},
    limits::Buckets,
    lists::{ListValue, ListVerdict},
    machine::Native,
    ports::{PortFacts, port_word},
    settings::{ServiceSettings, Settings},
    source::{ClaimBudget, Home, KeySet, SlotSet, pair_key},
    verdict::Verdict,
};

use super::{Kernel, KernelError, ban_prefix};
use crate::clock;

/// What would happen to a source's next packet, and from what that follows.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Action and reason.
    pub verdict: Verdict,
    /// What the lists say.
    pub list: ListVerdict,
}

/// A packet to be explained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probe {
    /// TCP SYN to this port.
    Tcp(u16),
    /// A datagram to this port.
    Udp(u16),
    /// An echo request.
    Icmp,
}

impl Kernel {
    /// Explains a packet from `source` that comes in on the interface with this slot.
    pub fn explain(
        &self,
        source: IpAddr,
        probe: Probe,
        slot: u32,
    ) -> Result<Explanation, KernelError> {
        let settings = self.maps.active_settings()?;
        let now_ns = clock::monotonic_ns();
        let frame = frame(source, probe);
        let service = self.service_of(probe);
        let seed = settings.hash_seed;
        let key = Address::from(source).source_key(settings.masks);
        let at_service = (service != 0).then(|| pair_key(key, service, seed));
        let sets = [Some(key), at_service]
            .into_iter()
            .flatten()
            .flat_map(|key| Home::of(key, seed, settings.set_mask).sets)
            .map(|set| (set, (self.maps.keys(set), self.maps.slots(set))))
            .collect();
        let totals = [0, service].map(|number| (number, self.maps.totals(number))).into();
        let tables = Copies {
            kernel: self,
            settings,
            slot,
            sets,
            totals,
            budget: ClaimBudget::default(),
            pending: Buckets::default(),
        };
        let decision = decide(frame.as_slice(), &tables, &Now(now_ns));
        Ok(Explanation { verdict: decision.verdict, list: self.image.list(source, slot) })
    }

    fn service_of(&self, probe: Probe) -> u32 {
        let (is_udp, port) = match probe {
            Probe::Tcp(port) => (false, port),
            Probe::Udp(port) => (true, port),
            Probe::Icmp => return 0,
        };
        let word = self.image.ports.get(port_word(is_udp, port) as usize).copied();
        PortFacts::in_word(word.unwrap_or(0), port).service()
    }
}

/// Copies of what the packet would meet: charging them changes nothing.
struct Copies<'a> {
    kernel: &'a Kernel,
    settings: Settings,
    slot: u32,
    sets: HashMap<u32, (KeySet, SlotSet)>,
    totals: HashMap<u32, Buckets>,
    budget: ClaimBudget,
    pending: Buckets,
}

impl Tables for Copies<'_> {
    type Machine = Native;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn interface(&self) -> u32 {
        self.slot
    }

    fn is_loopback(&self) -> bool {
        // Whoever asks about an own address wants to know of its packets on the loopback interface.
        true
    }

    fn cpu(&self) -> u32 {
        0
    }

    fn random(&self) -> u32 {
        0
    }

    fn port_word(&self, word: u32) -> u64 {
        self.kernel.image.ports.get(word as usize).copied().unwrap_or(0)
    }

    fn service(&self, number: u32) -> Option<&ServiceSettings> {
        self.kernel.image.services.get(number as usize)
    }

    fn ban_filter(&self, _word: u32) -> u64 {
        u64::MAX
    }

    fn ban_expiry_ns(&self, key: u64) -> Option<u64> {
        self.kernel.ban_of(ban_prefix(Address::from_key(key).into())).map(|ban| ban.expires_ns)
    }

    fn has_prefix_bans(&self) -> bool {
        true
    }

    fn prefix_ban_expiry_ns(&self, address: Address) -> Option<u64> {
        self.kernel.prefix_ban_of(address.into()).map(|ban| ban.expires_ns)
    }

    fn list_filter(&self, _word: u32) -> u64 {
        u64::MAX
    }

    fn list_bitmap(&self, _word: u32) -> u64 {
        u64::MAX
    }

    fn list_exact(&self, address: Address) -> Option<ListValue> {
        Some(self.kernel.image.lists.value(address.into()))
    }

    fn list_prefix(&self, address: Address) -> Option<ListValue> {
        Some(self.kernel.image.lists.value(address.into()))
    }

    fn is_listed(&self, service: u32, address: Address) -> bool {
        self.kernel.image.is_admitted(service, address.into())
    }

    fn keys(&self, set: u32) -> Option<&KeySet> {
        self.sets.get(&set).map(|(keys, _)| keys)
    }

    fn slots(&self, set: u32) -> Option<&SlotSet> {
        self.sets.get(&set).map(|(_, slots)| slots)
    }

    fn claim_budget(&self) -> Option<&ClaimBudget> {
        Some(&self.budget)
    }

    fn totals(&self, service: u32) -> Option<&Buckets> {
        self.totals.get(&service)
    }

    fn pending(&self, _service: u32) -> Option<&Buckets> {
        Some(&self.pending)
    }

    fn open_connections(&self, key: u64) -> u64 {
        self.kernel.maps.open_connections(key)
    }

    fn open_total(&self, service: u32) -> u64 {
        self.kernel.maps.open_total(service)
    }

    fn is_reply(&self, _headers: &Headers) -> bool {
        false
    }

    fn is_forwarded(&self, _headers: &Headers) -> bool {
        false
    }

    fn has_syn_cookies(&self) -> bool {
        false
    }

    fn answer(&self, _headers: &Headers) -> bool {
        false
    }
}

struct Now(u64);

impl Clock for Now {
    fn coarse_ns(&self) -> u64 {
        self.0
    }

    fn precise_ns(&self) -> u64 {
        self.0
    }
}

/// A minimal frame from this source, from port 40000 where there are ports.
fn frame(source: IpAddr, probe: Probe) -> Vec<u8> {
    const SOURCE_PORT: u16 = 40_000;
    const ECHO_V4: u8 = 8;
    const ECHO_V6: u8 = 128;

    let ports = |port: u16| [SOURCE_PORT.to_be_bytes(), port.to_be_bytes()].concat();
    let (protocol, transport) = match probe {
        Probe::Tcp(port) => {
            let mut tcp = ports(port);
            tcp.resize(20, 0);
            tcp[12] = 5 << 4;
            tcp[13] = tcp_flags::SYN;
            (protocol::TCP, tcp)
        }
        Probe::Udp(port) => (protocol::UDP, [ports(port), vec![0, 8, 0, 0]].concat()),
        Probe::Icmp if source.is_ipv4() => (protocol::ICMP, vec![ECHO_V4, 0, 0, 0, 0, 0, 0, 0]),
        Probe::Icmp => (protocol::ICMPV6, vec![ECHO_V6, 0, 0, 0, 0, 0, 0, 0]),
    };
    let length = u16::try_from(transport.len()).unwrap_or(0);
    let mut frame = vec![0; 12];
    match source {
        IpAddr::V4(source) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((20 + length).to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend([192, 0, 2, 1]);
        }
        IpAddr::V6(source) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([protocol, 64]);
            frame.extend(source.octets());
            frame.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        }
    }
    frame.extend(transport);
    frame
}

#[cfg(test)]
mod tests {
    use limiter_common::headers::{Parsed, parse};

    use super::*;

    #[test]
    fn frames_are_what_they_say() {
        for source in ["192.0.2.9", "2001:db8::9"] {
            let source: IpAddr = source.parse().unwrap();
            for (probe, protocols, port) in [
                (Probe::Tcp(443), [6, 6], 443),
                (Probe::Udp(53), [17, 17], 53),
                (Probe::Icmp, [1, 58], 0),
            ] {
                let Parsed::Ip(headers) = parse(frame(source, probe).as_slice()) else {
                    panic!("{source} {probe:?} is not a packet")
                };
                assert_eq!(IpAddr::from(headers.source), source);
                assert_eq!(headers.is_tcp_open(), probe == Probe::Tcp(443));
                assert_eq!(headers.destination_port, port);
                assert!(protocols.contains(&headers.protocol) && !headers.is_essential);
            }
        }
    }
}
