//! TCP, UDP and ICMP: ports and flags, or that no stack sends such a packet.

use network_types::{tcp::TcpHdr, udp::UdpHdr};

use super::{Flaw, Headers, Network, protocol, tcp_flags};
use crate::packet::{Cursor, PacketBytes};

/// Reads the transport header where there is one in this packet.
#[inline]
pub(super) fn transport<P: PacketBytes + ?Sized>(
    cursor: &Cursor<'_, P>,
    network: &Network,
) -> Result<Headers, Flaw> {
    const TCP_LENGTH: u64 = TcpHdr::LEN as u64;
    const UDP_LENGTH: u64 = UdpHdr::LEN as u64;

    let Network { mut headers, hop_limit, transport_length: length, .. } = *network;
    if network.is_later_fragment {
        // A later fragment that begins inside the TCP header rewrites its flags (RFC 1858, 3).
        let rewrites = headers.protocol == protocol::TCP && network.fragment_offset < 3;
        return if rewrites { Err(Flaw::Fragment) } else { Ok(headers) };
    }
    // What does not hold a whole header is a trick where it is a fragment, an error else.
    let short = if headers.is_fragment { Flaw::Fragment } else { Flaw::Transport };
    match headers.protocol {
        // RFC 9293, 3.1.
        protocol::TCP => {
            let [ports, _, _, offset_and_flags] = cursor.words().ok_or(short)?;
            let offset = u64::from(offset_and_flags >> 28) * 4;
            let [_, flags, ..] = offset_and_flags.to_be_bytes();
            if length < TCP_LENGTH || offset < TCP_LENGTH || offset > length {
                return Err(short);
            }
            if !are_possible(flags) {
                return Err(Flaw::TcpFlags);
            }
            headers.tcp_flags = flags;
            put_ports(ports, &mut headers);
        }
        // RFC 768.
        protocol::UDP => {
            let [ports, length_and_checksum] = cursor.words().ok_or(short)?;
            let stated = u64::from(length_and_checksum >> 16);
            // The stated length is the whole datagram's; 0 is a jumbogram (RFC 2675).
            let fits = headers.is_fragment || stated == 0 || stated <= length;
            if length < UDP_LENGTH || !fits || (1..UDP_LENGTH).contains(&stated) {
                return Err(short);
            }
            put_ports(ports, &mut headers);
        }
        protocol::ICMP | protocol::ICMPV6 if length < 4 => return Err(short),
        _ => {}
    }
    headers.is_essential = judge_essential(cursor, &headers, hop_limit).ok_or(short)?;
    Ok(headers)
}

#[inline]
fn put_ports(ports: u32, headers: &mut Headers) {
    let [source0, source1, destination0, destination1] = ports.to_be_bytes();
    headers.source_port = u16::from_be_bytes([source0, source1]);
    headers.destination_port = u16::from_be_bytes([destination0, destination1]);
    headers.has_ports = true;
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
