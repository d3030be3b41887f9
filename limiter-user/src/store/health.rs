//! What is known of the store in this process: counters, and whether any core has lost it.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::link::{StoreCounts, StoreNotice};

/// Shared by all cores.
#[derive(Debug)]
pub struct Health {
    asked: AtomicU64,
    remembered: AtomicU64,
    failed: AtomicU64,
    absent: AtomicU64,
    connected: AtomicU64,
    unreadable: AtomicU64,
    cores: Mutex<Cores>,
    notices: mpsc::Sender<StoreNotice>,
}

/// Cores by number.
#[derive(Debug, Default)]
struct Cores {
    /// Connecting for the first time.
    new: HashSet<usize>,
    /// Those that have lost it.
    lost: HashSet<usize>,
}

impl Health {
    /// What changes is sent to `notices`.
    pub fn new(notices: mpsc::Sender<StoreNotice>) -> Self {
        Self {
            asked: AtomicU64::default(),
            remembered: AtomicU64::default(),
            failed: AtomicU64::default(),
            absent: AtomicU64::default(),
            connected: AtomicU64::default(),
            unreadable: AtomicU64::default(),
            cores: Mutex::default(),
            notices,
        }
    }

    /// How often it was asked, and what came of it.
    pub fn counts(&self) -> StoreCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let cores = self.cores();
        StoreCounts {
            asked: read(&self.asked),
            remembered: read(&self.remembered),
            failed: read(&self.failed),
            absent: read(&self.absent),
            connected: read(&self.connected),
            unreadable: read(&self.unreadable),
            is_usable: cores.lost.is_empty() && cores.new.is_empty(),
        }
    }

    pub(super) fn note_asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_remembered(&self) {
        self.remembered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_absent(&self) {
        self.absent.fetch_add(1, Ordering::Relaxed);
    }

    /// Values were found that nobody who counts wrote; told once.
    pub(super) fn note_unreadable(&self, count: u64) {
        if count > 0 && self.unreadable.fetch_add(count, Ordering::Relaxed) == 0 {
            log::warn!("the store holds values that no limiter wrote: they are taken for nothing");
        }
    }

    /// A core begins to connect.
    pub(super) fn begin(&self, core: usize) {
        self.cores().new.insert(core);
    }

    /// A core cannot use the store, for this reason.
    pub(super) fn lost(&self, core: usize, why: &str) {
        let mut cores = self.cores();
        let was_well = cores.lost.is_empty();
        cores.new.remove(&core);
        cores.lost.insert(core);
        if was_well {
            // Told in the order in which it happens: the lock is held.
            self.notices.try_send(StoreNotice::Lost(why.to_owned())).ok();
        }
    }

    /// A core can use it.
    pub(super) fn back(&self, core: usize) {
        self.connected.fetch_add(1, Ordering::Relaxed);
        let mut cores = self.cores();
        cores.new.remove(&core);
        if cores.lost.remove(&core) && cores.lost.is_empty() {
            self.notices.try_send(StoreNotice::Back).ok();
        }
    }

    fn cores(&self) -> MutexGuard<'_, Cores> {
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
