//! Policies under which kernel and host are compared, and the addresses they speak of.

#![expect(clippy::large_types_passed_by_value, reason = "each is built once")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use limiter_common::{
    address::{Address, Masks},
    bucket::BucketRate,
    limits::{KINDS, Limits, limit_flags},
    lists::ListValue,
    ports::PortFacts,
    settings::{ServiceSettings, Settings, flags, service_flags},
};
use limiter_tests::{
    lists::{Admitted, Entry},
    policy::Policy,
};

/// Sets of the table; some policies use only [`FEW_SETS`] of them, so that they fill up.
pub(crate) const SETS: u32 = 64;
const FEW_SETS: u64 = 4;

const SECOND_NS: u64 = 1_000_000_000;
const HOUR_NS: u64 = 3_600 * SECOND_NS;
const SEED: u64 = 0x1234_5678_9abc_def0;

/// A policy without its lists.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: &'static str,
    pub(crate) policy: Policy,
    pub(crate) has_lists: bool,
}

/// Forty sources of each family, in several /24 and /56, and a few that are easily mistaken: own
/// addresses and destinations among them.
pub(crate) fn sources() -> Vec<IpAddr> {
    let mut sources: Vec<IpAddr> = Vec::new();
    for host in 0..40 {
        sources.push(Ipv4Addr::new(192, 0, host % 4, host).into());
        let subnet = u16::from(host % 4) << 8 | u16::from(host % 8);
        sources.push(Ipv6Addr::new(0x2001, 0xdb8, 7, subnet, 0, 0, 0, host.into()).into());
    }
    let odd = [
        "0.0.0.0",
        "255.255.255.255",
        "::",
        "::1",
        "0:ffff:c000:201::1",
        "8000::1",
        "127.0.0.1",
        "192.0.2.101",
        "192.0.2.102",
        "2001:db8::65",
        "2001:db8::66",
    ];
    sources.extend(odd.map(ip));
    sources
}

/// This host's own addresses: some of the generator's destinations.
pub(crate) fn own() -> Vec<Address> {
    ["192.0.2.101", "2001:db8::65", "192.0.2.103"].map(|text| ip(text).into()).to_vec()
}

/// Where this host sends packets on to: others of them.
pub(crate) const ROUTES: [(&str, u32); 2] = [("192.0.2.104", 96 + 29), ("2001:db8::68", 125)];

/// [`ROUTES`] as the reference has them.
pub(crate) fn routes() -> Vec<(u32, Address)> {
    ROUTES.map(|(network, length)| (length, ip(network).into())).to_vec()
}

/// Prefixes of [`sources`], nested so that the longest match matters.
pub(crate) fn entries() -> Vec<Entry> {
    let entry = |text: &str, length, value| (length, ip(text).into(), value);
    let (here, elsewhere) = (1, 1 << 5);
    vec![
        entry("192.0.1.0", 96 + 24, ListValue::DENY),
        entry("192.0.1.0", 96 + 28, ListValue::ALLOW),
        entry("192.0.1.9", 128, ListValue::TRUSTED),
        entry("192.0.1.13", 128, ListValue::DENY.trusted_on(elsewhere)),
        entry("192.0.2.0", 96 + 24, ListValue::ALLOW),
        entry("192.0.2.6", 128, ListValue::DENY),
        entry("192.0.2.10", 128, ListValue::ALLOW.trusted_on(here)),
        entry("192.0.3.0", 96 + 26, ListValue::TRUSTED),
        entry("192.0.3.3", 128, ListValue::NONE),
        entry("192.0.3.16", 96 + 30, ListValue::NONE.trusted_on(elsewhere)),
        entry("192.0.0.0", 96 + 22, ListValue::DENY),
        entry("192.0.0.0", 96 + 27, ListValue::NONE),
        entry("2001:db8:7::", 48, ListValue::ALLOW),
        entry("2001:db8:7:100::", 56, ListValue::DENY),
        entry("2001:db8:7:101::1", 128, ListValue::TRUSTED),
        entry("2001:db8:7:102::", 64, ListValue::TRUSTED.trusted_on(here)),
        entry("2001:db8:7:203::10", 124, ListValue::DENY),
        entry("2001:db8:7:300::", 57, ListValue::DENY.trusted_on(elsewhere)),
        entry("2000::", 12, ListValue::ALLOW),
        entry("8000::1", 128, ListValue::DENY),
    ]
}

