//! What the tests of this crate share: exact counts around an action, and what arrives.

use std::time::Duration;

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::{Counters, assert_eventually},
    process::Limiter,
    raw::Port,
    world::World,
};

/// How long anything may take that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// After which nothing more is on its way.
pub(crate) const QUIET: Duration = Duration::from_millis(100);

/// Panics unless `work` changes exactly these counters by so much; what the stacks send unasked
/// does not count.
#[track_caller]
pub(crate) fn counts(limiter: &Limiter, expected: &[(Action, Reason, u64)], work: impl FnOnce()) {
    let before = Counters::of(limiter);
    work();
    assert_eventually(limiter, &before, SOON, expected, &[(Action::Pass, Reason::Essential)]);
}

/// Sends datagrams from a source; how many of them the host's stack gets to see.
#[track_caller]
pub(crate) fn arrive(world: &World, source: &str, count: u32) -> usize {
    let mut capture = Port::open(&world.veth.server);
    let frame = world.datagram(source);
    world.send(source, count);
    capture.count_matching(QUIET, |found| found == frame)
}

/// Panics unless packets from this source are let through or dropped for this reason, by counters
/// and by what arrives.
#[track_caller]
pub(crate) fn verdict(world: &World, limiter: &Limiter, source: &str, verdict: (Action, Reason)) {
    let (action, reason) = verdict;
    counts(limiter, &[(action, reason, 3)], || {
        let wanted = if action == Action::Drop { 0 } else { 3 };
        assert_eq!(arrive(world, source, 3), wanted, "{source}");
    });
}

pub(crate) const ALLOWED: (Action, Reason) = (Action::Pass, Reason::Allowed);
pub(crate) const BANNED: (Action, Reason) = (Action::Drop, Reason::Banned);
pub(crate) const DENIED: (Action, Reason) = (Action::Drop, Reason::Denied);
