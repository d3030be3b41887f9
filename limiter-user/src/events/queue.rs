//! The bounded queue before one sink: publishing never waits for whoever reads.
//!
//! Every event offered takes a sequence number, also one that finds no room, so a reader sees a
//! loss as a gap of exactly its size. The reader takes all that is queued at once; whatever was
//! lost came after those, because room appears only by taking.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::Event;
use crate::policy::SinkPolicy;

/// All that was asked of a sink since its thread last looked.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Events with their numbers.
    pub(super) events: VecDeque<(u64, Arc<Event>)>,
    /// Events that found no room after `events`, and the number for saying so.
    pub(super) lost: Option<(u64, u64)>,
    /// Format and filter after `events`.
    pub(super) policy: Option<SinkPolicy>,
    /// Open the destination again.
    pub(super) reopen: bool,
    /// Nothing follows.
    pub(super) closed: bool,
}

/// Why a thread that waits to try again should not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Waited {
    /// The time is over.
    Elapsed,
    /// The destination is to be opened again.
    Reopen,
    /// Nobody will wait for what is left.
    Closed,
}

#[derive(Debug)]
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    events: VecDeque<(u64, Arc<Event>)>,
    next: u64,
    lost: u64,
    lost_total: u64,
    policy: Option<SinkPolicy>,
    reopen: bool,
    closed: bool,
}

impl State {
    fn is_idle(&self) -> bool {
        self.events.is_empty()
            && self.lost == 0
            && self.policy.is_none()
            && !self.reopen
            && !self.closed
    }
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            state: Mutex::new(State {
                events: VecDeque::new(),
                next: 1,
                lost: 0,
                lost_total: 0,
                policy: None,
                reopen: false,
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Queues an event, or counts it as lost.
    pub(super) fn offer(&self, event: &Arc<Event>) {
        let mut state = self.lock();
        let sequence = state.next;
        state.next += 1;
        if state.events.len() < self.capacity && state.lost == 0 {
            state.events.push_back((sequence, Arc::clone(event)));
            self.changed.notify_one();
        } else {
            state.lost += 1;
            state.lost_total += 1;
        }
    }

    /// Sets format and filter for the events offered from now on.
    pub(super) fn set_policy(&self, policy: SinkPolicy) {
        self.lock().policy = Some(policy);
        self.changed.notify_one();
    }

    /// Has the destination opened again.
    pub(super) fn reopen(&self) {
        self.lock().reopen = true;
        self.changed.notify_one();
    }

    /// Lets the reader end after what is queued.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Waits for something to do.
    pub(super) fn take(&self) -> Batch {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| state.is_idle())
            .unwrap_or_else(PoisonError::into_inner);
        let lost = (state.lost > 0).then(|| {
            let sequence = state.next;
            state.next += 1;
            (std::mem::take(&mut state.lost), sequence)
        });
        Batch {
            events: std::mem::take(&mut state.events),
            lost,
            policy: state.policy.take(),
            reopen: std::mem::take(&mut state.reopen),
            closed: state.closed,
        }
    }

    /// Waits before trying again, unless there is a reason not to.
    pub(super) fn pause(&self, length: Duration) -> Waited {
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.lock(), length, |state| !state.closed && !state.reopen)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            Waited::Closed
        } else if std::mem::take(&mut state.reopen) {
            Waited::Reopen
        } else {
            Waited::Elapsed
        }
    }

    /// Counts as lost what is still queued, and events that were taken and not written.
    pub(super) fn abandon(&self, taken: u64) {
        let mut state = self.lock();
        state.lost_total += taken + state.events.len() as u64;
        state.events.clear();
    }

    /// Events lost so far.
    pub(super) fn lost_total(&self) -> u64 {
        self.lock().lost_total
    }

    /// A panic while the lock is held leaves counters and a list: always usable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Lifecycle;

    #[test]
    fn a_loss_is_a_gap_of_its_size() {
        let queue = Queue::new(3);
        let event = Arc::new(Event::lifecycle(0, Lifecycle::Attached, ""));
        for _ in 0..5 {
            queue.offer(&event);
        }
        let batch = queue.take();
        assert_eq!(batch.events.len(), 3);
        assert_eq!(batch.events[2].0, 3);
        assert_eq!(batch.lost, Some((2, 6)), "4 and 5 are missing");
        queue.offer(&event);
        assert_eq!(queue.take().events[0].0, 7);
        assert_eq!(queue.lost_total(), 2);
        assert_eq!(queue.pause(Duration::ZERO), Waited::Elapsed);
    }
}
