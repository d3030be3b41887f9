//! What a fuzzer calls with arbitrary bytes, and what must hold of the outcome: shared by the
//! coverage-guided targets (`cargo xtask fuzz`) and by a short run of fixed seeds in the tests.

#[path = "fuzzing/link.rs"]
mod link;

use std::net::IpAddr;

use limiter_common::{
    address::{Address, Masks},
    bucket::BucketRate,
    headers::{Flaw, Parsed, parse},
    limits::{KINDS, Limits},
    lists::{ListValue, ListVerdict},
    machine::Native,
    maps::counter_index,
    ports::PortFacts,
    report::{DROP_WORDS, DropSlot},
    settings::{ServiceSettings, Settings, flags},
    source::{KeySet, Place, SlotSet},
    verdict::{Action, Reason, Verdict},
};

pub use limiter_user::{
    credentials::fuzzing::{certificate, key_set, listed, signed, token},
    proxy::fuzzing::{client_address, path, proxy_protocol, upstream_limits},
    store::fuzzing::answers,
};

pub use self::link::link;
use crate::{
    lists::{Entry, Lists},
    policy::Policy,
    reference::Reference,
};

/// What is done with one input: it panics where something does not hold.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 15] = [
    ("answers", answers),
    ("certificate", certificate),
    ("client_address", client_address),
    ("decide", decide),
    ("framing", framing),
    ("key_set", key_set),
    ("link", link),
    ("listed", listed),
    ("parser", parser),
    ("path", path),
    ("proxy_protocol", proxy_protocol),
    ("records", records),
    ("signed", signed),
    ("token", token),
    ("upstream_limits", upstream_limits),
];

/// Requests over HTTP/1, see [`limiter_user::proxy::fuzzing`].
pub fn framing(data: &[u8]) {
    limiter_user::proxy::fuzzing::framing(data);
}

const START_NS: u64 = 1_000_000_000_000;
const SETS: u32 = 4;

/// Bytes taken from the front; 0 where there are none left.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    fn some(&mut self, count: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        first
    }
}

/// A frame through the parser: no panic, nothing read that is not there, and what is said of it
/// does not contradict itself.
pub fn parser(frame: &[u8]) {
    match parse(frame) {
        Parsed::NotIp => assert!(frame.len() >= 14, "what has no type is malformed"),
        Parsed::Malformed(_, flaw) => assert_ne!(flaw, Flaw::None, "malformed, and nothing wrong"),
        Parsed::Ip(headers) => {
            // (A v4-mapped destination in an IPv6 packet is nobody's, and harmless.)
            assert!(headers.destination.is_v4() || !headers.source.is_v4());
            assert!(headers.has_ports || headers.destination_port == 0 && headers.tcp_flags == 0);
            assert!(!headers.has_ports || matches!(headers.protocol, 6 | 17));
            assert_eq!(headers.forget::<Native>(0x0123_4567_89ab_cdef), headers);
            // Ethernet pads: what follows a packet changes nothing.
            let padded = [frame, &[0; 7]].concat();
            assert_eq!(parse(&padded[..]), Parsed::Ip(headers));
        }
    }
    // Cut anywhere, it is another packet, and no panic.
    for length in (0..frame.len().min(128)).step_by(3) {
        parse(&frame[..length]);
    }
}

/// A policy, then frames and the times between them, through `decide`.
pub fn decide(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (policy, lists) = policy(&mut bytes);
    let mut host = Reference::new(SETS, 2);
    host.policy = policy;
    host.lists[0] = lists;
    let monitors = host.policy.settings.has(flags::MONITOR);
    let mut frames = 0_u64;
    while !bytes.0.is_empty() && frames < 64 {
        let what = bytes.byte();
        host.cpu = u32::from(what & 1);
        host.policy.settings.fixed_now_ns +=
            [0, 1, 1_000_000, 5_000_000_000][usize::from(what >> 1 & 3)];
        if (what >> 3).is_multiple_of(8) {
            let address = address(&mut bytes);
            host.ban(address, host.policy.settings.fixed_now_ns + 1_000_000);
        }
        let length = usize::from(bytes.byte());
        let frame = bytes.some(length);
        let (decision, counter, _) = host.run(frame);
        frames += 1;
        let verdict = decision.verdict;
        assert_eq!(counter, counter_index(0, verdict));
        assert!(!monitors || verdict.action != Action::Drop, "monitoring drops nothing");
        let is_malformed = verdict.reason == Reason::Malformed;
        assert_eq!(is_malformed, decision.flaw != Flaw::None, "{decision:?}");
        let is_trusted = host.naive_list(decision.source) == ListVerdict::Trusted;
        assert!(verdict.reason != Reason::Trusted || is_trusted, "{decision:?}");
        let told =
            matches!(verdict.reason, Reason::Denied | Reason::PacketRate | Reason::NotAllowed);
        assert!(!(told && is_trusted), "{decision:?}: a trusted source");
    }
    let counted: u64 = host.counters.iter().map(|counter| counter.packets).sum();
    assert_eq!(counted, frames);
    let refused: u64 = Action::ALL
        .into_iter()
        .filter(|action| matches!(action, Action::Drop | Action::Monitor))
        .flat_map(|action| {
            Reason::ALL.iter().map(move |reason| Verdict { action, reason: *reason })
        })
        .map(|verdict| host.counters[counter_index(0, verdict) as usize].packets)
        .sum();
    let told: u64 = host.records.iter().map(|record| record.packets).sum();
    let waiting: u64 = host.cpus.iter().flat_map(|cpu| &cpu.drops).map(|slot| slot.packets).sum();
    assert_eq!(refused, told + waiting, "every drop is told once");
}

