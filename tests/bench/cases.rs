//! One prepared program for each path that is measured.

use limiter_common::{
    address::Address,
    limits::Limits,
    lists::ListValue,
    settings::{Settings, flags},
    verdict::{Reason, Verdict},
};
use limiter_tests::{
    frames::{Frame, Ipv4, tcp_flags},
    lists::Entry,
    policy::Policy,
    program::Program,
    reference::Operations,
};

use crate::bed::{Bed, address, everything, few, limits, million, rate};

const HOUR_NS: u64 = 3_600_000_000_000;
const DESTINATION: &str = "198.51.100.1:443";
const SERVICE: &str = "198.51.100.1:80";
const SOURCE: &str = "192.0.2.1:1024";

/// How the source of a packet is chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rotation {
    /// Always the same.
    None,
    /// One of 65,536.
    Some,
    /// Hardly ever the same.
    All,
}

/// A path to measure.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) frame: Vec<u8>,
    /// What may come out.
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) rotation: Rotation,
    /// Hundredths of the yardstick (run the same way) that it may cost.
    pub(crate) target: Option<u32>,
    /// Hundredths of the case of this name that it may cost.
    pub(crate) beside: Option<(&'static str, u32)>,
    pub(crate) operations: Operations,
    pub(crate) program: Program,
}

fn udp(source: &str, destination: &str) -> Vec<u8> {
    Frame::udp(source, destination, b"a question").bytes()
}

fn tcp(destination: &str, flags: u8) -> Vec<u8> {
    Frame::tcp(SOURCE, destination, flags).bytes()
}

fn case(name: &'static str, frame: Vec<u8>, verdict: Verdict, mut bed: Bed) -> Case {
    let operations = bed.operations(&frame, &[]);
    Case {
        name,
        frame,
        verdicts: vec![verdict],
        rotation: Rotation::None,
        target: None,
        beside: None,
        operations,
        program: bed.program,
    }
}

fn usual(policy: Policy) -> Bed {
    Bed::new(policy, few())
}

fn with(change: impl FnOnce(&mut Settings)) -> Bed {
    let mut policy = everything();
    change(&mut policy.settings);
    usual(policy)
}

/// Everything that is measured.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = admitted();
    cases.extend(flood());
    cases.extend(rotated());
    cases.extend(refused());
    cases
}

const ALLOWED: Verdict = Verdict::pass(Reason::Allowed);

fn admitted() -> Vec<Case> {
    let target = |target, case: Case| Case { target: Some(target), ..case };
    let mut trusted = few();
    trusted.push((128, address("192.0.2.1"), ListValue::TRUSTED));
    let off = Policy::new(Settings {
        limits: Limits { packets: limits().packets, ..Limits::NONE },
        ..everything().settings
    });
    let off = Policy { settings: Settings { flags: 0, ..off.settings }, ..off };
    vec![
        target(
            120,
            case("allowed, tracked, UDP", udp(SOURCE, DESTINATION), ALLOWED, usual(everything())),
        ),
        target(
            120,
            case(
                "allowed, tracked, TCP",
                tcp(DESTINATION, tcp_flags::ACK),
                ALLOWED,
                usual(everything()),
            ),
        ),
        case(
            "allowed, tracked, IPv6",
            udp("[2001:db8::1]:1024", "[2001:db8:1::1]:443"),
            ALLOWED,
            usual(everything()),
        ),
        case(
            "allowed, this host forwards nothing",
            udp(SOURCE, DESTINATION),
            ALLOWED,
            with(|settings| settings.flags &= !flags::FORWARDING),
        ),
        case(
            "allowed, precise clock",
            udp(SOURCE, DESTINATION),
            ALLOWED,
            with(|settings| settings.flags |= flags::PRECISE_CLOCK),
        ),
        case(
            "allowed, packet limit and nothing else",
            udp(SOURCE, DESTINATION),
            ALLOWED,
            usual(off),
        ),
        case("service with limits", tcp(SERVICE, tcp_flags::ACK), ALLOWED, usual(everything())),
        case(
            "SYN, open connections counted",
            tcp(DESTINATION, tcp_flags::SYN),
            ALLOWED,
            usual(everything()),
        ),
        case("SYN to a service", tcp(SERVICE, tcp_flags::SYN), ALLOWED, usual(everything())),
        case(
            "trusted",
            udp(SOURCE, DESTINATION),
            Verdict::pass(Reason::Trusted),
            Bed::new(everything(), trusted),
        ),
    ]
}

