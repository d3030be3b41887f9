//! The only reader of packet memory: each read compares against the end of the packet first.

#![expect(clippy::inline_always, reason = "a comparison says something only where it is made")]

use core::{arch::asm, mem::transmute_copy};

use aya_ebpf::{helpers::bpf_xdp_get_buff_len, programs::XdpContext};
use limiter_common::{machine::Machine, packet::PacketBytes};

use crate::machine::Kernel;

/// The frame behind an XDP context. With multi-buffer frames the first buffer, which holds the
/// headers.
pub(crate) struct XdpPacket<'a> {
    ctx: &'a XdpContext,
    length: u64,
}

impl<'a> XdpPacket<'a> {
    #[inline]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        // SAFETY: the context is the one that the kernel passed to the program (kernel 5.18).
        let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
        Self { ctx, length }
    }
}

impl PacketBytes for XdpPacket<'_> {
    #[inline(always)]
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.ctx.data().wrapping_add(offset);
        // Or the compiler makes `start + 1 > end` into `start >= end`, from which the verifier
        // concludes nothing.
        let end = Kernel::opaque(start.wrapping_add(N) as u64) as usize;
        if end > self.ctx.data_end() {
            return None;
        }
        Some(read(start))
    }

    #[inline]
    fn length(&self) -> u64 {
        self.length
    }

    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        Kernel::forget(value as u64, self.length) as usize
    }
}

/// `N` bytes of the packet, of which the caller has shown the verifier that they are inside, in
/// as few loads as there are words in them. A plain read of bytes is compiled to as many loads as
/// there are bytes, and as many shifts to put them together.
#[inline(always)]
fn read<const N: usize>(start: usize) -> [u8; N] {
    const { assert!(matches!(N, 1 | 2 | 20 | 40), "no other size is read") };
    match N {
        // SAFETY: as many bytes on either side; so are those below.
        1 => unsafe { transmute_copy(&(load_1(start) as u8)) },
        // SAFETY: as above.
        2 => unsafe { transmute_copy(&(load_2(start) as u16)) },
        20 => {
            let [first, second] = halves(load_8(start));
            let [third, fourth] = halves(load_8(start + 8));
            let words = [first, second, third, fourth, load_4(start + 16) as u32];
            // SAFETY: as above.
            unsafe { transmute_copy(&words) }
        }
        _ => {
            let words = [0, 8, 16, 24, 32].map(|at| load_8(start + at));
            // SAFETY: as above.
            unsafe { transmute_copy(&words) }
        }
    }
}

/// The 4 bytes that come first in memory, and the others.
#[inline(always)]
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

macro_rules! load {
    ($name:ident, $instruction:literal) => {
        /// One load, zero-extended.
        #[inline(always)]
        fn $name(from: usize) -> u64 {
            let value;
            // SAFETY: reads only; the verifier rejects the program unless all that is read is
            // inside the packet. Packets have no alignment: kernels that take no unaligned loads
            // (neither x86-64 nor arm64 is one) reject it too.
            unsafe {
                asm!($instruction, from = in(reg) from, value = lateout(reg) value,
                    options(pure, readonly, nostack));
            }
            value
        }
    };
}

load!(load_1, "{value} = *(u8 *)({from} + 0)");
load!(load_2, "{value} = *(u16 *)({from} + 0)");
load!(load_4, "{value} = *(u32 *)({from} + 0)");
load!(load_8, "{value} = *(u64 *)({from} + 0)");
