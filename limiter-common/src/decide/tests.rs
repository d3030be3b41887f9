//! The order of meaning: what a packet is refused or admitted for.

extern crate std;

use core::sync::atomic::Ordering::Relaxed;
use std::vec;

use self::host::{HOST, Host, NOW_NS, SECOND_NS, SOURCE, SSH, WEB, address, frame, frame_v6};
use super::*;
use crate::{
    address::Masks,
    bucket::BucketRate,
    headers::tcp_flags::{ACK, FIN, SYN},
};

mod host;
mod limits;
mod services;

fn per_hour(burst: u64) -> BucketRate {
    BucketRate::new(burst, 3_600 * SECOND_NS, burst).unwrap()
}

const ALLOWED: Verdict = Verdict::pass(Reason::Allowed);
const BANNED: Verdict = Verdict::drop(Reason::Banned);
const DENIED: Verdict = Verdict::drop(Reason::Denied);
const TRUSTED: Verdict = Verdict::pass(Reason::Trusted);
const OVER_PACKETS: Verdict = Verdict::drop(Reason::PacketRate);

#[test]
fn bans_precede_lists_and_lists_precede_the_default() {
    let mut host = Host::new();
    host.settings.flags = flags::DEFAULT_DENY;
    assert_eq!(host.udp(SOURCE), Verdict::drop(Reason::NotAllowed));
    host.name(SOURCE, ListValue::ALLOW);
    assert_eq!(host.udp(SOURCE), ALLOWED);
    host.name(SOURCE, ListValue::DENY);
    assert_eq!(host.udp(SOURCE), DENIED);
    host.ban(SOURCE, 10);
    assert_eq!(host.udp(SOURCE), BANNED);
    host.name(SOURCE, ListValue::ALLOW);
    assert_eq!(host.udp(SOURCE), BANNED, "those allowed can be banned");
    assert_eq!(host.udp("192.0.2.2"), Verdict::drop(Reason::NotAllowed));
}

#[test]
fn the_longest_match_is_the_whole_answer() {
    let mut host = Host::new();
    host.name_prefix("10.1.2.0", 96 + 24, ListValue::ALLOW);
    host.name_prefix("10.1.2.128", 96 + 25, ListValue::DENY);
    host.name("10.1.2.200", ListValue::ALLOW);
    host.name("10.1.2.7", ListValue::DENY);
    host.settings.flags |= flags::DEFAULT_DENY;
    for (source, verdict) in [
        ("10.1.2.1", ALLOWED),
        ("10.1.2.7", DENIED),
        ("10.1.2.129", DENIED),
        ("10.1.2.200", ALLOWED),
        ("10.1.3.1", Verdict::drop(Reason::NotAllowed)),
    ] {
        // Of the second packet the slot remembers it.
        assert_eq!([host.udp(source), host.udp(source)], [verdict; 2], "{source}");
    }
}

#[test]
fn ipv6_prefixes_of_every_length_are_found() {
    let mut host = Host::new();
    host.name_prefix("2001:db8::", 32, ListValue::ALLOW);
    host.name_prefix("2001:db8:5::", 48, ListValue::DENY);
    host.name_prefix("2001:db8:5:5::", 64, ListValue::ALLOW);
    host.name_prefix("2001:db8:6:4::", 63, ListValue::DENY);
    host.name_prefix("2001:db8:7::80", 121, ListValue::DENY);
    host.name("2001:db8:5:5::9", ListValue::DENY);
    let check = |host: &Host, cases: &[(&str, Verdict)]| {
        for (source, verdict) in cases {
            let frame = frame_v6(source);
            assert_eq!([host.frame(&frame), host.frame(&frame)], [*verdict; 2], "{source}");
        }
    };
    check(
        &host,
        &[
            ("2001:db8::1", ALLOWED),
            ("2001:db8:5::1", DENIED),
            ("2001:db8:5:5::1", ALLOWED),
            ("2001:db8:5:5::9", DENIED),
            ("2001:db8:6:5::1", DENIED),
            ("2001:db8:6:6::1", ALLOWED),
            ("2001:db8:7::81", DENIED),
            ("2001:db8:7::1", ALLOWED),
            ("2001:db9::1", ALLOWED),
        ],
    );
    // A prefix that no level has.
    host.name_prefix("2000::", 16, ListValue::DENY);
    check(&host, &[("2001:db9::1", ALLOWED), ("2000::1", DENIED), ("2001:db8::1", ALLOWED)]);
}

