//! A file of atomic words, mapped: where it lies, and which pages it lies on.
//!
//! In: a file of a fixed size; out: its lines, shared with every process that maps it. Mapped where
//! the kernel can put huge pages under it, which it is asked to, region by region
//! ([`Memory::join_pages`]). Knows nothing of what the words say.

use std::{io, num::NonZeroUsize, os::fd::AsFd, ptr::NonNull, sync::atomic::AtomicU64};

use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
};

/// Words in a line: two cache lines, which hold one set of the table.
pub(super) const LINE_WORDS: usize = 16;

/// One line.
pub(super) type Line = [AtomicU64; LINE_WORDS];

pub(super) const LINE_BYTES: usize = LINE_WORDS * 8;

/// Bytes of a region: a huge page of x86-64, and of other processors with pages of 4 KiB.
pub(super) const REGION_BYTES: usize = 1 << 21;

/// The mapping.
#[derive(Debug)]
pub(super) struct Memory {
    /// Addresses that are this mapping's, from a multiple of a page on.
    taken: NonNull<libc::c_void>,
    taken_bytes: usize,
    /// From a multiple of [`REGION_BYTES`] on.
    start: NonNull<Line>,
    lines: usize,
}

impl Memory {
    /// Maps the first `bytes` of a file, which has at least as many for ever.
    #[expect(unsafe_code, reason = "a mapping outlives what the compiler can see")]
    pub(super) fn map(file: impl AsFd, bytes: usize) -> io::Result<Self> {
        // One region more: somewhere in it is a multiple of a region.
        let taken_bytes = bytes + REGION_BYTES;
        let length = |bytes| NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput);
        let (nothing, alone) =
            (ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE);
        // SAFETY: a new mapping, which nobody can access: nothing of this process moves.
        let taken = unsafe { mmap_anonymous(None, length(taken_bytes)?, nothing, alone) }?;
        let memory = Self {
            taken,
            taken_bytes,
            start: taken.map_addr(next_region).cast(),
            lines: bytes / LINE_BYTES,
        };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: replaces a part of the mapping above, which is nobody else's: it begins less than
        // a region after that and is a region shorter.
        unsafe { mmap(Some(memory.start.addr()), length(bytes)?, protection, flags, &file, 0) }?;
        Ok(memory)
    }

    /// Everything. Other processes change it at the same time.
    #[expect(unsafe_code, reason = "as above")]
    pub(super) fn lines(&self) -> &[Line] {
        // SAFETY: that many lines are mapped from `start` until `self` is dropped; everybody
        // accesses them atomically, in this process and in others.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.lines) }
    }

    /// Puts one huge page (Linux 6.1) under the region of this number, in place of its pages: a
    /// look into it then finds its address in fewer steps. Whoever accesses the region meanwhile
    /// waits, for less than a millisecond. The errors of madvise(2): most often that there is no
    /// such page, or that this kernel does not do it.
    #[expect(unsafe_code, reason = "as above")]
    pub(super) fn join_pages(&self, region: usize) -> io::Result<()> {
        let lines = REGION_BYTES / LINE_BYTES;
        let region = self.lines().get(region * lines..(region + 1) * lines);
        let region = region.ok_or(io::ErrorKind::InvalidInput)?.as_ptr();
        // SAFETY: what is mapped there says the same before and after.
        let result =
            unsafe { libc::madvise(region.cast_mut().cast(), REGION_BYTES, libc::MADV_COLLAPSE) };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }

    /// Has this line brought near the processor, for somebody who reads it soon.
    #[expect(unsafe_code, reason = "no safe interface to the instruction")]
    pub(super) fn prefetch(&self, line: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(line) = self.lines().get(line) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint, which changes nothing and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(line).cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _no_such_hint = line;
    }
}

/// The first multiple of a region that is not below this address.
fn next_region(address: NonZeroUsize) -> NonZeroUsize {
    let below = address.get() % REGION_BYTES;
    address.saturating_add((REGION_BYTES - below) % REGION_BYTES)
}

impl Drop for Memory {
    #[expect(unsafe_code, reason = "as above")]
    fn drop(&mut self) {
        // SAFETY: this is what `mmap` returned, and nothing borrows it any more.
        let unmapped = unsafe { munmap(self.taken, self.taken_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

// SAFETY: the words are atomics, and the mapping belongs to no thread.
#[expect(unsafe_code, reason = "as above")]
unsafe impl Send for Memory {}

// SAFETY: as above.
#[expect(unsafe_code, reason = "as above")]
unsafe impl Sync for Memory {}
