//! Limits of services and of the host, tested together and charged together.

extern crate std;

use super::*;
use crate::{
    limits::{Kind, Limits},
    settings::{ServiceSettings, service_flags},
};

const OTHER: &str = "192.0.2.2";
const DNS: u16 = 53;

/// A host whose ports 443/tcp and 53/udp are service 3.
fn host(flags: u64, limits: Limits, total_limits: Limits) -> Host {
    let mut host = Host::new();
    host.port(false, WEB, PortFacts::default().listening().of_service(3));
    host.port(true, DNS, PortFacts::default().of_service(3));
    host.services[3] = ServiceSettings { flags, limits, total_limits };
    host
}

fn packets(burst: u64) -> Limits {
    Limits { packets: per_hour(burst), ..Limits::NONE }
}

#[test]
fn a_source_is_limited_at_a_service_and_not_elsewhere() {
    let host = host(service_flags::SOURCE_LIMITS, packets(2), Limits::NONE);
    assert_eq!([host.tcp(SOURCE, WEB, ACK), host.service_udp(SOURCE)], [ALLOWED; 2]);
    assert_eq!(host.tcp(SOURCE, WEB, ACK), OVER_PACKETS);
    assert_eq!(host.service_udp(SOURCE), OVER_PACKETS, "both ports are one service");
    assert_eq!(host.tcp(SOURCE, 8080, ACK), ALLOWED);
    assert_eq!(host.frame(&frame(SOURCE, 17, WEB, 0, 0)), ALLOWED, "443/udp is no port of it");
    assert_eq!(host.tcp(OTHER, WEB, ACK), ALLOWED);
    let slot = host.slot_at(SOURCE, 3).unwrap();
    assert_eq!(slot.service.load(Relaxed), 3);
    assert_eq!(slot.source_key.load(Relaxed), address(SOURCE).source_key(host.settings.masks));
    assert_eq!(host.slot(SOURCE).unwrap().service.load(Relaxed), 0);
}

#[test]
fn flags_say_what_is_set() {
    let host = host(0, packets(1), packets(1));
    assert_eq!([host.service_udp(SOURCE), host.service_udp(SOURCE)], [ALLOWED; 2]);
    assert!(host.slot_at(SOURCE, 3).is_none());
}

#[test]
fn all_sources_together_are_limited_at_a_service() {
    let host = host(service_flags::TOTAL_LIMITS, Limits::NONE, packets(3));
    assert_eq!([(); 2].map(|()| host.service_udp(SOURCE)), [ALLOWED; 2]);
    assert_eq!(host.service_udp(OTHER), ALLOWED);
    assert_eq!(host.service_udp(OTHER), Verdict::drop(Reason::TotalRate));
    assert_eq!(host.service_udp("192.0.2.3"), Verdict::drop(Reason::TotalRate));
    assert_eq!(host.udp(SOURCE), ALLOWED, "elsewhere");
}

#[test]
fn all_sources_together_are_limited_at_the_host() {
    let mut host = host(0, Limits::NONE, Limits::NONE);
    host.settings.flags = flags::TOTAL_LIMITS;
    host.settings.total_limits.kinds[Kind::Udp as usize] = per_hour(2);
    host.name("192.0.2.9", ListValue::TRUSTED);
    assert_eq!([host.udp(SOURCE), host.service_udp(OTHER)], [ALLOWED; 2]);
    assert_eq!(host.udp("192.0.2.3"), Verdict::drop(Reason::TotalRate));
    assert_eq!(host.tcp(SOURCE, WEB, SYN), ALLOWED);
    assert_eq!(host.udp("192.0.2.9"), TRUSTED);
}

/// Or one download would use up what all clients together may send.
#[test]
fn what_this_host_asked_for_is_not_charged_to_all() {
    let mut host = host(0, Limits::NONE, Limits::NONE);
    host.settings.flags = flags::TOTAL_LIMITS;
    host.settings.total_limits.packets = per_hour(2);
    host.has_socket = true;
    let reply = Verdict::pass(Reason::Reply);
    assert_eq!([host.tcp(OTHER, 5000, ACK), host.udp(OTHER)], [reply; 2]);
    assert_eq!([host.tcp(SOURCE, WEB, ACK), host.service_udp(SOURCE)], [ALLOWED; 2]);
    assert_eq!(host.tcp(SOURCE, WEB, ACK), Verdict::drop(Reason::TotalRate));
    assert_eq!(host.tcp(OTHER, 5000, ACK), reply);
}

#[test]
fn connections_of_all_sources_are_counted_by_service() {
    let mut host = host(service_flags::TOTAL_LIMITS, Limits::NONE, Limits::NONE);
    host.services[3].total_limits.concurrent_connections = 10;
    host.open_totals = std::vec![11, 0, 0, 9];
    assert_eq!(host.tcp(SOURCE, WEB, SYN), ALLOWED);
    host.open_totals[3] = 10;
    assert_eq!(host.tcp(SOURCE, WEB, SYN), Verdict::drop(Reason::TooManyConnections));
    assert_eq!(host.tcp(SOURCE, WEB, ACK), ALLOWED);
    assert_eq!(host.tcp(SOURCE, 8080, SYN), ALLOWED);
    host.settings.flags = flags::TOTAL_LIMITS;
    host.settings.total_limits.concurrent_connections = 11;
    assert_eq!(host.tcp(SOURCE, 8080, SYN), Verdict::drop(Reason::TooManyConnections));
}

