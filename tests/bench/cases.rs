//! One prepared program for each path that is measured.

use std::net::Ipv4Addr;

use limiter_common::{
    address::Address,
    bucket::BucketRate,
    ports::PortSet,
    settings::{ListVerdict, Settings, flags},
    verdict::{Reason, Verdict},
};
use limiter_tests::{
    frames::{Frame, Ipv4, tcp_flags},
    program::{Options, Program},
};

const SETS: u32 = 4096;
const SECOND_NS: u64 = 1_000_000_000;
const HOUR_NS: u64 = 3_600 * SECOND_NS;
const DESTINATION: &str = "198.51.100.1:443";
/// Sources of the ban map and the lists that no measured packet has.
const OTHER_BANS: u32 = 1_000;

/// A path to measure.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Look-ups on this path beside settings and two control words, as the code has them.
    pub(crate) does: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) verdict: Verdict,
    /// Each packet has a source of its own.
    pub(crate) rotated: bool,
    /// Hundredths of the yardstick that it may cost.
    pub(crate) target: Option<u32>,
    pub(crate) program: Program,
}

fn rate(count: u64, period_ns: u64, burst: u64) -> BucketRate {
    BucketRate::new(count, period_ns, burst).expect("a rate within bounds")
}

/// A policy as a host has it, that no measurement exhausts.
fn usual() -> Settings {
    let never = rate(10_000_000, SECOND_NS, 1 << 50);
    Settings {
        generation: 1,
        flags: flags::LISTS,
        packets: never,
        connections: never,
        listening_ports: PortSet::new(&[22, 80, 443]).expect("few"),
        failsafe_ports: PortSet::new(&[22]).expect("few"),
        ..Settings::open(u64::from(SETS), 0x9e37_79b9_7f4a_7c15)
    }
}

/// Loads the program with `entries` list entries and bans of others.
fn program(mut settings: Settings, entries: u32) -> Program {
    let mut program =
        Program::load(Options { sets: SETS, bans: 65_536, lists: 65_536, fixed_clock: false });
    program.calibrate(&mut settings);
    program.switch_settings(&settings);
    for number in 0..OTHER_BANS {
        let other = Ipv4Addr::from_bits(0x0a00_0000 + number * 7);
        program.ban(Address::from_v4(other.octets()), u64::MAX >> 2);
    }
    for number in 0..entries {
        let network = Ipv4Addr::from_bits(0x2c00_0000 + (number << 8));
        let address = Address::from_v4(network.octets());
        program.list(settings.flags, 96 + 24, address, ListVerdict::Deny);
    }
    program
}

const UDP_SOURCE: &str = "192.0.2.1:1024";

fn udp(source: &str, destination: &str) -> Vec<u8> {
    Frame::udp(source, destination, b"a question").bytes()
}

fn address(text: &str) -> Address {
    text.parse::<std::net::IpAddr>().expect("an address").into()
}

/// A path whose program needs nothing else than settings.
fn case(
    name: &'static str,
    does: &'static str,
    frame: Vec<u8>,
    verdict: Verdict,
    program: Program,
) -> Case {
    Case { name, does, frame, verdict, rotated: false, target: None, program }
}

/// Everything that is measured.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = admitted();
    cases.extend(refused());
    cases.extend(limited());
    cases
}

fn admitted() -> Vec<Case> {
    let allowed = Verdict::pass(Reason::Allowed);
    let mut trusted = program(usual(), 16);
    trusted.list(flags::LISTS, 128, address("192.0.2.1"), ListVerdict::Trusted);
    let fresh = Settings { packets: BucketRate::UNLIMITED, ..usual() };
    vec![
        Case {
            target: Some(200),
            ..case(
                "allowed, known IPv4 source",
                "filter, 1-2 sets, jiffies, 1 counter",
                udp(UDP_SOURCE, DESTINATION),
                allowed,
                program(usual(), 16),
            )
        },
        case(
            "allowed, known IPv4 source, TCP",
            "filter, 1-2 sets, jiffies, 1 counter",
            Frame::tcp(UDP_SOURCE, DESTINATION, tcp_flags::ACK).bytes(),
            allowed,
            program(usual(), 16),
        ),
        case(
            "allowed, precise clock",
            "filter, 1-2 sets, ktime, 1 counter",
            udp(UDP_SOURCE, DESTINATION),
            allowed,
            program(Settings { flags: flags::LISTS | flags::PRECISE_CLOCK, ..usual() }, 16),
        ),
        case(
            "allowed, known IPv6 source",
            "filter, 1-2 sets, jiffies, 1 counter",
            udp("[2001:db8::1]:1024", "[2001:db8:1::1]:443"),
            allowed,
            program(usual(), 16),
        ),
        case(
            "allowed, known IPv6 source, no lists or bans",
            "filter, 1-2 sets, jiffies, 1 counter",
            udp("[2001:db8::1]:1024", "[2001:db8:1::1]:443"),
            allowed,
            program(Settings { flags: 0, ..usual() }, 0),
        ),
        case(
            "trusted",
            "filter, 2 sets, trie, 1 counter",
            udp(UDP_SOURCE, DESTINATION),
            Verdict::pass(Reason::Trusted),
            trusted,
        ),
        Case {
            rotated: true,
            ..case(
                "allowed, new source claims a slot",
                "filter, 6 sets, trie, jiffies, 1 counter",
                udp(UDP_SOURCE, DESTINATION),
                allowed,
                // No limit: every slot is idle, and the one seen longest ago is reused.
                program(fresh, 0),
            )
        },
    ]
}

