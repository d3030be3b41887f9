//! A host in plain memory, and the frames that come to it.

extern crate std;

use core::cell::{Cell, RefCell};
use std::{collections::HashMap, net::IpAddr, vec, vec::Vec};

use crate::{
    address::Address,
    ban::{FilterBit, PrefixBit},
    decide::{Clock, Decision, Tables, decide},
    headers::Headers,
    limits::Buckets,
    lists::{FilterBits, ListValue, V6_LEVELS, bitmap_bit, summary_bit},
    machine::Native,
    ports::{PORT_WORDS, PortFacts, port_word},
    settings::{MAX_SERVICES, ServiceSettings, Settings, flags},
    source::{ClaimBudget, Home, KeySet, SlotSet, SourceSlot, find_in, pair_key},
    verdict::Verdict,
};

pub(super) const SECOND_NS: u64 = 1_000_000_000;
pub(super) const NOW_NS: u64 = 1_000 * SECOND_NS;
pub(super) const SOURCE: &str = "192.0.2.1";
pub(super) const HOST: &str = "198.51.100.1";
pub(super) const SSH: u16 = 22;
pub(super) const WEB: u16 = 443;
const SETS: u32 = 4;

/// A host with plain tables, whose clock stands still until it is moved.
#[expect(clippy::struct_excessive_bools, reason = "answers of the kernel, each set alone")]
pub(super) struct Host {
    pub(super) settings: Settings,
    pub(super) now_ns: Cell<u64>,
    pub(super) keys: Vec<KeySet>,
    pub(super) slots: Vec<SlotSet>,
    pub(super) ports: Vec<u64>,
    pub(super) services: Vec<ServiceSettings>,
    pub(super) bans: HashMap<u64, u64>,
    pub(super) prefix_bans: Vec<(u32, Address, u64)>,
    pub(super) hits: RefCell<Vec<Address>>,
    pub(super) lists: Vec<(u32, Address, ListValue)>,
    pub(super) admitted: Vec<(u32, Address)>,
    /// How often the lists were asked.
    pub(super) looks: Cell<u32>,
    pub(super) budget: ClaimBudget,
    pub(super) random: Cell<u32>,
    pub(super) cpu: Cell<u32>,
    pub(super) totals: Vec<Buckets>,
    pub(super) pending: Vec<Buckets>,
    pub(super) open: HashMap<u64, u64>,
    pub(super) open_totals: Vec<u64>,
    pub(super) interface: u32,
    pub(super) is_loopback: bool,
    pub(super) has_socket: bool,
    pub(super) is_router: bool,
    pub(super) has_cookies: bool,
    /// How many connection requests were answered.
    pub(super) answers: Cell<u32>,
}

impl Host {
    pub(super) fn new() -> Self {
        let mut settings = Settings { generation: 1, ..Settings::open(SETS.into(), 7) };
        settings.list_filter_mask = 63;
        settings.set_own([address(HOST)]);
        let buckets = || (0..=MAX_SERVICES).map(|_| Buckets::default()).collect();
        let mut host = Self {
            settings,
            now_ns: Cell::new(NOW_NS),
            keys: (0..SETS).map(|_| KeySet::default()).collect(),
            slots: (0..SETS).map(|_| SlotSet::default()).collect(),
            ports: vec![0; PORT_WORDS as usize],
            services: vec![ServiceSettings::default(); MAX_SERVICES as usize + 1],
            bans: HashMap::new(),
            prefix_bans: Vec::new(),
            hits: RefCell::default(),
            lists: Vec::new(),
            admitted: Vec::new(),
            looks: Cell::new(0),
            budget: ClaimBudget::default(),
            random: Cell::new(1),
            cpu: Cell::new(0),
            totals: buckets(),
            pending: buckets(),
            open: HashMap::new(),
            open_totals: vec![0; MAX_SERVICES as usize + 1],
            interface: 0,
            is_loopback: false,
            has_socket: false,
            is_router: false,
            has_cookies: false,
            answers: Cell::new(0),
        };
        host.port(false, SSH, PortFacts::default().listening().failsafe());
        host.port(false, WEB, PortFacts::default().listening());
        host
    }

    pub(super) fn port(&mut self, is_udp: bool, port: u16, facts: PortFacts) {
        let word = &mut self.ports[port_word(is_udp, port) as usize];
        *word = facts.put(*word, port);
    }

    pub(super) fn ban(&mut self, source: &str, seconds: u64) {
        self.bans.insert(address(source).ban_key(), self.now_ns.get() + seconds * SECOND_NS);
    }

