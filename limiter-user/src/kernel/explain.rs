//! What would happen to a packet: the very `decide` that the kernel runs, over copies of its maps.

use std::net::IpAddr;

use limiter_common::{
    address::Address,
    decide::{Clock, Tables, decide},
    headers::{Headers, protocol, tcp_flags},
    machine::Native,
    settings::{ListVerdict, Settings},
    source::{SourceSet, set_indices},
    verdict::Verdict,
};

use super::{Kernel, KernelError, image::KernelImage};
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
    /// Explains a packet from `source`.
    pub fn explain(&self, source: IpAddr, probe: Probe) -> Result<Explanation, KernelError> {
        let settings = self.maps.active_settings()?;
        let address = Address::from(source);
        let key = address.source_key(settings.masks);
        let sets = set_indices(key, settings.hash_seed, settings.set_mask).map(|index| {
            let words = self.maps.sources.get(&index, 0);
            (
                index,
                words.map_or_else(|_| SourceSet::empty(), |words| SourceSet::from_words(&words)),
            )
        });
        let now_ns = clock::monotonic_ns();
        let ban_expires_ns =
            self.ban_of(source).map(|ban| ban.expires_ns).filter(|expires| *expires > now_ns);
        let tables = Copies { settings, sets, ban_expires_ns, image: &self.image };
        let frame = frame(source, probe);
        let decision = decide(frame.as_slice(), &tables, &Now(now_ns));
        Ok(Explanation { verdict: decision.verdict, list: self.image.list(source) })
    }
}

struct Copies<'a> {
    settings: Settings,
    sets: [(u32, SourceSet); 2],
    ban_expires_ns: Option<u64>,
    image: &'a KernelImage,
}

impl Tables for Copies<'_> {
    type Machine = Native;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn ban_filter(&self, _word: u32) -> u64 {
        u64::MAX
    }

    fn source_set(&self, index: u32) -> Option<&SourceSet> {
        self.sets.iter().find(|(number, _)| *number == index).map(|(_, set)| set)
    }

    fn ban_expiry_ns(&self, _key: u64) -> Option<u64> {
        self.ban_expires_ns
    }

    fn list(&self, address: Address) -> ListVerdict {
        self.image.list(address.into())
    }

    fn is_reply(&self, _headers: &Headers) -> bool {
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
