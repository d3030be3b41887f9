//! The only reader and writer of packet memory: each read compares against the end of the packet
//! first.

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

impl XdpPacket<'_> {
    /// Where `offset` is, if that many bytes follow it.
    #[inline(always)]
    fn at(&self, offset: usize, bytes: usize) -> Option<usize> {
        let start = self.ctx.data().wrapping_add(offset);
        // Or the compiler makes `start + 1 > end` into `start >= end`, from which the verifier
        // concludes nothing.
        let end = Kernel::opaque(start.wrapping_add(bytes) as u64) as usize;
        if end > self.ctx.data_end() { None } else { Some(start) }
    }
}

impl PacketBytes for XdpPacket<'_> {
    #[inline(always)]
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        const { assert!(N == 1 || N == 2, "no other size is read") };
        let start = self.at(offset, N)?;
        Some(match N {
            // SAFETY: as many bytes on either side; so are those below.
            1 => unsafe { transmute_copy(&(load_1::<0>(start) as u8)) },
            // SAFETY: as above.
            _ => unsafe { transmute_copy(&(load_2::<0>(start) as u16)) },
        })
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        const { assert!(N == 2 || N == 4 || N == 5, "no other size is read") };
        let start = self.at(offset, 4 * N)?;
        let first = word::<0>(start);
        let second = word::<4>(start);
        Some(match N {
            // SAFETY: as many words on either side; so are those below.
            2 => unsafe { transmute_copy(&[first, second]) },
            4 => {
                let words = [first, second, word::<8>(start), word::<12>(start)];
                // SAFETY: as above.
                unsafe { transmute_copy(&words) }
            }
            _ => {
                let rest = [word::<8>(start), word::<12>(start), word::<16>(start)];
                // SAFETY: as above.
                unsafe { transmute_copy(&[first, second, rest[0], rest[1], rest[2]]) }
            }
        })
    }

    #[inline(always)]
    fn long_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        const { assert!(N == 5, "no other size is read") };
        let start = self.at(offset, 8 * N)?;
        let words = [
            load_8::<0>(start),
            load_8::<8>(start),
            load_8::<16>(start),
            load_8::<24>(start),
            load_8::<32>(start),
        ];
        // SAFETY: as many words on either side.
        Some(unsafe { transmute_copy(&words.map(u64::from_be)) })
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

/// The big-endian word of 4 bytes that is `AT` bytes on.
#[inline(always)]
fn word<const AT: usize>(start: usize) -> u32 {
    u32::from_be(load_4::<AT>(start) as u32)
}

macro_rules! load {
    ($name:ident, $instruction:literal) => {
        /// One load of what is `AT` bytes on, zero-extended. A plain read of what is not aligned is
        /// compiled to a load for each byte.
        #[inline(always)]
        pub(crate) fn $name<const AT: usize>(from: usize) -> u64 {
            let value;
            // SAFETY: reads only; the verifier rejects the program unless all that is read is
            // inside the packet. Packets have no alignment: kernels that take no unaligned loads
            // (neither x86-64 nor arm64 is one) reject it too.
            unsafe {
                asm!($instruction, from = in(reg) from, at = const AT, value = lateout(reg) value,
                    options(pure, readonly, nostack));
            }
            value
        }
    };
}

load!(load_1, "{value} = *(u8 *)({from} + {at})");
load!(load_2, "{value} = *(u16 *)({from} + {at})");
load!(load_4, "{value} = *(u32 *)({from} + {at})");
load!(load_8, "{value} = *(u64 *)({from} + {at})");

macro_rules! store {
    ($name:ident, $instruction:literal) => {
        /// One store of the lower bytes.
        #[inline(always)]
        pub(crate) fn $name(to: usize, value: u64) {
            // SAFETY: the verifier rejects the program unless all that is written is inside the
            // packet, of which nothing holds a reference.
            unsafe {
                asm!($instruction, to = in(reg) to, value = in(reg) value, options(nostack));
            }
        }
    };
}

store!(store_2, "*(u16 *)({to} + 0) = {value}");
store!(store_4, "*(u32 *)({to} + 0) = {value}");
store!(store_8, "*(u64 *)({to} + 0) = {value}");
