//! The order of meaning, and what a source is charged and credited for.

extern crate std;

use core::sync::atomic::Ordering::Relaxed;
use std::{vec, vec::Vec};

use self::host::{Host, NOW_NS, SECOND_NS, SOURCE, SSH, WEB, address, frame, frame_v6};
use super::*;
use crate::headers::tcp_flags::*;

mod host;

fn per_hour(burst: u64) -> BucketRate {
    BucketRate::new(burst, 3_600 * SECOND_NS, burst).unwrap()
}

const ALLOWED: Verdict = Verdict::pass(Reason::Allowed);
const BANNED: Verdict = Verdict::drop(Reason::Banned);

#[test]
fn bans_precede_lists_and_lists_precede_the_default() {
    let mut host = Host::new();
    host.settings.flags = flags::DEFAULT_DENY;
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::NotAllowed));
    host.name(SOURCE, ListVerdict::Allow);
    assert_eq!(host.udp(SOURCE), ALLOWED);
    host.name(SOURCE, ListVerdict::Deny);
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::Denied));
    host.ban(SOURCE, 10);
    assert_eq!(host.udp(SOURCE), BANNED);
    host.name(SOURCE, ListVerdict::Allow);
    assert_eq!(host.udp(SOURCE), BANNED, "those allowed can be banned");
    assert_eq!(host.udp("192.0.2.2"), Verdict::drop(Reason::NotAllowed));
}

#[test]
fn the_trusted_are_never_limited() {
    let mut host = Host::new();
    host.settings.packets = per_hour(1);
    host.name(SOURCE, ListVerdict::Trusted);
    for _ in 0..5 {
        assert_eq!(host.udp(SOURCE), Verdict::pass(Reason::Trusted));
    }
    assert!(host.slot(SOURCE).is_none(), "and take no slot");
    // Those that were known before they were trusted: their slot remembers it.
    let mut host = Host::new();
    host.settings.packets = per_hour(1);
    assert_eq!(host.udp(SOURCE), ALLOWED);
    host.name(SOURCE, ListVerdict::Trusted);
    host.settings.flags |= flags::FRAGMENTS_DROP;
    for _ in 0..5 {
        assert_eq!(host.udp(SOURCE), Verdict::pass(Reason::Trusted));
    }
    assert_eq!(host.looks.get(), 1);
}

#[test]
fn the_allowed_are_limited() {
    let mut host = Host::new();
    host.settings.packets = per_hour(2);
    host.name(SOURCE, ListVerdict::Allow);
    assert_eq!([host.udp(SOURCE), host.udp(SOURCE)], [ALLOWED; 2]);
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::PacketRate));
    assert_eq!(host.udp("192.0.2.2"), ALLOWED, "each source by itself");
}

#[test]
fn connections_are_limited_by_their_first_segment() {
    let mut host = Host::new();
    host.settings.connections = per_hour(2);
    assert_eq!([host.tcp(SOURCE, WEB, SYN), host.tcp(SOURCE, WEB, SYN)], [ALLOWED; 2]);
    assert_eq!(host.tcp(SOURCE, WEB, SYN), Verdict::drop(Reason::ConnectionRate));
    assert_eq!(host.tcp(SOURCE, WEB, ACK), ALLOWED);
    assert_eq!(host.tcp(SOURCE, WEB, SYN | ACK), ALLOWED, "an answer opens nothing");
    assert_eq!(host.udp(SOURCE), ALLOWED);
    // A packet over the packet limit is not charged as a connection.
    let mut host = Host::new();
    host.settings.packets = per_hour(1);
    host.settings.connections = per_hour(2);
    assert_eq!(host.tcp(SOURCE, WEB, SYN), ALLOWED);
    let charged = host.slot(SOURCE).unwrap().connection_bucket.load(Relaxed);
    assert_eq!(host.tcp(SOURCE, WEB, SYN), Verdict::drop(Reason::PacketRate));
    assert_eq!(host.slot(SOURCE).unwrap().connection_bucket.load(Relaxed), charged);
}

#[test]
fn failsafe_ports_are_exempt_from_all_but_limits() {
    let mut host = Host::new();
    host.settings.packets = per_hour(3);
    host.ban(SOURCE, 10);
    assert_eq!(host.tcp(SOURCE, SSH, SYN), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(SOURCE, WEB, SYN), BANNED);
    assert_eq!(host.frame(&frame(SOURCE, 17, SSH, 0, 0)), BANNED, "TCP only");
    host.name("192.0.2.2", ListVerdict::Deny);
    assert_eq!(host.tcp("192.0.2.2", SSH, ACK), Verdict::pass(Reason::Failsafe));
    host.settings.flags |= flags::DEFAULT_DENY;
    assert_eq!(host.tcp("192.0.2.3", SSH, ACK), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(SOURCE, SSH, ACK), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(SOURCE, SSH, ACK), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(SOURCE, SSH, ACK), Verdict::drop(Reason::PacketRate));
}