#[test]
fn the_trusted_are_never_limited() {
    let mut host = Host::new();
    host.settings.limits.packets = per_hour(1);
    host.name(SOURCE, ListValue::TRUSTED);
    for _ in 0..5 {
        assert_eq!(host.udp(SOURCE), TRUSTED);
    }
    assert!(host.slot(SOURCE).is_none(), "and take no slot");
    // Those that were known before they were trusted: their slot remembers it.
    let mut host = Host::new();
    host.settings.limits.packets = per_hour(1);
    assert_eq!(host.udp(SOURCE), ALLOWED);
    host.name(SOURCE, ListValue::TRUSTED);
    host.settings.flags |= flags::FRAGMENTS_DROP;
    for _ in 0..5 {
        assert_eq!(host.udp(SOURCE), TRUSTED);
    }
    assert_eq!(host.looks.get(), 1);
}

#[test]
fn the_trusted_are_so_on_their_interfaces_only() {
    let mut host = Host::new();
    host.settings.flags = flags::DEFAULT_DENY;
    host.name("10.0.0.1", ListValue::NONE.trusted_on(1 << 2));
    host.name("10.0.0.2", ListValue::DENY.trusted_on(1 << 2 | 1 << 15));
    for (interface, verdicts) in [
        (0, [Verdict::drop(Reason::NotAllowed), DENIED]),
        (2, [TRUSTED, TRUSTED]),
        (15, [Verdict::drop(Reason::NotAllowed), TRUSTED]),
    ] {
        host.interface = interface;
        for _ in 0..3 {
            assert_eq!([host.udp("10.0.0.1"), host.udp("10.0.0.2")], verdicts, "{interface}");
        }
    }
    // What a slot remembers on one interface is not believed on another.
    let mut host = Host::new();
    host.name("10.0.0.1", ListValue::DENY.trusted_on(1 << 2));
    host.settings.flags |= flags::TABLE_FULL_DROP;
    host.lists.clear();
    assert_eq!(host.udp("10.0.0.1"), ALLOWED, "now it has a slot");
    host.name("10.0.0.1", ListValue::DENY.trusted_on(1 << 2));
    for (interface, verdict) in [(2, TRUSTED), (0, DENIED), (2, TRUSTED), (1, DENIED)] {
        host.interface = interface;
        assert_eq!(host.udp("10.0.0.1"), verdict, "{interface}");
    }
}

#[test]
fn failsafe_ports_are_exempt_from_all_but_limits() {
    let mut host = Host::new();
    host.settings.limits.packets = per_hour(3);
    host.ban(SOURCE, 10);
    assert_eq!(host.tcp(SOURCE, SSH, SYN), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(SOURCE, WEB, SYN), BANNED);
    assert_eq!(host.frame(&frame(SOURCE, 17, SSH, 0, 0)), BANNED, "TCP only");
    host.name("192.0.2.2", ListValue::DENY);
    assert_eq!(host.tcp("192.0.2.2", SSH, ACK), Verdict::pass(Reason::Failsafe));
    host.settings.flags |= flags::DEFAULT_DENY;
    assert_eq!(host.tcp("192.0.2.3", SSH, ACK), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(SOURCE, SSH, ACK), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(SOURCE, SSH, ACK), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.tcp(SOURCE, SSH, ACK), OVER_PACKETS);
}

#[test]
fn replies_pass_whatever_speaks_against_them() {
    let mut host = Host::new();
    host.has_socket = true;
    host.settings.limits.packets = per_hour(1);
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
    assert_eq!(*host.hits.borrow(), [address(SOURCE); 3]);
    // Whose bit is clear is not looked for.
    assert_eq!(host.udp("192.0.2.2"), ALLOWED);
    assert_eq!(host.hits.borrow().len(), 3);
}

