//! What the kernel dropped, as it comes: records of the ring buffer, and what is still gathering
//! in the slots of each CPU.
//!
<<<<<<< HEAD
//! A slot is read without disturbing it. What was told of it is remembered and taken off when its
//! record arrives, so that told packets are counted once: told + lost = counters, exactly, once
//! nothing gathers any more.
=======
//! A slot is read without disturbing it. What was told of it is remembered by its gathering (CPU,
//! source, verdict, begin) and taken off when its record arrives, so that no packet is told twice:
//! records + pending + lost = counters.
>>>>>>> main

use std::{collections::HashMap, fmt, net::IpAddr};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use limiter_common::{
    address::Address,
    maps,
    report::{Counter, DROP_SLOTS, DropSlot},
    verdict::Verdict,
};

use super::{KernelError, pins::Pins, plain::Plain, ring};

/// Records taken out of the buffer at once: what it can hold.
const MAX_RECORDS: usize = 8_192;

/// Looks at the slots after which a record that has not come was lost.
const PATIENCE: u8 = 2;

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

<<<<<<< HEAD
=======
/// What tells one gathering in one slot from every other.
type Gathering = (u64, limiter_common::address::Address, u64);

>>>>>>> main
/// The reader. There is one at a time.
pub struct Drops {
    ring: RingBuf<MapData>,
    slots: PerCpuArray<MapData, Plain<DropSlot>>,
<<<<<<< HEAD
    ledger: Ledger,
=======
    /// What was told of gatherings whose record has not come yet.
    told: HashMap<Gathering, (Verdict, Counter)>,
    /// What was told of gatherings whose record was lost: part of the lost counters.
    told_and_lost: HashMap<Verdict, Counter>,
>>>>>>> main
    /// Records that were none: never happens, and would be seen.
    pub invalid: u64,
}

impl fmt::Debug for Drops {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Drops").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

impl Drops {
    pub(super) fn open(pins: &Pins) -> Result<Self, KernelError> {
        let mut drops = Self {
            ring: pins.ring()?,
            slots: pins.map(maps::DROPS)?,
<<<<<<< HEAD
            ledger: Ledger::default(),
=======
            told: HashMap::new(),
            told_and_lost: HashMap::new(),
>>>>>>> main
            invalid: 0,
        };
        // What gathered under an earlier agent is not news.
        drops.pending(|_| {});
        Ok(drops)
    }

    /// Tells the complete records.
    pub fn records(&mut self, mut tell: impl FnMut(Dropped)) {
<<<<<<< HEAD
        let ledger = &mut self.ledger;
        self.invalid += ring::drain(&mut self.ring, MAX_RECORDS, |slot| {
            tell_some(&slot, ledger.record(&slot), &mut tell);
        });
    }

    /// Tells what is gathering in the slots, once a second or so, and the complete records.
    pub fn pending(&mut self, mut tell: impl FnMut(Dropped)) {
        let mut gathering = Vec::new();
        for index in 0..DROP_SLOTS {
            let Ok(values) = self.slots.get(&index, 0) else { continue };
            gathering.extend(values.iter().map(|Plain(slot)| *slot).filter(|slot| slot.packets > 0));
        }
        self.ledger.look(&gathering, |slot, counter| tell_some(slot, counter, &mut tell));
        self.records(tell);
        self.ledger.forget_lost();
    }

    /// Of the lost records with this verdict, what was told while it gathered: not to be told as
    /// lost again.
    pub fn told_of_lost(&self, verdict: Verdict) -> Counter {
        self.ledger.told_of_lost(verdict.counter() as u64 + 1)
    }
}

fn tell_some(slot: &DropSlot, counter: Counter, tell: &mut impl FnMut(Dropped)) {
    let Some(verdict) = slot.decode() else { return };
    if counter.packets > 0 {
        tell(Dropped { source: slot.source.into(), verdict, counter });
    }
}

/// Source, verdict and begin: what a slot and its record have in common. CPUs that begin in the
/// same tick share it, so that all sums are over them.
type Occupancy = (Address, u64, u64);

/// What was told of slots whose records have not come yet: pure.
#[derive(Debug, Default)]
struct Ledger {
    told: HashMap<Occupancy, Told>,
    /// By verdict, what was told of records that never came.
    of_lost: HashMap<u64, Counter>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    counter: Counter,
    /// Looks for which no slot had this occupancy.
    absent: u8,
}

impl Ledger {
    /// A record came: what of it was not told before.
    fn record(&mut self, record: &DropSlot) -> Counter {
        let whole = Counter { packets: record.packets, bytes: record.bytes };
        let Some(told) = self.told.get_mut(&occupancy(record)) else { return whole };
        let before = Counter {
            packets: told.counter.packets.min(whole.packets),
            bytes: told.counter.bytes.min(whole.bytes),
        };
        told.counter = less(told.counter, before);
        if told.counter.packets == 0 {
            self.told.remove(&occupancy(record));
        }
        less(whole, before)
    }