#[test]
fn replies_pass_whatever_speaks_against_them() {
    let mut host = Host::new();
    host.has_socket = true;
    host.settings.packets = per_hour(1);
    assert_eq!(host.udp(SOURCE), ALLOWED, "nobody is asked while nothing speaks against it");
    let reply = Verdict::pass(Reason::Reply);
    assert_eq!(host.udp(SOURCE), reply, "over the limit");
    host.ban(SOURCE, 10);
    assert_eq!(host.udp(SOURCE), reply, "banned");
    assert_eq!(host.service_udp(SOURCE), BANNED, "connected there is a service, by its peer");
    assert_eq!(host.tcp(SOURCE, 5000, ACK), reply);
    assert_eq!(host.tcp(SOURCE, 5000, SYN | ACK), reply);
    assert_eq!(host.tcp(SOURCE, 5000, SYN), BANNED, "opens one itself");
    assert_eq!(host.tcp(SOURCE, WEB, ACK), BANNED, "this host listens there");
    assert_eq!(host.frame(&frame(SOURCE, 47, 0, 0, 0)), BANNED, "no ports, no socket");
    assert_eq!(host.frame(&frame(SOURCE, 17, 53, 0, 0x0010)), BANNED, "a later fragment");
    let dropped = host.slot(SOURCE).unwrap().dropped.load(Relaxed);
    assert_eq!(dropped, 0, "replies are not dropped, and bans count what they drop themselves");
    host.has_socket = false;
    assert_eq!(host.udp(SOURCE), BANNED);
}

#[test]
fn bans_end_by_the_clock_and_count_what_meets_them() {
    let mut host = Host::new();
    host.ban(SOURCE, 10);
    let expiry_ns = NOW_NS + 10 * SECOND_NS;
    for (now_ns, verdict) in [(NOW_NS, BANNED), (expiry_ns - 1, BANNED), (expiry_ns, ALLOWED)] {
        host.now_ns.set(now_ns);
        assert_eq!(host.udp(SOURCE), verdict, "{now_ns}");
    }
    assert_eq!(*host.hits.borrow(), [address(SOURCE).ban_key(); 3]);
    // Whose bit is clear is not looked for.
    assert_eq!(host.udp("192.0.2.2"), ALLOWED);
    assert_eq!(host.hits.borrow().len(), 3);
}

#[test]
fn what_a_slot_remembers_goes_stale_with_the_policy() {
    let mut host = Host::new();
    host.name("192.0.2.9", ListVerdict::Deny);
    let looks = |host: &Host| host.looks.replace(0);
    // Claimed by the first packet, remembered by the second, believed by the third.
    assert_eq!([(); 4].map(|()| host.udp(SOURCE)), [ALLOWED; 4]);
    assert_eq!(looks(&host), 2);
    host.name(SOURCE, ListVerdict::Deny);
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::Denied));
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::Denied));
    assert_eq!(looks(&host), 1, "a new generation is looked up once");
    host.ban(SOURCE, 10);
    assert_eq!(host.udp(SOURCE), BANNED, "a ban holds at once");
    host.ban("192.0.2.77", 10);
    assert_eq!(host.udp(SOURCE), BANNED);
    host.now_ns.set(NOW_NS + 10 * SECOND_NS);
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::Denied), "after it the list does");
    assert_eq!(looks(&host), 0, "which the slot remembers");
}

#[test]
fn a_key_of_many_addresses_remembers_nothing() {
    let mut host = Host::new();
    host.settings.flags |= flags::FINE_LISTS;
    host.name("2001:db8::2", ListVerdict::Deny);
    for _ in 0..3 {
        assert_eq!(host.frame(&frame_v6(1)), ALLOWED);
        assert_eq!(host.frame(&frame_v6(2)), Verdict::drop(Reason::Denied), "of the same /64");
    }
    let mut host = Host::new();
    host.settings.flags |= flags::FINE_LISTS;
    host.settings.masks = crate::address::Masks::new(24, 64);
    host.name("192.0.2.2", ListVerdict::Deny);
    for _ in 0..3 {
        assert_eq!(host.udp(SOURCE), ALLOWED);
        assert_eq!(host.udp("192.0.2.2"), Verdict::drop(Reason::Denied), "of the same /24");
    }
}

