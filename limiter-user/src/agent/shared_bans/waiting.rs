//! What is to be said of bans to other hosts, in order, until it was said.
//!
//! In: bans made and lifted here; out: what waits, bounded, and the lifts among it for the disk: a
//! ban is in the book for whoever says it again, a lift is nowhere else.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    path::Path,
};

use tokio::sync::Notify;

use super::{Name, lifts};
use crate::store::bans::MAX_BANS;

/// Changes that may wait to be said; beyond it all bans are said again.
const MAX_WAITING: usize = 8192;

/// What waits to be said, and what was counted.
#[derive(Debug, Default)]
pub(in crate::agent) struct SharedBans {
    waiting: RefCell<VecDeque<Waiting>>,
    /// So many of the first are being said: they stay as they are.
    underway: Cell<usize>,
    pub(super) filled: Notify,
    /// Changes found no room: all bans are to be said again.
    pub(super) overflowed: Cell<bool>,
    /// Lifts that wait are not those on disk.
    pub(super) unkept: Cell<bool>,
    /// Whose turn it is to write them.
    pub(super) keeping: tokio::sync::Mutex<()>,
    counts: Cell<SharedCounts>,
}

/// A change that waits. How a ban is, is looked up when it is said: it goes on meanwhile, and may
/// end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Waiting {
    Made(Name),
    Lifted(Name),
}

/// Since the agent started.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::agent) struct SharedCounts {
    /// Changes said.
    pub(in crate::agent) said: u64,
    /// Bans of others that are enforced here, and bans lifted because others did.
    pub(in crate::agent) followed: u64,
    /// Bans of others that are not enforced here.
    pub(in crate::agent) refused: u64,
    /// Changes of ours that the store has no room for.
    pub(in crate::agent) left_out: u64,
    /// What was not understood.
    pub(in crate::agent) unreadable: u64,
}

impl SharedBans {
    /// With the lifts that an agent before did not say.
    pub(in crate::agent) fn open(state: &Path) -> Self {
        let lifts = lifts::read(state).into_iter().map(Waiting::Lifted).collect();
        Self { waiting: RefCell::new(lifts), ..Self::default() }
    }

    pub(in crate::agent) fn counts(&self) -> SharedCounts {
        self.counts.get()
    }

    pub(super) fn count(&self, add: impl FnOnce(&mut SharedCounts)) {
        let mut counts = self.counts.get();
        add(&mut counts);
        self.counts.set(counts);
    }

    pub(super) fn say(&self, change: Waiting) {
        let mut waiting = self.waiting.borrow_mut();
        let most = match change {
            Waiting::Made(name) => {
                // Made anew it is said in place of what was: the lift before is no more.
                let lifted = waiting.iter().skip(self.underway.get());
                let mut lifted = lifted.enumerate().filter(|it| *it.1 == Waiting::Lifted(name));
                if let Some((place, _)) = lifted.next() {
                    waiting.remove(self.underway.get() + place);
                    self.unkept.set(true);
                }
                MAX_WAITING
            }
            // Nobody knows it any more who could say it again.
            Waiting::Lifted(_) => {
                self.unkept.set(true);
                MAX_BANS
            }
        };
        if waiting.len() >= most {
            self.overflowed.set(true);
            return;
        }
        waiting.push_back(change);
        self.filled.notify_one();
    }

    /// The first of those that wait, which are said now.
    pub(super) fn begin(&self, most: usize) -> Vec<Waiting> {
        let first: Vec<Waiting> = self.waiting.borrow().iter().take(most).copied().collect();
        self.underway.set(first.len());
        first
    }

    /// What was begun has been said.
    pub(super) fn done(&self) {
        self.forget(self.underway.replace(0));
    }

    /// Nobody is to hear of what waits.
    pub(super) fn forget_all(&self) {
        self.underway.set(0);
        let count = self.waiting.borrow().len();
        self.forget(count);
    }

    fn forget(&self, count: usize) {
        let is_lift = |change: Waiting| matches!(change, Waiting::Lifted(_));
        // All of them are taken out.
        if self.waiting.borrow_mut().drain(..count).filter(|change| is_lift(*change)).count() > 0 {
            self.unkept.set(true);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Those that others are to lift.
    pub(super) fn lifts(&self) -> Vec<Name> {
        let waiting = self.waiting.borrow();
        let lifts = waiting.iter().filter_map(|change| match change {
            Waiting::Lifted(name) => Some(*name),
            Waiting::Made(_) => None,
        });
        lifts.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::BanScope;

    #[test]
    fn what_finds_no_room_is_said_with_all_others_and_lifts_find_it() {
        let bans = SharedBans::default();
        let name = ("192.0.2.1/32".parse().unwrap(), BanScope::Http);
        for _ in 0..MAX_WAITING {
            bans.say(Waiting::Made(name));
        }
        assert!(!bans.unkept.get());
        assert!(!bans.overflowed.get());
        bans.say(Waiting::Lifted(name));
        assert!(!bans.overflowed.get() && bans.unkept.get());
        bans.say(Waiting::Made(("192.0.2.2/32".parse().unwrap(), BanScope::Http)));
        assert!(bans.overflowed.get());
        assert_eq!(bans.waiting.borrow().len(), MAX_WAITING + 1);
        assert_eq!(bans.waiting.borrow().back(), Some(&Waiting::Lifted(name)));
        assert_eq!(bans.lifts(), [name]);
    }

    #[test]
    fn lifts_are_kept_until_they_were_said_or_undone() {
        let bans = SharedBans::default();
        let [one, two] =
            ["192.0.2.1/32", "192.0.2.2/32"].map(|it| (it.parse().unwrap(), BanScope::Http));
        bans.say(Waiting::Lifted(one));
        bans.say(Waiting::Lifted(two));
        bans.say(Waiting::Made(one));
        assert_eq!(*bans.waiting.borrow(), [Waiting::Lifted(two), Waiting::Made(one)]);
        assert_eq!(bans.lifts(), [two]);
        bans.unkept.set(false);
        assert_eq!(bans.begin(1), [Waiting::Lifted(two)]);
        // It is on its way: what comes now comes behind it.
        bans.say(Waiting::Made(two));
        assert_eq!(bans.lifts(), [two]);
        bans.done();
        assert!(bans.unkept.replace(false) && bans.lifts().is_empty());
        assert_eq!(bans.begin(9), [Waiting::Made(one), Waiting::Made(two)]);
        bans.done();
        assert!(!bans.unkept.get() && bans.is_empty());
    }
}
