//! Access to words that others change at the same time: a seam, because the BPF target lacks the
//! atomics of `core`, although the kernel has them (cpu v3, kernel 5.12).

use core::sync::atomic::AtomicU64;
#[cfg(target_has_atomic = "64")]
use core::sync::atomic::Ordering::Relaxed;

/// How words are changed while others change them. All relaxed: no word orders another.
pub trait Atomics {
    /// Reads the word, untorn.
    fn read(word: &AtomicU64) -> u64;

    /// Writes the word, untorn.
    fn write(word: &AtomicU64, value: u64);

    /// Adds, wrapping.
    fn add(word: &AtomicU64, amount: u64);

    /// Stores `new` if the word is `current`; whether it did.
    fn replace(word: &AtomicU64, current: u64, new: u64) -> bool;
}

/// The atomics of `core`.
#[cfg(target_has_atomic = "64")]
#[derive(Debug)]
pub struct Native;

#[cfg(target_has_atomic = "64")]
impl Atomics for Native {
    #[inline]
    fn read(word: &AtomicU64) -> u64 {
        word.load(Relaxed)
    }

    #[inline]
    fn write(word: &AtomicU64, value: u64) {
        word.store(value, Relaxed);
    }

    #[inline]
    fn add(word: &AtomicU64, amount: u64) {
        word.fetch_add(amount, Relaxed);
    }

    #[inline]
    fn replace(word: &AtomicU64, current: u64, new: u64) -> bool {
        word.compare_exchange(current, new, Relaxed, Relaxed).is_ok()
    }
}
