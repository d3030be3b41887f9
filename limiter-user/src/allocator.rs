//! The allocator of both processes: mimalloc, asked the short way.
//!
//! What needs no more than its usual alignment, which is all but a few, goes past the search for an
//! aligned block that the `mimalloc` crate makes for every allocation.

#![expect(unsafe_code, reason = "an allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as sys;

/// Blocks of at least so many bytes are aligned to as many (`MI_MAX_ALIGN_SIZE`); smaller ones to 8.
const USUAL_ALIGNMENT: usize = 16;

/// mimalloc.
#[derive(Debug)]
pub(crate) struct Allocator;

fn is_usual(layout: Layout) -> bool {
    let (size, alignment) = (layout.size(), layout.align());
    alignment <= 8 || (alignment <= USUAL_ALIGNMENT && size >= USUAL_ALIGNMENT)
}

// SAFETY: every block comes from mimalloc and goes back to it, and is as large and as aligned as
// its layout says.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, alignment) = (layout.size(), layout.align());
        if is_usual(layout) {
            // SAFETY: any size is allowed.
            unsafe { sys::mi_malloc(size).cast() }
        } else {
            // SAFETY: the alignment of a layout is a power of two.
            unsafe { sys::mi_malloc_aligned(size, alignment).cast() }
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, alignment) = (layout.size(), layout.align());
        if is_usual(layout) {
            // SAFETY: as in `alloc`.
            unsafe { sys::mi_zalloc(size).cast() }
        } else {
            // SAFETY: as in `alloc`.
            unsafe { sys::mi_zalloc_aligned(size, alignment).cast() }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller says that it came from here.
        unsafe { sys::mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let alignment = layout.align();
        // SAFETY: the alignment was that of the layout before.
        let after = unsafe { Layout::from_size_align_unchecked(size, alignment) };
        if is_usual(after) {
            // SAFETY: as in `dealloc`.
            unsafe { sys::mi_realloc(block.cast(), size).cast() }
        } else {
            // SAFETY: as in `dealloc`.
            unsafe { sys::mi_realloc_aligned(block.cast(), size, alignment).cast() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_as_asked() {
        for alignment in [1, 2, 4, 8, 16, 32, 64, 128, 4096] {
            for size in [1, 7, 8, 9, 15, 16, 17, 24, 100, 1_000, 5_000, 70_000] {
                let layout = Layout::from_size_align(size, alignment).unwrap();
                // SAFETY: the layout is not empty.
                let block = unsafe { Allocator.alloc(layout) };
                assert!(block.addr().is_multiple_of(alignment), "{layout:?}");
                // SAFETY: the block is from there, and the size is not 0.
                let block = unsafe { Allocator.realloc(block, layout, size * 3) };
                assert!(block.addr().is_multiple_of(alignment), "{layout:?} grown");
                let layout = Layout::from_size_align(size * 3, alignment).unwrap();
                // SAFETY: the block is from there.
                unsafe { Allocator.dealloc(block, layout) };
                // SAFETY: the layout is not empty.
                let zeroed = unsafe { Allocator.alloc_zeroed(layout) };
                assert!(zeroed.addr().is_multiple_of(alignment), "{layout:?} zeroed");
                // SAFETY: the block is from there.
                unsafe { Allocator.dealloc(zeroed, layout) };
            }
        }
    }
}