fn address(bytes: &mut Bytes<'_>) -> Address {
    let last = bytes.byte();
    if last & 1 == 0 {
        IpAddr::from([192, 0, 2, last]).into()
    } else {
        let mut octets = [0; 16];
        octets[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        octets[15] = last;
        IpAddr::from(octets).into()
    }
}

fn policy(bytes: &mut Bytes<'_>) -> (Policy, Lists) {
    const SWITCHES: u64 = flags::MONITOR
        | flags::DEFAULT_DENY
        | flags::TABLE_FULL_DROP
        | flags::MALFORMED_PASS
        | flags::FRAGMENTS_DROP
        | flags::FRAGMENTS_PASS
        | flags::PRECISE_CLOCK
        | flags::TOTAL_LIMITS
        | flags::FORWARDING;
    let mut settings = Settings::open(u64::from(SETS), bytes.word());
    settings.generation = 1;
    settings.flags = bytes.word() & SWITCHES;
    settings.fixed_now_ns = START_NS;
    settings.masks = Masks::new(32 - (bytes.byte() & 7), 64 - (bytes.byte() & 7));
    settings.claims_per_window = u64::from(bytes.byte());
    settings.limits = limits(bytes);
    settings.total_limits = limits(bytes);
    settings.set_own([address(bytes), address(bytes)]);
    let service = ServiceSettings {
        flags: bytes.word() & 7,
        limits: limits(bytes),
        total_limits: limits(bytes),
    };
    let values = [ListValue::NONE, ListValue::ALLOW, ListValue::DENY, ListValue::TRUSTED];
    let count = bytes.byte() & 7;
    let mut entries: Vec<Entry> = Vec::new();
    for _ in 0..count {
        let (address, what) = (address(bytes), bytes.byte());
        let length = 128 - u32::from(what >> 2 & 31);
        let bits = u128::from_be_bytes(address.to_bytes()) & (u128::MAX << (128 - length));
        let network = IpAddr::from(bits.to_be_bytes()).into();
        let value = values[usize::from(what & 3)].trusted_on(u16::from(what >> 7));
        entries.retain(|entry| (entry.0, entry.1) != (length, network));
        entries.push((length, network, value));
    }
    let lists = Lists::new(entries, vec![(1, 96 + 28, address(bytes))], settings.masks);
    lists.apply(&mut settings, false);
    let policy = Policy::new(settings)
        .port(false, 22, PortFacts::default().failsafe())
        .port(false, 443, PortFacts::default().of_service(1).listening())
        .port(true, 53, PortFacts::default().of_service(1))
        .service(1, service);
    (policy, lists)
}

fn limits(bytes: &mut Bytes<'_>) -> Limits {
    let mut rate = |of: fn(u64, u64, u64) -> Option<BucketRate>| {
        let what = bytes.byte();
        let count = 1 << (what >> 4);
        of(count, 1_000_000_000, 1 << (what & 15)).filter(|_| what != 0).unwrap_or_default()
    };
    let mut kinds = [BucketRate::UNLIMITED; KINDS];
    for kind in &mut kinds[1..] {
        *kind = rate(BucketRate::new);
    }
    let (packets, of_bytes) = (rate(BucketRate::new), rate(BucketRate::of_bytes));
    let concurrent_connections = u64::from(bytes.byte() & 3);
    Limits {
        packets,
        bytes: of_bytes,
        kinds,
        concurrent_connections,
        flags: u64::from(bytes.byte() & 1),
    }
}

/// Words as they may lie in a map or a record, read back: no panic, and nothing lost.
pub fn records(data: &[u8]) {
    let mut bytes = Bytes(data);
    let words: [u64; DROP_WORDS] = std::array::from_fn(|_| bytes.word());
    let slot = DropSlot::from_words(words);
    if let Some(verdict) = slot.decode() {
        let decoded = DropSlot { verdict: DropSlot::word(verdict, 5), ..slot };
        assert_eq!(decoded.decode(), Some(verdict));
        assert_eq!(slot.on_cpu(3).decode(), Some(verdict));
    }
    let mut gathering = DropSlot { packets: slot.packets >> 1, bytes: slot.bytes >> 1, ..slot };
    let mut packets = gathering.packets;
    let mut now_ns = slot.since_ns;
    while !bytes.0.is_empty() {
        let (source, reason) = (address(&mut bytes), bytes.byte());
        let reason = Reason::ALL[usize::from(reason) % Reason::COUNT];
        now_ns = now_ns.wrapping_add(u64::from(bytes.byte()) << 24);
        packets += 1;
        let word = DropSlot::word(Verdict::drop(reason), u32::from(reason as u8) & 15);
        if let Some(record) = gathering.gather(source, word, 60, now_ns) {
            packets -= record.packets;
        }
        assert_eq!(gathering.packets, packets, "none is lost or counted twice");
    }
    let mut bytes = Bytes(data);
    let keys = std::array::from_fn(|_| bytes.word());
    assert_eq!(KeySet::from_words(keys).to_words(), keys);
    let slots = std::array::from_fn(|_| bytes.word());
    assert_eq!(SlotSet::from_words(&slots).to_words(), slots);
    if let Some(place) = Place::unpack(keys[0]) {
        assert!(place.way < 8 && Place::unpack(place.pack()) == Some(place));
    }
    let value = ListValue::from_word(keys[1]);
    assert_eq!(ListValue::from_word(value.word()), value);
    assert!((0..16).all(|slot| !ListVerdict::label(value.on(slot)).is_empty()));
}
