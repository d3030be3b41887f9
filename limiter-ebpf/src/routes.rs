//! Whether a packet only passes through this host: asked of the stack's own routing tables.

use aya_ebpf::{
    bindings::bpf_fib_lookup as FibLookup, helpers::bpf_fib_lookup, programs::XdpContext,
};
use limiter_common::headers::Headers;

/// Families, as `bpf_fib_lookup` takes them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What the helper is told of its argument.
#[expect(clippy::cast_possible_wrap, reason = "64 bytes")]
const FIB_LOOKUP_BYTES: i32 = size_of::<FibLookup>() as i32;

/// Results of the look-up by which a packet is sent on (`enum` in uapi/linux/bpf.h): found, no
/// light-weight tunnels, neighbour not known yet, too large.
const SUCCESS: i64 = 0;
const UNSUPPORTED_TUNNEL: i64 = 6;
const NO_NEIGHBOUR: i64 = 7;
const FRAGMENTATION_NEEDED: i64 = 8;

/// Whether the stack would send the packet on to another host (kernel 4.18).
#[inline(never)]
pub(crate) fn is_forwarded(ctx: &XdpContext, headers: &Headers) -> bool {
    // SAFETY: all of it is numbers.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    // SAFETY: the helper wants the interface that the packet came in on; the context is valid.
    lookup.ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    lookup.l4_protocol = headers.protocol;
    let (source, destination) = (headers.source, headers.destination);
    if source.is_v4() {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = (source.low as u32).to_be();
        lookup.__bindgen_anon_4.ipv4_dst = (destination.low as u32).to_be();
    } else {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = words(source.high, source.low);
        lookup.__bindgen_anon_4.ipv6_dst = words(destination.high, destination.low);
    }
    // SAFETY: the structure outlives the call, and its size is told.
    let result = unsafe { bpf_fib_lookup(ctx.ctx.cast(), &raw mut lookup, FIB_LOOKUP_BYTES, 0) };
    matches!(result, SUCCESS | UNSUPPORTED_TUNNEL | NO_NEIGHBOUR | FRAGMENTATION_NEEDED)
}

/// An address as four words in network order.
#[inline]
const fn words(high: u64, low: u64) -> [u32; 4] {
    [
        ((high >> 32) as u32).to_be(),
        (high as u32).to_be(),
        ((low >> 32) as u32).to_be(),
        (low as u32).to_be(),
    ]
}
