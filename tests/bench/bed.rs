//! A program with everything switched on, and beside it the same on the host, which counts what a
//! packet asks for.

use std::net::Ipv4Addr;

use limiter_common::{
    address::Address,
    bucket::BucketRate,
    limits::{KINDS, Limits},
    lists::ListValue,
    ports::PortFacts,
    settings::{ServiceSettings, Settings, flags, service_flags},
};
use limiter_tests::{
    lists::{Entry, Lists},
    policy::Policy,
    program::{Options, Program},
    reference::{Operations, Reference},
};
use limiter_user::clock;

const SETS: u32 = 65_536;
const SECOND_NS: u64 = 1_000_000_000;
const FAR_NS: u64 = u64::MAX >> 2;
/// Bans of addresses that no measured packet has.
const OTHER_BANS: u32 = 10_000;
/// As many sources as `rotate_some` has.
pub(crate) const ROTATED: u32 = 65_536;

/// Both.
pub(crate) struct Bed {
    pub(crate) program: Program,
    reference: Reference,
}

pub(crate) fn rate(count: u64, period_ns: u64, burst: u64) -> BucketRate {
    BucketRate::new(count, period_ns, burst).expect("a rate within bounds")
}

/// Every limit, none of which a measurement exhausts.
pub(crate) fn limits() -> Limits {
    let packets = rate(10_000_000, SECOND_NS, 1 << 40);
    let bytes = BucketRate::of_bytes(12_500_000_000, SECOND_NS, 1 << 50).expect("within bounds");
    let mut kinds = [packets; KINDS];
    kinds[0] = BucketRate::UNLIMITED;
    Limits { packets, bytes, kinds, concurrent_connections: 1_000, flags: 0 }
}

/// As [`limits`], of all sources together: shares are charged after so many packets.
fn total_limits() -> Limits {
    let burst = rate(10_000_000, SECOND_NS, 1 << 30);
    let mut limits = Limits { packets: burst, ..limits() };
    for kind in &mut limits.kinds[1..] {
        *kind = burst;
    }
    Limits { concurrent_connections: 1_000_000, ..limits }
}

/// Everything switched on.
pub(crate) fn everything() -> Policy {
    let mut settings = Settings {
        generation: 1,
        flags: flags::TOTAL_LIMITS | flags::FORWARDING,
        limits: limits(),
        total_limits: total_limits(),
        ..Settings::open(u64::from(SETS), 0x9e37_79b9_7f4a_7c15)
    };
    settings.set_own(["198.51.100.1", "2001:db8:1::1"].map(address));
    let listening = PortFacts::default().listening();
    let service = ServiceSettings {
        flags: service_flags::SOURCE_LIMITS | service_flags::TOTAL_LIMITS,
        limits: limits(),
        total_limits: total_limits(),
    };
    Policy::new(settings)
        .port(false, 22, listening.failsafe())
        .port(false, 80, listening.of_service(1))
        .port(true, 80, listening.of_service(1))
        .port(false, 443, listening)
        .service(1, service)
}

/// Sixteen entries that no measured packet has.
pub(crate) fn few() -> Vec<Entry> {
    let exact = (0..8).map(|last| (128, Address::from_v4([203, 0, 113, last]), ListValue::DENY));
    let prefixes =
        (0..8).map(|net| (96 + 24, Address::from_v4([198, 18, net, 0]), ListValue::ALLOW));
    exact.chain(prefixes).collect()
}

/// A million entries all over the address space, of which one in `prefixes` is a /24 and (without
/// it) none; none is or has one of the sources of `rotate_some`.
pub(crate) fn million(prefixes: Option<u32>) -> Vec<Entry> {
    let rotated: Vec<u32> = (0..ROTATED).map(rotated_source).collect();
    let mut taken: std::collections::HashSet<u32> = rotated.iter().copied().collect();
    let mut networks: std::collections::HashSet<u32> = rotated.iter().map(|ip| ip >> 8).collect();
    let mut entries = Vec::with_capacity(1_000_000);
    let mut state = 0x1234_5678_u32;
    while entries.len() < 1_000_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let ip = state ^ (state >> 15);
        let is_prefix = prefixes.is_some_and(|one_in| entries.len() % one_in as usize == 0);
        if is_prefix && networks.insert(ip >> 8) {
            let network = Ipv4Addr::from_bits(ip & 0xffff_ff00);
            entries.push((96 + 24, Address::from_v4(network.octets()), ListValue::DENY));
        } else if !is_prefix && taken.insert(ip) {
            let address = Address::from_v4(ip.to_be_bytes());
            entries.push((128, address, ListValue::DENY));
        }
    }
    entries
}

/// The sources of `rotate_some`.
fn rotated_source(number: u32) -> u32 {
    (number.wrapping_mul(0x9e37_79b1) & 0xffff_ff7f).swap_bytes()
}

pub(crate) fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

impl Bed {
    pub(crate) fn new(mut policy: Policy, entries: Vec<Entry>) -> Self {
        let room = u32::try_from(entries.len()).expect("few").max(1_024);
        let options = Options { sets: SETS, bans: 65_536, lists: room, fixed_clock: false };
        let mut program = Program::load(options);
        let lists = Lists::new(entries, Vec::new(), policy.settings.masks);
        lists.apply(&mut policy.settings, false);
        program.set_lists(false, lists.clone());
        program.calibrate(&mut policy.settings);
        program.switch(&policy);
        program.set_open_total(0, 2_000);
        // One set, so that it is full soon: what is counted is the same.
        let mut reference = Reference::new(1, 1);
        reference.policy = policy;
        reference.policy.settings.set_mask = 0;
        reference.policy.settings.fixed_now_ns = clock::monotonic_ns();
        reference.open_totals[0] = 2_000;
        reference.lists[0] = lists;
        let mut bed = Self { program, reference };
        for number in 0..OTHER_BANS {
            let other = Ipv4Addr::from_bits(0x0a00_0000 + number * 7);
            bed.ban(Address::from_v4(other.octets()));
        }
        for net in 0..16 {
            let prefix = Address::from_v4([172, 16 + net, 0, 0]);
            bed.program.ban_prefix(96 + 16, prefix, FAR_NS);
            bed.reference.ban_prefix(96 + 16, prefix, FAR_NS);
        }
        bed
    }

    pub(crate) fn ban(&mut self, address: Address) {
        self.program.ban(address, FAR_NS);
        self.reference.ban(address, FAR_NS);
    }

    /// What a frame asks for once its source is known; with `fill` where every slot is taken.
    pub(crate) fn operations(&mut self, frame: &[u8], fill: &[Vec<u8>]) -> Operations {
        for frame in fill {
            self.reference.run(frame);
        }
        let repeats = if fill.is_empty() { 3 } else { 1 };
        for _ in 0..repeats {
            self.reference.run(frame);
        }
        self.reference.operations()
    }
}
