//! Array maps in this process's memory: a table of millions of words is read and written without
//! a system call for each.

use std::{fmt, os::fd::AsFd, ptr::NonNull, sync::atomic::AtomicU64};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::KernelError;

/// The words of an array map that was made with `BPF_F_MMAPABLE` (kernel 5.5).
pub(super) struct Mapped {
    start: NonNull<AtomicU64>,
    words: usize,
}

impl fmt::Debug for Mapped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mapped").field("words", &self.words).finish_non_exhaustive()
    }
}

impl Mapped {
    /// Maps all of it.
    pub(super) fn open(map: &MapData, name: &str) -> Result<Self, KernelError> {
        let failed = |error: &dyn std::error::Error| {
            KernelError::system(format_args!("mapping {name} into memory"), error)
        };
        let info = map.info().map_err(|error| failed(&error))?;
        let words = info.value_size() as usize / 8 * info.max_entries() as usize;
        let length = std::num::NonZeroUsize::new(words * 8)
            .ok_or_else(|| KernelError::System(format!("{name} is empty")))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping of memory that belongs to the map: nothing of this process moves.
        #[expect(unsafe_code, reason = "a mapping outlives what the compiler can see")]
        let start =
            unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map.fd().as_fd(), 0) }
                .map_err(|error| failed(&error))?;
        Ok(Self { start: start.cast(), words })
    }

    /// The words. The kernel and other processes change them at the same time.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: `words` words are mapped from `start`, page-aligned, until `self` is dropped;
        // everybody accesses them atomically, in this process and in the kernel.
        #[expect(unsafe_code, reason = "as above")]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.words)
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: this is what `mmap` returned, and nothing borrows it any more.
        #[expect(unsafe_code, reason = "as above")]
        let unmapped = unsafe { munmap(self.start.cast(), self.words * 8) };
        debug_assert!(unmapped.is_ok());
    }
}

// SAFETY: the words are atomics, and the mapping belongs to no thread.
#[expect(unsafe_code, reason = "as above")]
unsafe impl Send for Mapped {}