    /// Bans the first `length` bits (of IPv4: after 96) of an address.
    pub(super) fn ban_prefix(&mut self, prefix: &str, length: u32, seconds: u64) {
        let expires_ns = self.now_ns.get() + seconds * SECOND_NS;
        self.prefix_bans.push((length, address(prefix), expires_ns));
    }

    /// Lists an address.
    pub(super) fn name(&mut self, source: &str, value: ListValue) {
        self.name_prefix(source, 128, value);
    }

    /// Lists the first `length` bits (of IPv4: after 96) of an address.
    pub(super) fn name_prefix(&mut self, prefix: &str, length: u32, value: ListValue) {
        let address = address(prefix);
        self.lists.retain(|entry| (entry.0, entry.1) != (length, address));
        self.lists.push((length, address, value));
        self.settings.flags |= match (address.is_v4(), length) {
            (true, 128) => flags::LISTS_EXACT_V4,
            (false, 128) => flags::LISTS_EXACT_V6 | flags::FINE_V6,
            (true, _) => flags::LISTS_PREFIX_V4,
            (false, ..32) => flags::LISTS_SHORT_V6,
            (false, _) => flags::LISTS_PREFIX_V6,
        };
        self.settings.generation += 1;
    }

    /// What happens to a segment from `source`.
    pub(super) fn tcp(&self, source: &str, port: u16, flags: u8) -> Verdict {
        self.frame(&frame(source, 6, port, flags, 0))
    }

    pub(super) fn udp(&self, source: &str) -> Verdict {
        self.frame(&frame(source, 17, 40_000, 0, 0))
    }

    /// What happens to a datagram from `source` to a service.
    pub(super) fn service_udp(&self, source: &str) -> Verdict {
        self.frame(&frame(source, 17, 53, 0, 0))
    }

    pub(super) fn frame(&self, frame: &[u8]) -> Verdict {
        self.decide(frame).verdict
    }

    pub(super) fn decide(&self, frame: &[u8]) -> Decision {
        decide(frame, self, self)
    }

    pub(super) fn slot(&self, source: &str) -> Option<&SourceSlot> {
        self.slot_of(address(source).source_key(self.settings.masks))
    }

    pub(super) fn slot_at(&self, source: &str, service: u32) -> Option<&SourceSlot> {
        self.slot_of(self.pair(source, service))
    }

    pub(super) fn pair(&self, source: &str, service: u32) -> u64 {
        let key = address(source).source_key(self.settings.masks);
        pair_key(key, service, self.settings.hash_seed)
    }

    fn slot_of(&self, key: u64) -> Option<&SourceSlot> {
        let home = Home::of(key, self.settings.hash_seed, self.settings.set_mask);
        let place = find_in::<Native>(|set| self.keys.get(set as usize), home, key)?;
        self.slots[place.set as usize].slot(place.way)
    }

    /// Everything that packets change.
    pub(super) fn state(&self) -> Vec<u64> {
        let keys = self.keys.iter().flat_map(KeySet::to_words);
        let slots = self.slots.iter().flat_map(SlotSet::to_words);
        let buckets = self.totals.iter().chain(&self.pending).flat_map(Buckets::words);
        keys.chain(slots)
            .chain(buckets.map(|word| word.load(core::sync::atomic::Ordering::Relaxed)))
            .collect()
    }

    fn longest<V>(entries: &[(u32, Address, V)], address: Address) -> Option<&V> {
        entries
            .iter()
            .filter(|entry| covers(entry.0, entry.1, address))
            .max_by_key(|entry| entry.0)
            .map(|entry| &entry.2)
    }
}

fn covers(length: u32, prefix: Address, address: Address) -> bool {
    let bits = |address: Address| u128::from_be_bytes(address.to_bytes());
    (bits(prefix) ^ bits(address)).checked_shr(128 - length).unwrap_or(0) == 0
}

impl Tables for Host {
    type Machine = Native;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn interface(&self) -> u32 {
        self.interface
    }

    fn is_loopback(&self) -> bool {
        self.is_loopback
    }

    fn cpu(&self) -> u32 {
        self.cpu.get()
    }

    fn random(&self) -> u32 {
        self.random.get()
    }

    fn port_word(&self, word: u32) -> u64 {
        self.ports[word as usize]
    }

    fn service(&self, number: u32) -> Option<&ServiceSettings> {
        self.services.get(number as usize)
    }

    fn ban_filter(&self, word: u32) -> u64 {
        let exact = self.bans.keys().map(|key| FilterBit::of(*key)).map(|bit| (bit.word, bit.mask));
        let prefixes = self.prefix_bans.iter().map(|(_, prefix, _)| PrefixBit::of(*prefix));
        let bits = exact.chain(prefixes.map(|bit| (bit.word, bit.mask)));
        bits.filter(|bit| bit.0 == word).fold(0, |bits, bit| bits | bit.1)
    }

