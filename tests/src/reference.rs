//! The host's side of every comparison: `decide` over plain memory, and beside it everything that
//! the program in the kernel keeps (bans and their hits, counters, pending drops, records).

// Named, because the fuzz targets take this file from another place.
#[path = "reference/tables.rs"]
mod tables;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
};

use limiter_common::{
    address::Address,
    ban::{Ban, FILTER_WORDS, FilterBit, PrefixBit},
    decide::{Clock, Decision, decide},
    headers::Flaw,
    limits::Buckets,
    lists::ListVerdict,
    machine::Native,
    maps::{COUNTERS_PER_INTERFACE, SERVICE_COUNT, counter_index},
    report::{Counter, DROP_SLOTS, DropSlot},
    settings::{Settings, flags},
    source::{ClaimBudget, Home, KeySet, SlotSet, SourceSlot, find_in, pair_key},
    verdict::{Action, Reason},
};

use crate::{lists::Lists, policy::Policy};

/// Returned by a program that lets a packet through, drops it or answers it (`linux/bpf.h`).
const XDP_PASS: u32 = 2;
const XDP_DROP: u32 = 1;
const XDP_TX: u32 = 3;

/// What one decision asked of the maps, the stack and the clocks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Operations {
    /// Look-ups in array maps, which the JIT inlines.
    pub arrays: u32,
    /// Look-ups in hash maps.
    pub hashes: u32,
    /// Look-ups in prefix tries.
    pub tries: u32,
    /// Questions to the stack: sockets, routes.
    pub stack: u32,
    /// Readings of `CLOCK_MONOTONIC`; jiffies are read once for each packet.
    pub precise_clocks: u32,
}

/// What one CPU has for itself.
#[derive(Debug)]
pub struct PerCpu {
    /// Claims in this tick.
    pub claims: ClaimBudget,
    /// Shares of totals, by service.
    pub pending: Vec<Buckets>,
    /// Drops that gather.
    pub drops: Vec<DropSlot>,
}

/// Everything the program has, in plain memory.
#[derive(Debug)]
pub struct Reference {
    /// Settings (with the time), services, ports.
    pub policy: Policy,
    /// Bans of one address.
    pub bans: RefCell<BTreeMap<u64, Ban>>,
    /// Bans of prefixes.
    pub prefix_bans: RefCell<BTreeMap<(u32, Address), Ban>>,
    ban_filter: Vec<u64>,
    /// Both halves of the lists.
    pub lists: [Lists; 2],
    /// Keys of the source table.
    pub keys: Vec<KeySet>,
    /// Slots of the source table.
    pub slots: Vec<SlotSet>,
    /// What all sources may still send, by service.
    pub totals: Vec<Buckets>,
    /// By CPU.
    pub cpus: Vec<PerCpu>,
    /// The one that the next frame comes to.
    pub cpu: u32,
    /// Open connections by key.
    pub connections: HashMap<u64, u64>,
    /// Open connections by service.
    pub open_totals: Vec<u64>,
    /// Prefixes to which this host sends packets on.
    pub routes: Vec<(u32, Address)>,
    /// By verdict.
    pub counters: Vec<Counter>,
    /// By [`Flaw`].
    pub flaws: Vec<u64>,
    /// Records made and not yet compared.
    pub records: Vec<DropSlot>,
    operations: Cell<Operations>,
}

impl Reference {
    /// With so many sets and CPUs, and a policy that admits everything.
    pub fn new(sets: u32, cpus: usize) -> Self {
        let buckets = || (0..SERVICE_COUNT).map(|_| Buckets::default()).collect();
        let cpu = |_| PerCpu {
            claims: ClaimBudget::default(),
            pending: buckets(),
            drops: vec![DropSlot::default(); DROP_SLOTS as usize],
        };
        Self {
            policy: Policy::new(Settings::open(u64::from(sets), 0)),
            bans: RefCell::default(),
            prefix_bans: RefCell::default(),
            ban_filter: vec![0; FILTER_WORDS as usize],
            lists: Default::default(),
            keys: (0..sets).map(|_| KeySet::default()).collect(),
            slots: (0..sets).map(|_| SlotSet::default()).collect(),
            totals: buckets(),
            cpus: (0..cpus).map(cpu).collect(),
            cpu: 0,
            connections: HashMap::new(),
            open_totals: vec![0; SERVICE_COUNT as usize],
            routes: Vec::new(),
            counters: vec![Counter::default(); COUNTERS_PER_INTERFACE as usize],
            flaws: vec![0; Flaw::ALL.len()],
            records: Vec::new(),
            operations: Cell::default(),
        }
    }

