//! The store that the policy names, as all cores share what is known of it.
//!
//! In: policies; out: what each core's connection is made from, notices when the store is lost and
//! when it is back, and counts. A store that stays the same keeps its connections.

use std::{rc::Rc, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    link::{StoreCounts, StoreNotice},
    policy::store::{OnFailure, StorePolicy},
    store::{Health, Line, Target},
};

/// Notices that may wait for the link.
const NOTICES: usize = 16;

/// One store.
#[derive(Debug)]
pub(super) struct SharedStore {
    target: Arc<Target>,
    health: Arc<Health>,
}

impl SharedStore {
    /// What holds while it does not answer.
    pub(super) fn on_failure(&self) -> OnFailure {
        self.target.policy().on_failure
    }

    /// A core's connection to it.
    pub(super) fn line(&self, core: usize, seed: u64) -> Rc<Line> {
        Line::start(Arc::clone(&self.target), Arc::clone(&self.health), core, seed)
    }
}

/// The store of the policy in force.
#[derive(Debug)]
pub(super) struct Stores {
    notices: mpsc::Sender<StoreNotice>,
    current: Option<Arc<SharedStore>>,
}

impl Stores {
    /// What changes comes out of the receiver.
    pub(super) fn new() -> (Self, mpsc::Receiver<StoreNotice>) {
        let (notices, receiver) = mpsc::channel(NOTICES);
        (Self { notices, current: None }, receiver)
    }

    /// The store of a policy: the one before if nothing about it changed. Changes nothing yet.
    pub(super) fn prepare(
        &self,
        policy: Option<&StorePolicy>,
    ) -> Result<Option<Arc<SharedStore>>, String> {
        let Some(policy) = policy else { return Ok(None) };
        if let Some(current) = &self.current
            && current.target.policy() == policy
        {
            return Ok(Some(Arc::clone(current)));
        }
        let target = Target::new(policy).map_err(|error| format!("store: {error}"))?;
        let health = Health::new(self.notices.clone());
        Ok(Some(Arc::new(SharedStore { target: Arc::new(target), health: Arc::new(health) })))
    }

    /// The policy of this store, or of none, is in force.
    pub(super) fn select(&mut self, store: Option<Arc<SharedStore>>) -> Option<Arc<SharedStore>> {
        let is_same = match (&self.current, &store) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            self.current.clone_from(&store);
            // What was said of the one before is no more; a full queue says enough of this one.
            self.notices.try_send(StoreNotice::Back).ok();
        }
        store
    }

    /// How often it was asked, and what came of it.
    pub(super) fn counts(&self) -> Option<StoreCounts> {
        self.current.as_ref().map(|store| store.health.counts())
    }
}

/// A core's connection to the store of the policy in force.
#[derive(Debug, Default)]
pub(super) struct StoreLine(Option<(Arc<SharedStore>, Rc<Line>)>);

impl StoreLine {
    /// The connection to this store: the one before if it is to the same.
    pub(super) fn select(
        &mut self,
        store: Option<&Arc<SharedStore>>,
        core: usize,
        seed: u64,
    ) -> Option<Rc<Line>> {
        let is_same = match (&self.0, store) {
            (Some((known, _)), Some(store)) => Arc::ptr_eq(known, store),
            _ => false,
        };
        if !is_same {
            self.0 = store.map(|store| (Arc::clone(store), store.line(core, seed)));
        }
        self.0.as_ref().map(|(_, line)| Rc::clone(line))
    }
}
