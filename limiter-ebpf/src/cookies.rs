//! SYNs to a flooded listener of this host, answered with a cookie before a socket buffer exists.
//!
//! The kernel makes the cookie (`bpf_tcp_gen_syncookie`, kernel 5.4) and says whether one is due:
//! it refuses unless `net.ipv4.tcp_syncookies` is 2, or 1 and the listener's queue is full. It also
//! checks the acknowledgement that comes back, so nothing is remembered here. Whatever is not plain
//! (IPv4 options, extension headers, several buffers, no listener) is left to the stack.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{bpf_sock_tuple, tcphdr},
    helpers::{
        bpf_check_mtu, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_gen_syncookie,
        bpf_xdp_adjust_tail,
    },
    programs::XdpContext,
};
use limiter_common::{
    address::Address,
    headers::{Headers, MAX_VLAN_TAGS, is_vlan, protocol, tcp_flags},
    machine::Machine,
    packet::PacketBytes,
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    vlan::VlanHdr,
};

use crate::{
    machine::Kernel,
    packet::{XdpPacket, load_1, load_2, load_4, load_8, store_2, store_4, store_8},
    sockets::{CURRENT_NETNS, TCP_LISTEN, tuple, tuple_size},
};

/// TCP header with the only option of an answer, the segment size.
///
/// No timestamp, window scale or selective acknowledgement: the kernel reads those back from a
/// timestamp that it shifts by a secret of its own (`tcp_timestamps` = 1), which no program knows.
/// What they cost matters only to who connects during a flood, and less than not connecting.
const ANSWER_LENGTH: u32 = TcpHdr::LEN as u32 + 4;

/// Shorter frames are not sent on Ethernet, and not every driver fills them up.
const LEAST_FRAME: u32 = 60;

/// Unscaled. The initial window of any client; the kernel states its own with its first segment.
const WINDOW: u32 = 16_384;

/// Hops that an answer may take (RFC 1700).
const HOPS: u64 = 64;

/// The option that states the segment size: its kind and length (RFC 9293, 3.2).
const SEGMENT_SIZE: u32 = 0x0204;

/// What the answer says beside what the SYN says.
struct Cookie {
    /// The sequence number, network order.
    sequence: u32,
    /// Largest segment that this host takes.
    segment_size: u32,
}

/// Whether the SYN was turned into its answer, which is to be sent back by the interface it came
/// from. Otherwise the frame is as it was.
#[inline(never)]
pub(crate) fn answer(ctx: &XdpContext, headers: &Headers) -> bool {
    let packet = XdpPacket::new(ctx);
    let first_buffer = ctx.data_end().wrapping_sub(ctx.data()) as u64;
    let is_v4 = headers.source.is_v4();
    if !is_unicast(headers.source) || !is_unicast(headers.destination) {
        return false;
    }
    let Some(network) = network_offset(&packet) else { return false };
    if packet.length() != first_buffer || !is_plain(&packet, network, is_v4) {
        return false;
    }
    let Some(cookie) = cookie(ctx, headers, network, is_v4) else { return false };
    // The length comes first: what fails here has changed nothing.
    let header = if is_v4 { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN };
    let needed = (network + header) as u32 + ANSWER_LENGTH;
    let length = first_buffer as u32;
    let wanted = needed.max(length.min(LEAST_FRAME));
    // SAFETY: the context is the one that the kernel passed to the program.
    if unsafe { bpf_xdp_adjust_tail(ctx.ctx, wanted.wrapping_sub(length).cast_signed()) } != 0 {
        return false;
    }
    let turned =
        if is_v4 { turn_v4(ctx, network, &cookie) } else { turn_v6(ctx, network, &cookie) };
    turned && turn_link(ctx)
}

/// Whether one host may have this address: a listener on all addresses is also found by those that
/// are nobody's. Not those of IPv4 before 1.0.0.0, 127.0.0.0/8 and from 224.0.0.0 on; not those of
/// IPv6 below `0:0:0:1::`, which are `::1` and mapped ones, and `ff00::/8`.
#[inline]
fn is_unicast(address: Address) -> bool {
    if address.is_v4() {
        let first = (address.low >> 24) & 0xff;
        first != 0 && first != 127 && first < 224
    } else {
        address.high != 0 && address.high >> 56 != 0xff
    }
}

/// Where the IP header begins.
#[inline]
fn network_offset(packet: &XdpPacket<'_>) -> Option<usize> {
    let mut ether_type = u16::from_ne_bytes(packet.array(offset_of!(EthHdr, ether_type))?);
    let mut offset = EthHdr::LEN;
    for _ in 0..MAX_VLAN_TAGS {
        if !is_vlan(ether_type) {
            break;
        }
        ether_type = u16::from_ne_bytes(packet.array(offset + offset_of!(VlanHdr, ether_type))?);
        offset += VlanHdr::LEN;
    }
    // The verifier would follow each length to the end.
    Some(packet.forget(offset) & 0x1f)
}

