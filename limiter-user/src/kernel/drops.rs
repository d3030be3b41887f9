//! What the kernel dropped, as it comes: records of the ring buffer, and what is still gathering
//! in the slots of each CPU.
//!
//! A slot is read without disturbing it. What was told of it is remembered by its gathering (CPU,
//! source, verdict, begin) and taken off when its record arrives, so that no packet is told twice:
//! records + pending + lost = counters.

use std::{fmt, net::IpAddr};

use aya::maps::{MapData, MapInfo, PerCpuArray, RingBuf};
use limiter_common::{
    maps,
    report::{Counter, DROP_SLOTS, DropSlot},
    verdict::Verdict,
};

use super::{
    KernelError, VerdictCount,
    pins::Pins,
    plain::Plain,
    ring,
    telling::{self, Ledger, Look, Telling},
};

/// Records taken out of the buffer at once: what it can hold.
const MAX_RECORDS: usize = 8_192;

/// Packets of one source, dropped (or, in monitor mode, that would have been) for one reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Dropped {
    /// Packet source; `::` where it could not be read.
    pub source: IpAddr,
    /// Slot of the interface that they came in on.
    pub interface: u32,
    /// Action and reason.
    pub verdict: Verdict,
    /// Packets and bytes that were not told before.
    pub counter: Counter,
}

/// The reader. There is one at a time.
pub struct Drops {
    ring: RingBuf<MapData>,
    slots: PerCpuArray<MapData, Plain<DropSlot>>,
    /// Id of the map of slots.
    map: u32,
    telling: Telling,
    /// What an earlier agent took and did not tell.
    held: Vec<(Verdict, Counter)>,
}

impl fmt::Debug for Drops {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Drops")
            .field("map", &self.map)
            .field("told", &self.telling.len())
            .finish_non_exhaustive()
    }
}

impl Drops {
    /// Goes on where the agent was that left this ledger. Without one that belongs to these maps,
    /// what gathers and what was lost until now is taken as told.
    pub(super) fn open(
        pins: &Pins,
        ledger: Option<&Ledger>,
        lost: &[VerdictCount],
    ) -> Result<Self, KernelError> {
        let info = MapInfo::from_pin(pins.path(maps::DROPS))
            .map_err(|error| KernelError::system("opening the drop slots", &error))?;
        let map = info.id();
        let mut drops = Self {
            ring: pins.ring()?,
            slots: pins.map(maps::DROPS)?,
            map,
            telling: Telling::default(),
            held: Vec::new(),
        };
        if let Some(ledger) = ledger.filter(|ledger| ledger.map == map) {
            drops.telling = Telling::resume(ledger);
            let held = ledger.held.iter();
            drops.held = held
                .filter_map(|&[number, packets, bytes]| {
                    Some((telling::numbered(number)?, Counter { packets, bytes }))
                })
                .collect();
        } else {
            let mut look = Look::default();
            drops.look(&mut look, &mut |_| {});
            drops.telling.end(look, |_| {});
            drops.telling.lost(lost);
        }
        Ok(drops)
    }

    /// What an earlier agent took and did not tell; once.
    pub fn held(&mut self) -> Vec<(Verdict, Counter)> {
        std::mem::take(&mut self.held)
    }

    /// For the next agent, with what this one holds back to tell as a sum.
    pub fn ledger(&self, held: impl Iterator<Item = (Verdict, Counter)>) -> Ledger {
        let held = held
            .map(|(verdict, counter)| [telling::number(verdict), counter.packets, counter.bytes]);
        let mut ledger = self.telling.ledger(self.map);
        ledger.held = held.collect();
        ledger
    }

    /// Tells the complete records.
    pub fn records(&mut self, mut tell: impl FnMut(Dropped)) {
        drain(&mut self.ring, &mut self.telling, &mut tell);
    }

    /// Tells the records and what is gathering in the slots; once a second or so.
    pub fn pending(&mut self, mut tell: impl FnMut(Dropped)) {
        self.records(&mut tell);
        let mut look = Look::default();
        self.look(&mut look, &mut tell);
        let ring = &mut self.ring;
        self.telling.end(look, |telling| drain(ring, telling, &mut tell));
    }

    /// Of the counters of lost records, what was not told before. To be asked after
    /// [`Self::pending`].
    pub fn lost(&mut self, lost: &[VerdictCount]) -> Vec<VerdictCount> {
        self.telling.lost(lost)
    }

    fn look(&mut self, look: &mut Look, tell: &mut impl FnMut(Dropped)) {
        for index in 0..DROP_SLOTS {
            let Ok(values) = self.slots.get(&index, 0) else { continue };
            for (cpu, Plain(slot)) in values.iter().enumerate() {
                let slot = slot.on_cpu(u32::try_from(cpu).unwrap_or(u32::MAX));
                self.telling.slot(look, &slot, tell);
            }
        }
    }
}

fn drain(ring: &mut RingBuf<MapData>, telling: &mut Telling, tell: &mut impl FnMut(Dropped)) {
    let invalid = ring::drain(ring, MAX_RECORDS, |record| telling.record(&record, tell));
    if invalid > 0 {
        log::error!("{invalid} records of the kernel program are none that it writes");
    }
}
