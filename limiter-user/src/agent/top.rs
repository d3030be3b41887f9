//! Who sends and who is dropped, per second: for `limiter top`, and only while somebody watches.
//!
//! In: looks at the source table, a few sets at a time, and drops as they are told; out: the few
//! sources at the top. The agent's loop is never held for longer than [`LOOK_NS`]. Memory is
//! bounded by the table and by [`MAX_DROPPED`], and given back when nobody watches any more.

mod survey;

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;
use limiter_common::verdict::{Action, Reason, Verdict};

use self::survey::{Rates, Survey};
use super::{Agent, Inner, view};
use crate::{
    admin::view::{Failure, SourceSort, TopSourceView, TopView},
    clock,
    kernel::{Dropped, Kernel},
};

/// How long a look at the table may hold the agent's loop, ns.
const LOOK_NS: u64 = 2_000_000;

/// Sets read between two looks at the clock.
const SETS_AT_ONCE: u32 = 64;

/// How long after somebody asked it goes on, ns.
const WATCHED_NS: u64 = 10_000_000_000;

/// A pass over the table begins at most so often, ns.
const PASS_NS: u64 = 1_000_000_000;

/// Dropped sources told apart within a second.
const MAX_DROPPED: usize = 4_096;

/// Most sources in an answer.
const MAX_SOURCES: usize = 500;

/// The state while somebody watches.
#[derive(Debug, Default)]
pub(super) struct Top {
    /// `CLOCK_MONOTONIC` ns; 0: nobody watches.
    watched_until_ns: u64,
    survey: Survey,
    /// The next set of the pass, and when the pass began.
    next_set: u32,
    pass_ns: u64,
    /// Of this second, and of the one before with its length.
    dropping: Dropping,
    dropped: (Dropping, u64),
    second_ns: u64,
}

/// Dropped packets of one second.
#[derive(Debug, Default)]
struct Dropping {
    sources: HashMap<IpAddr, HashMap<Verdict, u64>>,
    /// Those of sources that found no room.
    other: u64,
}

impl Top {
    /// Notes dropped packets, if somebody watches.
    pub(super) fn dropped(&mut self, dropped: &Dropped) {
        if self.watched_until_ns == 0 {
            return;
        }
        let Dropping { sources, other } = &mut self.dropping;
        if sources.len() >= MAX_DROPPED && !sources.contains_key(&dropped.source) {
            *other = other.saturating_add(dropped.counter.packets);
            return;
        }
        let reasons = sources.entry(dropped.source).or_default();
        *reasons.entry(dropped.verdict).or_default() += dropped.counter.packets;
    }

    /// Ends a second of drops.
    pub(super) fn tick(&mut self, now_ns: u64) {
        if self.watched_until_ns == 0 {
            return;
        }
        if self.watched_until_ns < now_ns {
            *self = Self::default();
            return;
        }
        let length_ns = now_ns.saturating_sub(self.second_ns);
        self.dropped = (std::mem::take(&mut self.dropping), length_ns.max(1));
        self.second_ns = now_ns;
    }

    fn watch(&mut self, now_ns: u64) {
        if self.watched_until_ns == 0 {
            self.second_ns = now_ns;
        }
        self.watched_until_ns = now_ns.saturating_add(WATCHED_NS);
    }

    /// Reads a part of the table.
    fn look(&mut self, kernel: &Kernel, now_ns: u64) {
        if self.next_set == 0 {
            if now_ns.saturating_sub(self.pass_ns) < PASS_NS {
                return;
            }
            self.pass_ns = now_ns;
        }
        let sets = kernel.source_sets();
        let mut at_ns = now_ns;
        while self.next_set < sets && at_ns.saturating_sub(now_ns) < LOOK_NS {
            let end = sets.min(self.next_set + SETS_AT_ONCE);
            for set in self.next_set..end {
                self.survey.look(set, &kernel.records_of_set(set), at_ns);
            }
            self.next_set = end;
            at_ns = clock::monotonic_ns();
        }
        if self.next_set >= sets {
            self.survey.end_pass();
            self.next_set = 0;
        }
    }
}

impl Agent {
    /// Whether somebody watches.
    pub(super) fn is_watched(&self) -> bool {
        self.inner.borrow().top.watched_until_ns > 0
    }

    /// A short look at the source table.
    pub(super) fn look_at_sources(&self) {
        let mut inner = self.inner.borrow_mut();
        let Inner { top, kernel: Some(kernel), .. } = &mut *inner else { return };
        top.look(kernel, clock::monotonic_ns());
    }

