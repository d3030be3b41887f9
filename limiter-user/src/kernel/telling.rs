//! The book-keeping behind the drops: what was told of gatherings that go on, and what was lost on
//! the way. Slots and records in, what is news out; knows no map, so that a flood can be tested.
//!
//! records + pending + lost = counters, exactly, also across agents: a [`Ledger`] carries on where
//! a killed one was. Memory is bounded by the slots there are, whatever the sources do.

use std::collections::{HashMap, HashSet};

use limiter_common::{
    address::Address,
    report::{Counter, DropSlot},
    verdict::Verdict,
};
use serde::{Deserialize, Serialize};

use super::{Dropped, VerdictCount};

/// What tells one gathering in one slot from every other.
type Gathering = (u64, Address, u64);

/// What was told, and must not be told again.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Of gatherings whose record has not come yet.
    told: HashMap<Gathering, (Verdict, Counter)>,
    /// Of gatherings whose record was lost: part of the lost counters.
    told_and_lost: HashMap<Verdict, Counter>,
    /// Of the lost counters, by interface and verdict.
    lost_told: HashMap<(u32, Verdict), Counter>,
}

/// A look at the slots that is under way.
#[derive(Debug, Default)]
pub(super) struct Look(HashMap<Gathering, (Verdict, Counter)>);

/// What a killed agent had told, for the next one.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ledger {
    /// Id of the map of slots that it is about; another one's is worth nothing.
    pub map: u32,
    /// Verdict word, source, begin, packets, bytes of gatherings.
    told: Vec<[u64; 6]>,
    /// Verdict, packets, bytes.
    told_and_lost: Vec<[u64; 3]>,
    /// Interface, verdict, packets, bytes.
    lost_told: Vec<[u64; 4]>,
    /// Verdict, packets, bytes of what was taken and held back to be told as a sum.
    pub held: Vec<[u64; 3]>,
}

impl Telling {
    /// Goes on where another agent was.
    pub(super) fn resume(ledger: &Ledger) -> Self {
        let told = ledger.told.iter().filter_map(|&[word, high, low, since, packets, bytes]| {
            let counter = Counter { packets, bytes };
            let verdict = DropSlot { verdict: word, ..DropSlot::default() }.decode()?;
            Some(((word, Address { high, low }, since), (verdict, counter)))
        });
        let told_and_lost = ledger.told_and_lost.iter();
        let lost_told = ledger.lost_told.iter();
        Self {
            told: told.collect(),
            told_and_lost: told_and_lost
                .filter_map(|&[number, packets, bytes]| {
                    Some((numbered(number)?, Counter { packets, bytes }))
                })
                .collect(),
            lost_told: lost_told
                .filter_map(|&[interface, number, packets, bytes]| {
                    let key = (interface.try_into().ok()?, numbered(number)?);
                    Some((key, Counter { packets, bytes }))
                })
                .collect(),
        }
    }

    /// For the next agent; what was held back is added by whoever holds it.
    pub(super) fn ledger(&self, map: u32) -> Ledger {
        let told = self.told.iter();
        let lost_told = self.lost_told.iter();
        Ledger {
            map,
            told: told
                .map(|(&(word, source, since), (_, counter))| {
                    [word, source.high, source.low, since, counter.packets, counter.bytes]
                })
                .collect(),
            told_and_lost: self
                .told_and_lost
                .iter()
                .map(|(verdict, counter)| [number(*verdict), counter.packets, counter.bytes])
                .collect(),
            lost_told: lost_told
                .map(|((interface, verdict), counter)| {
                    let interface = u64::from(*interface);
                    [interface, number(*verdict), counter.packets, counter.bytes]
                })
                .collect(),
            held: Vec::new(),
        }
    }

    /// A complete record.
    pub(super) fn record(&mut self, record: &DropSlot, tell: &mut impl FnMut(Dropped)) {
        let before = self.told.remove(&record.gathering());
        tell_rest(record, before.map_or_else(Counter::default, |told| told.1), tell);
    }

    /// A slot that gathers, of the CPU that its verdict word names.
    pub(super) fn slot(
        &mut self,
        look: &mut Look,
        slot: &DropSlot,
        tell: &mut impl FnMut(Dropped),
    ) {
        let (Some(verdict), true) = (slot.decode(), slot.packets > 0) else { return };
        let before = self.told.remove(&slot.gathering());
        tell_rest(slot, before.map_or_else(Counter::default, |told| told.1), tell);
        let seen = Counter { packets: slot.packets, bytes: slot.bytes };
        look.0.insert(slot.gathering(), (verdict, seen));
    }

    /// Ends a look. `records` empties the buffer once more: gatherings that no slot had any more
    /// have their record in there, or it was lost.
    pub(super) fn end(&mut self, look: Look, mut records: impl FnMut(&mut Self)) {
        let ended: HashSet<Gathering> = self.told.keys().copied().collect();
        self.told.extend(look.0);
        records(self);
        for key in ended {
            if let Some((verdict, counter)) = self.told.remove(&key) {
                add(self.told_and_lost.entry(verdict).or_default(), counter);
            }
        }
    }

    /// Of the counters of lost records, what is news: not told before, neither as lost nor while
    /// it gathered.
    pub(super) fn lost(&mut self, lost: &[VerdictCount]) -> Vec<VerdictCount> {
        let mut news = Vec::new();
        // Counters that another interface has now began anew.
        self.lost_told.retain(|key, told| {
            let now = lost.iter().find(|count| (count.interface, count.verdict) == *key);
            now.is_some_and(|count| count.counter.packets >= told.packets)
        });
        for count in lost {
            let told = self.lost_told.entry((count.interface, count.verdict)).or_default();
            let newly = Counter {
                packets: count.counter.packets.saturating_sub(told.packets),
                bytes: count.counter.bytes.saturating_sub(told.bytes),
            };
            *told = count.counter;
            let early = self.told_and_lost.entry(count.verdict).or_default();
            let packets = early.packets.min(newly.packets);
            let bytes = early.bytes.min(newly.bytes);
            early.packets -= packets;
            early.bytes -= bytes;
            let counter = Counter { packets: newly.packets - packets, bytes: newly.bytes - bytes };
            if counter.packets > 0 {
                news.push(VerdictCount { counter, ..*count });
            }
        }
        self.told_and_lost.retain(|_, counter| counter.packets > 0);
        news
    }

    /// How much is remembered.
    pub(super) fn len(&self) -> usize {
        self.told.len() + self.told_and_lost.len() + self.lost_told.len()
    }
}

fn tell_rest(slot: &DropSlot, before: Counter, tell: &mut impl FnMut(Dropped)) {
    let Some(verdict) = slot.decode() else { return };
    let counter = Counter {
        packets: slot.packets.saturating_sub(before.packets),
        bytes: slot.bytes.saturating_sub(before.bytes),
    };
    if counter.packets > 0 {
        let (source, interface) = (slot.source.into(), slot.interface());
        tell(Dropped { source, interface, verdict, counter });
    }
}

fn add(sum: &mut Counter, counter: Counter) {
    sum.packets += counter.packets;
    sum.bytes += counter.bytes;
}

/// The number by which ledgers name a verdict.
pub(super) const fn number(verdict: Verdict) -> u64 {
    verdict.counter() as u64
}

/// The verdict of a ledger's number.
pub(super) fn numbered(number: u64) -> Option<Verdict> {
    DropSlot { verdict: number.checked_add(1)?, ..DropSlot::default() }.decode()
}

#[cfg(test)]
mod tests;
