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
pub(crate) const CURRENT_NETNS: u64 = u64::MAX;

/// What `tcp_state` says where there is no socket: not a state.
const NO_SOCKET: u32 = 0;

/// `struct bpf_sock_tuple`, as words.
pub(crate) type Tuple = [u32; 9];

/// States of `enum bpf_tcp` (uapi/linux/bpf.h) that are not a connection of their own.
pub(crate) const TCP_LISTEN: u32 = 10;
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
    let state = tcp_state(ctx, &connection, headers.source.is_v4());
    if state == NO_SOCKET || state == TCP_LISTEN || state == TCP_NEW_SYN_RECV {
        return false;
    }
    let listener = tuple(headers, false);
    tcp_state(ctx, &listener, headers.source.is_v4()) != TCP_LISTEN
}

#[inline]
fn is_connected_udp(ctx: &XdpContext, headers: &Headers) -> bool {
    let tuple = tuple(headers, true);
    let size = tuple_size(headers.source.is_v4());
    // SAFETY: the tuple outlives the call and is at least `size` bytes.
    let sock = unsafe {
        bpf_sk_lookup_udp(
            ctx.ctx.cast(),
            (&raw const tuple).cast_mut().cast::<bpf_sock_tuple>(),
            size,
            CURRENT_NETNS,
            0,
        )
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

/// The state of the socket that this tuple finds.
#[inline]
fn tcp_state(ctx: &XdpContext, tuple: &Tuple, is_v4: bool) -> u32 {
    let size = tuple_size(is_v4);
    // SAFETY: the tuple outlives the call and is at least `size` bytes.
    let sock = unsafe {
        bpf_skc_lookup_tcp(
            ctx.ctx.cast(),
            (&raw const *tuple).cast_mut().cast::<bpf_sock_tuple>(),
            size,
            CURRENT_NETNS,
            0,
        )
    };
    if sock.is_null() {
        return NO_SOCKET;
    }
    // SAFETY: not null, and referenced until released below.
    let state = unsafe { (*sock).state };
    release(sock);
    state
}

#[inline]
fn release(sock: *mut bpf_sock) {
    // SAFETY: `sock` is a referenced socket that nothing uses any more.
    unsafe { bpf_sk_release(sock.cast()) };
}

pub(crate) const fn tuple_size(is_v4: bool) -> u32 {
    // The sizes of the two members of the union are how the helper tells the family.
    if is_v4 { 12 } else { 36 }
}

/// The packet's addresses and ports in the layout of `struct bpf_sock_tuple`; without the remote
/// ones, what only a listener matches. All of it is written word by word: the verifier wants no
/// byte left unwritten, and a loop that clears it costs it every iteration.
#[inline]
pub(crate) fn tuple(headers: &Headers, with_remote: bool) -> Tuple {
    let (source, source_port) =
        if with_remote { (headers.source, headers.source_port) } else { (Address::default(), 0) };
    let destination = headers.destination;
    let ports =
        u32::from(source_port.to_be()) | (u32::from(headers.destination_port.to_be()) << 16);
    if headers.source.is_v4() {
        return [low(source.low), low(destination.low), ports, 0, 0, 0, 0, 0, 0];
    }
    [
        high(source.high),
        low(source.high),
        high(source.low),
        low(source.low),
        high(destination.high),
        low(destination.high),
        high(destination.low),
        low(destination.low),
        ports,
    ]
}

/// The upper half of a word, in network order.
#[inline]
const fn high(word: u64) -> u32 {
    ((word >> 32) as u32).to_be()
}

/// The lower half of a word, in network order.
#[inline]
const fn low(word: u64) -> u32 {
    (word as u32).to_be()
}
