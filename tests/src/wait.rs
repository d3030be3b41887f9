//! Waiting for a condition with a deadline, and the monotonic stopwatch behind it.

use std::{thread, time::Duration};

use limiter_user::clock;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A point in time after which something is too late.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    start_ns: u64,
    end_ns: u64,
}

impl Deadline {
    /// The point `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        let start_ns = clock::monotonic_ns();
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Self { start_ns, end_ns: start_ns.saturating_add(timeout_ns) }
    }

    /// Whether it is past.
    pub fn is_over(&self) -> bool {
        clock::monotonic_ns() >= self.end_ns
    }

    /// What is left of it; zero when past.
    pub fn left(&self) -> Duration {
        Duration::from_nanos(self.end_ns.saturating_sub(clock::monotonic_ns()))
    }

    /// How long ago it was set.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(clock::monotonic_ns().saturating_sub(self.start_ns))
    }
}

/// Waits until `condition` holds; panics with `what` when it does not within `timeout`.
#[track_caller]
pub fn eventually(timeout: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(timeout, what, || condition().then_some(()));
}

/// Waits until `attempt` yields a value; panics with `what` when it does not within `timeout`.
#[track_caller]
pub fn eventually_some<T>(
    timeout: Duration,
    what: &str,
    mut attempt: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Deadline::after(timeout);
    loop {
        let last = deadline.is_over();
        if let Some(value) = attempt() {
            return value;
        }
        assert!(!last, "not within {timeout:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Whether `condition` holds at every look for `duration`: that something does not happen.
pub fn holds_for(duration: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Deadline::after(duration);
    while condition() {
        if deadline.is_over() {
            return true;
        }
        thread::sleep(POLL);
    }
    false
}