/// Who may reach the listed services.
pub(crate) fn admitted() -> Vec<Admitted> {
    let entry = |service, text: &str, length| (service, length, ip(text).into());
    vec![
        entry(2, "192.0.0.0", 96 + 24),
        entry(2, "192.0.1.1", 128),
        entry(2, "2001:db8:7:1::", 64),
        entry(31, "0.0.0.0", 96),
        entry(30, "::", 0),
    ]
}

fn rate(count: u64, period_ns: u64, burst: u64) -> BucketRate {
    BucketRate::new(count, period_ns, burst).expect("a rate within bounds")
}

fn bytes(count: u64, burst: u64) -> BucketRate {
    BucketRate::of_bytes(count, SECOND_NS, burst).expect("a rate within bounds")
}

fn kinds(connections: BucketRate, udp: BucketRate, icmp: BucketRate) -> [BucketRate; KINDS] {
    [BucketRate::UNLIMITED, connections, udp, icmp]
}

/// Each flag and limit at least once.
pub(crate) fn policies() -> Vec<Named> {
    let mut all = sources_limited();
    all.extend(services_limited());
    all
}

/// What one source may send, over all ports.
pub(crate) fn limits() -> Limits {
    let none = BucketRate::UNLIMITED;
    Limits {
        packets: rate(100, SECOND_NS, 3),
        kinds: kinds(rate(7, SECOND_NS, 1), none, none),
        ..Limits::NONE
    }
}

fn open() -> Settings {
    let mut settings = Settings::open(u64::from(SETS), SEED);
    settings.set_own(own());
    settings
}

/// Port 22 is failsafe, and what the host listens on.
fn policy(settings: Settings) -> Policy {
    let listening = PortFacts::default().listening();
    Policy::new(settings)
        .port(false, 22, listening.failsafe())
        .port(false, 80, listening)
        .port(false, 443, listening)
}

fn named(name: &'static str, settings: Settings, has_lists: bool) -> Named {
    Named { name, policy: policy(settings), has_lists }
}

fn with_flags(settings: Settings, flags: u64) -> Settings {
    Settings { flags, ..settings }
}

fn with_limits(settings: Settings, limits: Limits) -> Settings {
    Settings { limits, ..settings }
}

fn sources_limited() -> Vec<Named> {
    let limited = Settings { limits: limits(), ..open() };
    let with = |flags| with_flags(limited, flags);
    let of = |limits| with_limits(limited, limits);
    let none = BucketRate::UNLIMITED;
    let hour = Limits { packets: rate(5, HOUR_NS, 5), ..limits() };
    let few = |limits, flags| Settings {
        set_mask: FEW_SETS - 1,
        ..with_limits(with_flags(limited, flags), limits)
    };
    let per_kind = kinds(rate(2, SECOND_NS, 1), rate(20, SECOND_NS, 2), rate(3, HOUR_NS, 1));
    vec![
        named("open", open(), false),
        named("limited", limited, false),
        named("precise clock", with(flags::PRECISE_CLOCK), false),
        named("monitor", with(flags::MONITOR | flags::DEFAULT_DENY), true),
        named("default deny without lists", with(flags::DEFAULT_DENY), false),
        named("lists", limited, true),
        named("lists and default deny", with(flags::DEFAULT_DENY), true),
        named(
            "fragments dropped, malformed passed",
            with(flags::FRAGMENTS_DROP | flags::MALFORMED_PASS),
            false,
        ),
        named("fragments passed", with(flags::FRAGMENTS_PASS), true),
        named("prefixes", Settings { masks: Masks::new(24, 56), ..limited }, true),
        named("everybody is one", Settings { masks: Masks::new(0, 0), ..limited }, true),
        named("tight", of(Limits { packets: rate(3, SECOND_NS, 1), ..hour }), false),
        named("fast", of(Limits { packets: rate(10_000_000, SECOND_NS, 1), ..limits() }), false),
        named("bytes", of(Limits { bytes: bytes(20_000, 3_000), ..Limits::NONE }), false),
        named("fast bytes", of(Limits { bytes: bytes(12_500_000_000, 1_600), ..hour }), true),
        named("kinds", of(Limits { kinds: per_kind, ..Limits::NONE }), false),
        named(
            "connections only",
            of(Limits { kinds: kinds(rate(5, HOUR_NS, 5), none, none), ..Limits::NONE }),
            false,
        ),
        named("open connections", of(Limits { concurrent_connections: 3, ..Limits::NONE }), true),
        named("limits monitor", of(Limits { flags: limit_flags::MONITOR, ..hour }), false),
        named(
            "bytes monitor",
            of(Limits { flags: limit_flags::MONITOR, bytes: bytes(20_000, 3_000), ..Limits::NONE }),
            false,
        ),
        named("few sets, full passes", few(hour, 0), false),
        named(
            "few sets, full drops",
            Settings { claims_per_window: u64::MAX, ..few(hour, flags::TABLE_FULL_DROP) },
            true,
        ),
        named(
            "few sets, few claims",
            Settings {
                claims_per_window: 1,
                ..few(Limits { packets: rate(500, SECOND_NS, 1), ..Limits::NONE }, 0)
            },
            false,
        ),
        named("forwarding", with(flags::FORWARDING | flags::DEFAULT_DENY), true),
    ]
}

