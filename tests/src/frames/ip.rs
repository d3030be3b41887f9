//! IPv4 and IPv6 with its extension headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Context, Ethernet, Frame, Icmpv6, Layer, Payload, ether_type, internet_checksum, length_16,
    protocol,
};

/// The IPv4 header.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    /// From.
    pub source: Ipv4Addr,
    /// To.
    pub destination: Ipv4Addr,
    /// Differentiated services and ECN.
    pub traffic_class: u8,
    /// Identification, the same in all fragments of a datagram.
    pub identification: u16,
    /// The DF flag.
    pub dont_fragment: bool,
    /// The MF flag.
    pub more_fragments: bool,
    /// Fragment offset in units of 8 bytes.
    pub fragment_offset: u16,
    /// Hops left.
    pub time_to_live: u8,
    /// Options, padded to 4 bytes with end-of-list.
    pub options: Vec<u8>,
    /// Overrides 4.
    pub version: Option<u8>,
    /// Overrides the header length in 32-bit words (4 bits).
    pub header_words: Option<u8>,
    /// Overrides the total length.
    pub total_length: Option<u16>,
    /// Overrides the protocol of the next layer.
    pub protocol: Option<u8>,
    /// Overrides the header checksum.
    pub checksum: Option<u16>,
}

impl Ipv4 {
    /// A header without options, not to be fragmented.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            source,
            destination,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            time_to_live: 64,
            options: Vec::new(),
            version: None,
            header_words: None,
            total_length: None,
            protocol: None,
            checksum: None,
        }
    }
}

