//! The only reader of packet memory: each read compares against the end of the packet first.

use core::ptr;

use aya_ebpf::{helpers::bpf_xdp_get_buff_len, programs::XdpContext};
use limiter_common::{machine::Machine, packet::PacketBytes};

use crate::machine::Kernel;

/// The frame behind an XDP context. With multi-buffer frames the first buffer, which holds the
/// headers.
pub(crate) struct XdpPacket<'a> {
    ctx: &'a XdpContext,
}

impl<'a> XdpPacket<'a> {
    #[inline]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
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
        // SAFETY: `N` bytes from `start` lie before `data_end`, which the verifier checks again;
        // bytes have no alignment.
        Some(unsafe { ptr::read_unaligned(start as *const [u8; N]) })
    }

    #[inline]
    fn length(&self) -> u64 {
        // SAFETY: the context is the one that the kernel passed to the program (kernel 5.18).
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) }
    }
}
