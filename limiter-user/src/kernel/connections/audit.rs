//! What differs between the stack, the records of connections and the counts: pure. One look may
//! catch a connection between two tables; only what two looks find alike is wrong.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use limiter_common::connection::{Connection, Correction, TOTALS, count_in};

/// The tables, read one after the other.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Records by cookie.
    pub(super) recorded: HashMap<u64, Connection>,
    /// Words of counts by key.
    pub(super) counts: HashMap<u64, Count>,
    /// As [`Self::counts`], by service.
    pub(super) totals: [Count; TOTALS as usize],
    /// Every connection of the stack by cookie, read last.
    pub(super) stack: HashMap<u64, Seen>,
}

/// The word of a count before and after the records were read; 0: none. Equal words did not change
/// in between.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Count {
    pub(super) before: u64,
    pub(super) after: u64,
}

/// A connection of the stack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    /// How it is counted.
    pub(super) connection: Connection,
    /// Its local port is a listener's.
    pub(super) passive: bool,
}

/// What is wrong.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Findings {
    /// Connections without a record.
    pub(super) missing: HashMap<u64, Connection>,
    /// Records without a connection.
    pub(super) stale: HashSet<u64>,
    /// Records that a changed policy has under another key or service.
    pub(super) moved: HashMap<u64, Connection>,
    /// What a count lacks (wrapping), by key.
    pub(super) counts: HashMap<u64, u64>,
    /// What a total lacks (wrapping), by service.
    pub(super) totals: HashMap<u64, u64>,
}

impl Findings {
    pub(super) fn of(look: &Look) -> Self {
        let mut findings = Self::default();
        for (cookie, seen) in &look.stack {
            match look.recorded.get(cookie) {
                None if seen.passive => {
                    findings.missing.insert(*cookie, seen.connection);
                }
                Some(recorded) if *recorded != seen.connection => {
                    findings.moved.insert(*cookie, seen.connection);
                }
                Some(_) | None => {}
            }
        }
        let mut expected: HashMap<u64, u64> = HashMap::new();
        let mut totals = [0_u64; TOTALS as usize];
        for (cookie, connection) in &look.recorded {
            if !look.stack.contains_key(cookie) {
                findings.stale.insert(*cookie);
            }
            for key in [connection.source, connection.pair] {
                *expected.entry(key).or_default() += 1;
            }
            totals[0] += 1;
            if connection.service != 0
                && let Ok(service) = usize::try_from(connection.service)
                && let Some(total) = totals.get_mut(service)
            {
                *total += 1;
            }
        }
        // 0 is no pair.
        expected.remove(&0);
        let keys: HashSet<&u64> = expected.keys().chain(look.counts.keys()).collect();
        for key in keys {
            let count = look.counts.get(key).copied().unwrap_or_default();
            let lacks = lacks(expected.get(key).copied().unwrap_or_default(), count);
            findings.counts.extend(lacks.map(|lacks| (*key, lacks)));
        }
        for (service, (expected, count)) in (0..).zip(totals.into_iter().zip(look.totals)) {
            findings.totals.extend(lacks(expected, count).map(|lacks| (service, lacks)));
        }
        findings
    }

    pub(super) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.moved.is_empty() && self.drift() == 0
    }

    /// How much went wrong, rather than began or moved by policy.
    pub(super) fn drift(&self) -> usize {
        self.stale.len() + self.counts.len() + self.totals.len()
    }

    /// What both found alike.
    pub(super) fn agreed(mut self, other: &Self) -> Self {
        keep_same(&mut self.missing, &other.missing);
        self.stale.retain(|cookie| other.stale.contains(cookie));
        keep_same(&mut self.moved, &other.moved);
        keep_same(&mut self.counts, &other.counts);
        keep_same(&mut self.totals, &other.totals);
        self
    }

    /// What puts it right, in order.
    pub(super) fn corrections(&self) -> Vec<Correction> {
        let counts = self.counts.iter().map(|(key, lacks)| {
            if lacks.cast_signed() > 0 {
                Correction::Add(*key, *lacks)
            } else {
                Correction::Subtract(*key, lacks.wrapping_neg())
            }
        });
        let totals = self.totals.iter().map(|(service, lacks)| Correction::Total(*service, *lacks));
        let stale = self.stale.iter().map(|cookie| Correction::Close(*cookie));
        let moved = self.moved.iter().flat_map(|(cookie, connection)| {
            [Correction::Close(*cookie), Correction::Open(*cookie, *connection)]
        });
        let missing =
            self.missing.iter().map(|(cookie, connection)| Correction::Open(*cookie, *connection));
        counts.chain(totals).chain(stale).chain(moved).chain(missing).collect()
    }
}

