//! Arbitrary frames from a seed: valid ones of every shape that the builder knows, and mutated
//! ones. The same seed and settings give the same frames on every machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Arp, Authentication, Ethernet, Extension, Frame, Icmp, Icmpv6, Igmp, Opaque, Payload, Tcp, Udp,
    Vlan, dhcp_discover, documentation, mld_report, mutate, tcp_flags,
};
use crate::random::Random;

/// Shortest frame yielded: what `BPF_PROG_TEST_RUN` accepts, an Ethernet header.
const MIN_FRAME_BYTES: usize = 14;

/// The generator. Addresses and ports come from small sets, so that lists and tables are hit.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    sources: Vec<IpAddr>,
    destinations: Vec<IpAddr>,
    ports: Vec<u16>,
    previous: Vec<u8>,
}

impl Generator {
    /// The sequence of `seed`, with eight documentation addresses of each family.
    pub fn new(seed: u64) -> Self {
        let hosts = |first: u8| {
            (first..first + 8).flat_map(|host| [true, false].map(|v4| documentation(v4, host)))
        };
        Self {
            random: Random::new(seed),
            sources: hosts(1).collect(),
            destinations: hosts(101).collect(),
            ports: vec![22, 53, 80, 443, 1024, 8080, 49152, 65535],
            previous: Vec::new(),
        }
    }

    /// Takes sources from `addresses` (for example those on the lists of a policy).
    #[must_use]
    pub fn sources(mut self, addresses: &[IpAddr]) -> Self {
        self.sources = addresses.to_vec();
        self
    }

    /// Takes destinations from `addresses`; a family without one gets an arbitrary one.
    #[must_use]
    pub fn destinations(mut self, addresses: &[IpAddr]) -> Self {
        self.destinations = addresses.to_vec();
        self
    }

    /// Takes ports from `ports`.
    #[must_use]
    pub fn ports(mut self, ports: &[u16]) -> Self {
        self.ports = ports.to_vec();
        self
    }

    /// The numbers behind it, for choices that belong to the same sequence.
    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// A valid frame; of an IP datagram that was fragmented, one of the fragments.
    pub fn valid(&mut self) -> Vec<u8> {
        let frame = self.frame();
        let mut fragments = Vec::new();
        if self.random.chance(1, 8) && frame.layers_above_ip() {
            // Small ones too: the first may end within a header.
            let size = 8 * (1 + self.random.below(8));
            fragments = frame.fragments(size, self.random.next_u32());
        }
        let bytes = if fragments.is_empty() {
            frame.bytes()
        } else {
            let chosen = self.random.below(fragments.len());
            fragments.swap_remove(chosen)
        };
        self.previous.clone_from(&bytes);
        bytes
    }

    /// A frame that was valid before one to four mutations; never shorter than 14 bytes.
    pub fn mutated(&mut self) -> Vec<u8> {
        let previous = self.previous.clone();
        let mut bytes = self.valid();
        for _ in 0..=self.random.below(4) {
            mutate(&mut self.random, &mut bytes, &previous);
        }
        bytes.resize(bytes.len().max(MIN_FRAME_BYTES), 0);
        bytes
    }

    /// Valid or mutated, equally often.
    pub fn any(&mut self) -> Vec<u8> {
        if self.random.chance(1, 2) { self.valid() } else { self.mutated() }
    }

    /// A valid frame as layers.
    pub fn frame(&mut self) -> Frame {
        let frame = match self.random.below(20) {
            0 => self.control(),
            _ => self.ip(),
        };
        match self.random.below(10) {
            0 => {
                let id = self.random.next_u16();
                frame.after_ethernet(Vlan::new(id))
            }
            1 => {
                let (outer, inner) = (self.random.next_u16(), self.random.next_u16());
                frame.after_ethernet(Vlan::new(inner)).after_ethernet(Vlan::service(outer))
            }
            _ => frame,
        }
    }

