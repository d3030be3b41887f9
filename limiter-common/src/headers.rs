//! Bytes to headers: what the decision needs to know of a packet, or that it is malformed.
//!
//! Never indexes, loops only to named bounds, trusts no length that the packet states about
//! itself. Layouts and protocol numbers come from `network-types`.

use core::mem::offset_of;

use network_types::{
    eth::{EthHdr, EtherType},
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
    vlan::VlanHdr,
};

use crate::{
    address::Address,
    machine::Machine,
    packet::{Cursor, PacketBytes},
};

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

/// TCP flag bits, as in byte 13 of the header (RFC 9293, 3.1).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
}

/// Protocol numbers (IANA).
pub mod protocol {
    use super::IpProto;

    /// TCP.
    pub const TCP: u8 = IpProto::Tcp as u8;
    /// UDP.
    pub const UDP: u8 = IpProto::Udp as u8;
    /// ICMP for IPv4.
    pub const ICMP: u8 = IpProto::Icmp as u8;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
    /// IGMP.
    pub const IGMP: u8 = IpProto::Igmp as u8;
}

/// What a packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// An IP packet.
    Ip(Headers),
    /// Not IP (ARP, LLDP, spanning tree and so on): never ours to judge.
    NotIp,
    /// Contradicts itself or ends too early. The source, `::` where it could not be read.
    Malformed(Address),
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
    /// The same headers, of whose values the verifier knows nothing (see [`Machine::forget`]).
    #[inline]
    #[must_use]
    pub fn forget<M: Machine>(&self, noise: u64) -> Self {
        let facts = u64::from(self.protocol)
            | (u64::from(self.tcp_flags) << 8)
            | (u64::from(self.source_port) << 16)
            | (u64::from(self.destination_port) << 32)
            | (u64::from(self.has_ports) << 48)
            | (u64::from(self.is_fragment) << 49)
            | (u64::from(self.is_essential) << 50);
        let [protocol, tcp_flags, port0, port1, port2, port3, bits, _] =
            M::forget(facts, noise).to_le_bytes();
        let forget = |address: Address| Address {
            high: M::forget(address.high, noise),
            low: M::forget(address.low, noise),
        };
        Self {
            source: forget(self.source),
            destination: forget(self.destination),
            protocol,
            source_port: u16::from_le_bytes([port0, port1]),
            destination_port: u16::from_le_bytes([port2, port3]),
            tcp_flags,
            has_ports: bits & 1 != 0,
            is_fragment: bits & 2 != 0,
            is_essential: bits & 4 != 0,
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
    fragment_offset: u16,
}

/// Reads the headers of an Ethernet frame.
#[inline]
pub fn parse<P: PacketBytes + ?Sized>(packet: &P) -> Parsed {
    let mut cursor = Cursor::new(packet);
    let Some(ether_type) = ethernet(&mut cursor) else {
        return Parsed::Malformed(Address::default());
    };
    cursor.forget(LONGEST_LINK_HEADER);
    let network = if ether_type == EtherType::Ipv4 as u16 {
        ipv4(packet, &mut cursor)
    } else if ether_type == EtherType::Ipv6 as u16 {
        ipv6(packet, &mut cursor)
    } else if is_vlan(ether_type) {
        return Parsed::Malformed(Address::default());
    } else {
        return Parsed::NotIp;
    };
    match network {
        Ok(network) => {
            let source = network.headers.source;
            transport(&cursor, &network).map_or(Parsed::Malformed(source), Parsed::Ip)
        }
        Err(source) => Parsed::Malformed(source),
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

#[inline]
fn is_vlan(ether_type: u16) -> bool {
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

#[inline]
fn ipv4<P: PacketBytes + ?Sized>(
    packet: &P,
    cursor: &mut Cursor<'_, P>,
) -> Result<Network, Address> {
    const MORE_FRAGMENTS: u16 = 0x2000;
    const FRAGMENT_OFFSET: u16 = 0x1fff;

    let unknown = Address::default();
    let header: [u8; Ipv4Hdr::LEN] = cursor.peek(0).ok_or(unknown)?;
    let source = Address::from_v4(field(&header, offset_of!(Ipv4Hdr, src_addr)));
    let version_and_length = header[offset_of!(Ipv4Hdr, vihl)];
    let header_length = usize::from(version_and_length & 0x0f) * 4;
    let total_length = u64::from(u16::from_be_bytes(field(&header, offset_of!(Ipv4Hdr, tot_len))));
    let available = remaining(packet, cursor);
    // Super-packets of more than 64 KiB (BIG TCP, generic XDP after GRO) state no length.
    let total_length =
        if total_length == 0 && available > 0xffff { available } else { total_length };
    if version_and_length >> 4 != 4
        || header_length < Ipv4Hdr::LEN
        || total_length < header_length as u64
        || total_length > available
    {
        return Err(source);
    }
    let fragment = u16::from_be_bytes(field(&header, offset_of!(Ipv4Hdr, frags)));
    let fragment_offset = fragment & FRAGMENT_OFFSET;
    cursor.skip(header_length);
    Ok(Network {
        headers: Headers {
            source,
            destination: Address::from_v4(field(&header, offset_of!(Ipv4Hdr, dst_addr))),
            protocol: header[offset_of!(Ipv4Hdr, proto)],
            is_fragment: fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0,
            ..Headers::default()
        },
        hop_limit: header[offset_of!(Ipv4Hdr, ttl)],
        transport_length: total_length - header_length as u64,
        is_later_fragment: fragment_offset != 0,
        fragment_offset,
    })
}

#[inline]
fn ipv6<P: PacketBytes + ?Sized>(
    packet: &P,
    cursor: &mut Cursor<'_, P>,
) -> Result<Network, Address> {
    let unknown = Address::default();
    let header: [u8; Ipv6Hdr::LEN] = cursor.peek(0).ok_or(unknown)?;
    let source = ipv6_address(&header, offset_of!(Ipv6Hdr, src_addr));
    let payload = u64::from(u16::from_be_bytes(field(&header, offset_of!(Ipv6Hdr, payload_len))));
    cursor.skip(Ipv6Hdr::LEN);
    let available = remaining(packet, cursor);
    let payload = if payload == 0 && available > 0xffff { available } else { payload };
    // A v4-mapped address does not appear on the wire (RFC 4038, 4.2): it would be counted and
    // banned as the IPv4 source that it names.
    if header[0] >> 4 != 6 || payload > available || source.is_v4() {
        return Err(source);
    }
    let start = cursor.offset();
    let mut network = Network {
        headers: Headers {
            source,
            destination: ipv6_address(&header, offset_of!(Ipv6Hdr, dst_addr)),
            protocol: header[offset_of!(Ipv6Hdr, next_hdr)],
            ..Headers::default()
        },
        hop_limit: header[offset_of!(Ipv6Hdr, hop_limit)],
        transport_length: 0,
        is_later_fragment: false,
        fragment_offset: 0,
    };
    extension_headers(cursor, &mut network).ok_or(source)?;
    cursor.forget(LONGEST_HEADERS);
    let extensions = (cursor.offset() - start) as u64;
    if extensions > payload {
        return Err(source);
    }
    network.transport_length = payload - extensions;
    Ok(network)
}

#[inline]
fn ipv6_address(header: &[u8; Ipv6Hdr::LEN], offset: usize) -> Address {
    Address::from_v6(field(header, offset), field(header, offset + 8))
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
                network.fragment_offset = offset_and_more >> 3;
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

/// Reads the transport header where there is one in this packet.
#[inline]
fn transport<P: PacketBytes + ?Sized>(
    cursor: &Cursor<'_, P>,
    network: &Network,
) -> Option<Headers> {
    const TCP_LENGTH: u64 = TcpHdr::LEN as u64;
    const UDP_LENGTH: u64 = UdpHdr::LEN as u64;

    let Network { mut headers, hop_limit, transport_length: length, .. } = *network;
    if network.is_later_fragment {
        // A later fragment that begins inside the TCP header rewrites its flags (RFC 1858, 3).
        let rewrites = headers.protocol == protocol::TCP && network.fragment_offset < 3;
        return (!rewrites).then_some(headers);
    }
    match headers.protocol {
        protocol::TCP => {
            let offset = u64::from(cursor.peek::<1>(12)?[0] >> 4) * 4;
            let [flags] = cursor.peek::<1>(13)?;
            if length < TCP_LENGTH || offset < TCP_LENGTH || offset > length {
                return None;
            }
            if !are_possible(flags) {
                return None;
            }
            headers.tcp_flags = flags;
            ports(cursor, &mut headers)?;
        }
        protocol::UDP => {
            let stated = u64::from(cursor.peek_u16(4)?);
            // The stated length is the whole datagram's; 0 is a jumbogram (RFC 2675).
            let fits = headers.is_fragment || stated == 0 || stated <= length;
            if length < UDP_LENGTH || !fits || (1..UDP_LENGTH).contains(&stated) {
                return None;
            }
            ports(cursor, &mut headers)?;
        }
        protocol::ICMP | protocol::ICMPV6 if length < 4 => return None,
        _ => {}
    }
    headers.is_essential = judge_essential(cursor, &headers, hop_limit)?;
    Some(headers)
}

#[inline]
fn ports<P: PacketBytes + ?Sized>(cursor: &Cursor<'_, P>, headers: &mut Headers) -> Option<()> {
    headers.source_port = cursor.peek_u16(0)?;
    headers.destination_port = cursor.peek_u16(2)?;
    headers.has_ports = true;
    Some(())
}

/// Whether some TCP could send these flags: not none, not SYN with FIN or RST, FIN only with ACK.
#[inline]
fn are_possible(flags: u8) -> bool {
    use tcp_flags::{ACK, FIN, RST, SYN};
    flags & (SYN | RST | ACK) != 0
        && (flags & SYN == 0 || flags & (FIN | RST) == 0)
        && (flags & FIN == 0 || flags & (ACK | RST) != 0)
}

/// Whether the host loses its network without this packet: neighbour and router discovery with
/// hop limit 255 (RFC 4861, 7.1: not forwarded), multicast listener reports, IGMP, DHCP, and the
/// two ICMP messages that path MTU discovery needs. `None` where the packet ends too early.
#[inline]
fn judge_essential<P: PacketBytes + ?Sized>(
    cursor: &Cursor<'_, P>,
    headers: &Headers,
    hop_limit: u8,
) -> Option<bool> {
    const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
    const PACKET_TOO_BIG: u8 = 2;
    const LISTENER_QUERY: u8 = 130;
    const LISTENER_DONE: u8 = 132;
    const ROUTER_SOLICITATION: u8 = 133;
    const REDIRECT: u8 = 137;
    const LISTENER_REPORT_V2: u8 = 143;

    let ports = (headers.source_port, headers.destination_port);
    Some(match headers.protocol {
        protocol::UDP if headers.source.is_v4() => matches!(ports, (67, 68) | (68, 67)),
        protocol::UDP => matches!(ports, (547, 546) | (546, 547)),
        protocol::ICMP => cursor.peek::<2>(0)? == FRAGMENTATION_NEEDED,
        protocol::IGMP => true,
        protocol::ICMPV6 => match cursor.peek::<1>(0)?[0] {
            PACKET_TOO_BIG | LISTENER_REPORT_V2 | LISTENER_QUERY..=LISTENER_DONE => true,
            ROUTER_SOLICITATION..=REDIRECT => hop_limit == 255,
            _ => false,
        },
        _ => false,
    })
}

/// `N` bytes of a header at a constant offset: compiles to plain loads.
#[inline]
fn field<const LEN: usize, const N: usize>(header: &[u8; LEN], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    let mut index = 0;
    while index < N {
        bytes[index] = header[offset + index];
        index += 1;
    }
    bytes
}

#[cfg(test)]
mod tests;