/// What the count lacks, if it held still.
const fn lacks(expected: u64, count: Count) -> Option<u64> {
    let found = count_in(count.before);
    if count.before == count.after && found != expected {
        Some(expected.wrapping_sub(found))
    } else {
        None
    }
}

fn keep_same<K: Eq + Hash, V: PartialEq>(kept: &mut HashMap<K, V>, other: &HashMap<K, V>) {
    kept.retain(|key, value| other.get(key) == Some(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(source: u64) -> Connection {
        Connection { source, pair: 0, service: 0 }
    }

    fn still(count: u64) -> Count {
        Count { before: 9 << 32 | count, after: 9 << 32 | count }
    }

    /// One recorded connection of source 7 with cookie 1, as it should be.
    fn sound() -> Look {
        let mut look = Look::default();
        look.recorded.insert(1, connection(7));
        look.stack.insert(1, Seen { connection: connection(7), passive: true });
        look.counts.insert(7, still(1));
        look.totals[0] = still(1);
        look
    }

    #[test]
    fn what_is_as_it_should_be_is_left_alone() {
        assert!(Findings::of(&sound()).is_empty());
        assert!(Findings::of(&Look::default()).is_empty());
    }

    #[test]
    fn each_kind_of_drift_is_found_and_put_right() {
        let mut look = sound();
        look.stack.insert(2, Seen { connection: connection(8), passive: true });
        look.stack.insert(3, Seen { connection: connection(8), passive: false });
        let findings = Findings::of(&look);
        assert_eq!(findings.corrections(), [Correction::Open(2, connection(8))]);
        assert_eq!(findings.drift(), 0);

        let mut look = sound();
        look.stack.clear();
        assert_eq!(Findings::of(&look).corrections(), [Correction::Close(1)]);

        let mut look = sound();
        look.stack.insert(1, Seen { connection: connection(9), passive: false });
        let moved = [Correction::Close(1), Correction::Open(1, connection(9))];
        assert_eq!(Findings::of(&look).corrections(), moved);

        let mut look = sound();
        look.counts.insert(7, still(3));
        assert_eq!(Findings::of(&look).corrections(), [Correction::Subtract(7, 2)]);
        look.counts.clear();
        assert_eq!(Findings::of(&look).corrections(), [Correction::Add(7, 1)]);

        let mut look = sound();
        look.totals[0] = still(0);
        look.totals[3] = still(2);
        let mut corrections = Findings::of(&look).corrections();
        corrections.sort_by_key(|correction| correction.to_words());
        let expected = [Correction::Total(0, 1), Correction::Total(3, 2_u64.wrapping_neg())];
        assert_eq!(corrections, expected);
    }

    #[test]
    fn services_have_counts_of_their_own() {
        let mut look = sound();
        let served = Connection { source: 7, pair: 70, service: 3 };
        look.recorded.insert(2, served);
        look.stack.insert(2, Seen { connection: served, passive: true });
        look.counts.extend([(7, still(2)), (70, still(1))]);
        (look.totals[0], look.totals[3]) = (still(2), still(1));
        assert!(Findings::of(&look).is_empty());
    }

    #[test]
    fn what_moves_during_a_look_or_differs_between_two_is_no_drift() {
        let mut look = sound();
        look.counts.insert(7, Count { before: 2, after: 1 });
        look.totals[0] = Count { before: 2, after: 1 };
        assert!(Findings::of(&look).is_empty());
        // Away and back again.
        look.counts.insert(7, Count { before: 4 << 32 | 2, after: 6 << 32 | 2 });
        assert!(Findings::of(&look).is_empty());

        let mut first = sound();
        first.stack.insert(2, Seen { connection: connection(8), passive: true });
        first.recorded.insert(4, connection(7));
        let mut second = sound();
        second.stack.insert(3, Seen { connection: connection(8), passive: true });
        second.recorded.insert(5, connection(7));
        second.counts.insert(7, still(9));
        let agreed = Findings::of(&first).agreed(&Findings::of(&second));
        assert!(agreed.missing.is_empty() && agreed.stale.is_empty(), "{agreed:?}");
        assert!(agreed.counts.is_empty(), "{agreed:?}");
    }
}