    /// What a host needs to have a network at all, and what is not IP.
    fn control(&mut self) -> Frame {
        let (v4, v6) = (self.source_v4(), self.source_v6());
        match self.random.below(6) {
            0 => {
                let target = self.destination_v4();
                Frame::new().with(Ethernet::default()).with(Arp::request(v4, target))
            }
            1 => dhcp_discover(),
            2 => mld_report(v6, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1)),
            3 => Frame::ip(v4.into(), Ipv4Addr::new(224, 0, 0, 1).into())
                .map::<super::Ipv4>(|ipv4| {
                    ipv4.time_to_live = 1;
                    ipv4.options = vec![0x94, 4, 0, 0];
                })
                .with(Igmp::new(0x11, 100)),
            4 => {
                let target = self.destination_v6();
                let kind = self.random.pick(&[133, 134, 135, 136, 137]);
                Frame::ip(v6.into(), target.into())
                    .map::<super::Ipv6>(|ipv6| ipv6.hop_limit = 255)
                    .with(Icmpv6::new(kind, 0))
                    .with(Payload(target.octets().to_vec()))
            }
            _ => {
                // A type that nobody here knows.
                let ether_type = self.random.pick(&[0x88cc, 0x8847, 0x0101]);
                let length = 46 + self.random.below(64);
                let payload = self.random.bytes(length);
                Frame::new().with(Ethernet::default()).with(Opaque::EtherType(ether_type, payload))
            }
        }
    }

    fn ip(&mut self) -> Frame {
        let source = self.random.pick(&self.sources);
        let mut frame = if source.is_ipv4() {
            let destination = self.destination_v4();
            let options = if self.random.chance(1, 5) {
                let words = 1 + self.random.below(10);
                vec![1; 4 * words]
            } else {
                Vec::new()
            };
            let time_to_live = self.random.next_u8();
            Frame::ip(source, destination.into()).map::<super::Ipv4>(|ipv4| {
                ipv4.options = options;
                ipv4.time_to_live = time_to_live;
            })
        } else {
            let destination = self.destination_v6();
            let mut frame = Frame::ip(source, destination.into());
            if self.random.chance(1, 3) {
                for _ in 0..=self.random.below(4) {
                    frame = self.with_extension(frame);
                }
                if self.random.chance(1, 3) {
                    frame = frame.after_ip(Extension::hop_by_hop(Vec::new()));
                }
            }
            frame
        };
        if source.is_ipv4() && self.random.chance(1, 30) {
            frame = frame.with(Authentication::default());
        }
        self.with_transport(frame, source.is_ipv4())
    }

    fn with_extension(&mut self, frame: Frame) -> Frame {
        match self.random.below(5) {
            0 => frame.with(Extension::routing(2)),
            1 => frame.with(Authentication::default()),
            2 => frame.with(super::Fragment6 {
                identification: self.random.next_u32(),
                ..super::Fragment6::default()
            }),
            _ => {
                // Padding options: PadN over the whole body.
                let length = self.random.below(3) * 8 + 6;
                let pad = u8::try_from(length - 2).expect("at most 22");
                let mut options = vec![0; length];
                options[..2].copy_from_slice(&[1, pad]);
                frame.with(Extension::destination_options(options))
            }
        }
    }

    fn with_transport(&mut self, frame: Frame, v4: bool) -> Frame {
        let (from, to) = (self.random.pick(&self.ports), self.random.pick(&self.ports));
        let length = match self.random.below(4) {
            0 => 0,
            1 => self.random.below(1400),
            _ => self.random.below(64),
        };
        let payload = Payload(self.random.bytes(length));
        match self.random.below(12) {
            0..=2 => frame.with(Udp::new(from, to)).with(payload),
            3 if v4 => {
                let kind = self.random.pick(&[0, 3, 5, 8, 11, 12]);
                let code = self.random.pick(&[0, 1, 4]);
                frame.with(Icmp::new(kind, code)).with(payload)
            }
            3 => {
                let kind = self.random.pick(&[1, 2, 3, 4, 128, 129]);
                frame.with(Icmpv6::new(kind, 0)).with(payload)
            }
            // Protocols without ports: GRE, ESP, SCTP.
            4 => {
                let number = self.random.pick(&[47, 50, 132]);
                frame.with(Opaque::Protocol(number, payload.0))
            }
            _ => {
                let mut tcp = Tcp::new(from, to, self.flags());
                tcp.sequence = self.random.next_u32();
                tcp.acknowledgement = self.random.next_u32();
                if self.random.chance(1, 3) {
                    tcp.options = vec![2, 4, 5, 0xb4, 1, 3, 3, 7];
                }
                frame.with(tcp).with(payload)
            }
        }
    }

    fn flags(&mut self) -> u8 {
        use tcp_flags::{ACK, FIN, PSH, RST, SYN};
        self.random.pick(&[SYN, SYN, SYN | ACK, ACK, ACK | PSH, FIN | ACK, RST])
    }

    fn source_v4(&mut self) -> Ipv4Addr {
        let source = self.random.pick(&self.sources);
        v4(source).unwrap_or(Ipv4Addr::new(192, 0, 2, 1))
    }

    fn source_v6(&mut self) -> Ipv6Addr {
        let source = self.random.pick(&self.sources);
        v6(source).unwrap_or(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))
    }

    fn destination_v4(&mut self) -> Ipv4Addr {
        let known: Vec<_> = self.destinations.iter().copied().filter_map(v4).collect();
        if known.is_empty() {
            return self.random.array::<4>().into();
        }
        self.random.pick(&known)
    }

    fn destination_v6(&mut self) -> Ipv6Addr {
        let known: Vec<_> = self.destinations.iter().copied().filter_map(v6).collect();
        if known.is_empty() {
            return self.random.array::<16>().into();
        }
        self.random.pick(&known)
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}
