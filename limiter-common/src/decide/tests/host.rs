//! A host in plain memory, and the frames that come to it.

extern crate std;

use core::cell::Cell;
use std::{cell::RefCell, collections::HashMap, net::IpAddr, vec, vec::Vec};

use crate::{
    address::Address,
    ban::FilterBit,
    decide::{Clock, Tables, decide},
    headers::Headers,
    machine::Native,
    ports::PortSet,
    settings::{ListVerdict, Settings, flags},
    source::{SourceSet, SourceSlot},
    verdict::Verdict,
};

pub(super) const SECOND_NS: u64 = 1_000_000_000;
pub(super) const NOW_NS: u64 = 1_000 * SECOND_NS;
pub(super) const SOURCE: &str = "192.0.2.1";
pub(super) const SSH: u16 = 22;
pub(super) const WEB: u16 = 443;

/// A host with plain tables, whose clock stands still until it is moved.
pub(super) struct Host {
    pub(super) settings: Settings,
    pub(super) now_ns: Cell<u64>,
    pub(super) sets: Vec<SourceSet>,
    pub(super) bans: HashMap<u64, u64>,
    pub(super) hits: RefCell<Vec<u64>>,
    pub(super) lists: HashMap<Address, ListVerdict>,
    pub(super) looks: Cell<u32>,
    pub(super) has_socket: bool,
}

impl Host {
    pub(super) fn new() -> Self {
        let settings = Settings {
            generation: 1,
            failsafe_ports: PortSet::new(&[SSH]).unwrap(),
            listening_ports: PortSet::new(&[SSH, WEB]).unwrap(),
            ..Settings::open(4, 7)
        };
        Self {
            settings,
            now_ns: Cell::new(NOW_NS),
            sets: (0..4).map(|_| SourceSet::empty()).collect(),
            bans: HashMap::new(),
            hits: RefCell::default(),
            lists: HashMap::new(),
            looks: Cell::new(0),
            has_socket: false,
        }
    }

    pub(super) fn ban(&mut self, source: &str, seconds: u64) {
        self.bans.insert(address(source).ban_key(), self.now_ns.get() + seconds * SECOND_NS);
    }

    pub(super) fn name(&mut self, source: &str, verdict: ListVerdict) {
        self.lists.insert(address(source), verdict);
        self.settings.flags |= flags::LISTS;
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
        decide(frame, self, self).verdict
    }

    pub(super) fn slot(&self, source: &str) -> Option<&SourceSlot> {
        let key = address(source).source_key(self.settings.masks);
        self.sets.iter().find_map(|set| set.find::<Native>(key))
    }
}

impl Tables for Host {
    type Machine = Native;

    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn ban_filter(&self, word: u32) -> u64 {
        let bits = self.bans.keys().map(|key| FilterBit::of(*key));
        bits.filter(|bit| bit.word == word).fold(0, |bits, bit| bits | bit.mask)
    }

    fn source_set(&self, index: u32) -> Option<&SourceSet> {
        self.sets.get(index as usize)
    }

    fn ban_expiry_ns(&self, key: u64) -> Option<u64> {
        let expires_ns = self.bans.get(&key).copied()?;
        self.hits.borrow_mut().push(key);
        Some(expires_ns)
    }

    fn list(&self, address: Address) -> ListVerdict {
        self.looks.set(self.looks.get() + 1);
        self.lists.get(&address).copied().unwrap_or(ListVerdict::None)
    }

    fn is_reply(&self, _headers: &Headers) -> bool {
        self.has_socket
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
    let IpAddr::V4(source) = source.parse().unwrap() else { panic!("{source} is not IPv4") };
    let mut bytes = vec![2; 12];
    bytes.extend([8, 0, 0x45, 0, 0, 40, 0, 0]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(source.octets());
    bytes.extend([198, 51, 100, 1]);
    bytes.extend(5000_u16.to_be_bytes());
    bytes.extend(port.to_be_bytes());
    // UDP: a length of 8. TCP: part of the sequence number.
    bytes.extend([0, 8, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// `2001:db8::HOST` sends UDP.
pub(super) fn frame_v6(host: u8) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
    for last in [host, 99] {
        bytes.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    bytes.extend([0x13, 0x88, 0, 53, 0, 8, 0, 0]);
    bytes
}
