//! The kernel's virtual machine: shared words by the instructions of cpu v3 (kernel 5.12), and
//! values hidden from the compiler.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd},
    sync::atomic::AtomicU64,
};

use limiter_common::machine::Machine;

/// The BPF virtual machine.
pub(crate) struct Kernel;

impl Machine for Kernel {
    #[inline]
    fn read(word: &AtomicU64) -> u64 {
        // SAFETY: a live, aligned word; a load of 8 aligned bytes is one instruction.
        unsafe { word.as_ptr().read_volatile() }
    }

    #[inline]
    fn write(word: &AtomicU64, value: u64) {
        // SAFETY: as above, for a store.
        unsafe { word.as_ptr().write_volatile(value) };
    }

    #[inline]
    fn add(word: &AtomicU64, amount: u64) {
        // SAFETY: the pointer is that of a live, aligned word that is only accessed atomically.
        unsafe {
            atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word.as_ptr(), amount);
        }
    }

    #[inline]
    fn replace(word: &AtomicU64, current: u64, new: u64) -> bool {
        // SAFETY: as above.
        let (_, replaced) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::Relaxed }, { AtomicOrdering::Relaxed }>(
                word.as_ptr(),
                current,
                new,
            )
        };
        replaced
    }

    #[inline]
    fn opaque(mut value: u64) -> u64 {
        // SAFETY: moves a register to itself (BTF line information needs an instruction).
        unsafe { asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
}
