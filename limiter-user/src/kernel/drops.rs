//! What the kernel dropped, as it comes: records of the ring buffer, and what is still gathering
//! in the slots of each CPU.
//!
//! A slot is read without disturbing it. What was told of it is remembered by its gathering (CPU,
//! source, verdict, begin) and taken off when its record arrives, so that no packet is told twice:
//! records + pending + lost = counters.

use std::{collections::HashMap, fmt, net::IpAddr};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use limiter_common::{
    maps,
    report::{Counter, DROP_SLOTS, DropSlot},
    verdict::Verdict,
};

use super::{KernelError, pins::Pins, plain::Plain, ring};

/// Records taken out of the buffer at once: what it can hold.
const MAX_RECORDS: usize = 8_192;

/// Packets of one source, dropped (or, in monitor mode, that would have been) for one reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dropped {
    /// Packet source; `::` where it could not be read.
    pub source: IpAddr,
    /// Action and reason.
    pub verdict: Verdict,
    /// Packets and bytes that were not told before.
    pub counter: Counter,
}

/// What tells one gathering in one slot from every other.
type Gathering = (u64, limiter_common::address::Address, u64);

/// The reader. There is one at a time.
pub struct Drops {
    ring: RingBuf<MapData>,
    slots: PerCpuArray<MapData, Plain<DropSlot>>,
    /// What was told of gatherings whose record has not come yet.
    told: HashMap<Gathering, (Verdict, Counter)>,
    /// What was told of gatherings whose record was lost: part of the lost counters.
    told_and_lost: HashMap<Verdict, Counter>,
}

impl fmt::Debug for Drops {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Drops").field("told", &self.told.len()).finish_non_exhaustive()
    }
}

impl Drops {
    pub(super) fn open(pins: &Pins) -> Result<Self, KernelError> {
        let mut drops = Self {
            ring: pins.ring()?,
            slots: pins.map(maps::DROPS)?,
            told: HashMap::new(),
            told_and_lost: HashMap::new(),
        };
        // What gathered under an earlier agent is not news.
        drops.pending(|_| {});
        Ok(drops)
    }

    /// Tells the complete records.
    pub fn records(&mut self, mut tell: impl FnMut(Dropped)) {
        let told = &mut self.told;
        let invalid = ring::drain(&mut self.ring, MAX_RECORDS, |record| {
            let before = told.remove(&record.gathering()).map_or_else(Counter::default, |it| it.1);
            tell_rest(&record, before, &mut tell);
        });
        if invalid > 0 {
            log::error!("{invalid} records of the kernel program are none that it writes");
        }
    }

    /// Tells the records and what is gathering in the slots; once a second or so.
    pub fn pending(&mut self, mut tell: impl FnMut(Dropped)) {
        self.records(&mut tell);
        let mut gathering = HashMap::new();
        for index in 0..DROP_SLOTS {
            let Ok(values) = self.slots.get(&index, 0) else { continue };
            for (cpu, Plain(slot)) in values.iter().enumerate() {
                let slot = slot.on_cpu(u32::try_from(cpu).unwrap_or(u32::MAX));
                let (Some(verdict), true) = (slot.decode(), slot.packets > 0) else { continue };
                let before = self.told.remove(&slot.gathering());
                tell_rest(&slot, before.map_or_else(Counter::default, |it| it.1), &mut tell);
                let seen = Counter { packets: slot.packets, bytes: slot.bytes };
                gathering.insert(slot.gathering(), (verdict, seen));
            }
        }
        // What is left in `told` has ended: its record is in the buffer by now, or was lost.
        let ended = std::mem::take(&mut self.told);
        self.told = gathering;
        let current: Vec<Gathering> = self.told.keys().copied().collect();
        self.told.extend(ended);
        self.records(&mut tell);
        let lost: Vec<Gathering> =
            self.told.keys().filter(|key| !current.contains(key)).copied().collect();
        for key in lost {
            if let Some((verdict, counter)) = self.told.remove(&key) {
                let sum = self.told_and_lost.entry(verdict).or_default();
                sum.packets += counter.packets;
                sum.bytes += counter.bytes;
            }
        }
    }

    /// Takes off, of newly lost packets with this verdict, what was told before it was lost.
    pub fn untold(&mut self, verdict: Verdict, lost: Counter) -> Counter {
        let Some(told) = self.told_and_lost.get_mut(&verdict) else { return lost };
        let packets = told.packets.min(lost.packets);
        let bytes = told.bytes.min(lost.bytes);
        told.packets -= packets;
        told.bytes -= bytes;
        Counter { packets: lost.packets - packets, bytes: lost.bytes - bytes }
    }
}

fn tell_rest(slot: &DropSlot, before: Counter, tell: &mut impl FnMut(Dropped)) {
    let Some(verdict) = slot.decode() else { return };
    let counter = Counter {
        packets: slot.packets.saturating_sub(before.packets),
        bytes: slot.bytes.saturating_sub(before.bytes),
    };
    if counter.packets > 0 {
        tell(Dropped { source: slot.source.into(), verdict, counter });
    }
}