    /// What happens to a frame; the index of its counter and the XDP action.
    pub fn run(&mut self, frame: &[u8]) -> (Decision, u32, u32) {
        let now_ns = self.policy.settings.fixed_now_ns;
        // The control words and the settings.
        self.operations.set(Operations { arrays: 2, ..Operations::default() });
        let decision = decide(frame, self, self);
        let (bytes, verdict) = (frame.len() as u64, decision.verdict);
        let counter = counter_index(0, verdict);
        self.count(|operations| operations.arrays += 1);
        self.counters[counter as usize].add(bytes);
        if verdict.reason == Reason::Malformed {
            self.count(|operations| operations.arrays += 1);
            self.flaws[decision.flaw as usize] += 1;
        }
        if let Action::Drop | Action::Monitor = verdict.action {
            self.count(|operations| operations.arrays += 1);
            let drops = &mut self.cpus[self.cpu as usize].drops;
            let slot = &mut drops[DropSlot::index(decision.source) as usize];
            let record = slot.gather(decision.source, DropSlot::word(verdict, 0), bytes, now_ns);
            self.records.extend(record.map(|record| record.on_cpu(self.cpu)));
        }
        let action = match verdict.action {
            Action::Drop => XDP_DROP,
            Action::Pass | Action::Monitor => XDP_PASS,
            Action::Tx => XDP_TX,
        };
        (decision, counter, action)
    }

    /// What the last frame cost.
    pub fn operations(&self) -> Operations {
        self.operations.get()
    }

    fn count(&self, add: impl FnOnce(&mut Operations)) {
        let mut operations = self.operations.get();
        add(&mut operations);
        self.operations.set(operations);
    }

    /// Bans the key of an address.
    pub fn ban(&mut self, address: Address, expires_ns: u64) {
        let key = address.ban_key();
        self.bans.get_mut().insert(key, Ban { expires_ns, packets: 0 });
        let bit = FilterBit::of(key);
        self.ban_filter[bit.word as usize] |= bit.mask;
    }

    /// Bans the first `length` (at least 16, of IPv4 at least 112) bits of an address.
    pub fn ban_prefix(&mut self, length: u32, address: Address, expires_ns: u64) {
        self.prefix_bans.get_mut().insert((length, address), Ban { expires_ns, packets: 0 });
        for address in touched(length, address) {
            let bit = PrefixBit::of(address);
            self.ban_filter[bit.word as usize] |= bit.mask;
        }
    }

    /// Forgets every source and what they owe.
    pub fn clear_sources(&mut self) {
        self.keys.fill_with(KeySet::default);
        self.slots.fill_with(SlotSet::default);
    }

    /// The slot of a source, if it has one; with a service its slot there.
    pub fn slot(&self, source: Address, service: u32) -> Option<&SourceSlot> {
        let settings = &self.policy.settings;
        let mut key = source.source_key(settings.masks);
        if service != 0 {
            key = pair_key(key, service, settings.hash_seed);
        }
        let home = Home::of(key, settings.hash_seed, settings.set_mask);
        let place = find_in::<Native>(|set| self.keys.get(set as usize), home, key)?;
        self.slots[place.set as usize].slot(place.way)
    }

    /// What the lists say of an address, by the longest of all entries.
    pub fn naive_list(&self, address: Address) -> ListVerdict {
        self.list_in_force().naive(address).on(0)
    }

    fn list_in_force(&self) -> &Lists {
        &self.lists[usize::from(self.policy.settings.has(flags::LISTS_SECOND))]
    }
}

/// One address of each network that has a bit of its own in the filter before banned prefixes.
pub fn touched(length: u32, address: Address) -> Vec<Address> {
    let (bits, unit): (u32, u32) = if address.is_v4() { (96 + 16, 16) } else { (32, 96) };
    let first = u128::from_be_bytes(address.to_bytes());
    let count = 1_u128 << bits.saturating_sub(length);
    (0..count)
        .map(|number| (first + (number << unit)).to_be_bytes())
        .map(|bytes| Address::from(std::net::IpAddr::from(bytes)))
        .collect()
}

impl Clock for Reference {
    fn coarse_ns(&self) -> u64 {
        self.policy.settings.fixed_now_ns
    }

    fn precise_ns(&self) -> u64 {
        self.count(|operations| operations.precise_clocks += 1);
        self.policy.settings.fixed_now_ns
    }
}
