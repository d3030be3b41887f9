//! What the packet program is measured against: a program that does nothing, and the least that
//! any per-source limiter does. Attached only to interfaces of a measurement.

#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "packet memory and map values are raw pointers in the kernel")]
#![expect(clippy::needless_pass_by_value, reason = "how the macro of a program calls it")]
#![expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]

use core::{mem::offset_of, ptr};

use aya_ebpf::{
    bindings::xdp_action,
    helpers::bpf_ktime_get_ns,
    macros::{map, xdp},
    maps::{LruHashMap, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::Ipv4Hdr,
};

/// When a source was last seen.
#[map]
static SEEN: LruHashMap<u32, u64> = LruHashMap::with_max_entries(65_536, 0);

/// Packets.
#[map]
static PACKETS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What `rotate` goes on to.
#[map]
static NEXT: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// What calling a program costs.
#[xdp(frags)]
fn empty(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// What it costs to bring a packet here and drop it.
#[xdp(frags)]
fn discard(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// What it costs to send a packet back as it came.
#[xdp(frags)]
fn bounce(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Ethernet and IPv4 parsed, one hit in an LRU hash, one clock, one counter.
#[xdp(frags)]
fn yardstick(ctx: XdpContext) -> u32 {
    let Some(source) = source(&ctx) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if let Some(seen_ns) = SEEN.get_ptr_mut(source) {
        // SAFETY: the verifier checked the pointer; a lost write does no harm.
        unsafe { *seen_ns = now_ns };
    } else if SEEN.insert(source, now_ns, 0).is_err() {
        return xdp_action::XDP_DROP;
    }
    if let Some(packets) = PACKETS.get_ptr_mut(0) {
        // SAFETY: the verifier checked the pointer, and no other CPU writes this CPU's counter.
        unsafe { *packets += 1 };
    }
    xdp_action::XDP_PASS
}

/// Gives an IPv4 packet a source that it did not have before (one of 2^31) and goes on to the
/// program in `NEXT`.
#[xdp(frags)]
fn rotate(ctx: XdpContext) -> u32 {
    rotate_among(&ctx, u64::MAX)
}

/// As `rotate`, with one of 65,536 sources.
#[xdp(frags)]
fn rotate_some(ctx: XdpContext) -> u32 {
    rotate_among(&ctx, 0xffff)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "what rotates is measured with what it goes on to")]
fn rotate_among(ctx: &XdpContext, sources: u64) -> u32 {
    let data = ctx.data();
    if let Some(packets) = PACKETS.get_ptr_mut(0)
        && data + EthHdr::LEN + Ipv4Hdr::LEN <= ctx.data_end()
    {
        // SAFETY: the verifier checked the pointer, and no other CPU writes this CPU's counter.
        let number = unsafe { &mut *packets };
        *number = number.wrapping_add(1);
        let field = data + EthHdr::LEN + offset_of!(Ipv4Hdr, src_addr);
        // The lower half of steps of an odd width: no source comes twice too soon.
        // Below 128.0.0.0: nobody's multicast.
        let source = ((*number & sources) as u32).wrapping_mul(0x9e37_79b1) & 0xffff_ff7f;
        // SAFETY: inside the packet, as compared above.
        unsafe { ptr::write_unaligned(field as *mut u32, source) };
    }
    // SAFETY: nothing here needs to run after a jump that succeeds.
    unsafe { NEXT.tail_call(ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// The source of an IPv4 packet.
#[inline]
fn source(ctx: &XdpContext) -> Option<u32> {
    if ctx.data() + EthHdr::LEN + Ipv4Hdr::LEN > ctx.data_end() {
        return None;
    }
    let ether_type = ctx.data() + offset_of!(EthHdr, ether_type);
    // SAFETY: inside the packet, as compared above; so are the two below.
    if unsafe { ptr::read_unaligned(ether_type as *const u16) } != EtherType::Ipv4 as u16 {
        return None;
    }
    let header = ctx.data() + EthHdr::LEN;
    // SAFETY: as above.
    let version_and_length =
        unsafe { ptr::read((header + offset_of!(Ipv4Hdr, vihl)) as *const u8) };
    if version_and_length >> 4 != 4 || version_and_length & 0xf < 5 {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { ptr::read_unaligned((header + offset_of!(Ipv4Hdr, src_addr)) as *const u32) })
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