#[test]
fn prefixes_are_banned_like_addresses() {
    let mut host = Host::new();
    host.ban_prefix("10.1.0.0", 96 + 16, 10);
    host.ban_prefix("10.1.2.0", 96 + 24, 5);
    host.ban_prefix("2001:db8::", 32, 10);
    assert_eq!(host.udp("10.1.9.9"), BANNED);
    assert_eq!(host.udp("10.1.2.9"), BANNED);
    assert_eq!(host.udp("10.2.0.1"), ALLOWED);
    assert_eq!(host.frame(&frame_v6("2001:db8:77::1")), BANNED);
    assert_eq!(host.frame(&frame_v6("2001:db9::1")), ALLOWED);
    assert_eq!(host.tcp("10.1.9.9", SSH, SYN), Verdict::pass(Reason::Failsafe));
    assert_eq!(host.hits.borrow().len(), 4);
    host.now_ns.set(NOW_NS + 5 * SECOND_NS);
    // The longest prefix that covers the address is the whole answer, ended or not.
    assert_eq!(host.udp("10.1.2.9"), ALLOWED);
    assert_eq!(host.udp("10.1.9.9"), BANNED);
    host.ban("10.1.2.9", 5);
    assert_eq!(host.udp("10.1.2.9"), BANNED, "the address itself is banned too");
    host.now_ns.set(NOW_NS + 10 * SECOND_NS);
    assert_eq!(host.udp("10.1.9.9"), ALLOWED);
}

/// An exact ban that has ended, and that nobody has removed yet, hides no ban of its prefix.
#[test]
fn a_prefix_is_banned_whatever_was_banned_in_it() {
    let mut host = Host::new();
    host.ban("10.1.2.9", 5);
    host.ban_prefix("10.1.0.0", 96 + 16, 100);
    assert_eq!(host.udp("10.1.2.9"), BANNED);
    host.now_ns.set(NOW_NS + 5 * SECOND_NS);
    assert_eq!(host.udp("10.1.2.9"), BANNED);
}

#[test]
fn what_a_slot_remembers_goes_stale_with_the_policy() {
    let mut host = Host::new();
    // Whoever is not on the list passes its filter here, so that looking can be counted.
    host.settings.list_filter_mask = 0;
    for last in 100..160 {
        host.name(&std::format!("192.0.2.{last}"), ListValue::DENY);
    }
    let looks = |host: &Host| host.looks.replace(0);
    // Claimed by the first packet, remembered by the second, believed by the third.
    assert_eq!([(); 4].map(|()| host.udp(SOURCE)), [ALLOWED; 4]);
    assert_eq!(looks(&host), 2);
    host.name(SOURCE, ListValue::DENY);
    assert_eq!(host.udp(SOURCE), DENIED);
    assert_eq!(host.udp(SOURCE), DENIED);
    assert_eq!(looks(&host), 1, "a new generation is looked up once");
    host.ban(SOURCE, 10);
    assert_eq!(host.udp(SOURCE), BANNED, "a ban holds at once");
    host.now_ns.set(NOW_NS + 10 * SECOND_NS);
    assert_eq!(host.udp(SOURCE), DENIED, "after it the list does");
    assert_eq!(looks(&host), 0, "which the slot remembers");
}

#[test]
fn a_key_of_many_addresses_remembers_nothing() {
    let mut host = Host::new();
    host.name("2001:db8::2", ListValue::DENY);
    for _ in 0..3 {
        assert_eq!(host.frame(&frame_v6("2001:db8::1")), ALLOWED);
        assert_eq!(host.frame(&frame_v6("2001:db8::2")), DENIED, "of the same /64");
    }
    let mut host = Host::new();
    host.settings.flags |= flags::FINE_V4;
    host.settings.masks = Masks::new(24, 64);
    host.name("192.0.2.2", ListValue::DENY);
    for _ in 0..3 {
        assert_eq!(host.udp(SOURCE), ALLOWED);
        assert_eq!(host.udp("192.0.2.2"), DENIED, "of the same /24");
    }
}

#[test]
fn malformed_packets_as_configured() {
    let mut host = Host::new();
    let mut lie = frame(SOURCE, 17, 53, 0, 0);
    lie[17] = 200;
    let decision = host.decide(&lie);
    assert_eq!(decision.verdict, Verdict::drop(Reason::Malformed));
    assert_eq!((decision.source, decision.flaw), (address(SOURCE), Flaw::Network));
    host.settings.flags = flags::MALFORMED_PASS;
    assert_eq!(host.frame(&lie), Verdict::pass(Reason::Malformed));
    host.settings.flags = flags::MONITOR;
    assert_eq!(host.frame(&lie).action, Action::Monitor);
    assert!(host.slot(SOURCE).is_none());
}