/// Whether TCP follows the fixed IP header at once.
#[inline]
fn is_plain(packet: &XdpPacket<'_>, network: usize, is_v4: bool) -> bool {
    let byte = |offset: usize| packet.array::<1>(network + offset).map(|[byte]| byte);
    if is_v4 {
        byte(offset_of!(Ipv4Hdr, vihl)) == Some(0x45)
    } else {
        byte(offset_of!(Ipv6Hdr, next_hdr)) == Some(protocol::TCP)
    }
}

/// A pointer of which the verifier learns that `length` bytes from it are inside the packet.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a comparison says something only where it is made")]
fn inside(ctx: &XdpContext, offset: usize, length: usize) -> Option<usize> {
    let start = ctx.data().wrapping_add(offset);
    let end = Kernel::opaque(start.wrapping_add(length) as u64) as usize;
    (end <= ctx.data_end()).then_some(start)
}

/// The cookie for this SYN, if its destination is a listener that wants one.
#[inline]
fn cookie(ctx: &XdpContext, headers: &Headers, network: usize, is_v4: bool) -> Option<Cookie> {
    let header_length = if is_v4 { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN };
    let segment = syn(ctx, headers, network + header_length)?;
    let tuple = tuple(headers, true);
    // SAFETY: the tuple outlives the call and is at least as long as stated.
    let sock = unsafe {
        bpf_skc_lookup_tcp(
            ctx.ctx.cast(),
            (&raw const tuple).cast_mut().cast::<bpf_sock_tuple>(),
            tuple_size(is_v4),
            CURRENT_NETNS,
            0,
        )
    };
    if sock.is_null() {
        return None;
    }
    // SAFETY: not null, and referenced until released below.
    let made = if unsafe { (*sock).state } == TCP_LISTEN {
        generate(ctx, sock.cast(), network, is_v4, &segment)
    } else {
        -1
    };
    // SAFETY: `sock` is a referenced socket that nothing uses any more.
    unsafe { bpf_sk_release(sock.cast()) };
    if made < 0 {
        return None;
    }
    let made = made.cast_unsigned();
    let room = mtu(ctx).saturating_sub((header_length + TcpHdr::LEN) as u32);
    let segment_size = (made >> 32) as u32 & 0xffff;
    let segment_size = if room > 0 { segment_size.min(room) } else { segment_size };
    Some(Cookie { sequence: (made as u32).to_be(), segment_size })
}

/// The SYN as the helper is to see it: ports, sequence number and segment size.
///
/// The options of the packet have no fixed place, and a copy of fixed length costs the verifier
/// nothing. The segment size comes first in the SYN of every stack in use; where it does not, the
/// helper takes the least that any host must accept (RFC 9293, 3.7.1).
#[inline]
fn syn(ctx: &XdpContext, headers: &Headers, transport: usize) -> Option<[u32; 6]> {
    let fixed = inside(ctx, transport, TcpHdr::LEN)?;
    let sequence = load_4::<4>(fixed) as u32;
    let option = match inside(ctx, transport, TcpHdr::LEN + 4) {
        Some(whole) if load_1::<12>(whole) >> 4 > 5 => {
            u32::from_be(load_4::<{ TcpHdr::LEN }>(whole) as u32)
        }
        _ => 0,
    };
    if is_signature(option) {
        return None;
    }
    let option = if option >> 16 == SEGMENT_SIZE { option } else { 0 };
    Some([
        u32::from(headers.source_port.to_be())
            | (u32::from(headers.destination_port.to_be()) << 16),
        sequence,
        0,
        (0x6000_0000 | (u32::from(tcp_flags::SYN) << 16)).to_be(),
        0,
        option.to_be(),
    ])
}

/// Whether the first option is a signature (RFC 2385, RFC 5925), as stacks place it: the answer
/// would have to be signed too.
#[inline]
fn is_signature(option: u32) -> bool {
    const MD5: u32 = 19;
    const AUTHENTICATION: u32 = 29;
    const PADDED_MD5: u32 = 0x01_0100 | MD5;
    let kind = option >> 24;
    kind == MD5 || kind == AUTHENTICATION || option >> 8 == PADDED_MD5
}

/// Calls the helper; negative where the listener wants no cookie.
#[inline]
fn generate(
    ctx: &XdpContext,
    sock: *mut core::ffi::c_void,
    network: usize,
    is_v4: bool,
    segment: &[u32; 6],
) -> i64 {
    let length = if is_v4 { Ipv4Hdr::LEN } else { Ipv6Hdr::LEN };
    let call = |header: usize| {
        let segment: *const u32 = segment.as_ptr();
        // SAFETY: a listener that is referenced, and two headers of the stated lengths.
        unsafe {
            bpf_tcp_gen_syncookie(
                sock,
                header as *mut core::ffi::c_void,
                length as u32,
                segment.cast_mut().cast::<tcphdr>(),
                size_of::<[u32; 6]>() as u32,
            )
        }
    };
    inside(ctx, network, length).map_or(-1, call)
}

