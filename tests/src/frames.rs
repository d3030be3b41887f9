//! Ethernet frames from layers: lengths, protocol numbers and checksums are right unless a field
//! is overridden to lie.
//!
//! ```
//! use limiter_tests::frames::{Frame, Tcp, Vlan, tcp_flags};
//!
//! let syn = Frame::tcp("192.0.2.1:1024", "192.0.2.2:80", tcp_flags::SYN);
//! let tagged = syn.clone().after_ethernet(Vlan::new(7)).bytes();
//! assert_eq!(tagged.len(), syn.bytes().len() + 4);
//! // A TCP header that claims to be shorter than TCP allows.
//! let lie = syn.map::<Tcp>(|tcp| tcp.header_words = Some(4)).bytes();
//! assert_eq!(lie[14 + 20 + 12] >> 4, 4);
//! ```

mod generator;
mod ip;
mod link;
mod mutator;
mod transport;

use std::{
    any::Any,
    fmt::Debug,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

pub use generator::Generator;
pub use ip::{Authentication, Extension, Fragment6, Ipv4, Ipv6, mld_report};
pub use link::{Arp, Ethernet, Vlan, ether_type};
pub use mutator::mutate;
pub use transport::{Icmp, Icmpv6, Igmp, Tcp, Udp, dhcp_discover, tcp_flags};

/// IP protocol numbers, and IPv6 extension headers among them.
pub mod protocol {
    #![expect(missing_docs, reason = "the names are those of the registry")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IGMP: u8 = 2;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT_HEADER: u8 = 59;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// What a layer needs to know of those around it.
#[derive(Debug)]
pub struct Context<'a> {
    /// Ethernet type by which the layer before announces the next one; 0 if that is no such layer.
    pub next_ether_type: u16,
    /// IP protocol of the next layer; [`protocol::NO_NEXT_HEADER`] if it is none.
    pub next_protocol: u8,
    /// Addresses of the nearest IP layer before, for pseudo headers.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Everything after this layer, complete.
    pub payload: &'a [u8],
}

/// A layer: a header that is complete once it knows what follows.
pub trait Layer: Any + Debug + Send + Sync {
    /// The header's bytes.
    fn header(&self, context: &Context<'_>) -> Vec<u8>;

    /// Ethernet type that announces it; 0 for a layer that is not directly above Ethernet.
    fn ether_type(&self) -> u16 {
        0
    }

    /// IP protocol that announces it, for a layer above IP.
    fn protocol(&self) -> Option<u8> {
        None
    }

    /// Source and destination, of an IP layer.
    fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        None
    }

    /// A copy, for cloning frames.
    fn boxed(&self) -> Box<dyn Layer>;
}

/// Bytes as they are.
#[derive(Clone, Debug, Default)]
pub struct Payload(pub Vec<u8>);

impl Layer for Payload {
    fn header(&self, _context: &Context<'_>) -> Vec<u8> {
        self.0.clone()
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// A protocol that has no layer here: what announces it and all its bytes.
#[derive(Clone, Debug)]
pub enum Opaque {
    /// Directly above Ethernet: LLDP, MPLS.
    EtherType(u16, Vec<u8>),
    /// Above IP: GRE, ESP, SCTP.
    Protocol(u8, Vec<u8>),
}

impl Layer for Opaque {
    fn header(&self, _context: &Context<'_>) -> Vec<u8> {
        let (Self::EtherType(_, bytes) | Self::Protocol(_, bytes)) = self;
        bytes.clone()
    }

    fn ether_type(&self) -> u16 {
        match self {
            Self::EtherType(ether_type, _) => *ether_type,
            Self::Protocol(..) => 0,
        }
    }

    fn protocol(&self) -> Option<u8> {
        match self {
            Self::EtherType(..) => None,
            Self::Protocol(number, _) => Some(*number),
        }
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// A frame: layers from the outside in.
#[derive(Debug, Default)]
pub struct Frame {
    layers: Vec<Box<dyn Layer>>,
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        Self { layers: self.layers.iter().map(|layer| layer.boxed()).collect() }
    }
}

impl Frame {
    /// A frame without layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ethernet and IP of the family of both addresses, which must be the same.
    pub fn ip(source: IpAddr, destination: IpAddr) -> Self {
        let frame = Self::new().with(Ethernet::default());
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.with(Ipv4::new(source, destination))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.with(Ipv6::new(source, destination))
            }
            _ => panic!("{source} and {destination} are of different families"),
        }
    }

    /// A TCP segment with these [`tcp_flags`] between `ADDRESS:PORT`s.
    pub fn tcp(source: &str, destination: &str, flags: u8) -> Self {
        let (source, destination) = (socket(source), socket(destination));
        Self::ip(source.ip(), destination.ip()).with(Tcp::new(
            source.port(),
            destination.port(),
            flags,
        ))
    }

    /// A UDP datagram between `ADDRESS:PORT`s.
    pub fn udp(source: &str, destination: &str, payload: &[u8]) -> Self {
        let (source, destination) = (socket(source), socket(destination));
        Self::ip(source.ip(), destination.ip())
            .with(Udp::new(source.port(), destination.port()))
            .with(Payload(payload.to_vec()))
    }

    /// An ICMP or `ICMPv6` echo request.
    pub fn ping(source: IpAddr, destination: IpAddr) -> Self {
        let frame = Self::ip(source, destination);
        let frame = if source.is_ipv4() {
            frame.with(Icmp::new(8, 0))
        } else {
            frame.with(Icmpv6::new(128, 0))
        };
        frame.with(Payload(b"ping".to_vec()))
    }

    /// Adds an innermost layer.
    #[must_use]
    pub fn with(mut self, layer: impl Layer) -> Self {
        self.layers.push(Box::new(layer));
        self
    }

    /// Inserts a layer behind the first one (Ethernet): VLAN tags.
    #[must_use]
    pub fn after_ethernet(mut self, layer: impl Layer) -> Self {
        self.layers.insert(1.min(self.layers.len()), Box::new(layer));
        self
    }

    /// Inserts a layer behind the first IP layer: extension headers.
    #[must_use]
    pub fn after_ip(mut self, layer: impl Layer) -> Self {
        let ip = self
            .layers
            .iter()
            .position(|layer| layer.addresses().is_some())
            .expect("the frame has an IP layer");
        self.layers.insert(ip + 1, Box::new(layer));
        self
    }

    /// Sets the MAC addresses of the Ethernet layer.
    #[must_use]
    pub fn macs(self, source: [u8; 6], destination: [u8; 6]) -> Self {
        self.map::<Ethernet>(|ethernet| {
            ethernet.source = source;
            ethernet.destination = destination;
        })
    }

    /// Changes the outermost layer of type `T`; panics if there is none.
    #[must_use]
    pub fn map<T: Layer>(mut self, change: impl FnOnce(&mut T)) -> Self {
        let found = self.layers.iter_mut().find_map(|layer| {
            let layer: &mut dyn Any = layer.as_mut();
            layer.downcast_mut::<T>()
        });
        change(found.expect("the frame has a layer of this type"));
        self
    }

    /// The frame's bytes, without padding and frame check sequence.
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_from(0)
    }

    /// The frame split into IP fragments whose payloads have `size` bytes (a multiple of 8), the
    /// last one the rest. Everything behind the first IP layer (`IPv6`: behind hop-by-hop
    /// options) is the datagram.
    pub fn fragments(&self, size: usize, identification: u32) -> Vec<Vec<u8>> {
        assert!(size > 0 && size.is_multiple_of(8), "fragments end at 8 bytes");
        let ip = self
            .layers
            .iter()
            .position(|layer| layer.addresses().is_some())
            .expect("the frame has an IP layer");
        let protocol = |layer: usize| self.layers.get(layer).and_then(|layer| layer.protocol());
        // Every hop reads hop-by-hop options: they stay in front of the fragment header.
        let first = if protocol(ip + 1) == Some(protocol::HOP_BY_HOP) { ip + 2 } else { ip + 1 };
        let datagram = self.bytes_from(first);
        let next = protocol(first).unwrap_or(protocol::NO_NEXT_HEADER);
        let mut offset = 0;
        let mut frames = Vec::new();
        for part in datagram.chunks(size) {
            let mut frame =
                Self { layers: self.layers[..first].iter().map(|layer| layer.boxed()).collect() };
            let more = usize::from(offset) * 8 + part.len() < datagram.len();
            let layer: &mut dyn Any = frame.layers[ip].as_mut();
            if let Some(ipv4) = layer.downcast_mut::<Ipv4>() {
                ipv4.protocol = Some(next);
                ipv4.dont_fragment = false;
                ipv4.more_fragments = more;
                ipv4.fragment_offset = offset;
                let [.., high, low] = identification.to_be_bytes();
                ipv4.identification = u16::from_be_bytes([high, low]);
            } else {
                frame =
                    frame.with(Fragment6 { offset, more, identification, next_header: Some(next) });
            }
            frames.push(frame.with(Payload(part.to_vec())).bytes());
            offset += u16::try_from(part.len() / 8).expect("a datagram has less than 64 KiB");
        }
        frames
    }

    /// Whether there is an IP layer with something behind it.
    fn layers_above_ip(&self) -> bool {
        let ip = self.layers.iter().position(|layer| layer.addresses().is_some());
        ip.is_some_and(|ip| ip + 1 < self.layers.len())
    }

    fn bytes_from(&self, first: usize) -> Vec<u8> {
        let mut payload = Vec::new();
        for (index, layer) in self.layers.iter().enumerate().skip(first).rev() {
            let next = self.layers.get(index + 1);
            let context = Context {
                next_ether_type: next.map_or(0, |next| next.ether_type()),
                next_protocol: next
                    .and_then(|next| next.protocol())
                    .unwrap_or(protocol::NO_NEXT_HEADER),
                addresses: self.layers[..index].iter().rev().find_map(|layer| layer.addresses()),
                payload: &payload,
            };
            let mut bytes = layer.header(&context);
            bytes.append(&mut payload);
            payload = bytes;
        }
        payload
    }
}

/// The Internet checksum (RFC 1071) of `parts` in a row, each but the last of even length.
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// The pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1) of a transport checksum; empty
/// without an IP layer.
fn pseudo_header(addresses: Option<(IpAddr, IpAddr)>, protocol: u8, length: usize) -> Vec<u8> {
    match addresses {
        Some((IpAddr::V4(source), IpAddr::V4(destination))) => {
            let mut bytes = [source.octets(), destination.octets()].concat();
            bytes.extend([0, protocol]);
            bytes.extend(length_16(length).to_be_bytes());
            bytes
        }
        Some((IpAddr::V6(source), IpAddr::V6(destination))) => {
            let mut bytes = [source.octets(), destination.octets()].concat();
            bytes.extend(u32::from(length_16(length)).to_be_bytes());
            bytes.extend([0, 0, 0, protocol]);
            bytes
        }
        _ => Vec::new(),
    }
}

/// A length field; what does not fit is the largest, a lie of its own.
fn length_16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text} is ADDRESS:PORT: {error}"))
}

/// An address that tests may use as any host (TEST-NET-1 and the documentation prefix).
fn documentation(v4: bool, host: u8) -> IpAddr {
    if v4 {
        Ipv4Addr::new(192, 0, 2, host).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into()
    }
}
