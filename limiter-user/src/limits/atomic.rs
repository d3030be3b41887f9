//! Words that several cores and processes change at the same time.
//!
//! Every access goes through here, so that tests can let another thread go on at each of them.

use std::sync::atomic::{AtomicU64, Ordering};

/// What `word` says now, with everything that was written before it.
pub(super) fn load(word: &AtomicU64) -> u64 {
    switch();
    word.load(Ordering::Acquire)
}

/// Says `value` in `word`, after everything that this thread wrote before.
pub(super) fn store(word: &AtomicU64, value: u64) {
    switch();
    word.store(value, Ordering::Release);
}

/// Changes `word` from `seen` to `next`, or says what it is instead.
pub(super) fn change(word: &AtomicU64, seen: u64, next: u64) -> Result<(), u64> {
    switch();
    word.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Acquire).map(drop)
}

/// Adds to a count that nothing is decided by.
pub(super) fn add(word: &AtomicU64, amount: u64) {
    word.fetch_add(amount, Ordering::Relaxed);
}

/// Lets another thread finish what it is in the midst of.
pub(super) fn wait(turn: u32) {
    const SPINS: u32 = 64;
    #[cfg(test)]
    if super::races::is_interleaved() {
        shuttle::thread::yield_now();
        return;
    }
    if turn < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(not(test))]
const fn switch() {}

/// A point at which another thread may go on.
#[cfg(test)]
fn switch() {
    super::races::switch();
}
