//! What is known of the store in this process: counters, and whether any core has lost it.

use std::{
    collections::HashSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::link::{StoreCounts, StoreNotice};

/// Shared by all cores.
#[derive(Debug)]
pub struct Health {
    asked: AtomicU64,
    failed: AtomicU64,
    absent: AtomicU64,
    connected: AtomicU64,
    /// Cores that have lost it, by number.
    lost: Mutex<HashSet<usize>>,
    notices: mpsc::Sender<StoreNotice>,
}

impl Health {
    /// What changes is sent to `notices`.
    pub fn new(notices: mpsc::Sender<StoreNotice>) -> Self {
        Self {
            asked: AtomicU64::default(),
            failed: AtomicU64::default(),
            absent: AtomicU64::default(),
            connected: AtomicU64::default(),
            lost: Mutex::default(),
            notices,
        }
    }

    /// How often it was asked, and what came of it.
    pub fn counts(&self) -> StoreCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StoreCounts {
            asked: read(&self.asked),
            failed: read(&self.failed),
            absent: read(&self.absent),
            connected: read(&self.connected),
            is_lost: !self.lost.lock().unwrap_or_else(PoisonError::into_inner).is_empty(),
        }
    }

    pub(super) fn note_asked(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_absent(&self) {
        self.absent.fetch_add(1, Ordering::Relaxed);
    }

    /// A core cannot use the store, for this reason.
    pub(super) fn lost(&self, core: usize, why: &str) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let was_well = lost.is_empty();
        lost.insert(core);
        if was_well {
            // Told in the order in which it happens: the lock is held.
            self.notices.try_send(StoreNotice::Lost(why.to_owned())).ok();
        }
    }

    /// A core can use it.
    pub(super) fn back(&self, core: usize) {
        self.connected.fetch_add(1, Ordering::Relaxed);
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.remove(&core) && lost.is_empty() {
            self.notices.try_send(StoreNotice::Back).ok();
        }
    }
}
