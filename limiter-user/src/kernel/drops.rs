//! What the kernel dropped, as it comes: records of the ring buffer, and what is still gathering
//! in the slots of each CPU.
//!
//! A slot is read without disturbing it. What was told of it once is remembered by the occupancy
//! (CPU, slot, source, verdict, begin) and taken off when its record arrives, so that told packets
//! are counted once: records + pending + lost = counters.

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

/// What is known of a slot's occupant beside its growing counts.
type Occupancy = (limiter_common::address::Address, u64, u64);

/// The reader. There is one at a time.
pub struct Drops {
    ring: RingBuf<MapData>,
    slots: PerCpuArray<MapData, Plain<DropSlot>>,
    told: HashMap<Occupancy, Counter>,
    /// Records that were none: never happens, and would be seen.
    pub invalid: u64,
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
            invalid: 0,
        };
        // What gathered under an earlier agent is not news.
        drops.records(|_| {});
        drops.pending(|_| {});
        Ok(drops)
    }

    /// Tells the complete records.
    pub fn records(&mut self, mut tell: impl FnMut(Dropped)) {
        let told = &mut self.told;
        self.invalid += ring::drain(&mut self.ring, MAX_RECORDS, |slot| {
            let before = told.remove(&occupancy(&slot)).unwrap_or_default();
            tell_rest(&slot, before, &mut tell);
        });
    }

    /// Tells what is gathering in the slots, once a second or so.
    pub fn pending(&mut self, mut tell: impl FnMut(Dropped)) {
        let mut current = HashMap::new();
        for index in 0..DROP_SLOTS {
            let Ok(values) = self.slots.get(&index, 0) else { continue };
            for Plain(slot) in values.iter().filter(|Plain(slot)| slot.packets > 0) {
                let before = self.told.get(&occupancy(slot)).copied().unwrap_or_default();
                tell_rest(slot, before, &mut tell);
                let seen = Counter { packets: slot.packets, bytes: slot.bytes };
                current.insert(occupancy(slot), seen);
            }
        }
        // Occupancies that ended have left a record, which is in the buffer or was lost and
        // counted as such.
        self.told.retain(|key, _| !current.contains_key(key));
        let ended = std::mem::replace(&mut self.told, current);
        self.records(|dropped| tell(dropped));
        drop(ended);
    }
}

fn occupancy(slot: &DropSlot) -> Occupancy {
    (slot.source, slot.verdict, slot.since_ns)
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
