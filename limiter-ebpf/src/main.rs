//! The XDP program: reads bytes, looks keys up, reports, returns the action. Decides nothing: that
//! is `limiter_common::decide`, which is tested on the host.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "core has no read-modify-write for the BPF target")]
#![expect(unsafe_code, reason = "packet memory and map values are raw pointers in the kernel")]
#![expect(clippy::needless_pass_by_value, reason = "how the macro of a program calls it")]
#![expect(clippy::cast_possible_truncation, reason = "pointers of the BPF target have 64 bits")]

mod clock;
mod connections;
mod cookies;
mod machine;
mod maps;
mod packet;
mod report;
mod routes;
mod sockets;
mod tables;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{btf_tracepoint, xdp},
    programs::{BtfTracePointContext, XdpContext},
};
use limiter_common::{
    decide::{Decision, decide},
    verdict::Action,
};

use crate::{clock::KernelClock, packet::XdpPacket, tables::KernelTables};

/// Decides about every packet that arrives on the interface, also one of several buffers.
#[xdp(frags)]
fn limiter(ctx: XdpContext) -> u32 {
    let packet = XdpPacket::new(&ctx);
    let Some(tables) = KernelTables::new(&ctx) else {
        // Array look-ups within bounds do not fail.
        return xdp_action::XDP_PASS;
    };
    let clock = KernelClock::new(tables.settings());
    let decision = decide(&packet, &tables, &clock);
    report::record(&ctx, &packet, &clock, &decision);
    action(&decision)
}

/// The only place where a verdict becomes what the kernel does.
#[inline]
fn action(decision: &Decision) -> u32 {
    match decision.verdict.action {
        Action::Pass | Action::Monitor => xdp_action::XDP_PASS,
        Action::Drop => xdp_action::XDP_DROP,
        Action::Tx => xdp_action::XDP_TX,
    }
}

/// Writes jiffies and `CLOCK_MONOTONIC` (ns) into the packet of a test run, so that user space can
/// tell how one follows from the other. Never attached.
#[xdp]
fn clock_probe(ctx: XdpContext) -> u32 {
    clock::probe(&ctx);
    xdp_action::XDP_PASS
}

/// Counts TCP connections as they come and go.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn connections(ctx: BtfTracePointContext) -> i32 {
    connections::transition(&ctx);
    0
}

/// The same once more. The kernel leaves a program out where it interrupts itself: a packet may
/// arrive while a system call closes a socket. One of the two then runs, and whatever both see
/// counts once.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn connections_too(ctx: BtfTracePointContext) -> i32 {
    connections::transition(&ctx);
    0
}

/// Carries out a correction by user space, which is the frame. Never attached.
#[xdp]
fn connection_fix(ctx: XdpContext) -> u32 {
    connections::correct(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers that look up sockets are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
