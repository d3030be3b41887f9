//! The host's side of the comparison: `decide` over plain memory, and beside it everything that
//! the program in the kernel keeps (bans and their hits, counters, pending drops, records).

use std::{cell::RefCell, collections::BTreeMap};

use limiter_common::{
    address::Address,
    ban::{Ban, FilterBit},
    decide::{Clock, Decision, Tables, decide},
    headers::Headers,
    machine::Native,
    maps::{COUNTERS_PER_INTERFACE, counter_index},
    report::{Counter, DROP_SLOTS, DropSlot},
    settings::{ListVerdict, Settings, flags},
    source::{SourceSet, SourceSlot, set_indices},
    verdict::Action,
};

/// Returned by a program that lets a packet through, drops it or answers it (`linux/bpf.h`).
const XDP_PASS: u32 = 2;
const XDP_DROP: u32 = 1;
const XDP_TX: u32 = 3;

/// An entry of a list: prefix length over the v4-mapped address, first address, verdict.
pub(crate) type Entry = (u32, Address, ListVerdict);

/// Everything the program has, in plain memory.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) settings: Settings,
    pub(crate) bans: RefCell<BTreeMap<u64, Ban>>,
    pub(crate) lists: [Vec<Entry>; 2],
    pub(crate) sets: Vec<SourceSet>,
    pub(crate) counters: Vec<Counter>,
    pub(crate) drops: Vec<DropSlot>,
    /// Records made and not yet compared.
    pub(crate) records: Vec<DropSlot>,
}

impl Reference {
    pub(crate) fn new(sets: u32) -> Self {
        Self {
            settings: Settings::open(u64::from(sets), 0),
            bans: RefCell::default(),
            lists: [Vec::new(), Vec::new()],
            sets: (0..sets).map(|_| SourceSet::empty()).collect(),
            counters: vec![Counter::default(); COUNTERS_PER_INTERFACE as usize],
            drops: vec![DropSlot::default(); DROP_SLOTS as usize],
            records: Vec::new(),
        }
    }

    /// What happens to a frame; the index of its counter and the XDP action.
    pub(crate) fn run(&mut self, frame: &[u8]) -> (Decision, u32, u32) {
        let now_ns = self.settings.fixed_now_ns;
        let decision = decide(frame, self, &Fixed(now_ns));
        let (bytes, verdict) = (frame.len() as u64, decision.verdict);
        let counter = counter_index(0, verdict);
        self.counters[counter as usize].add(bytes);
        if verdict.action != Action::Pass {
            let slot = &mut self.drops[DropSlot::index(decision.source) as usize];
            self.records.extend(slot.gather(decision.source, verdict, bytes, now_ns));
        }
        let action = match verdict.action {
            Action::Drop => XDP_DROP,
            Action::Pass | Action::Monitor => XDP_PASS,
            Action::Tx => XDP_TX,
        };
        (decision, counter, action)
    }

    /// The slot of a source, if it has one.
    pub(crate) fn slot(&self, source: Address) -> Option<&SourceSlot> {
        let key = source.source_key(self.settings.masks);
        let sets = set_indices(key, self.settings.hash_seed, self.settings.set_mask);
        sets.into_iter().find_map(|index| self.sets[index as usize].find::<Native>(key))
    }

    fn list_in_force(&self) -> &[Entry] {
        &self.lists[usize::from(self.settings.has(flags::LISTS_SECOND))]
    }
}

impl Tables for Reference {
    type Machine = Native;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn ban_filter(&self, word: u32) -> u64 {
        let bans = self.bans.borrow();
        let bits = bans.keys().map(|key| FilterBit::of(*key));
        bits.filter(|bit| bit.word == word).fold(0, |bits, bit| bits | bit.mask)
    }

    fn source_set(&self, index: u32) -> Option<&SourceSet> {
        self.sets.get(index as usize)
    }

    fn ban_expiry_ns(&self, key: u64) -> Option<u64> {
        let mut bans = self.bans.borrow_mut();
        let ban = bans.get_mut(&key)?;
        ban.packets += 1;
        Some(ban.expires_ns)
    }

    fn list(&self, address: Address) -> ListVerdict {
        let bits = |address: Address| u128::from_be_bytes(address.to_bytes());
        let matches = |&&(prefix, entry, _): &&Entry| {
            prefix == 0 || (bits(entry) ^ bits(address)) >> (128 - prefix) == 0
        };
        let longest = self.list_in_force().iter().filter(matches).max_by_key(|entry| entry.0);
        longest.map_or(ListVerdict::None, |entry| entry.2)
    }

    fn is_reply(&self, _headers: &Headers) -> bool {
        false
    }
}

/// A clock that stands still.
#[derive(Debug)]
struct Fixed(u64);

impl Clock for Fixed {
    fn coarse_ns(&self) -> u64 {
        self.0
    }

    fn precise_ns(&self) -> u64 {
        self.0
    }
}
