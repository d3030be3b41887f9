//! Whether a packet belongs to a connection that this host opened: asked of the stack's own
//! socket tables, so that nothing can be spoofed into them.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::XdpContext,
};
use limiter_common::{
    address::Address,
    headers::{Headers, protocol},
};

/// `BPF_F_CURRENT_NETNS`: the network namespace of the interface.
const CURRENT_NETNS: u64 = u64::MAX;

/// States of `enum bpf_tcp` (uapi/linux/bpf.h) that are not a connection of their own.
const TCP_LISTEN: u32 = 10;
const TCP_NEW_SYN_RECV: u32 = 12;

/// A TCP socket that is not a listener's, on a port that nobody listens on; or a UDP socket
/// connected to this very peer.
///
/// A port that somebody listens on is taken as the server side: its connections were opened by
/// the peer. Two look-ups in the stack's tables, about 100 ns, paid only by packets that would
/// otherwise be dropped.
#[inline(never)]
pub(crate) fn is_reply(ctx: &XdpContext, headers: &Headers) -> bool {
    if headers.protocol == protocol::UDP {
        return is_connected_udp(ctx, headers);
    }
    let connection = tuple(headers, true);
    match tcp_state(ctx, &connection, headers.source.is_v4()) {
        None | Some(TCP_LISTEN | TCP_NEW_SYN_RECV) => return false,
        Some(_) => {}
    }
    let listener = tuple(headers, false);
    tcp_state(ctx, &listener, headers.source.is_v4()) != Some(TCP_LISTEN)
}

#[inline]
fn is_connected_udp(ctx: &XdpContext, headers: &Headers) -> bool {
    let tuple = tuple(headers, true);
    let size = tuple_size(headers.source.is_v4());
    // SAFETY: the tuple outlives the call and is at least `size` bytes.
    let sock = unsafe {
        bpf_sk_lookup_udp(ctx.ctx.cast(), (&raw const tuple).cast_mut(), size, CURRENT_NETNS, 0)
    };
    if sock.is_null() {
        return false;
    }
    // SAFETY: not null, and referenced until released below.
    let remote_port = unsafe { (*sock).dst_port };
    release(sock);
    // An unconnected socket has no remote port; the look-up matched a connected one in full.
    remote_port != 0
}

#[inline]
fn tcp_state(ctx: &XdpContext, tuple: &bpf_sock_tuple, is_v4: bool) -> Option<u32> {
    let size = tuple_size(is_v4);
    // SAFETY: the tuple outlives the call and is at least `size` bytes.
    let sock = unsafe {
        bpf_skc_lookup_tcp(ctx.ctx.cast(), (&raw const *tuple).cast_mut(), size, CURRENT_NETNS, 0)
    };
    if sock.is_null() {
        return None;
    }
    // SAFETY: not null, and referenced until released below.
    let state = unsafe { (*sock).state };
    release(sock);
    Some(state)
}

#[inline]
fn release(sock: *mut bpf_sock) {
    // SAFETY: `sock` is a referenced socket that nothing uses any more.
    unsafe { bpf_sk_release(sock.cast()) };
}

const fn tuple_size(is_v4: bool) -> u32 {
    // The sizes of the two members of the union are how the helper tells the family.
    if is_v4 { 12 } else { 36 }
}

/// The packet's addresses and ports; without the remote ones, what only a listener matches.
#[inline]
fn tuple(headers: &Headers, with_remote: bool) -> bpf_sock_tuple {
    // SAFETY: all-zero is a valid value of these plain integers.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let (source, source_port) =
        if with_remote { (headers.source, headers.source_port) } else { (Address::default(), 0) };
    // SAFETY: writing a member of a union of plain integers.
    unsafe {
        if headers.source.is_v4() {
            let ipv4 = &mut tuple.__bindgen_anon_1.ipv4;
            ipv4.saddr = last_word(source);
            ipv4.daddr = last_word(headers.destination);
            ipv4.sport = source_port.to_be();
            ipv4.dport = headers.destination_port.to_be();
        } else {
            let ipv6 = &mut tuple.__bindgen_anon_1.ipv6;
            ipv6.saddr = words(source);
            ipv6.daddr = words(headers.destination);
            ipv6.sport = source_port.to_be();
            ipv6.dport = headers.destination_port.to_be();
        }
    }
    tuple
}

#[inline]
const fn last_word(address: Address) -> u32 {
    (address.low as u32).to_be()
}

#[inline]
const fn words(address: Address) -> [u32; 4] {
    [
        ((address.high >> 32) as u32).to_be(),
        (address.high as u32).to_be(),
        ((address.low >> 32) as u32).to_be(),
        (address.low as u32).to_be(),
    ]
}