fn services_limited() -> Vec<Named> {
    let total = |burst| Limits { packets: rate(burst, HOUR_NS, burst), ..Limits::NONE };
    let web = ServiceSettings {
        flags: service_flags::SOURCE_LIMITS,
        limits: Limits {
            packets: rate(50, SECOND_NS, 2),
            bytes: bytes(100_000, 4_000),
            concurrent_connections: 2,
            ..limits()
        },
        total_limits: Limits::NONE,
    };
    let dns = ServiceSettings {
        flags: service_flags::LISTED | service_flags::TOTAL_LIMITS,
        limits: Limits::NONE,
        total_limits: Limits { packets: rate(30, SECOND_NS, 3), ..Limits::NONE },
    };
    let all = service_flags::LISTED | service_flags::SOURCE_LIMITS | service_flags::TOTAL_LIMITS;
    let watched = ServiceSettings {
        flags: all | service_flags::LIST_MONITOR,
        limits: Limits { flags: limit_flags::MONITOR, ..web.limits },
        total_limits: Limits {
            flags: limit_flags::MONITOR,
            concurrent_connections: 4,
            ..dns.total_limits
        },
    };
    let strict = ServiceSettings { flags: all, limits: web.limits, total_limits: total(40) };
    let with_services = |settings| {
        let of = |number| PortFacts::default().of_service(number);
        policy(settings)
            .port(false, 22, PortFacts::default().listening().failsafe().of_service(2))
            .port(false, 80, of(1).listening())
            .port(false, 443, of(1).listening())
            .port(true, 443, of(1))
            .port(true, 53, of(2))
            .port(false, 53, of(2))
            .port(false, 8080, of(31))
            .port(true, 8080, of(31))
            .port(true, 49152, of(30))
            .port(false, 49152, of(30))
            .service(1, web)
            .service(2, dns)
            .service(30, strict)
            .service(31, watched)
    };
    let named =
        |name, settings, has_lists| Named { name, policy: with_services(settings), has_lists };
    let free = Settings { limits: Limits::NONE, ..open() };
    let limited = Settings { limits: limits(), ..free };
    let totals = |total_limits| Settings { total_limits, ..with_flags(free, flags::TOTAL_LIMITS) };
    let shared =
        Limits { bytes: bytes(1_000_000, 60_000), concurrent_connections: 9, ..total(5_000) };
    vec![
        named("services", limited, true),
        named("services alone", free, true),
        named("services watched", Settings { flags: flags::MONITOR, ..limited }, true),
        named("total", totals(Limits { packets: rate(200, SECOND_NS, 10), ..Limits::NONE }), true),
        named("total in shares", totals(shared), false),
        named("total watched", totals(Limits { flags: limit_flags::MONITOR, ..shared }), true),
        named(
            "everything",
            Settings {
                flags: flags::TOTAL_LIMITS | flags::FORWARDING,
                limits: Limits {
                    bytes: bytes(50_000, 5_000),
                    concurrent_connections: 4,
                    kinds: web.limits.kinds,
                    ..limits()
                },
                ..totals(shared)
            },
            true,
        ),
        named(
            "everything in few sets",
            Settings { set_mask: FEW_SETS - 1, limits: limits(), ..totals(shared) },
            true,
        ),
    ]
}

/// An address from its text.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A v4 or v6 address as the packet path has it.
pub(crate) fn address(ip: IpAddr) -> Address {
    ip.into()
}
