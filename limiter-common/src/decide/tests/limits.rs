//! What a source is charged and credited for, and what becomes of one without a slot.

extern crate std;

use std::{format, string::String, vec::Vec};

use super::*;
use crate::{
    limits::{Kind, Limits, limit_flags},
    source::WAYS,
};

fn source(number: u32) -> String {
    let [_, b, c, d] = number.to_be_bytes();
    format!("10.{b}.{c}.{d}")
}

/// Limits each of which admits two.
fn two_of(kind: Kind) -> Limits {
    let mut limits = Limits::NONE;
    limits.kinds[kind as usize] = per_hour(2);
    limits
}

#[test]
fn the_allowed_are_limited() {
    let mut host = Host::new();
    host.settings.limits.packets = per_hour(2);
    host.name(SOURCE, ListValue::ALLOW);
    assert_eq!([host.udp(SOURCE), host.udp(SOURCE)], [ALLOWED; 2]);
    assert_eq!(host.udp(SOURCE), OVER_PACKETS);
    assert_eq!(host.udp("192.0.2.2"), ALLOWED, "each source by itself");
}

#[test]
fn connections_are_limited_by_their_first_segment() {
    let mut host = Host::new();
    host.settings.limits = two_of(Kind::Connection);
    assert_eq!([host.tcp(SOURCE, WEB, SYN), host.tcp(SOURCE, WEB, SYN)], [ALLOWED; 2]);
    assert_eq!(host.tcp(SOURCE, WEB, SYN), Verdict::drop(Reason::ConnectionRate));
    assert_eq!(host.tcp(SOURCE, WEB, ACK), ALLOWED);
    assert_eq!(host.tcp(SOURCE, WEB, SYN | ACK), ALLOWED, "an answer opens nothing");
    assert_eq!(host.udp(SOURCE), ALLOWED);
    // A packet over the packet limit is not charged as a connection.
    let mut host = Host::new();
    host.settings.limits = Limits { packets: per_hour(1), ..two_of(Kind::Connection) };
    assert_eq!(host.tcp(SOURCE, WEB, SYN), ALLOWED);
    let bucket = |host: &Host| {
        host.slot(SOURCE).unwrap().buckets.kinds[Kind::Connection as usize].load(Relaxed)
    };
    let charged = bucket(&host);
    assert_eq!(host.tcp(SOURCE, WEB, SYN), OVER_PACKETS);
    assert_eq!(bucket(&host), charged);
}

#[test]
fn udp_icmp_and_bytes_have_limits_of_their_own() {
    let mut host = Host::new();
    host.settings.limits = two_of(Kind::Udp);
    assert_eq!([host.udp(SOURCE), host.udp(SOURCE)], [ALLOWED; 2]);
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::UdpRate));
    assert_eq!(host.tcp(SOURCE, WEB, SYN), ALLOWED);
    let mut host = Host::new();
    host.settings.limits = two_of(Kind::Icmp);
    let ping = frame(SOURCE, 1, 0, 0, 0);
    assert_eq!([host.frame(&ping), host.frame(&ping)], [ALLOWED; 2]);
    assert_eq!(host.frame(&ping), Verdict::drop(Reason::IcmpRate));
    assert_eq!(host.udp(SOURCE), ALLOWED);
    let mut host = Host::new();
    let bytes = BucketRate::of_bytes(2 * 54, SECOND_NS, 2 * 54).unwrap();
    host.settings.limits = Limits { bytes, ..Limits::NONE };
    assert_eq!([host.udp(SOURCE), host.tcp(SOURCE, WEB, ACK)], [ALLOWED; 2]);
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::ByteRate));
}

#[test]
fn who_has_too_many_connections_opens_no_more() {
    let mut host = Host::new();
    host.settings.limits.concurrent_connections = 3;
    let key = address(SOURCE).source_key(host.settings.masks);
    for (open, total, verdict) in [
        (2, 100, ALLOWED),
        (3, 100, Verdict::drop(Reason::TooManyConnections)),
        (9, 100, Verdict::drop(Reason::TooManyConnections)),
        (3, 2, ALLOWED),
    ] {
        host.open.insert(key, open);
        host.open_totals[0] = total;
        assert_eq!(host.tcp(SOURCE, WEB, SYN), verdict, "{open} of {total}");
        assert_eq!(host.tcp(SOURCE, WEB, ACK), ALLOWED, "the open ones go on");
    }
    assert_eq!(host.tcp("192.0.2.2", WEB, SYN), ALLOWED);
}

