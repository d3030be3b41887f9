//! Rates of sources from two looks at each set of the table; pure, with `now` as an argument.
//!
//! Remembers what each set held at the last look, and of the sources seen in a pass only those
//! that are at the top of some order.

use std::{cmp::Reverse, net::IpAddr};

use crate::kernel::SourceRecord;

/// Kept of each order.
const TOP: usize = 256;

/// Candidates before those are dropped that are at no top.
const MAX_CANDIDATES: usize = 8 * TOP;

/// What a source does per second.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Rates {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) connections: u64,
    pub(super) dropped: u64,
}

/// The looks so far.
#[derive(Debug, Default)]
pub(super) struct Survey {
    sets: Vec<Set>,
    candidates: Vec<(IpAddr, Rates)>,
    finished: Vec<(IpAddr, Rates)>,
    passes: u64,
}

/// What a set held.
#[derive(Debug, Default)]
struct Set {
    /// `CLOCK_MONOTONIC` ns; 0: it was not looked at yet.
    at_ns: u64,
    records: Vec<(IpAddr, Rates)>,
}

impl Survey {
    /// Looks at a set.
    pub(super) fn look(&mut self, set: u32, records: &[SourceRecord], now_ns: u64) {
        let Ok(index) = usize::try_from(set) else { return };
        if self.sets.len() <= index {
            self.sets.resize_with(index + 1, Set::default);
        }
        let set = &mut self.sets[index];
        let elapsed_ns = now_ns.saturating_sub(set.at_ns);
        let is_first = set.at_ns == 0 || elapsed_ns == 0;
        let now = records.iter().map(|record| (record.address, totals(record)));
        let now: Vec<(IpAddr, Rates)> = now.collect();
        if !is_first {
            for (address, totals) in &now {
                // Without an entry it is new since the last look, and so is all that it did.
                let before = set.records.iter().find(|(known, _)| known == address);
                let before = before.map_or_else(Rates::default, |(_, totals)| *totals);
                let rates = totals.since(&before, elapsed_ns);
                if rates != Rates::default() {
                    self.candidates.push((*address, rates));
                }
            }
        }
        *set = Set { at_ns: now_ns, records: now };
        if self.candidates.len() >= MAX_CANDIDATES {
            prune(&mut self.candidates);
        }
    }

    /// Ends a pass over the whole table.
    pub(super) fn end_pass(&mut self) {
        prune(&mut self.candidates);
        self.finished = std::mem::take(&mut self.candidates);
        self.passes += 1;
    }

    /// Sources at the top of some order in the last pass.
    pub(super) fn top(&self) -> impl Iterator<Item = (IpAddr, Rates)> {
        self.finished.iter().copied()
    }

    /// Passes over the whole table; there are rates from the second on.
    pub(super) const fn passes(&self) -> u64 {
        self.passes
    }
}

impl Rates {
    /// Per second, between two totals. What went down began anew.
    fn since(&self, before: &Self, elapsed_ns: u64) -> Self {
        let began_anew = self.packets < before.packets;
        let rate = |now: u64, before: u64| {
            let count = if began_anew { now } else { now.saturating_sub(before) };
            let rate = u128::from(count) * 1_000_000_000 / u128::from(elapsed_ns.max(1));
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        Self {
            packets: rate(self.packets, before.packets),
            bytes: rate(self.bytes, before.bytes),
            connections: rate(self.connections, before.connections),
            dropped: rate(self.dropped, before.dropped),
        }
    }
}

const fn totals(record: &SourceRecord) -> Rates {
    Rates {
        packets: record.packets,
        bytes: record.bytes,
        connections: record.connections,
        dropped: record.dropped,
    }
}

/// Keeps what is among the first [`TOP`] of some order.
fn prune(candidates: &mut Vec<(IpAddr, Rates)>) {
    let orders: [fn(&Rates) -> u64; 4] =
        [|it| it.packets, |it| it.bytes, |it| it.connections, |it| it.dropped];
    let mut kept = 0;
    for order in orders {
        let rest = &mut candidates[kept..];
        if rest.len() > TOP {
            rest.select_nth_unstable_by_key(TOP, |(_, rates)| Reverse(order(rates)));
        }
        kept += rest.len().min(TOP);
    }
    candidates.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn record(number: u32, packets: u64, dropped: u64) -> SourceRecord {
        SourceRecord {
            address: IpAddr::V4(number.into()),
            packets,
            bytes: packets * 100,
            connections: 0,
            dropped,
            seen_ns: 0,
        }
    }

    #[test]
    fn rates_are_between_two_looks_and_new_sources_are_new() {
        let mut survey = Survey::default();
        survey.look(3, &[record(1, 1_000_000, 0)], SECOND);
        survey.end_pass();
        assert_eq!(survey.top().count(), 0, "one look is none");
        survey.look(3, &[record(1, 1_000_050, 7), record(2, 10, 0)], 3 * SECOND);
        survey.end_pass();
        let mut rows: Vec<_> = survey.top().collect();
        rows.sort_by_key(|(address, _)| *address);
        assert_eq!(rows[0].1, Rates { packets: 25, bytes: 2500, connections: 0, dropped: 3 });
        assert_eq!((rows[1].1.packets, rows.len()), (5, 2));
        // Its slot was given up and taken again.
        survey.look(3, &[record(1, 30, 0)], 4 * SECOND);
        survey.end_pass();
        assert_eq!(survey.top().next().unwrap().1.packets, 30);
    }

    #[test]
    fn the_top_of_every_order_is_kept_and_memory_bounded() {
        let mut survey = Survey::default();
        for pass in 1..=2_u64 {
            for set in 0..20_000_u32 {
                let records: Vec<_> = (0..8)
                    .map(|way| {
                        let number = set * 8 + way;
                        let packets = if number == 77_777 { 0 } else { u64::from(number) };
                        let dropped = if number == 77_777 { 9_999 } else { 0 };
                        record(number, packets * pass, dropped * pass)
                    })
                    .collect();
                survey.look(set, &records, pass * SECOND);
                assert!(survey.candidates.len() <= MAX_CANDIDATES + 8);
            }
            survey.end_pass();
        }
        let rows: Vec<_> = survey.top().collect();
        assert!(rows.len() <= 4 * TOP);
        let has =
            |number: u32| rows.iter().any(|(address, _)| *address == IpAddr::V4(number.into()));
        assert!(has(159_999) && has(159_999 - 255) && has(77_777));
    }
}
