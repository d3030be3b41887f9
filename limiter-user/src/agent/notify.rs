//! What the service manager is told (`sd_notify(3)`): ready, reloading, stopping, still alive.
//!
//! In: what the agent does; out: datagrams to `NOTIFY_SOCKET`, none without it. Ready means that
//! the policy is in force in both halves and that the proxy accepts connections.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use sd_notify::NotifyState;

use crate::clock;

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    ready: Cell<bool>,
    status: RefCell<String>,
}

impl Notifier {
    /// Everything that was asked for is in force.
    pub(super) fn ready(&self) {
        self.ready.set(true);
        tell(&[NotifyState::Ready]);
    }

    /// A reload, or another version of the program, begins; [`Self::ready`] ends it. Before the
    /// first one nobody waits for that.
    pub(super) fn reloading(&self) {
        if self.is_ready() {
            let now_us = clock::monotonic_ns() / 1_000;
            tell(&[NotifyState::Reloading, NotifyState::MonotonicUsec(now_us.into())]);
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.get()
    }

    /// One sentence for `systemctl status`, told when it changes.
    pub(super) fn status(&self, sentence: String) {
        if *self.status.borrow() != sentence {
            tell(&[NotifyState::Status(&sentence)]);
            self.status.replace(sentence);
        }
    }
}

/// The agent ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The agent's loop goes round.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often to say that the loop goes round; `None`: nobody asks.
pub(super) fn watchdog_interval() -> Option<Duration> {
    // Twice in the time that the manager waits.
    sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(1)))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("the service manager cannot be told: {error}");
    }
}