impl Layer for Ipv4 {
    fn header(&self, context: &Context<'_>) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let length = 20 + options.len();
        let words =
            self.header_words.unwrap_or_else(|| u8::try_from(length / 4).unwrap_or(u8::MAX));
        let total = self.total_length.unwrap_or_else(|| length_16(length + context.payload.len()));
        let fragment = u16::from(self.dont_fragment) << 14
            | u16::from(self.more_fragments) << 13
            | self.fragment_offset & 0x1fff;

        let mut bytes = vec![self.version.unwrap_or(4) << 4 | words & 0xf, self.traffic_class];
        bytes.extend(total.to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes.extend(fragment.to_be_bytes());
        bytes.push(self.time_to_live);
        bytes.push(self.protocol.unwrap_or(context.next_protocol));
        bytes.extend([0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(options);
        let checksum = self.checksum.unwrap_or_else(|| internet_checksum(&[&bytes]));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn ether_type(&self) -> u16 {
        ether_type::IPV4
    }

    fn protocol(&self) -> Option<u8> {
        Some(4)
    }

    fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        Some((self.source.into(), self.destination.into()))
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// The IPv6 header.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    /// From.
    pub source: Ipv6Addr,
    /// To.
    pub destination: Ipv6Addr,
    /// Traffic class.
    pub traffic_class: u8,
    /// Flow label (20 bits).
    pub flow_label: u32,
    /// Hops left.
    pub hop_limit: u8,
    /// Overrides 6.
    pub version: Option<u8>,
    /// Overrides the payload length.
    pub payload_length: Option<u16>,
    /// Overrides the protocol of the next layer.
    pub next_header: Option<u8>,
}

impl Ipv6 {
    /// A header with hop limit 64.
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self {
            source,
            destination,
            traffic_class: 0,
            flow_label: 0,
            hop_limit: 64,
            version: None,
            payload_length: None,
            next_header: None,
        }
    }
}

impl Layer for Ipv6 {
    fn header(&self, context: &Context<'_>) -> Vec<u8> {
        let first = u32::from(self.version.unwrap_or(6)) << 28
            | u32::from(self.traffic_class) << 20
            | self.flow_label & 0x000f_ffff;
        let length = self.payload_length.unwrap_or_else(|| length_16(context.payload.len()));
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(length.to_be_bytes());
        bytes.push(self.next_header.unwrap_or(context.next_protocol));
        bytes.push(self.hop_limit);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes
    }

    fn ether_type(&self) -> u16 {
        ether_type::IPV6
    }

    fn protocol(&self) -> Option<u8> {
        Some(41)
    }

    fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        Some((self.source.into(), self.destination.into()))
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// An extension header of the usual form: next header, length in 8 bytes less the first 8, body.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Its number, by which the header before announces it.
    pub number: u8,
    /// What follows next header and length, padded with zeros (Pad1 options).
    pub body: Vec<u8>,
    /// Overrides the length field.
    pub length_units: Option<u8>,
    /// Overrides the protocol of the next layer.
    pub next_header: Option<u8>,
}

impl Extension {
    /// An extension header of any number.
    pub fn new(number: u8, body: Vec<u8>) -> Self {
        Self { number, body, length_units: None, next_header: None }
    }

    /// Hop-by-hop options; an empty list is six bytes of padding.
    pub fn hop_by_hop(options: Vec<u8>) -> Self {
        Self::new(protocol::HOP_BY_HOP, options)
    }

    /// Destination options.
    pub fn destination_options(options: Vec<u8>) -> Self {
        Self::new(protocol::DESTINATION_OPTIONS, options)
    }

    /// A routing header of this type with no segments left.
    pub fn routing(kind: u8) -> Self {
        Self::new(protocol::ROUTING, vec![kind, 0, 0, 0, 0, 0])
    }
}

impl Layer for Extension {
    fn header(&self, context: &Context<'_>) -> Vec<u8> {
        let length = (2 + self.body.len()).next_multiple_of(8);
        let units =
            self.length_units.unwrap_or_else(|| u8::try_from(length / 8 - 1).unwrap_or(u8::MAX));
        let mut bytes = vec![self.next_header.unwrap_or(context.next_protocol), units];
        bytes.extend(&self.body);
        bytes.resize(length, 0);
        bytes
    }

    fn protocol(&self) -> Option<u8> {
        Some(self.number)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// The IPv6 fragment header.
#[derive(Clone, Debug, Default)]
pub struct Fragment6 {
    /// Offset in units of 8 bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// The same in all fragments of a datagram.
    pub identification: u32,
    /// Overrides the protocol of the next layer.
    pub next_header: Option<u8>,
}

impl Layer for Fragment6 {
    fn header(&self, context: &Context<'_>) -> Vec<u8> {
        let mut bytes = vec![self.next_header.unwrap_or(context.next_protocol), 0];
        bytes.extend((self.offset << 3 | u16::from(self.more)).to_be_bytes());
        bytes.extend(self.identification.to_be_bytes());
        bytes
    }

    fn protocol(&self) -> Option<u8> {
        Some(protocol::FRAGMENT)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// The authentication header (RFC 4302), whose length counts 4 bytes less two.
#[derive(Clone, Debug, Default)]
pub struct Authentication {
    /// Security parameters index.
    pub security_parameters: u32,
    /// Sequence number.
    pub sequence: u32,
    /// Integrity check value: 4 bytes at least, 8 times n plus 4 under IPv6.
    pub check_value: Vec<u8>,
    /// Overrides the length field.
    pub length_units: Option<u8>,
    /// Overrides the protocol of the next layer.
    pub next_header: Option<u8>,
}

impl Layer for Authentication {
    fn header(&self, context: &Context<'_>) -> Vec<u8> {
        let mut check_value = self.check_value.clone();
        // 12 bytes before it, 8-byte units under IPv6: legal under IPv4 as well.
        check_value.resize((12 + check_value.len().max(4)).next_multiple_of(8) - 12, 0);
        let length = 12 + check_value.len();
        let units =
            self.length_units.unwrap_or_else(|| u8::try_from(length / 4 - 2).unwrap_or(u8::MAX));
        let next = self.next_header.unwrap_or(context.next_protocol);
        let mut bytes = vec![next, units, 0, 0];
        bytes.extend(self.security_parameters.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(check_value);
        bytes
    }

    fn protocol(&self) -> Option<u8> {
        Some(protocol::AUTHENTICATION)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// An `MLDv2` report for `group`, as a host sends it: hop limit 1 and router alert (RFC 9777).
pub fn mld_report(source: Ipv6Addr, group: Ipv6Addr) -> Frame {
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
    let mut ipv6 = Ipv6::new(source, routers);
    ipv6.hop_limit = 1;
    let mut record = vec![4, 0, 0, 0];
    record.extend(group.octets());
    Frame::new()
        .with(Ethernet::default())
        .with(ipv6)
        .with(Extension::hop_by_hop(vec![5, 2, 0, 0, 1, 0]))
        .with(Icmpv6 { rest: [0, 0, 0, 1], ..Icmpv6::new(143, 0) })
        .with(Payload(record))
}