/// The count of connections is the stack's: it holds without a slot to count packets in.
#[test]
fn who_has_too_many_connections_opens_no_more_without_a_slot_either() {
    let mut host = Host::new();
    host.settings.limits = Limits { packets: per_hour(1), ..Limits::NONE };
    host.settings.limits.concurrent_connections = 3;
    host.settings.claims_per_window = 1_000;
    host.services[1].limits.concurrent_connections = 2;
    host.services[1].flags = crate::settings::service_flags::SOURCE_LIMITS;
    for number in 0..200 {
        host.udp(&source(number));
    }
    let newcomer = (0..200).map(source).find(|source| host.slot(source).is_none()).unwrap();
    assert_eq!(host.tcp(&newcomer, WEB, SYN), Verdict::pass(Reason::TableFull));
    host.open_totals[0] = 100;
    host.open.insert(host.pair(&newcomer, 1), 2);
    host.port(false, WEB, PortFacts::default().of_service(1));
    assert_eq!(host.tcp(&newcomer, WEB, SYN), Verdict::drop(Reason::TooManyConnections));
    assert_eq!(host.tcp(&newcomer, WEB, ACK), Verdict::pass(Reason::TableFull));
    host.open.clear();
    assert_eq!(host.tcp(&newcomer, WEB, SYN), Verdict::pass(Reason::TableFull));
    host.open.insert(address(&newcomer).source_key(host.settings.masks), 3);
    assert_eq!(host.tcp(&newcomer, WEB, SYN), Verdict::drop(Reason::TooManyConnections));
}

#[test]
fn fragments_as_configured() {
    let mut host = Host::new();
    let fragment = frame(SOURCE, 17, 0, 0, 0x2010);
    host.settings.limits.packets = per_hour(1);
    host.settings.flags = flags::FRAGMENTS_DROP;
    assert_eq!(host.frame(&fragment), Verdict::drop(Reason::Fragment));
    host.settings.flags = flags::FRAGMENTS_PASS;
    assert_eq!([(); 3].map(|()| host.frame(&fragment)), [Verdict::pass(Reason::Fragment); 3]);
    host.settings.flags = 0;
    assert_eq!(host.frame(&fragment), ALLOWED);
    assert_eq!(host.frame(&fragment), OVER_PACKETS, "limited like others");
}

#[test]
fn monitoring_decides_and_charges_like_enforcing() {
    let mut enforced = Host::new();
    enforced.settings.limits.packets = per_hour(2);
    let mut monitored = Host::new();
    monitored.settings = enforced.settings;
    monitored.settings.flags |= flags::MONITOR;
    for _ in 0..4 {
        let (verdict, seen) = (enforced.udp(SOURCE), monitored.udp(SOURCE));
        assert_eq!(seen.reason, verdict.reason);
        let expected =
            if verdict.action == Action::Drop { Action::Monitor } else { verdict.action };
        assert_eq!(seen.action, expected);
    }
    assert_eq!(enforced.state(), monitored.state());
}

/// Limits that only monitor are told and consume nothing; others decide as if they were not.
#[test]
fn limits_can_monitor_each_for_itself() {
    let over = |reason| Verdict { action: Action::Monitor, reason };
    let mut host = Host::new();
    host.settings.flags = flags::TOTAL_LIMITS;
    host.settings.limits = Limits { packets: per_hour(2), ..Limits::NONE };
    host.settings.limits.flags = limit_flags::MONITOR;
    host.settings.total_limits = Limits { packets: per_hour(4), ..Limits::NONE };
    assert_eq!([host.udp(SOURCE), host.udp(SOURCE)], [ALLOWED; 2]);
    let charged = host.slot(SOURCE).unwrap().buckets.packets.load(Relaxed);
    assert_eq!([host.udp(SOURCE), host.udp(SOURCE)], [over(Reason::PacketRate); 2]);
    assert_eq!(host.slot(SOURCE).unwrap().buckets.packets.load(Relaxed), charged);
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::TotalRate), "what enforces decides");
    assert_eq!(host.slot(SOURCE).unwrap().dropped.load(Relaxed), 1);
    // The other way round, and both.
    host.settings.limits.flags = 0;
    host.settings.total_limits.flags = limit_flags::MONITOR;
    assert_eq!(host.udp(SOURCE), OVER_PACKETS);
    assert_eq!(host.udp("192.0.2.2"), over(Reason::TotalRate));
    host.settings.limits.flags = limit_flags::MONITOR;
    assert_eq!(host.udp(SOURCE), over(Reason::PacketRate), "the first one is told");
}

