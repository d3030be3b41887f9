//! What the kernel tells user space about what it did: counters, and aggregated drops.
//!
//! Each CPU has a small direct-mapped table of [`DropSlot`]s. Drops of one source for one reason
//! gather in its slot and leave it as a record once a second, or when another source needs the
//! slot. The kernel is the only writer of a slot, so that user space can read what is still
//! pending without disturbing it, and counters = records + pending + lost, exactly.

use crate::{
    address::Address,
    verdict::{Action, Reason, Verdict},
};

/// How many slots each CPU has.
pub const DROP_SLOTS: u32 = 256;

/// How long drops gather, ns.
pub const GATHER_NS: u64 = 1_000_000_000;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, of the whole frame.
    pub bytes: u64,
}

impl Counter {
    /// Counts one packet.
    #[inline]
    pub fn add(&mut self, bytes: u64) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes);
    }
}

/// Drops of one source for one reason: a slot of the table, and the record in the ring buffer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct DropSlot {
    /// Source address; IPv6 in full, not its prefix.
    pub source: Address,
    /// [`Verdict::counter`] plus 1 in the low 16 bits (0: the slot was never used), the slot of the
    /// interface in the next; in a record, the CPU in the high half.
    pub verdict: u64,
    /// When these began to gather, `CLOCK_MONOTONIC` ns (coarse); 0 in the record of the first
    /// drop, which never was in the slot.
    pub since_ns: u64,
    /// Packets gathered.
    pub packets: u64,
    /// Bytes gathered.
    pub bytes: u64,
}

const LOW_HALF: u64 = 0xffff_ffff;

const INTERFACE_SHIFT: u32 = 16;

/// Words of a [`DropSlot`], as user space reads it.
pub const DROP_WORDS: usize = 6;

impl DropSlot {
    /// Which slot a source's drops gather in.
    #[inline]
    pub fn index(source: Address) -> u32 {
        let hash = (source.high ^ source.low).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 32) as u32 & (DROP_SLOTS - 1)
    }

    /// What slots know of a packet beside its source, as [`Self::verdict`] has it.
    #[inline]
    pub const fn word(verdict: Verdict, interface: u32) -> u64 {
        (verdict.counter() as u64 + 1) | ((interface as u64) << INTERFACE_SHIFT)
    }

    /// Adds a drop with this [`Self::word`]. Returns a record that is complete and leaves the slot: this source's second,
    /// or what the slot held of another source. The first drop of a source leaves at once, so
    /// that it is seen at once.
    #[inline]
    pub fn gather(
        &mut self,
        source: Address,
        verdict: u64,
        bytes: u64,
        now_ns: u64,
    ) -> Option<Self> {
        if self.verdict == verdict && self.source == source {
            self.packets = self.packets.wrapping_add(1);
            self.bytes = self.bytes.wrapping_add(bytes);
            if now_ns.wrapping_sub(self.since_ns) < GATHER_NS {
                return None;
            }
            let complete = *self;
            self.since_ns = now_ns;
            self.packets = 0;
            self.bytes = 0;
            return Some(complete);
        }
        let previous = *self;
        *self = Self { source, verdict, since_ns: now_ns, packets: 0, bytes: 0 };
        if previous.packets == 0 {
            return Some(Self { source, verdict, since_ns: 0, packets: 1, bytes });
        }
        self.packets = 1;
        self.bytes = bytes;
        Some(previous)
    }

    /// The record as it leaves this CPU.
    #[inline]
    #[must_use]
    pub const fn on_cpu(mut self, cpu: u32) -> Self {
        self.verdict = (self.verdict & LOW_HALF) | ((cpu as u64) << 32);
        self
    }

    /// What tells one gathering from every other: CPU, source, verdict and begin.
    pub const fn gathering(&self) -> (u64, Address, u64) {
        (self.verdict, self.source, self.since_ns)
    }

    /// The slot of the interface that the packets came in on.
    #[inline]
    pub const fn interface(&self) -> u32 {
        (self.verdict >> INTERFACE_SHIFT) as u32 & 0xffff
    }

    /// Action and reason, if the number is one that this version knows.
    pub fn decode(&self) -> Option<Verdict> {
        let counter = usize::try_from((self.verdict & 0xffff).checked_sub(1)?).ok()?;
        let action = *Action::ALL.get(counter / Reason::COUNT)?;
        let reason = *Reason::ALL.get(counter % Reason::COUNT)?;
        Some(Verdict { action, reason })
    }

    /// From the words that user space read.
    pub const fn from_words(words: [u64; DROP_WORDS]) -> Self {
        let [high, low, verdict, since_ns, packets, bytes] = words;
        Self { source: Address { high, low }, verdict, since_ns, packets, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERDICT: Verdict = Verdict::drop(Reason::Banned);
    const WORD: u64 = DropSlot::word(VERDICT, 7);

    fn source(last: u8) -> Address {
        Address::from_v4([192, 0, 2, last])
    }

    #[test]
    fn the_first_leaves_at_once_the_rest_once_a_second() {
        let mut slot = DropSlot::default();
        let first = slot.gather(source(1), WORD, 60, 10).unwrap();
        assert_eq!((first.packets, first.bytes, first.decode()), (1, 60, Some(VERDICT)));
        assert_eq!(first.on_cpu(9).interface(), 7);
        for packet in 0..5 {
            assert_eq!(slot.gather(source(1), WORD, 60, 11 + packet), None);
        }
        let second = slot.gather(source(1), WORD, 60, 10 + GATHER_NS).unwrap();
        assert_eq!((second.packets, second.bytes), (6, 360));
        assert_eq!(slot.packets, 0);
    }

    #[test]
    fn nothing_is_lost_or_counted_twice() {
        let mut state = 99_u64;
        let mut slots = [DropSlot::default(); 4];
        let (mut sent, mut told, mut now) = (0, 0, 0);
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let source = source((state >> 60) as u8);
            let reason = Reason::ALL[(state >> 33) as usize % Reason::COUNT];
            now += (state >> 40) % 1_000_000;
            sent += 1;
            let slot = &mut slots[(state >> 50) as usize % 4];
            if let Some(record) =
                slot.gather(source, DropSlot::word(Verdict::drop(reason), 3), 1, now)
            {
                assert_eq!(record.packets, record.bytes);
                told += record.packets;
            }
        }
        let pending: u64 = slots.iter().map(|slot| slot.packets).sum();
        assert_eq!(sent, told + pending);
    }

    #[test]
    fn garbage_decodes_to_nothing() {
        assert_eq!(DropSlot::default().decode(), None);
        let garbage = DropSlot { verdict: u64::MAX, ..DropSlot::default() };
        assert_eq!(garbage.decode(), None);
        let slot = DropSlot { verdict: VERDICT.counter() as u64 + 1, ..DropSlot::default() };
        assert_eq!(slot.on_cpu(7).decode(), Some(VERDICT));
        assert_ne!(slot.on_cpu(7).gathering(), slot.on_cpu(6).gathering());
        assert_eq!(size_of::<DropSlot>(), DROP_WORDS * 8);
        assert!(DropSlot::index(source(200)) < DROP_SLOTS);
    }
}
