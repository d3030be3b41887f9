//! Bytes to headers: what the decision needs to know of a packet, or that it is malformed.
//!
//! Never indexes, loops only to named bounds, trusts no length that the packet states about
//! itself. Layouts and protocol numbers come from `network-types`.

use core::mem::offset_of;

use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    vlan::VlanHdr,
};

use self::transport::transport;
use crate::{
    address::Address,
    machine::Machine,
    packet::{Cursor, PacketBytes},
};

pub mod protocol;
pub mod tcp_flags;
mod transport;

/// 802.1ad allows two tags (`QinQ`); more is treated as malformed.
pub const MAX_VLAN_TAGS: usize = 2;

/// RFC 8200, 4.1 recommends each extension header at most once (destination options twice).
pub const MAX_EXTENSION_HEADERS: usize = 7;

/// 255 times 8 bytes beside the first 8, and all the bits below.
const LONGEST_EXTENSION_HEADER: usize = 0xfff;

/// Everything before the transport header, and all the bits below.
const LONGEST_HEADERS: usize = 0x7fff;

/// Ethernet header and tags, and all the bits below.
const LONGEST_LINK_HEADER: usize = 0x1f;

/// What a packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// An IP packet.
    Ip(Headers),
    /// Not IP (ARP, LLDP, spanning tree and so on): never ours to judge.
    NotIp,
    /// Contradicts itself or ends too early. The source, `::` where it could not be read, and how.
    Malformed(Address, Flaw),
}