    /// Tells what is new in the slots.
    fn look(&mut self, slots: &[DropSlot], mut tell: impl FnMut(&DropSlot, Counter)) {
        let mut sums: HashMap<Occupancy, DropSlot> = HashMap::new();
        for slot in slots {
            sums.entry(occupancy(slot))
                .and_modify(|sum| {
                    sum.packets = sum.packets.saturating_add(slot.packets);
                    sum.bytes = sum.bytes.saturating_add(slot.bytes);
                })
                .or_insert(*slot);
        }
        for (key, told) in &mut self.told {
            told.absent = if sums.contains_key(key) { 0 } else { told.absent.saturating_add(1) };
        }
        for (key, sum) in sums {
            let told = self.told.entry(key).or_default();
            let news = less(Counter { packets: sum.packets, bytes: sum.bytes }, told.counter);
            told.counter.packets += news.packets;
            told.counter.bytes += news.bytes;
            tell(&sum, news);
        }
    }

    /// Gives up on records that have not come for a while: they found no room.
    fn forget_lost(&mut self) {
        let of_lost = &mut self.of_lost;
        self.told.retain(|(_, verdict, _), told| {
            if told.absent < PATIENCE {
                return true;
            }
            let lost = of_lost.entry(*verdict).or_default();
            lost.packets += told.counter.packets;
            lost.bytes += told.counter.bytes;
            false
        });
    }

    /// Those given up on, and those that may have to be.
    fn told_of_lost(&self, verdict: u64) -> Counter {
        let mut sum = self.of_lost.get(&verdict).copied().unwrap_or_default();
        for ((_, of, _), told) in &self.told {
            if *of == verdict && told.absent > 0 {
                sum.packets += told.counter.packets;
                sum.bytes += told.counter.bytes;
            }
        }
        sum
=======
        let told = &mut self.told;
        self.invalid += ring::drain(&mut self.ring, MAX_RECORDS, |record| {
            let before = told.remove(&record.gathering()).map_or_else(Counter::default, |it| it.1);
            tell_rest(&record, before, &mut tell);
        });
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
>>>>>>> main
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

fn less(left: Counter, right: Counter) -> Counter {
    Counter {
        packets: left.packets.saturating_sub(right.packets),
        bytes: left.bytes.saturating_sub(right.bytes),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use limiter_common::verdict::Reason;

    use super::*;

    const VERDICT: Verdict = Verdict::drop(Reason::Banned);

    /// Two CPUs with a few slots each, a ring that is sometimes full, a reader that comes at any
    /// time: in the end every packet was told once, as its source's or as lost.
    #[test]
    fn whatever_the_order_every_packet_is_told_once() {
        for seed in 1..200_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % below
            };
            let mut ledger = Ledger::default();
            let mut slots = [[DropSlot::default(); 2]; 2];
            let mut ring = VecDeque::new();
            let (mut sent, mut told, mut lost) = (0, 0, 0);
            for step in 0..2_000_u64 {
                let now_ns = step / 50 * 250_000_000;
                let source = Address::from_v4([192, 0, 2, u8::try_from(random(5)).unwrap()]);
                let slot = &mut slots[usize::try_from(random(2)).unwrap()]
                    [usize::try_from(random(2)).unwrap()];
                sent += 1;
                if let Some(record) = slot.gather(source, VERDICT, 60, now_ns) {
                    if random(4) == 0 {
                        lost += record.packets;
                    } else {
                        ring.push_back(record);
                    }
                }
                if random(20) == 0 {
                    ring.drain(..).for_each(|record| told += ledger.record(&record).packets);
                }
                if random(60) == 0 {
                    look(&mut ledger, &slots, &mut ring, &mut told);
                }
            }
            for _ in 0..=PATIENCE {
                look(&mut ledger, &slots, &mut ring, &mut told);
            }
            let of_lost = ledger.told_of_lost(VERDICT.counter() as u64 + 1).packets;
            // An occupancy of both CPUs of which one record was lost still has a slot: the other
            // CPU's news make up for it later.
            let ahead: u64 = ledger.told.values().map(|told| told.counter.packets).sum::<u64>()
                - slots.iter().flatten().map(|slot| slot.packets).sum::<u64>();
            assert_eq!(sent, told + lost - of_lost - ahead, "seed {seed}");
            assert!(ledger.told.len() <= 4 && ahead < 50, "seed {seed}: {ledger:?}");
        }
    }

    fn look(
        ledger: &mut Ledger,
        slots: &[[DropSlot; 2]; 2],
        ring: &mut VecDeque<DropSlot>,
        told: &mut u64,
    ) {
        let gathering: Vec<DropSlot> =
            slots.iter().flatten().filter(|slot| slot.packets > 0).copied().collect();
        ledger.look(&gathering, |_, news| *told += news.packets);
        ring.drain(..).for_each(|record| *told += ledger.record(&record).packets);
        ledger.forget_lost();
    }

    #[test]
    fn the_first_packets_record_may_come_after_a_look_at_its_slot() {
        let source = Address::from_v4([192, 0, 2, 1]);
        let mut slot = DropSlot::default();
        let first = slot.gather(source, VERDICT, 60, 10).unwrap();
        for _ in 0..2 {
            assert_eq!(slot.gather(source, VERDICT, 60, 10), None);
        }
        let mut ledger = Ledger::default();
        let mut told = 0;
        ledger.look(&[slot], |_, news| told += news.packets);
        told += ledger.record(&first).packets;
        ledger.look(&[slot], |_, news| told += news.packets);
        assert_eq!(told, 3);
    }
}