fn refused() -> Vec<Case> {
    let banned = |frame: Vec<u8>, name, does| {
        let mut program = program(usual(), 16);
        program.ban(address("192.0.2.1"), u64::MAX >> 2);
        Case {
            target: Some(120),
            ..case(name, does, frame, Verdict::drop(Reason::Banned), program)
        }
    };
    let denied = |entries, name| {
        let does = "filter, 2 sets, trie, jiffies, 1 counter, 1 slot";
        let frame = udp("44.0.0.9:1024", DESTINATION);
        case(name, does, frame, Verdict::drop(Reason::Denied), program(usual(), entries))
    };
    let deny = Settings { flags: flags::LISTS | flags::DEFAULT_DENY, ..usual() };
    let listening = Frame::tcp(UDP_SOURCE, DESTINATION, tcp_flags::ACK).bytes();
    vec![
        banned(
            listening.clone(),
            "banned, TCP to a listening port",
            "filter, ban hash, jiffies, 1 counter, 1 slot",
        ),
        banned(
            udp(UDP_SOURCE, DESTINATION),
            "banned, UDP to a service",
            "filter, ban hash, jiffies, 1 counter, 1 slot",
        ),
        case(
            "banned, TCP to another port",
            "filter, ban hash, jiffies, TCP socket, 1 counter, 1 slot",
            Frame::tcp(UDP_SOURCE, "198.51.100.1:5000", tcp_flags::ACK).bytes(),
            Verdict::drop(Reason::Banned),
            {
                let mut program = program(usual(), 16);
                program.ban(address("192.0.2.1"), u64::MAX >> 2);
                program
            },
        ),
        denied(16, "denied, 16 list entries, UDP"),
        denied(10_000, "denied, 10,000 list entries, UDP"),
        case(
            "not allowed, TCP to a listening port",
            "filter, 2 sets, trie, jiffies, 1 counter, 1 slot",
            listening,
            Verdict::drop(Reason::NotAllowed),
            program(deny, 16),
        ),
    ]
}

fn limited() -> Vec<Case> {
    let hour = rate(1, HOUR_NS, 1);
    let syn = Frame::tcp(UDP_SOURCE, DESTINATION, tcp_flags::SYN).bytes();
    let ack = Frame::tcp(UDP_SOURCE, DESTINATION, tcp_flags::ACK).bytes();
    let exhausted = |settings: Settings, frame: &[u8]| {
        let program = program(settings, 16);
        program.run(frame);
        program
    };
    let fragment = Frame::tcp(UDP_SOURCE, DESTINATION, tcp_flags::ACK)
        .map::<Ipv4>(|ipv4| ipv4.more_fragments = true)
        .bytes();
    let lie = Frame::udp(UDP_SOURCE, DESTINATION, b"short")
        .map::<Ipv4>(|ipv4| ipv4.total_length = Some(1_000))
        .bytes();
    let full = Settings { set_mask: 3, packets: hour, flags: flags::TABLE_FULL_DROP, ..usual() };
    vec![
        case(
            "packet rate, TCP to a listening port",
            "filter, 1-2 sets, jiffies, 1 counter, 1 slot",
            ack.clone(),
            Verdict::drop(Reason::PacketRate),
            exhausted(Settings { packets: hour, ..usual() }, &ack),
        ),
        case(
            "connection rate",
            "filter, 1-2 sets, jiffies, 1 counter, 1 slot",
            syn.clone(),
            Verdict::drop(Reason::ConnectionRate),
            exhausted(Settings { connections: hour, ..usual() }, &syn),
        ),
        case(
            "malformed",
            "1 counter, 1 slot, jiffies",
            lie,
            Verdict::drop(Reason::Malformed),
            program(usual(), 16),
        ),
        case(
            "fragment dropped",
            "filter, 2 sets, trie, jiffies, 1 counter, 1 slot",
            fragment,
            Verdict::drop(Reason::Fragment),
            program(Settings { flags: flags::LISTS | flags::FRAGMENTS_DROP, ..usual() }, 16),
        ),
        case(
            "table full",
            "filter, 6 sets, jiffies, 1 counter, 1 slot",
            ack,
            Verdict::drop(Reason::TableFull),
            {
                let program = program(full, 0);
                for host in 0..=255 {
                    let source = format!("203.0.113.{host}:1024");
                    program.run(&udp(&source, DESTINATION));
                }
                program
            },
        ),
    ]
}