/// The interface's largest packet.
#[inline]
fn mtu(ctx: &XdpContext) -> u32 {
    let mut mtu = 0;
    // SAFETY: the context is the one that the kernel passed to the program; the word outlives the
    // call. Interface 0 is the one that the packet came from. The answer fits; only the word counts.
    unsafe { bpf_check_mtu(ctx.ctx.cast(), 0, &raw mut mtu, 0, 0) };
    mtu
}

/// Swaps the Ethernet addresses; tags stay as they are.
#[inline]
fn turn_link(ctx: &XdpContext) -> bool {
    let Some(start) = inside(ctx, 0, EthHdr::LEN) else { return false };
    let (to_low, to_high) = (load_4::<0>(start), load_2::<4>(start));
    let (from_low, from_high) = (load_4::<6>(start), load_2::<10>(start));
    store_4(start, from_low);
    store_2(start + 4, from_high);
    store_4(start + 6, to_low);
    store_2(start + 10, to_high);
    true
}

#[inline]
fn turn_v4(ctx: &XdpContext, network: usize, cookie: &Cookie) -> bool {
    let Some(start) = inside(ctx, network, Ipv4Hdr::LEN + ANSWER_LENGTH as usize) else {
        return false;
    };
    let (source, destination) = (load_4::<12>(start), load_4::<16>(start));
    // Version, length; no identification, may not be fragmented; hops, protocol.
    let first = 0x4500_0000 | (Ipv4Hdr::LEN as u32 + ANSWER_LENGTH);
    let third = ((HOPS as u32) << 24) | (u32::from(protocol::TCP) << 16);
    let addresses = source + destination;
    let header =
        u64::from(first.to_be()) + u64::from(0x4000_u32.to_be()) + u64::from(third.to_be());
    store_4(start, first.to_be().into());
    store_4(start + 4, 0x4000_u32.to_be().into());
    store_4(start + 8, third.to_be().into());
    store_2(start + 10, checksum(header + addresses));
    store_4(start + 12, destination);
    store_4(start + 16, source);
    turn_transport(start + Ipv4Hdr::LEN, addresses, cookie);
    true
}

#[inline]
fn turn_v6(ctx: &XdpContext, network: usize, cookie: &Cookie) -> bool {
    let Some(start) = inside(ctx, network, Ipv6Hdr::LEN + ANSWER_LENGTH as usize) else {
        return false;
    };
    let (source_high, source_low) = (load_8::<8>(start), load_8::<16>(start));
    let (destination_high, destination_low) = (load_8::<24>(start), load_8::<32>(start));
    // Version, no class or flow; length, protocol, hops.
    let first =
        (6_u64 << 60) | (u64::from(ANSWER_LENGTH) << 16) | (u64::from(protocol::TCP) << 8) | HOPS;
    store_8(start, first.to_be());
    store_8(start + 8, destination_high);
    store_8(start + 16, destination_low);
    store_8(start + 24, source_high);
    store_8(start + 32, source_low);
    let addresses = halves(source_high)
        + halves(source_low)
        + halves(destination_high)
        + halves(destination_low);
    turn_transport(start + Ipv6Hdr::LEN, addresses, cookie);
    true
}

/// Writes the answer over the SYN. `addresses` is the sum of the addresses' words.
#[inline]
fn turn_transport(start: usize, addresses: u64, cookie: &Cookie) {
    let ports = load_4::<0>(start) as u32;
    let acknowledged = u32::from_be(load_4::<4>(start) as u32).wrapping_add(1).to_be();
    let flags = u32::from(tcp_flags::SYN | tcp_flags::ACK);
    let fourth = (0x6000_0000 | (flags << 16) | WINDOW).to_be();
    let option = ((SEGMENT_SIZE << 16) | cookie.segment_size).to_be();
    let pseudo = u32::from(protocol::TCP) + ANSWER_LENGTH;
    let sum = addresses
        + u64::from(pseudo.to_be())
        + u64::from(ports)
        + u64::from(cookie.sequence)
        + u64::from(acknowledged)
        + u64::from(fourth)
        + u64::from(option);
    store_4(start, ports.rotate_left(16).into());
    store_4(start + 4, cookie.sequence.into());
    store_4(start + 8, acknowledged.into());
    store_4(start + 12, fourth.into());
    // Checksum; no urgent data.
    store_4(start + 16, checksum(sum));
    store_4(start + 20, option.into());
}

#[inline]
fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// The complement of the sum, 16 bits in network order as they lie in memory (RFC 1071, 2).
#[inline]
fn checksum(sum: u64) -> u64 {
    let sum = halves(halves(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !sum & 0xffff
}
