//! What the two machines do that `core` cannot say for both: words that others change at the same
//! time (the BPF target lacks the atomics of `core`, although the kernel has them: cpu v3, kernel
//! 5.12), and values that the compiler or the verifier had better know nothing about.

use core::sync::atomic::AtomicU64;
#[cfg(target_has_atomic = "64")]
use core::sync::atomic::Ordering::Relaxed;

/// The kernel's virtual machine, or the host. Accesses are relaxed: no word orders another.
pub trait Machine {
    /// Reads the word, untorn.
    fn read(word: &AtomicU64) -> u64;

    /// Writes the word, untorn.
    fn write(word: &AtomicU64, value: u64);

    /// Adds, wrapping.
    fn add(word: &AtomicU64, amount: u64);

    /// Stores `new` if the word is `current`; whether it did.
    fn replace(word: &AtomicU64, current: u64, new: u64) -> bool;

    /// The same value, of which the compiler knows nothing: it would else turn arithmetic into
    /// branches, and the verifier follows both sides of each.
    fn opaque(value: u64) -> u64;

    /// The same value, of which the verifier knows nothing, given a `noise` that it knows nothing
    /// about: what follows is then verified once, instead of once per value that could come here.
    #[inline]
    fn forget(value: u64, noise: u64) -> u64 {
        Self::opaque(value ^ noise) ^ noise
    }
}

/// 1 where not equal, else 0: a number or its negative has the sign bit, unless it is 0. Opaque in
/// the middle, or the compiler recognises a comparison and makes it a branch.
#[inline]
pub fn differs<M: Machine>(left: u64, right: u64) -> u64 {
    let difference = left ^ right;
    (difference | M::opaque(difference.wrapping_neg())) >> 63
}

/// The host.
#[cfg(target_has_atomic = "64")]
#[derive(Debug)]
pub struct Native;

#[cfg(target_has_atomic = "64")]
impl Machine for Native {
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

    #[inline]
    fn opaque(value: u64) -> u64 {
        value
    }
}