    /// The sources at the top by now; asking is watching.
    pub(super) fn top_view(&self, sort: SourceSort, limit: usize) -> Result<TopView, Failure> {
        let mut inner = self.inner.borrow_mut();
        let now_ns = clock::monotonic_ns();
        inner.top.watch(now_ns);
        let kernel = view::kernel(&inner)?;
        let prefix = |address| view::source_prefix(&inner, address);
        let (dropping, length_ns) = &inner.top.dropped;
        let mut sources: HashMap<IpNet, TopSourceView> = HashMap::new();
        for (address, rates) in inner.top.survey.top() {
            let source = prefix(address);
            sources.insert(source, tracked(source, &rates));
        }
        for (address, reasons) in &dropping.sources {
            let source = prefix(*address);
            let row = sources.entry(source).or_insert_with(|| tracked(source, &Rates::default()));
            merge(row, reasons, *length_ns);
        }
        let mut sources: Vec<TopSourceView> = sources.into_values().collect();
        sources.sort_by_key(|row| (std::cmp::Reverse(key(row, sort)), row.source));
        sources.truncate(limit.min(MAX_SOURCES));
        for row in &mut sources {
            kernel.list(row.source.addr(), 0).label().clone_into(&mut row.list);
        }
        Ok(TopView {
            clock_milliseconds: now_ns / 1_000_000,
            passes: inner.top.survey.passes(),
            packets: view::packet_counts(kernel),
            requests: inner.proxy_counters.requests,
            refused: inner.proxy_counters.refused.iter().sum(),
            untold_drops_per_second: per_second(dropping.other, *length_ns),
            sources,
        })
    }
}

fn tracked(source: IpNet, rates: &Rates) -> TopSourceView {
    TopSourceView {
        source,
        packets_per_second: rates.packets,
        bytes_per_second: rates.bytes,
        connections_per_second: rates.connections,
        drops_per_second: rates.dropped,
        verdict: Action::Pass.label().to_owned(),
        reason: Reason::Allowed.label().to_owned(),
        list: String::new(),
    }
}

/// Adds what was told of dropped packets. What ends before the table (bans, lists) is not in it.
fn merge(row: &mut TopSourceView, reasons: &HashMap<Verdict, u64>, length_ns: u64) {
    let dropped = per_second(reasons.values().sum(), length_ns);
    row.drops_per_second = row.drops_per_second.max(dropped);
    row.packets_per_second = row.packets_per_second.max(row.drops_per_second);
    if let Some((verdict, _)) = reasons.iter().max_by_key(|(_, packets)| **packets) {
        verdict.action.label().clone_into(&mut row.verdict);
        verdict.reason.label().clone_into(&mut row.reason);
    }
}

fn key(row: &TopSourceView, sort: SourceSort) -> u64 {
    match sort {
        SourceSort::Packets => row.packets_per_second,
        SourceSort::Bytes => row.bytes_per_second,
        SourceSort::Connections => row.connections_per_second,
        SourceSort::Dropped => row.drops_per_second,
    }
}

/// Rounded up: what happened at all is not 0.
fn per_second(count: u64, length_ns: u64) -> u64 {
    let rate = (u128::from(count) * 1_000_000_000).div_ceil(u128::from(length_ns.max(1)));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use limiter_common::report::Counter;

    use super::*;

    #[test]
    fn drops_are_noted_only_while_watched_and_bounded() {
        let drop = |number: u32| Dropped {
            interface: 0,
            source: IpAddr::V4(number.into()),
            verdict: Verdict::drop(Reason::Banned),
            counter: Counter { packets: 2, bytes: 120 },
        };
        let mut top = Top::default();
        top.dropped(&drop(1));
        assert!(top.dropping.sources.is_empty());
        top.watch(1);
        for number in 0..1_000_000 {
            top.dropped(&drop(number));
        }
        assert_eq!(top.dropping.sources.len(), MAX_DROPPED);
        let told: u64 = top.dropping.sources.values().flat_map(HashMap::values).sum();
        assert_eq!(told + top.dropping.other, 2_000_000);
        top.tick(500_000_001);
        assert_eq!(per_second(top.dropped.0.other, top.dropped.1), 2 * top.dropped.0.other);
        top.tick(WATCHED_NS + 2);
        assert!(top.watched_until_ns == 0 && top.dropped.0.sources.is_empty());
    }

    #[test]
    fn what_a_row_says_is_what_happened_most() {
        let source = "192.0.2.1/32".parse().unwrap();
        let mut row = tracked(source, &Rates { packets: 100, dropped: 10, ..Rates::default() });
        let reasons = HashMap::from([
            (Verdict::drop(Reason::PacketRate), 30),
            (Verdict { action: Action::Monitor, reason: Reason::Denied }, 5),
        ]);
        merge(&mut row, &reasons, 1_000_000_000);
        assert_eq!((row.packets_per_second, row.drops_per_second), (100, 35));
        assert_eq!((row.verdict.as_str(), row.reason.as_str()), ("drop", "packet_rate"));
    }
}