    fn ban_expiry_ns(&self, key: u64) -> Option<u64> {
        let expires_ns = self.bans.get(&key).copied()?;
        self.hits.borrow_mut().push(Address::from_key(key));
        Some(expires_ns)
    }

    fn has_prefix_bans(&self) -> bool {
        !self.prefix_bans.is_empty()
    }

    fn prefix_ban_expiry_ns(&self, address: Address) -> Option<u64> {
        let expires_ns = Self::longest(&self.prefix_bans, address)?;
        self.hits.borrow_mut().push(address);
        Some(*expires_ns)
    }

    fn list_filter(&self, word: u32) -> u64 {
        let mask = self.settings.list_filter_mask;
        let bits = self.lists.iter().filter_map(|(length, address, _)| match *length {
            128 => Some(FilterBits::of_address(*address, mask)),
            length if address.is_v4() || length < 32 => None,
            length => {
                let level = V6_LEVELS.into_iter().rev().find(|level| u32::from(*level) <= length);
                Some(FilterBits::of_v6_level(*address, level?, mask))
            }
        });
        bits.filter(|bits| bits.word == word).fold(0, |all, bits| all | bits.mask)
    }

    fn list_bitmap(&self, word: u32) -> u64 {
        // A prefix of these tests is a /24 or longer.
        let v4 = self.lists.iter().filter(|entry| entry.1.is_v4() && entry.0 < 128);
        let bits = v4.flat_map(|entry| [bitmap_bit(entry.1), summary_bit(entry.1)]);
        bits.filter(|bit| bit.0 == word).fold(0, |all, bit| all | bit.1)
    }

    fn list_exact(&self, address: Address) -> Option<ListValue> {
        self.looks.set(self.looks.get() + 1);
        self.lists.iter().find(|entry| entry.0 == 128 && entry.1 == address).map(|entry| entry.2)
    }

    fn list_prefix(&self, address: Address) -> Option<ListValue> {
        self.looks.set(self.looks.get() + 1);
        let prefixes: Vec<_> = self.lists.iter().filter(|entry| entry.0 < 128).copied().collect();
        Self::longest(&prefixes, address).copied()
    }

    fn is_listed(&self, service: u32, address: Address) -> bool {
        self.admitted.contains(&(service, address))
    }

    fn keys(&self, set: u32) -> Option<&KeySet> {
        self.keys.get(set as usize)
    }

    fn slots(&self, set: u32) -> Option<&SlotSet> {
        self.slots.get(set as usize)
    }

    fn claim_budget(&self) -> Option<&ClaimBudget> {
        Some(&self.budget)
    }

    fn totals(&self, service: u32) -> Option<&Buckets> {
        self.totals.get(service as usize)
    }

    fn pending(&self, service: u32) -> Option<&Buckets> {
        self.pending.get(service as usize)
    }

    fn open_connections(&self, key: u64) -> u64 {
        self.open.get(&key).copied().unwrap_or(0)
    }

    fn open_total(&self, service: u32) -> u64 {
        self.open_totals[service as usize]
    }

    fn is_reply(&self, _headers: &Headers) -> bool {
        self.has_socket
    }

    fn is_forwarded(&self, _headers: &Headers) -> bool {
        self.is_router
    }

    fn has_syn_cookies(&self) -> bool {
        self.has_cookies
    }

    fn answer(&self, _headers: &Headers) -> bool {
        self.answers.set(self.answers.get() + 1);
        true
    }
}

impl Clock for Host {
    fn coarse_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn precise_ns(&self) -> u64 {
        self.now_ns.get()
    }
}

pub(super) fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// IPv4 with 20 bytes of TCP or UDP; `fragment` is the word of flags and offset.
pub(super) fn frame(source: &str, protocol: u8, port: u16, flags: u8, fragment: u16) -> Vec<u8> {
    let octets = |text: &str| match text.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("{text} is not IPv4"),
    };
    let mut bytes = vec![2; 12];
    bytes.extend([8, 0, 0x45, 0, 0, 40, 0, 0]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(octets(source));
    bytes.extend(octets(HOST));
    bytes.extend(5000_u16.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    // UDP: a length of 8. TCP: part of the sequence number.
    bytes.extend([0, 8, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// An IPv6 source sends UDP.
pub(super) fn frame_v6(source: &str) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
    for text in [source, "2001:db8:ffff::1"] {
        bytes.extend(address(text).to_bytes());
    }
    bytes.extend([0x13, 0x88, 0x9c, 0x40, 0, 8, 0, 0]);
    bytes
}