fn flood() -> Vec<Case> {
    let fill: Vec<Vec<u8>> =
        (0..200).map(|last| udp(&format!("203.0.114.{last}:1024"), DESTINATION)).collect();
    let frame = udp(SOURCE, DESTINATION);
    // A source owes a millisecond.
    let mut bed = with(|settings| settings.limits.packets = rate(1_000, 1_000_000_000, 8));
    let operations = bed.operations(&frame, &fill);
    let verdicts =
        [Reason::Untracked, Reason::Allowed, Reason::TableFull].map(Verdict::pass).to_vec();
    vec![Case {
        rotation: Rotation::All,
        target: Some(150),
        operations,
        verdicts,
        ..case("spoofed new source in a flood", frame, ALLOWED, bed)
    }]
}

fn rotated() -> Vec<Case> {
    let rotated = |name, target, beside, entries: Vec<Entry>| Case {
        rotation: Rotation::Some,
        target,
        beside,
        ..case(name, udp(SOURCE, DESTINATION), ALLOWED, Bed::new(everything(), entries))
    };
    let few_name = "65,536 sources, 16 list entries";
    vec![
        rotated(few_name, None, None, few()),
        rotated("65,536 sources, 1,000,000 exact", Some(160), Some((few_name, 130)), million(None)),
        rotated("65,536 sources, 10 % prefixes", None, Some((few_name, 200)), million(Some(10))),
    ]
}

fn refused() -> Vec<Case> {
    let banned = |name, frame: Vec<u8>, target| {
        let mut bed = usual(everything());
        bed.ban(address("192.0.2.1"));
        Case { target, ..case(name, frame, Verdict::drop(Reason::Banned), bed) }
    };
    let listening = tcp(DESTINATION, tcp_flags::ACK);
    let lie = Frame::udp(SOURCE, DESTINATION, b"short")
        .map::<Ipv4>(|ipv4| ipv4.total_length = Some(1_000))
        .bytes();
    let over = with(|settings| settings.limits.packets = rate(1, HOUR_NS, 1));
    over.program.run(&listening);
    let deny = |entry: Entry| Bed::new(everything(), few().into_iter().chain([entry]).collect());
    vec![
        banned("banned, TCP to a listening port", listening.clone(), Some(80)),
        banned("banned, UDP to a service", udp(SOURCE, "198.51.100.1:53"), Some(80)),
        banned("banned, perhaps a reply", tcp("198.51.100.1:5000", tcp_flags::ACK), None),
        case(
            "banned by its prefix",
            udp("172.17.2.1:1024", DESTINATION),
            Verdict::drop(Reason::Banned),
            usual(everything()),
        ),
        case(
            "denied, exact",
            listening.clone(),
            Verdict::drop(Reason::Denied),
            deny((128, address("192.0.2.1"), ListValue::DENY)),
        ),
        case(
            "denied, prefix",
            listening.clone(),
            Verdict::drop(Reason::Denied),
            deny((96 + 24, Address::from_v4([192, 0, 2, 0]), ListValue::DENY)),
        ),
        case("packet rate", listening, Verdict::drop(Reason::PacketRate), over),
        case("malformed", lie, Verdict::drop(Reason::Malformed), usual(everything())),
        case(
            "asked whether it is forwarded",
            udp(SOURCE, "198.51.100.77:443"),
            ALLOWED,
            usual(everything()),
        ),
    ]
}