#[test]
fn addresses_that_nobody_has_are_flaws() {
    let mut host = Host::new();
    let flaw = |host: &Host, source: &str| {
        let decision = host.decide(&frame(source, 6, WEB, ACK, 0));
        let expected = match decision.flaw {
            Flaw::None => ALLOWED,
            _ => Verdict::drop(Reason::Malformed),
        };
        assert_eq!(decision.verdict, expected, "{source}");
        assert_eq!(decision.source, address(source));
        decision.flaw
    };
    assert_eq!(flaw(&host, "127.0.0.1"), Flaw::Source);
    assert_eq!(flaw(&host, "127.255.0.1"), Flaw::Source);
    assert_eq!(flaw(&host, "128.0.0.1"), Flaw::None);
    assert_eq!(flaw(&host, HOST), Flaw::OwnSource);
    host.settings.set_own([address("198.51.100.2")]);
    assert_eq!(flaw(&host, HOST), Flaw::Land, "whoever's address it is");
    assert_eq!(host.decide(&frame_v6("::1")).flaw, Flaw::Source);
    assert_eq!(host.decide(&frame_v6("2001:db8:ffff::1")).flaw, Flaw::Land);
    // On the loopback interface all of them are as they should be.
    host.is_loopback = true;
    for source in ["127.0.0.1", HOST, "198.51.100.2"] {
        assert_eq!(flaw(&host, source), Flaw::None, "{source}");
    }
    assert_eq!(host.decide(&frame_v6("::1")).verdict, ALLOWED);
}

#[test]
fn what_only_passes_through_is_let_through_unless_asked() {
    let mut host = Host::new();
    host.is_router = true;
    host.ban(SOURCE, 10);
    host.settings.set_own([address("203.0.113.9")]);
    assert_eq!(host.udp(SOURCE), BANNED, "it is to be limited");
    host.settings.flags = flags::FORWARDING | flags::DEFAULT_DENY;
    assert_eq!(host.udp(SOURCE), Verdict::pass(Reason::Forwarded));
    assert!(host.slot(SOURCE).is_none());
    let null = host.tcp(SOURCE, WEB, FIN);
    assert_eq!(null, Verdict::drop(Reason::Malformed), "what nobody sends is not sent on");
    host.settings.set_own([address(HOST)]);
    assert_eq!(host.udp(SOURCE), BANNED, "for this host");
    // An address that is newer than the policy: the stack says that it is not sent on.
    host.settings.set_own([address("203.0.113.9")]);
    host.is_router = false;
    assert_eq!(host.udp(SOURCE), BANNED);
}

#[test]
fn essential_and_foreign_packets_touch_nothing() {
    let mut host = Host::new();
    host.settings.flags = flags::DEFAULT_DENY;
    host.ban(SOURCE, 10);
    host.ban(HOST, 10);
    let mut arp = vec![2; 12];
    arp.extend([8, 6]);
    arp.extend([0; 28]);
    let before = host.state();
    assert_eq!(host.frame(&arp), Verdict::pass(Reason::Essential));
    for source in [SOURCE, HOST] {
        let igmp = frame(source, 2, 0, 0, 0);
        assert_eq!(host.frame(&igmp), Verdict::pass(Reason::Essential));
    }
    assert!(host.hits.borrow().is_empty());
    assert_eq!(host.state(), before);
}

#[test]
fn connection_requests_to_flooded_listeners_are_answered() {
    let mut host = Host::new();
    host.has_cookies = true;
    host.ban("192.0.2.66", 10);
    host.settings.limits.packets = per_hour(3);
    assert_eq!(host.tcp(SOURCE, WEB, SYN), Verdict::answer(Reason::SynCookie));
    assert_eq!(host.tcp(SOURCE, WEB, ACK), ALLOWED);
    assert_eq!(host.frame(&frame(SOURCE, 6, WEB, SYN, 0x2000)), ALLOWED, "a fragment");
    assert_eq!(host.tcp(SOURCE, WEB, SYN), OVER_PACKETS, "limits hold");
    assert_eq!(host.tcp("192.0.2.66", WEB, SYN), BANNED, "and bans do");
    assert_eq!(host.answers.get(), 1);
    host.settings.flags = flags::MONITOR;
    assert_eq!(host.tcp("192.0.2.3", WEB, SYN), ALLOWED, "who only monitors answers nothing");
    host.settings.flags = 0;
    host.has_cookies = false;
    assert_eq!(host.tcp("192.0.2.4", WEB, SYN), ALLOWED);
    assert_eq!(host.answers.get(), 1);
}