#[test]
fn monitoring_decides_and_charges_like_enforcing() {
    let watched = Host::new();
    let mut enforced = Host::new();
    enforced.settings.packets = per_hour(2);
    let mut monitored = watched;
    monitored.settings = enforced.settings;
    monitored.settings.flags |= flags::MONITOR;
    for _ in 0..4 {
        let (verdict, seen) = (enforced.udp(SOURCE), monitored.udp(SOURCE));
        assert_eq!(seen.reason, verdict.reason);
        let expected =
            if verdict.action == Action::Drop { Action::Monitor } else { verdict.action };
        assert_eq!(seen.action, expected);
    }
    for (one, other) in enforced.sets.iter().zip(&monitored.sets) {
        assert_eq!(one.to_words(), other.to_words());
    }
}

#[test]
fn malformed_packets_and_fragments_as_configured() {
    let mut host = Host::new();
    let mut lie = frame(SOURCE, 17, 53, 0, 0);
    lie[17] = 200;
    let decision = decide(&lie[..], &host, &host);
    assert_eq!(decision.verdict, Verdict::drop(Reason::Malformed));
    assert_eq!(decision.source, address(SOURCE));
    host.settings.flags = flags::MALFORMED_PASS;
    assert_eq!(host.frame(&lie), Verdict::pass(Reason::Malformed));
    assert!(host.slot(SOURCE).is_none());

    let fragment = frame(SOURCE, 17, 0, 0, 0x2010);
    host.settings.packets = per_hour(1);
    host.settings.flags = flags::FRAGMENTS_DROP;
    assert_eq!(host.frame(&fragment), Verdict::drop(Reason::Fragment));
    host.settings.flags = flags::FRAGMENTS_PASS;
    assert_eq!([(); 3].map(|()| host.frame(&fragment)), [Verdict::pass(Reason::Fragment); 3]);
    host.settings.flags = 0;
    assert_eq!(host.frame(&fragment), ALLOWED);
    assert_eq!(host.frame(&fragment), Verdict::drop(Reason::PacketRate), "limited like others");
}

#[test]
fn essential_and_foreign_packets_touch_nothing() {
    let mut host = Host::new();
    host.settings.flags = flags::DEFAULT_DENY;
    host.ban(SOURCE, 10);
    let mut arp = vec![2; 12];
    arp.extend([8, 6]);
    arp.extend([0; 28]);
    assert_eq!(host.frame(&arp), Verdict::pass(Reason::Essential));
    let igmp = frame(SOURCE, 2, 0, 0, 0);
    assert_eq!(host.frame(&igmp), Verdict::pass(Reason::Essential));
    assert!(host.hits.borrow().is_empty());
}

#[test]
fn a_full_table_passes_or_drops_newcomers_and_keeps_the_known() {
    let mut host = Host::new();
    host.settings.packets = per_hour(2);
    let source = |number: u32| std::format!("10.0.{}.{}", number >> 8, number & 255);
    let mut full = Vec::new();
    for number in 0..200 {
        match host.udp(&source(number)) {
            ALLOWED => {}
            verdict => full.push((number, verdict)),
        }
    }
    assert_eq!(full.len(), 200 - 4 * crate::source::WAYS, "each of 32 slots has one source");
    assert!(full.iter().all(|(_, verdict)| *verdict == Verdict::pass(Reason::TableFull)));
    host.settings.flags = flags::TABLE_FULL_DROP;
    let (newcomer, _) = full[0];
    assert_eq!(host.udp(&source(newcomer)), Verdict::drop(Reason::TableFull));
    assert_eq!(host.udp(&source(0)), ALLOWED, "the second of two");
    assert_eq!(host.udp(&source(0)), Verdict::drop(Reason::PacketRate));
    // When the buckets are full again, slots are free.
    host.now_ns.set(NOW_NS + 3_600 * SECOND_NS);
    assert_eq!(host.udp(&source(newcomer)), ALLOWED);
}

#[test]
fn statistics_say_what_came() {
    let mut host = Host::new();
    host.settings.packets = per_hour(3);
    for _ in 0..3 {
        host.tcp(SOURCE, WEB, SYN);
    }
    host.tcp(SOURCE, WEB, ACK);
    host.tcp(SOURCE, WEB, SYN);
    let slot = host.slot(SOURCE).unwrap();
    let words = [&slot.packets, &slot.bytes, &slot.connections, &slot.dropped];
    assert_eq!(words.map(|word| word.load(Relaxed)), [5, 5 * 54, 4, 2]);
    assert_eq!(slot.seen_ns.load(Relaxed), NOW_NS);
}