macro_rules! flaws {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal;)+) => {
        /// What is wrong with a malformed packet. Values are dense from 0 and index counters.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum Flaw { $($(#[doc = $doc])+ $variant,)+ }

        impl Flaw {
            /// Every flaw, in order of value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Stable label of counters and documentation.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// One sentence for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

flaws! {
    /// Nothing.
    None = "none";
    /// The Ethernet header or its tags end too early, or there are more than two tags.
    Link = "link";
    /// The IP header ends too early, or contradicts itself or the length of the frame.
    Network = "network";
    /// More extension headers than anybody sends, or longer than the packet.
    ExtensionHeaders = "extension_headers";
    /// The transport header ends too early or contradicts the IP header.
    Transport = "transport";
    /// TCP flags that no stack sends: SYN with FIN or RST, none, FIN alone (null and Xmas scans).
    TcpFlags = "tcp_flags";
    /// A first fragment without a whole transport header, or a later one that would rewrite it
    /// (RFC 1858).
    Fragment = "fragment";
    /// A source that is a multicast or (on a wire) a loopback address, or v4-mapped.
    Source = "source";
    /// Source and destination are the same address.
    Land = "land";
    /// The source is an address of this host.
    OwnSource = "own_source";
}
/// What the decision needs to know of an IP packet.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Headers {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Transport protocol, after IPv6 extension headers.
    pub protocol: u8,
    /// TCP or UDP source port; 0 where there is none.
    pub source_port: u16,
    /// TCP or UDP destination port; 0 where there is none.
    pub destination_port: u16,
    /// TCP flags, 0 for others.
    pub tcp_flags: u8,
    /// Whether the ports could be read (TCP or UDP, not a later fragment).
    pub has_ports: bool,
    /// A first or later IP fragment.
    pub is_fragment: bool,
    /// Must pass for the host to keep its network.
    pub is_essential: bool,
}

impl Headers {
    /// The same headers, of which the verifier knows nothing that the decision depends on (see
    /// [`Machine::forget`]).
    #[inline]
    #[must_use]
    pub fn forget<M: Machine>(&self, noise: u64) -> Self {
        let byte = |value: u8| {
            let [byte, ..] = M::forget(u64::from(value), noise).to_le_bytes();
            byte
        };
        let [port0, port1, ..] = M::forget(u64::from(self.destination_port), noise).to_le_bytes();
        Self {
            source: Address {
                high: M::forget(self.source.high, noise),
                low: M::forget(self.source.low, noise),
            },
            destination: Address {
                high: M::forget(self.destination.high, noise),
                low: M::forget(self.destination.low, noise),
            },
            protocol: byte(self.protocol),
            destination_port: u16::from_le_bytes([port0, port1]),
            tcp_flags: byte(self.tcp_flags),
            has_ports: byte(u8::from(self.has_ports)) & 1 != 0,
            is_fragment: byte(u8::from(self.is_fragment)) & 1 != 0,
            ..*self
        }
    }

    /// Whether this opens a TCP connection: SYN without ACK.
    #[inline]
    pub fn is_tcp_open(&self) -> bool {
        self.has_ports
            && self.protocol == protocol::TCP
            && self.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    }
}

/// What is between the Ethernet header and the transport header.
struct Network {
    headers: Headers,
    /// TTL or hop limit.
    hop_limit: u8,
    /// Bytes of the transport header and payload in this packet, as the IP header states.
    transport_length: u64,
    /// A fragment that does not begin with the transport header.
    is_later_fragment: bool,
    /// Offset in units of 8 bytes.
    fragment_offset: u32,
}

/// Reads the headers of an Ethernet frame.
#[inline]
pub fn parse<P: PacketBytes + ?Sized>(packet: &P) -> Parsed {
    let mut cursor = Cursor::new(packet);
    let Some(ether_type) = ethernet(&mut cursor) else {
        return Parsed::Malformed(Address::default(), Flaw::Link);
    };
    cursor.forget(LONGEST_LINK_HEADER);
    let network = if ether_type == EtherType::Ipv4 as u16 {
        ipv4(packet, &mut cursor)
    } else if ether_type == EtherType::Ipv6 as u16 {
        ipv6(packet, &mut cursor)
    } else if is_vlan(ether_type) {
        return Parsed::Malformed(Address::default(), Flaw::Link);
    } else {
        return Parsed::NotIp;
    };
    match network {
        Ok(network) => {
            let source = network.headers.source;
            match transport(&cursor, &network) {
                Ok(headers) => Parsed::Ip(headers),
                Err(flaw) => Parsed::Malformed(source, flaw),
            }
        }
        Err((source, flaw)) => Parsed::Malformed(source, flaw),
    }
}

/// Passes the Ethernet header and up to [`MAX_VLAN_TAGS`] tags; the type of what follows, in
/// network order as `network-types` has it.
#[inline]
fn ethernet<P: PacketBytes + ?Sized>(cursor: &mut Cursor<'_, P>) -> Option<u16> {
    let mut ether_type = u16::from_ne_bytes(cursor.peek(offset_of!(EthHdr, ether_type))?);
    cursor.skip(EthHdr::LEN);
    for _ in 0..MAX_VLAN_TAGS {
        if !is_vlan(ether_type) {
            break;
        }
        ether_type = u16::from_ne_bytes(cursor.peek(offset_of!(VlanHdr, ether_type))?);
        cursor.skip(VlanHdr::LEN);
    }
    Some(ether_type)
}

/// Whether a VLAN tag follows. Network order.
#[inline]
#[must_use]
pub fn is_vlan(ether_type: u16) -> bool {
    const TAGS: [u16; 5] = [
        EtherType::Ieee8021q as u16,
        EtherType::Ieee8021ad as u16,
        EtherType::Ieee8021QinQ1 as u16,
        EtherType::Ieee8021QinQ2 as u16,
        EtherType::Ieee8021QinQ3 as u16,
    ];
    ether_type == TAGS[0]
        || ether_type == TAGS[1]
        || ether_type == TAGS[2]
        || ether_type == TAGS[3]
        || ether_type == TAGS[4]
}

/// Bytes from the cursor to the end of the packet.
#[inline]
fn remaining<P: PacketBytes + ?Sized>(packet: &P, cursor: &Cursor<'_, P>) -> u64 {
    packet.length().saturating_sub(cursor.offset() as u64)
}

/// RFC 791, 3.1.
#[inline]
fn ipv4<P: PacketBytes + ?Sized>(
    packet: &P,
    cursor: &mut Cursor<'_, P>,
) -> Result<Network, (Address, Flaw)> {
    const MORE_FRAGMENTS: u32 = 0x2000;
    const FRAGMENT_OFFSET: u32 = 0x1fff;
    // 224.0.0.0/3: multicast and what is reserved above it (RFC 1112, 4).
    const MULTICAST: u32 = 0xe000_0000;

    let unknown = (Address::default(), Flaw::Network);
    let [lengths, fragment, ttl_and_protocol, source_word, destination] =
        cursor.words().ok_or(unknown)?;
    let source = Address::from_v4_word(source_word);
    let header_length = (lengths >> 24 & 0x0f) as usize * 4;
    let total_length = u64::from(lengths & 0xffff);
    let available = remaining(packet, cursor);
    // Super-packets of more than 64 KiB (BIG TCP, generic XDP after GRO) state no length.
    let total_length =
        if total_length == 0 && available > 0xffff { available } else { total_length };
    if lengths >> 28 != 4
        || header_length < Ipv4Hdr::LEN
        || total_length < header_length as u64
        || total_length > available
    {
        return Err((source, Flaw::Network));
    }
    if source_word >= MULTICAST {
        return Err((source, Flaw::Source));
    }
    let fragment_offset = fragment & FRAGMENT_OFFSET;
    let [hop_limit, protocol, ..] = ttl_and_protocol.to_be_bytes();
    cursor.skip(header_length);
    Ok(Network {
        headers: Headers {
            source,
            destination: Address::from_v4_word(destination),
            protocol,
            is_fragment: fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0,
            ..Headers::default()
        },
        hop_limit,
        transport_length: total_length - header_length as u64,
        is_later_fragment: fragment_offset != 0,
        fragment_offset,
    })
}

/// RFC 8200, 3.
#[inline]
fn ipv6<P: PacketBytes + ?Sized>(
    packet: &P,
    cursor: &mut Cursor<'_, P>,
) -> Result<Network, (Address, Flaw)> {
    let unknown = (Address::default(), Flaw::Network);
    let [first, source_high, source_low, destination_high, destination_low] =
        cursor.long_words().ok_or(unknown)?;
    let source = Address { high: source_high, low: source_low };
    let payload = first >> 16 & 0xffff;
    cursor.skip(Ipv6Hdr::LEN);
    let available = remaining(packet, cursor);
    let payload = if payload == 0 && available > 0xffff { available } else { payload };
    if first >> 60 != 6 || payload > available {
        return Err((source, Flaw::Network));
    }
    // A v4-mapped address does not appear on the wire (RFC 4038, 4.2): it would be counted and
    // banned as the IPv4 source that it names. Multicast is ff00::/8 (RFC 4291, 2.7).
    if source.is_v4() || source.high >> 56 == 0xff {
        return Err((source, Flaw::Source));
    }
    let start = cursor.offset();
    let [.., protocol, hop_limit] = first.to_be_bytes();
    let mut network = Network {
        headers: Headers {
            source,
            destination: Address { high: destination_high, low: destination_low },
            protocol,
            ..Headers::default()
        },
        hop_limit,
        transport_length: 0,
        is_later_fragment: false,
        fragment_offset: 0,
    };
    extension_headers(cursor, &mut network).ok_or((source, Flaw::ExtensionHeaders))?;
    cursor.forget(LONGEST_HEADERS);
    let extensions = (cursor.offset() - start) as u64;
    if extensions > payload {
        return Err((source, Flaw::ExtensionHeaders));
    }
    network.transport_length = payload - extensions;
    Ok(network)
}

/// Passes extension headers; `None` where they end too early or there are too many.
#[inline]
fn extension_headers<P: PacketBytes + ?Sized>(
    cursor: &mut Cursor<'_, P>,
    network: &mut Network,
) -> Option<()> {
    const HOP_BY_HOP: u8 = IpProto::HopOpt as u8;
    const ROUTING: u8 = IpProto::Ipv6Route as u8;
    const FRAGMENT: u8 = IpProto::Ipv6Frag as u8;
    const DESTINATION: u8 = IpProto::Ipv6Opts as u8;
    const AUTHENTICATION: u8 = IpProto::Ah as u8;
    const MOBILITY: u8 = IpProto::MobilityHeader as u8;
    const HOST_IDENTITY: u8 = IpProto::Hip as u8;
    const SHIM6: u8 = IpProto::Shim6 as u8;

    for _ in 0..=MAX_EXTENSION_HEADERS {
        let length = match network.headers.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => {
                (usize::from(cursor.peek::<1>(1)?[0]) + 1) * 8
            }
            AUTHENTICATION => (usize::from(cursor.peek::<1>(1)?[0]) + 2) * 4,
            FRAGMENT => {
                let offset_and_more = cursor.peek_u16(2)?;
                network.fragment_offset = u32::from(offset_and_more >> 3);
                network.is_later_fragment = network.fragment_offset != 0;
                // Offset 0 without "more" is a whole packet (RFC 6946), but still says fragment.
                network.headers.is_fragment = true;
                8
            }
            _ => return Some(()),
        };
        network.headers.protocol = cursor.peek::<1>(0)?[0];
        cursor.skip_forgotten(length, LONGEST_EXTENSION_HEADER);
        if network.is_later_fragment {
            return Some(());
        }
    }
    None
}

#[cfg(test)]
mod tests;
