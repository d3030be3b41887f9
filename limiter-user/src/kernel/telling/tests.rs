//! The kernel's side simulated: slots of some CPUs, a ring that is too small, counters.

use limiter_common::{
    report::DROP_SLOTS,
    verdict::{Action, Reason},
};

use super::*;

const CPUS: u32 = 4;
const RING: usize = 512;

#[derive(Default)]
struct Kernel {
    slots: Vec<DropSlot>,
    ring: Vec<DropSlot>,
    counters: HashMap<Verdict, Counter>,
    lost: HashMap<Verdict, Counter>,
}

impl Kernel {
    fn new() -> Self {
        let slots = vec![DropSlot::default(); (CPUS * DROP_SLOTS) as usize];
        Self { slots, ..Self::default() }
    }

    fn drop(&mut self, cpu: u32, source: Address, verdict: Verdict, bytes: u64, now_ns: u64) {
        add(self.counters.entry(verdict).or_default(), Counter { packets: 1, bytes });
        let index = (cpu * DROP_SLOTS + DropSlot::index(source)) as usize;
        let Some(record) =
            self.slots[index].gather(source, DropSlot::word(verdict, 0), bytes, now_ns)
        else {
            return;
        };
        let record = record.on_cpu(cpu);
        if self.ring.len() < RING {
            self.ring.push(record);
        } else {
            let counter = Counter { packets: record.packets, bytes: record.bytes };
            add(self.lost.entry(record.decode().unwrap()).or_default(), counter);
        }
    }

    fn lost(&self) -> Vec<VerdictCount> {
        let lost = self.lost.iter();
        lost.map(|(&verdict, &counter)| VerdictCount { interface: 0, verdict, counter }).collect()
    }

    /// What an agent does: every 100 ms the records, and once a second all of it.
    fn collect(&mut self, telling: &mut Telling, all: bool, told: &mut HashMap<Verdict, Counter>) {
        let mut tell = |dropped: Dropped| {
            add(told.entry(dropped.verdict).or_default(), dropped.counter);
        };
        for record in self.ring.drain(..) {
            telling.record(&record, &mut tell);
        }
        if !all {
            return;
        }
        let mut look = Look::default();
        for (index, slot) in self.slots.iter().enumerate() {
            let cpu = u32::try_from(index).unwrap() / DROP_SLOTS;
            telling.slot(&mut look, &slot.on_cpu(cpu), &mut tell);
        }
        telling.end(look, |_| {});
        for news in telling.lost(&self.lost()) {
            add(told.entry(news.verdict).or_default(), news.counter);
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        self.0 >> 20
    }
}

/// Millions of spoofed sources for several reasons, a ring that overflows, agents that are killed
/// at any time: what is told is what was counted, and nothing grows.
#[test]
fn a_flood_of_spoofed_sources_is_told_exactly_in_bounded_memory() {
    let verdicts = [
        Verdict::drop(Reason::Banned),
        Verdict::drop(Reason::PacketRate),
        Verdict { action: Action::Monitor, reason: Reason::Denied },
    ];
    let most = (CPUS * DROP_SLOTS) as usize;
    let mut kernel = Kernel::new();
    let mut telling = Telling::default();
    let mut told = HashMap::new();
    let mut random = Random(7);
    let mut now_ns = 1;
    for step in 0..2_000_000_u64 {
        now_ns += random.next() % 20_000;
        // Every tenth from one of a few that go on.
        let source = if step % 10 == 0 { random.next() % 7 } else { random.next() };
        let source = Address { high: 0, low: source };
        let verdict = verdicts[(random.next() % 3) as usize];
        let cpu = u32::try_from(random.next()).unwrap_or(0) % CPUS;
        kernel.drop(cpu, source, verdict, 60 + step % 1400, now_ns);
        match random.next() % 100_000 {
            0..100 => kernel.collect(&mut telling, false, &mut told),
            100..110 => kernel.collect(&mut telling, true, &mut told),
            110..113 => {
                // Killed; what the next one reads first is what was saved last.
                let ledger = telling.ledger(1);
                telling = Telling::resume(&ledger);
                let sorted = |mut ledger: Ledger| {
                    ledger.told.sort_unstable();
                    ledger.told_and_lost.sort_unstable();
                    ledger.lost_told.sort_unstable();
                    ledger
                };
                assert_eq!(sorted(telling.ledger(1)), sorted(ledger));
            }
            _ => {}
        }
        assert!(telling.len() <= most + 2 * verdicts.len(), "{}", telling.len());
    }
    assert!(kernel.lost.values().any(|lost| lost.packets > 100_000), "{:?}", kernel.lost);
    kernel.collect(&mut telling, true, &mut told);
    assert_eq!(told, kernel.counters);
    kernel.collect(&mut telling, true, &mut told);
    assert_eq!(told, kernel.counters, "nothing is told twice");
}

#[test]
fn a_ledger_of_nonsense_is_nothing() {
    let ledger = Ledger {
        map: 1,
        told: vec![[u64::MAX; 6]],
        told_and_lost: vec![[u64::MAX, 1, 1]],
        lost_told: vec![[u64::MAX, 0, 1, 1], [0, 9999, 1, 1]],
        held: Vec::new(),
    };
    assert_eq!(Telling::resume(&ledger).len(), 0);
}
