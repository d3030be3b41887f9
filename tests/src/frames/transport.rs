//! Layers above IP: TCP, UDP, ICMP, `ICMPv6`, IGMP, and DHCP messages.

use std::net::Ipv4Addr;

use super::{
    Context, Ethernet, Frame, Ipv4, Layer, Payload, internet_checksum, length_16, protocol,
    pseudo_header,
};

/// TCP flags.
pub mod tcp_flags {
    #![expect(missing_docs, reason = "the names are those of the header")]
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
}

/// The TCP header.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// From.
    pub source: u16,
    /// To.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// [`tcp_flags`].
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Options, padded to 4 bytes with end-of-list.
    pub options: Vec<u8>,
    /// Overrides the header length in 32-bit words (4 bits).
    pub header_words: Option<u8>,
    /// Overrides the checksum.
    pub checksum: Option<u16>,
}

impl Tcp {
    /// A header without options.
    pub fn new(source: u16, destination: u16, flags: u8) -> Self {
        Self {
            source,
            destination,
            sequence: 1,
            acknowledgement: 0,
            flags,
            window: 64240,
            options: Vec::new(),
            header_words: None,
            checksum: None,
        }
    }
}

impl Layer for Tcp {
    fn header(&self, context: &Context<'_>) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let length = 20 + options.len();
        let words =
            self.header_words.unwrap_or_else(|| u8::try_from(length / 4).unwrap_or(u8::MAX));
        let mut bytes = [self.source, self.destination].map(u16::to_be_bytes).concat();
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([words << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        let checksum =
            self.checksum.unwrap_or_else(|| transport_checksum(context, protocol::TCP, &bytes));
        bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn protocol(&self) -> Option<u8> {
        Some(protocol::TCP)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// The UDP header.
#[derive(Clone, Debug)]
pub struct Udp {
    /// From.
    pub source: u16,
    /// To.
    pub destination: u16,
    /// Overrides the length.
    pub length: Option<u16>,
    /// Overrides the checksum; 0 means none.
    pub checksum: Option<u16>,
}

impl Udp {
    /// A header with checksum.
    pub fn new(source: u16, destination: u16) -> Self {
        Self { source, destination, length: None, checksum: None }
    }
}

impl Layer for Udp {
    fn header(&self, context: &Context<'_>) -> Vec<u8> {
        let length = self.length.unwrap_or_else(|| length_16(8 + context.payload.len()));
        let mut bytes = [self.source, self.destination, length, 0].map(u16::to_be_bytes).concat();
        let checksum = self.checksum.unwrap_or_else(|| {
            match transport_checksum(context, protocol::UDP, &bytes) {
                0 => 0xffff,
                checksum => checksum,
            }
        });
        bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn protocol(&self) -> Option<u8> {
        Some(protocol::UDP)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

macro_rules! icmp {
    ($(#[doc = $doc:literal])+ $name:ident, $protocol:expr, $pseudo:expr) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug)]
        pub struct $name {
            /// Type.
            pub kind: u8,
            /// Code.
            pub code: u8,
            /// The four bytes after the checksum.
            pub rest: [u8; 4],
            /// Overrides the checksum.
            pub checksum: Option<u16>,
        }

        impl $name {
            /// A message of this type and code; its body is the next layer.
            pub fn new(kind: u8, code: u8) -> Self {
                Self { kind, code, rest: [0; 4], checksum: None }
            }
        }

        impl Layer for $name {
            fn header(&self, context: &Context<'_>) -> Vec<u8> {
                let mut bytes = vec![self.kind, self.code, 0, 0];
                bytes.extend(self.rest);
                let checksum = self.checksum.unwrap_or_else(|| {
                    if $pseudo {
                        transport_checksum(context, $protocol, &bytes)
                    } else {
                        internet_checksum(&[&bytes, context.payload])
                    }
                });
                bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
                bytes
            }

            fn protocol(&self) -> Option<u8> {
                Some($protocol)
            }

            fn boxed(&self) -> Box<dyn Layer> {
                Box::new(self.clone())
            }
        }
    };
}

icmp! {
    /// The ICMP header.
    Icmp, protocol::ICMP, false
}
icmp! {
    /// The `ICMPv6` header.
    Icmpv6, protocol::ICMPV6, true
}
icmp! {
    /// An IGMP message: `rest` is the group (version 2), what follows is the next layer.
    Igmp, protocol::IGMP, false
}

/// A DHCP discover as a host without address broadcasts it.
pub fn dhcp_discover() -> Frame {
    let mut message = vec![1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78];
    message.resize(236, 0);
    message[28..34].copy_from_slice(&Ethernet::default().source);
    message.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
    Frame::new()
        .with(Ethernet { destination: [0xff; 6], ..Ethernet::default() })
        .with(Ipv4::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST))
        .with(Udp::new(68, 67))
        .with(Payload(message))
}

/// Over pseudo header, this header (of even length, checksum zero) and everything after it.
fn transport_checksum(context: &Context<'_>, protocol: u8, header: &[u8]) -> u16 {
    let length = header.len() + context.payload.len();
    let pseudo = pseudo_header(context.addresses, protocol, length);
    internet_checksum(&[&pseudo, header, context.payload])
}
