//! Policies under which kernel and host are compared, and the addresses they speak of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use limiter_common::{
    address::{Address, Masks},
    bucket::BucketRate,
    ports::PortSet,
    settings::{ListVerdict, Settings, flags},
};

use crate::reference::Entry;

/// Sets of the table; one policy uses only [`FEW_SETS`] of them, so that they fill up.
pub(crate) const SETS: u32 = 64;
const FEW_SETS: u64 = 4;

const SECOND_NS: u64 = 1_000_000_000;
const SEED: u64 = 0x1234_5678_9abc_def0;

/// A policy without its lists.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) name: &'static str,
    pub(crate) settings: Settings,
}

/// Forty sources of each family, in several /24 and /56, and a few that are easily mistaken.
pub(crate) fn sources() -> Vec<IpAddr> {
    let mut sources: Vec<IpAddr> = Vec::new();
    for host in 0..40 {
        sources.push(Ipv4Addr::new(192, 0, host % 4, host).into());
        let subnet = u16::from(host % 4) << 8 | u16::from(host % 8);
        sources.push(Ipv6Addr::new(0x2001, 0xdb8, 7, subnet, 0, 0, 0, host.into()).into());
    }
    let odd = ["0.0.0.0", "255.255.255.255", "::", "::1", "0:ffff:c000:201::1", "8000::1"];
    sources.extend(odd.map(|text| text.parse::<IpAddr>().expect("an address")));
    sources
}

/// Prefixes of [`sources`], nested so that the longest match matters.
pub(crate) fn entries() -> Vec<Entry> {
    let entry = |text: &str, prefix, verdict| {
        (prefix, text.parse::<IpAddr>().expect("an address").into(), verdict)
    };
    vec![
        entry("192.0.1.0", 96 + 24, ListVerdict::Deny),
        entry("192.0.1.0", 96 + 28, ListVerdict::Allow),
        entry("192.0.1.9", 128, ListVerdict::Trusted),
        entry("192.0.2.0", 96 + 24, ListVerdict::Allow),
        entry("192.0.2.6", 128, ListVerdict::Deny),
        entry("192.0.3.0", 96 + 26, ListVerdict::Trusted),
        entry("192.0.3.3", 128, ListVerdict::None),
        entry("2001:db8:7::", 48, ListVerdict::Allow),
        entry("2001:db8:7:100::", 56, ListVerdict::Deny),
        entry("2001:db8:7:101::1", 128, ListVerdict::Trusted),
        entry("2001:db8:7:102::", 64, ListVerdict::Trusted),
        entry("::", 0, ListVerdict::None),
    ]
}

/// Each flag and limit at least once.
pub(crate) fn policies() -> Vec<Policy> {
    let rate = |count, period_ns, burst| {
        BucketRate::new(count, period_ns, burst).expect("a rate within bounds")
    };
    let open = Settings::open(u64::from(SETS), SEED);
    let limited = Settings {
        packets: rate(100, SECOND_NS, 3),
        connections: rate(7, SECOND_NS, 1),
        listening_ports: PortSet::new(&[22, 80, 443]).expect("few"),
        failsafe_ports: PortSet::new(&[22]).expect("few"),
        ..open
    };
    let with = |flags| Settings { flags, ..limited };
    let lists = flags::LISTS;
    let hour = rate(5, 3_600 * SECOND_NS, 5);
    let all = [
        ("open", open),
        ("limited", limited),
        ("precise clock", with(flags::PRECISE_CLOCK)),
        ("monitor", with(flags::MONITOR | lists | flags::DEFAULT_DENY)),
        ("default deny without lists", with(flags::DEFAULT_DENY)),
        ("lists", with(lists)),
        ("lists and default deny", with(lists | flags::DEFAULT_DENY)),
        (
            "fragments dropped, malformed passed",
            with(flags::FRAGMENTS_DROP | flags::MALFORMED_PASS),
        ),
        ("fragments passed", with(flags::FRAGMENTS_PASS | lists)),
        ("prefixes", Settings { masks: Masks::new(24, 56), flags: lists, ..limited }),
        ("everybody is one", Settings { masks: Masks::new(0, 0), flags: lists, ..limited }),
        ("tight", Settings { packets: rate(3, SECOND_NS, 1), connections: hour, ..limited }),
        ("fast", Settings { packets: rate(10_000_000, SECOND_NS, 1), ..limited }),
        ("few sets, full passes", Settings { set_mask: FEW_SETS - 1, packets: hour, ..limited }),
        (
            "few sets, full drops",
            Settings {
                set_mask: FEW_SETS - 1,
                packets: hour,
                flags: flags::TABLE_FULL_DROP | lists,
                ..limited
            },
        ),
        ("connections only", Settings { connections: hour, ..open }),
    ];
    all.map(|(name, settings)| Policy { name, settings }).to_vec()
}

/// A v4 or v6 address as the packet path has it.
pub(crate) fn address(ip: IpAddr) -> Address {
    ip.into()
}
