//! What one request, or a connection between requests, is waiting for, and until when.
//!
//! A handful of cells that the task at work, its bodies and the sweeper share: no timer of its own.
//! The sweeper says when the deadline has passed; what that means is the task's to know.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{clock, refusal::Refusal};

/// No deadline.
const NEVER: u64 = u64::MAX;

/// What is waited for; says what the deadline means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// What comes before HTTP: TLS, or the PROXY protocol.
    Opening,
    /// The first byte of a request.
    Idle,
    /// The rest of a request head.
    Head,
    /// A request is being worked on; the request itself looks at the deadline.
    Request,
    /// The client is to take the response.
    Response,
}

/// One deadline, what it is for, and whom to wake when it passes.
#[derive(Debug)]
pub(super) struct Watch {
    phase: Cell<Phase>,
    deadline_ns: Cell<u64>,
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Set while the client is to send more of a request body.
    pub(super) awaits_body: Cell<bool>,
    /// Set while a request body is on its way upstream.
    pub(super) uploading: Cell<bool>,
    /// What was wrong with a request body, told beside its error.
    pub(super) body_fault: Cell<Option<Refusal>>,
    /// What the framing found in a request body, until it is told.
    pub(super) violation: Cell<Option<Refusal>>,
}

impl Watch {
    /// Waits for this, without a deadline yet.
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase: Cell::new(phase),
            deadline_ns: Cell::new(NEVER),
            expired: Cell::new(false),
            waker: RefCell::new(None),
            awaits_body: Cell::new(false),
            uploading: Cell::new(false),
            body_fault: Cell::new(None),
            violation: Cell::new(None),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Goes on to wait for something else, for so long.
    pub(super) fn enter(&self, phase: Phase, limit: Duration) {
        self.phase.set(phase);
        self.set_deadline(limit);
    }

    /// A request head is complete.
    pub(super) fn begin_request(&self) {
        self.phase.set(Phase::Request);
        self.clear_deadline();
        self.body_fault.set(None);
        self.awaits_body.set(false);
        self.uploading.set(false);
    }

    pub(super) fn set_deadline(&self, limit: Duration) {
        self.set_deadline_from(clock::coarse_monotonic_ns(), limit);
    }

    /// As [`Self::set_deadline`], for whoever knows the time.
    pub(super) fn set_deadline_from(&self, now_ns: u64, limit: Duration) {
        self.expired.set(false);
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(NEVER);
        self.deadline_ns.set(now_ns.saturating_add(limit_ns));
    }

    pub(super) fn clear_deadline(&self) {
        self.expired.set(false);
        self.deadline_ns.set(NEVER);
    }

    /// Whether the sweeper saw the deadline pass.
    pub(super) fn is_expired(&self) -> bool {
        self.expired.get()
    }

    /// `future`'s output, or `None` when the deadline (first `limit`; the future may move it)
    /// passes. Pinned by the caller: a future that is handed on is copied, and some are large.
    pub(super) async fn within<F: Future>(
        &self,
        limit: Duration,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        self.set_deadline(limit);
        let output = poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.expired.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await;
        self.clear_deadline();
        output
    }

    /// Wakes this task from now on.
    pub(super) fn remember(&self, context: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The sweeper's: says so once when the deadline has passed.
    pub(super) fn expire(&self, now_ns: u64) {
        if now_ns >= self.deadline_ns.get() && !self.expired.replace(true) {
            self.wake();
        }
    }
}