#[test]
fn a_full_table_passes_or_drops_newcomers_and_keeps_the_known() {
    let mut host = Host::new();
    host.settings.claims_per_window = 1_000;
    host.settings.limits.packets = per_hour(2);
    let mut full = Vec::new();
    for number in 0..200 {
        match host.udp(&source(number)) {
            ALLOWED => {}
            verdict => full.push((number, verdict)),
        }
    }
    assert_eq!(full.len(), 200 - 4 * WAYS, "each of 32 slots has one source");
    assert!(full.iter().all(|(_, verdict)| *verdict == Verdict::pass(Reason::TableFull)));
    host.settings.flags = flags::TABLE_FULL_DROP;
    let (newcomer, _) = full[0];
    assert_eq!(host.udp(&source(newcomer)), Verdict::drop(Reason::TableFull));
    assert_eq!(host.udp(&source(0)), ALLOWED, "the second of two");
    assert_eq!(host.udp(&source(0)), OVER_PACKETS);
    // When the buckets are full again, slots are free.
    host.now_ns.set(NOW_NS + 3_601 * SECOND_NS);
    assert_eq!(host.udp(&source(newcomer)), ALLOWED);
}

/// Who asks for newcomers to be dropped where no slot is left gets that for every one of them: the
/// policy has no bound of claims then.
#[test]
fn a_full_table_that_drops_lets_nobody_through_untracked() {
    let mut host = Host::new();
    host.settings.claims_per_window = u64::MAX;
    host.settings.flags = flags::TABLE_FULL_DROP;
    host.settings.limits.packets = per_hour(2);
    let verdicts = (0..200).map(|number| host.udp(&source(number)));
    let dropped = verdicts.filter(|verdict| *verdict == Verdict::drop(Reason::TableFull)).count();
    assert_eq!(dropped, 200 - 4 * WAYS);
    // Slots that are idle are taken over, each by the first that comes.
    host.now_ns.set(NOW_NS + 3_601 * SECOND_NS);
    assert!((300..310).all(|number| host.udp(&source(number)) == ALLOWED));
}

#[test]
fn in_a_flood_of_new_sources_who_sends_more_is_tracked() {
    let mut host = Host::new();
    host.settings.claims_per_window = 4;
    host.settings.limits.packets = BucketRate::new(1_000, SECOND_NS, 1).unwrap();
    let known = (0..2_000).take_while(|number| {
        host.now_ns.set(host.now_ns.get() + 1);
        host.udp(&source(*number));
        host.state()[..32].contains(&0)
    });
    assert!(known.count() < 1_000, "soon every slot is somebody's");
    // All are idle again, and the flood goes on in one tick.
    host.now_ns.set(NOW_NS + SECOND_NS);
    let verdicts: Vec<Verdict> = (10_000..10_040).map(|number| host.udp(&source(number))).collect();
    assert_eq!(verdicts[..4], [ALLOWED; 4]);
    assert!(verdicts[4..].iter().all(|verdict| *verdict == Verdict::pass(Reason::Untracked)));
    host.random.set(32);
    assert_eq!(host.udp(SOURCE), ALLOWED, "one in so many is");
    assert_eq!(host.udp(SOURCE), OVER_PACKETS);
}

#[test]
fn a_slot_in_debt_outlives_any_flood() {
    let mut host = Host::new();
    host.settings.limits.packets = per_hour(1);
    host.random.set(0);
    assert_eq!(host.udp(SOURCE), ALLOWED);
    host.settings.limits.packets = BucketRate::new(10_000_000, SECOND_NS, 1).unwrap();
    for number in 0..100_000 {
        host.now_ns.set(host.now_ns.get() + 20_000);
        host.udp(&source(number));
    }
    host.settings.limits.packets = per_hour(1);
    assert_eq!(host.udp(SOURCE), OVER_PACKETS);
}

#[test]
fn statistics_say_what_came() {
    let mut host = Host::new();
    host.settings.limits.packets = per_hour(3);
    for _ in 0..3 {
        host.tcp(SOURCE, WEB, SYN);
    }
    host.tcp(SOURCE, WEB, ACK);
    host.tcp(SOURCE, WEB, SYN);
    let slot = host.slot(SOURCE).unwrap();
    let words = [&slot.packets, &slot.bytes, &slot.connections, &slot.dropped];
    assert_eq!(words.map(|word| word.load(Relaxed)), [5, 5 * 54, 4, 2]);
    assert_eq!(slot.seen_ns.load(Relaxed), NOW_NS);
    assert_eq!(slot.source_key.load(Relaxed), address(SOURCE).source_key(host.settings.masks));
}