#[test]
fn connections_of_a_source_are_counted_by_service() {
    let mut host = host(service_flags::SOURCE_LIMITS, Limits::NONE, Limits::NONE);
    host.services[3].limits.concurrent_connections = 2;
    host.open_totals[0] = 100;
    host.open.insert(host.pair(SOURCE, 3), 2);
    assert_eq!(host.tcp(SOURCE, WEB, SYN), Verdict::drop(Reason::TooManyConnections));
    assert_eq!(host.tcp(OTHER, WEB, SYN), ALLOWED);
    assert_eq!(host.tcp(SOURCE, 8080, SYN), ALLOWED);
}

/// A change of one setting.
type Change = fn(&mut Host);

/// Whichever limit refuses a packet, it costs nothing in the others.
#[test]
fn nothing_is_charged_for_what_is_refused() {
    let mut host =
        host(service_flags::SOURCE_LIMITS | service_flags::TOTAL_LIMITS, packets(9), packets(9));
    host.settings.flags = flags::TOTAL_LIMITS;
    host.settings.limits = packets(9);
    host.settings.total_limits = packets(9);
    let refusals: [(Change, Reason); 4] = [
        (|host| host.settings.limits = packets(1), Reason::PacketRate),
        (|host| host.services[3].limits = packets(1), Reason::PacketRate),
        (|host| host.services[3].total_limits = packets(1), Reason::TotalRate),
        (|host| host.settings.total_limits = packets(1), Reason::TotalRate),
    ];
    assert_eq!(host.service_udp(SOURCE), ALLOWED);
    let buckets = |host: &Host| {
        let slots = [host.slot(SOURCE).unwrap(), host.slot_at(SOURCE, 3).unwrap()];
        let all = [&slots[0].buckets, &slots[1].buckets, &host.totals[3], &host.totals[0]];
        all.map(|buckets| buckets.packets.load(Relaxed))
    };
    let charged = buckets(&host);
    assert!(charged.iter().all(|word| *word > crate::bucket::ticks(NOW_NS)), "{charged:?}");
    let before = (host.settings, host.services.clone());
    for (number, (refuse, reason)) in refusals.into_iter().enumerate() {
        refuse(&mut host);
        assert_eq!(host.service_udp(SOURCE), Verdict::drop(reason), "{number}");
        assert_eq!(buckets(&host), charged, "{number}");
        (host.settings, host.services) = before.clone();
    }
    assert_eq!(host.service_udp(SOURCE), ALLOWED);
    assert!(buckets(&host).iter().zip(charged).all(|(now, before)| *now > before));
}

#[test]
fn a_service_may_have_a_list_of_its_own() {
    let mut host = host(service_flags::LISTED, Limits::NONE, Limits::NONE);
    host.admitted.push((3, address(SOURCE)));
    host.admitted.push((2, address(OTHER)));
    assert_eq!(host.tcp(SOURCE, WEB, SYN), ALLOWED);
    assert_eq!(host.tcp(OTHER, WEB, SYN), Verdict::drop(Reason::NotAllowed));
    assert_eq!(host.service_udp(OTHER), Verdict::drop(Reason::NotAllowed));
    assert_eq!(host.tcp(OTHER, 8080, SYN), ALLOWED);
    assert!(host.slot(SOURCE).is_some());
    host.name(OTHER, ListValue::ALLOW);
    assert_eq!(host.service_udp(OTHER), Verdict::drop(Reason::NotAllowed), "nobody overrides it");
    host.name(OTHER, ListValue::TRUSTED);
    assert_eq!(host.service_udp(OTHER), TRUSTED, "but who is trusted");
    // Later fragments have no port.
    host.name(OTHER, ListValue::NONE);
    assert_eq!(host.frame(&frame(OTHER, 17, DNS, 0, 0x0010)), ALLOWED);
    assert_eq!(host.frame(&frame(OTHER, 17, DNS, 0, 0x2000)), Verdict::drop(Reason::NotAllowed));
}

/// A failsafe port is exempt from the list of its service where something else would have refused
/// the packet, and where nothing would have.
#[test]
fn failsafe_ports_are_exempt_from_lists_of_services() {
    let mut host = host(service_flags::LISTED, Limits::NONE, Limits::NONE);
    host.port(false, SSH, PortFacts::default().listening().failsafe().of_service(3));
    host.ban(SOURCE, 10);
    assert_eq!(host.tcp(SOURCE, SSH, SYN), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(OTHER, SSH, SYN), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(OTHER, WEB, SYN), Verdict::drop(Reason::NotAllowed));
}
