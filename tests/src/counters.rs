//! Packet counters before and after: a test states exactly how they change.

use std::{collections::BTreeMap, fmt, time::Duration};

use limiter_common::verdict::{Action, Reason};
use limiter_user::admin::view::StatusView;

use crate::{process::Limiter, wait::Deadline};

/// Packets by verdict and reason label, summed over interfaces.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    packets: BTreeMap<(String, String), u64>,
}

impl Counters {
    /// The counters of a running agent.
    #[track_caller]
    pub fn of(limiter: &Limiter) -> Self {
        Self::from_status(&limiter.status())
    }

    /// The counters in a status.
    pub fn from_status(status: &StatusView) -> Self {
        let mut packets = BTreeMap::new();
        for counter in &status.packets {
            let key = (counter.verdict.clone(), counter.reason.clone());
            *packets.entry(key).or_default() += counter.packets;
        }
        Self { packets }
    }

    /// One counter.
    pub fn get(&self, action: Action, reason: Reason) -> u64 {
        let key = (action.label().to_owned(), reason.label().to_owned());
        self.packets.get(&key).copied().unwrap_or(0)
    }

    /// Sum over all reasons of a verdict.
    pub fn total(&self, action: Action) -> u64 {
        let of_action = self.packets.iter().filter(|((verdict, _), _)| verdict == action.label());
        of_action.map(|(_, packets)| packets).sum()
    }

    /// Every counter that changed since `before`. Panics if one went down.
    #[track_caller]
    pub fn since(&self, before: &Self) -> Delta {
        let mut changes = BTreeMap::new();
        for key in before.packets.keys().chain(self.packets.keys()) {
            let then = before.packets.get(key).copied().unwrap_or(0);
            let now = self.packets.get(key).copied().unwrap_or(0);
            assert!(now >= then, "{key:?} went down from {then} to {now}");
            if now > then {
                changes.insert(key.clone(), now - then);
            }
        }
        Delta { changes }
    }
}

/// How counters changed; only what did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Delta {
    changes: BTreeMap<(String, String), u64>,
}

impl Delta {
    /// Panics, showing the whole difference, unless exactly these changed by exactly so much.
    #[track_caller]
    pub fn assert_exactly(&self, expected: &[(Action, Reason, u64)]) {
        self.assert_ignoring(expected, &[]);
    }

    /// Like [`Self::assert_exactly`], whatever happened to `ignored`: what stacks send unasked
    /// (`pass essential`), or acknowledgements, whose number is up to the stacks.
    #[track_caller]
    pub fn assert_ignoring(
        &self,
        expected: &[(Action, Reason, u64)],
        ignored: &[(Action, Reason)],
    ) {
        let difference = self.difference(expected, ignored);
        assert!(difference.is_empty(), "{}", self.explain(&difference));
    }

    fn difference(
        &self,
        expected: &[(Action, Reason, u64)],
        ignored: &[(Action, Reason)],
    ) -> Vec<String> {
        let mut left = self.changes.clone();
        for (action, reason) in ignored {
            left.remove(&key(*action, *reason));
        }
        let mut difference = Vec::new();
        for (action, reason, packets) in expected {
            let key = key(*action, *reason);
            let found = left.remove(&key).unwrap_or(0);
            if found != *packets {
                difference.push(format!("{} {}: expected {packets}, found {found}", key.0, key.1));
            }
        }
        for ((verdict, reason), found) in left {
            difference.push(format!("{verdict} {reason}: expected none, found {found}"));
        }
        difference
    }

    fn explain(&self, difference: &[String]) -> String {
        format!("counters changed otherwise:\n  {}\nall changes:\n{self}", difference.join("\n  "))
    }
}

impl fmt::Display for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((verdict, reason), packets) in &self.changes {
            writeln!(f, "  {verdict} {reason}: {packets}")?;
        }
        Ok(())
    }
}

/// Waits until exactly these counters changed since `before`; panics like
/// [`Delta::assert_ignoring`] when they do not within `timeout`. For packets still on their way.
#[track_caller]
pub fn assert_eventually(
    limiter: &Limiter,
    before: &Counters,
    timeout: Duration,
    expected: &[(Action, Reason, u64)],
    ignored: &[(Action, Reason)],
) {
    let deadline = Deadline::after(timeout);
    loop {
        let last = deadline.is_over();
        let delta = Counters::of(limiter).since(before);
        if last || delta.difference(expected, ignored).is_empty() {
            delta.assert_ignoring(expected, ignored);
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn key(action: Action, reason: Reason) -> (String, String) {
    (action.label().to_owned(), reason.label().to_owned())
}

#[cfg(test)]
mod tests {
    use limiter_user::admin::view::PacketCountView;

    use super::*;

    fn counters(entries: &[(&str, &str, &str, u64)]) -> Counters {
        let view =
            |(interface, verdict, reason, packets): &(&str, &str, &str, u64)| PacketCountView {
                interface: (*interface).to_owned(),
                verdict: (*verdict).to_owned(),
                reason: (*reason).to_owned(),
                packets: *packets,
                bytes: 0,
            };
        Counters::from_status(&StatusView {
            packets: entries.iter().map(view).collect(),
            ..StatusView::default()
        })
    }

    #[test]
    fn interfaces_are_summed_and_only_changes_remain() {
        let before = counters(&[("a", "drop", "banned", 2), ("b", "drop", "banned", 3)]);
        let after = counters(&[
            ("a", "drop", "banned", 4),
            ("b", "drop", "banned", 3),
            ("a", "pass", "allowed", 7),
        ]);
        let delta = after.since(&before);
        delta.assert_exactly(&[
            (Action::Drop, Reason::Banned, 2),
            (Action::Pass, Reason::Allowed, 7),
        ]);
        delta.assert_ignoring(
            &[(Action::Drop, Reason::Banned, 2)],
            &[(Action::Pass, Reason::Allowed)],
        );
        assert_eq!(after.get(Action::Drop, Reason::Banned), 7);
        assert_eq!(after.total(Action::Pass), 7);
    }

    #[test]
    fn a_difference_is_shown_whole() {
        let delta = counters(&[("a", "drop", "banned", 1), ("a", "pass", "reply", 2)])
            .since(&Counters::default());
        let difference = delta.difference(&[(Action::Drop, Reason::Banned, 2)], &[]);
        assert_eq!(
            difference,
            ["drop banned: expected 2, found 1", "pass reply: expected none, found 2"]
        );
        assert!(delta.explain(&difference).contains("  pass reply: 2\n"));
    }
}
