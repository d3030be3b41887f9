//! Headers built by hand, so that every byte that a rule looks at is seen here.

extern crate std;

use std::{vec, vec::Vec};

use self::frames::{
    IPV4, IPV6, ethernet, ipv4_with, ipv6_with, source_v4, source_v6, tagged, tcp, udp, v4, v6,
};
use super::*;

mod frames;

fn ip(frame: &[u8]) -> Headers {
    match parse(frame) {
        Parsed::Ip(headers) => headers,
        other => panic!("{other:?}"),
    }
}

fn is_malformed(frame: &[u8]) -> bool {
    matches!(parse(frame), Parsed::Malformed(..))
}

#[test]
fn plain_packets_of_both_families() {
    let headers = ip(&v4(6, &tcp(tcp_flags::SYN)));
    assert_eq!(headers.source, source_v4());
    assert_eq!(headers.destination, Address::from_v4([198, 51, 100, 9]));
    assert_eq!((headers.source_port, headers.destination_port), (1234, 80));
    assert!(headers.has_ports && headers.is_tcp_open() && !headers.is_fragment);

    let headers = ip(&v6(17, &udp(1234, 53, 8)));
    assert_eq!(headers.source, source_v6());
    assert_eq!((headers.protocol, headers.destination_port), (17, 53));
    assert!(headers.has_ports && !headers.is_tcp_open() && !headers.is_essential);
}

#[test]
fn what_is_not_ip_is_not_ours() {
    for ether_type in [0x0806_u16, 0x88cc, 0x0026, 0x8847, 0] {
        assert_eq!(parse(&ethernet(ether_type, &[0; 40])[..]), Parsed::NotIp, "{ether_type:x}");
    }
    assert_eq!(parse(&[0; 13][..]), Parsed::Malformed(Address::default(), Flaw::Link));
}

#[test]
fn two_tags_are_passed_and_a_third_is_malformed() {
    let inner = ipv4_with(6, 0, &[], &tcp(tcp_flags::ACK));
    for tags in [&[0x8100_u16][..], &[0x88a8, 0x8100], &[0x8100, 0x8100]] {
        assert_eq!(ip(&tagged(tags, IPV4, &inner)).source, source_v4(), "{tags:x?}");
        let inner = ipv6_with(6, 64, &tcp(tcp_flags::ACK));
        assert_eq!(ip(&tagged(tags, IPV6, &inner)).source, source_v6(), "{tags:x?}");
        assert_eq!(parse(&tagged(tags, 0x0806, &[0; 28])[..]), Parsed::NotIp);
    }
    let third = tagged(&[0x88a8, 0x8100, 0x8100], IPV4, &inner);
    assert_eq!(parse(&third[..]), Parsed::Malformed(Address::default(), Flaw::Link));
    let cut = &tagged(&[0x8100], IPV4, &inner)[..17];
    assert_eq!(parse(cut), Parsed::Malformed(Address::default(), Flaw::Link));
}

#[test]
fn ipv4_options_are_passed() {
    for words in 0..=10 {
        let packet = ipv4_with(6, 0, &vec![1; words * 4], &tcp(tcp_flags::ACK));
        assert_eq!(ip(&ethernet(IPV4, &packet)).destination_port, 80, "{words} words");
    }
}

#[test]
fn ipv4_that_lies_about_itself_is_malformed() {
    let good = v4(6, &tcp(tcp_flags::ACK));
    let with = |offset: usize, byte: u8| {
        let mut frame = good.clone();
        frame[offset] = byte;
        parse(&frame[..])
    };
    let malformed = Parsed::Malformed(source_v4(), Flaw::Network);
    assert_eq!(with(14, 0x65), malformed, "version 6");
    assert_eq!(with(14, 0x44), malformed, "a header of 16 bytes");
    assert_eq!(with(14, 0x4f), malformed, "a header longer than the packet");
    assert_eq!(with(17, 19), malformed, "shorter than its own header");
    assert_eq!(with(17, 41), malformed, "longer than the frame");
    let short = Parsed::Malformed(source_v4(), Flaw::Transport);
    assert_eq!(with(17, 39), short, "shorter than the TCP header");
    assert_eq!(with(17, 0), malformed, "no length in a small frame");
    for length in 0..good.len() {
        assert!(is_malformed(&good[..length]), "{length} bytes");
    }
    // Ethernet pads short packets: what the header does not count is not looked at.
    let mut padded = good.clone();
    padded.extend([0; 6]);
    assert_eq!(ip(&padded), ip(&good));
}

#[test]
fn tcp_that_no_stack_sends_is_malformed() {
    use tcp_flags::{ACK, FIN, RST, SYN};
    for flags in 0..=u8::MAX {
        let sane = flags & (SYN | ACK | RST) != 0
            && !(flags & SYN != 0 && flags & (FIN | RST) != 0)
            && !(flags & FIN != 0 && flags & (ACK | RST) == 0);
        assert_eq!(!is_malformed(&v4(6, &tcp(flags))), sane, "{flags:08b}");
        assert_eq!(!is_malformed(&v6(6, &tcp(flags))), sane, "{flags:08b}");
    }
    for words in 0..16_u8 {
        let mut segment = tcp(ACK);
        segment[12] = words << 4;
        segment.extend([0; 20]);
        assert_eq!(!is_malformed(&v4(6, &segment)), (5..=10).contains(&words), "{words} words");
    }
}

#[test]
fn udp_lengths_are_compared() {
    let length = |stated| is_malformed(&v4(17, &udp(1, 2, stated)));
    assert!(!length(8) && !length(0));
    assert!(length(7) && length(1) && length(9) && length(u16::MAX));
    assert!(is_malformed(&v4(17, &[0; 7])));
    assert!(is_malformed(&v4(1, &[8, 0, 0])), "ICMP has at least 4 bytes");
    assert!(is_malformed(&v6(58, &[])));
    assert!(!is_malformed(&v4(47, &[])), "of other protocols nothing is known");
}

#[test]
fn fragments_are_told_and_do_not_hide_ports() {
    let fragment =
        |word, protocol, payload: &[u8]| ethernet(IPV4, &ipv4_with(protocol, word, &[], payload));
    let first = ip(&fragment(0x2000, 6, &tcp(tcp_flags::SYN)));
    assert!(first.is_fragment && first.is_tcp_open());
    let later = ip(&fragment(0x2003, 6, &[0xff; 16]));
    assert!(later.is_fragment && !later.has_ports && !later.is_tcp_open());
    assert!(!ip(&fragment(0x4000, 6, &tcp(tcp_flags::ACK))).is_fragment, "don't fragment");
    // The datagram is longer than its first fragment.
    assert!(ip(&fragment(0x2000, 17, &udp(1, 2, 1_000))).has_ports);
    // RFC 1858: a tiny first fragment, and one that overlaps the flags of the first.
    assert!(is_malformed(&fragment(0x2000, 6, &tcp(tcp_flags::SYN)[..16])));
    assert!(is_malformed(&fragment(0x2000, 6, &tcp(tcp_flags::SYN)[..8])));
    assert!(is_malformed(&fragment(0x2001, 6, &[0; 32])));
    assert!(is_malformed(&fragment(0x0002, 6, &[0; 32])));
    assert!(!is_malformed(&fragment(0x0001, 17, &[0; 32])), "UDP has no flags to rewrite");
    // A later fragment that looks like DHCP is a fragment.
    assert!(!ip(&fragment(0x0010, 17, &udp(67, 68, 8))).is_essential);
}

#[test]
fn ipv6_fragments_are_told() {
    let fragment = |word: u16, payload: &[u8]| {
        let mut bytes = vec![6, 0];
        bytes.extend(word.to_be_bytes());
        bytes.extend([0, 0, 0, 1]);
        bytes.extend(payload);
        v6(44, &bytes)
    };
    let first = ip(&fragment(1, &tcp(tcp_flags::SYN)));
    assert!(first.is_fragment && first.is_tcp_open());
    let atomic = ip(&fragment(0, &tcp(tcp_flags::SYN)));
    assert!(atomic.is_fragment && atomic.is_tcp_open(), "whole, and says fragment (RFC 6946)");
    let later = ip(&fragment(10 << 3, &[0; 4]));
    assert!(later.is_fragment && !later.has_ports);
    assert!(is_malformed(&fragment(1 << 3, &[0; 32])), "rewrites TCP flags");
    assert!(is_malformed(&fragment(1, &tcp(tcp_flags::SYN)[..12])), "tiny");
}

/// `count` destination options of 8 bytes before TCP.
fn chain(count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..count {
        let next = if number + 1 == count { 6 } else { 60 };
        bytes.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    bytes.extend(tcp(tcp_flags::ACK));
    v6(if count == 0 { 6 } else { 60 }, &bytes)
}

#[test]
fn extension_headers_are_passed_up_to_the_bound() {
    for count in 0..=MAX_EXTENSION_HEADERS {
        assert_eq!(ip(&chain(count)).destination_port, 80, "{count}");
    }
    for count in MAX_EXTENSION_HEADERS + 1..MAX_EXTENSION_HEADERS + 4 {
        assert_eq!(
            parse(&chain(count)[..]),
            Parsed::Malformed(source_v6(), Flaw::ExtensionHeaders),
            "{count}"
        );
    }
    for kind in [0, 43, 60, 135, 139, 140] {
        let mut bytes = vec![6, 1];
        bytes.extend([0; 14]);
        bytes.extend(tcp(tcp_flags::ACK));
        assert_eq!(ip(&v6(kind, &bytes)).destination_port, 80, "{kind}");
        // Longer than the payload, and longer than anything.
        for length in [9, 255] {
            bytes[1] = length;
            assert_eq!(
                parse(&v6(kind, &bytes)[..]),
                Parsed::Malformed(source_v6(), Flaw::ExtensionHeaders),
                "{kind}"
            );
        }
    }
    // The authentication header counts in 4 bytes.
    let mut bytes = vec![6, 4];
    bytes.extend([0; 22]);
    bytes.extend(tcp(tcp_flags::ACK));
    assert_eq!(ip(&v6(51, &bytes)).destination_port, 80);
    // ESP and "no next header" end the chain.
    assert_eq!(ip(&v6(50, &[0; 8])).protocol, 50);
    assert_eq!(ip(&v6(59, &[])).protocol, 59);
}

#[test]
fn the_longest_chain_stays_within_what_is_remembered_of_its_length() {
    let count = MAX_EXTENSION_HEADERS;
    let mut bytes = Vec::new();
    for number in 0..count {
        bytes.extend([if number + 1 == count { 6 } else { 60 }, 255]);
        bytes.extend([0; 2046]);
    }
    bytes.extend(tcp(tcp_flags::ACK));
    let inner = ipv6_with(60, 64, &bytes);
    let frame = tagged(&[0x88a8, 0x8100], IPV6, &inner);
    assert_eq!(ip(&frame).destination_port, 80);
    assert!(frame.len() < LONGEST_HEADERS && 2048 <= LONGEST_EXTENSION_HEADER);
    const { assert!(EthHdr::LEN + MAX_VLAN_TAGS * VlanHdr::LEN <= LONGEST_LINK_HEADER) };
}

#[test]
fn ipv6_that_lies_about_itself_is_malformed() {
    let good = v6(6, &tcp(tcp_flags::ACK));
    let with = |offset: usize, byte: u8| {
        let mut frame = good.clone();
        frame[offset] = byte;
        parse(&frame[..])
    };
    assert_eq!(with(14, 0x40), Parsed::Malformed(source_v6(), Flaw::Network), "version 4");
    assert_eq!(
        with(19, 21),
        Parsed::Malformed(source_v6(), Flaw::Network),
        "longer than the frame"
    );
    assert_eq!(
        with(19, 19),
        Parsed::Malformed(source_v6(), Flaw::Transport),
        "shorter than the TCP header"
    );
    assert_eq!(
        with(19, 0),
        Parsed::Malformed(source_v6(), Flaw::Transport),
        "no length in a small frame"
    );
    for length in 0..good.len() {
        assert!(is_malformed(&good[..length]), "{length} bytes");
    }
    // A source that names an IPv4 address would be counted as it.
    let mut mapped = good.clone();
    mapped[22..38].copy_from_slice(&source_v4().to_bytes());
    assert_eq!(parse(&mapped[..]), Parsed::Malformed(source_v4(), Flaw::Source));
}

/// A frame that says it is longer than its bytes, as a multi-buffer or generic XDP frame is.
struct Long<'a>(&'a [u8], u64);

impl PacketBytes for Long<'_> {
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.array(offset)
    }

    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.0.words(offset)
    }

    fn long_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        self.0.long_words(offset)
    }

    fn length(&self) -> u64 {
        self.1
    }
}

#[test]
fn super_packets_state_no_length() {
    for (mut frame, length_at, rest) in
        [(v4(6, &tcp(tcp_flags::ACK)), 16, 14), (v6(6, &tcp(tcp_flags::ACK)), 18, 54)]
    {
        frame[length_at..length_at + 2].copy_from_slice(&[0, 0]);
        assert!(matches!(parse(&Long(&frame, rest + 0x1_0000)), Parsed::Ip(_)), "64 KiB");
        assert!(matches!(parse(&Long(&frame, rest + 0xffff)), Parsed::Malformed(..)), "less");
    }
}

#[test]
fn what_a_network_needs_is_essential() {
    let essential = |frame: &[u8]| ip(frame).is_essential;
    for (from, to) in [(68, 67), (67, 68)] {
        assert!(essential(&v4(17, &udp(from, to, 8))));
        assert!(!essential(&v6(17, &udp(from, to, 8))), "DHCP of the other family");
    }
    for (from, to) in [(546, 547), (547, 546)] {
        assert!(essential(&v6(17, &udp(from, to, 8))));
        assert!(!essential(&v4(17, &udp(from, to, 8))));
    }
    for (from, to) in [(67, 67), (68, 68), (68, 53), (1024, 67)] {
        assert!(!essential(&v4(17, &udp(from, to, 8))), "{from} to {to}");
    }
    assert!(essential(&v4(2, &[0x11, 0, 0, 0])), "IGMP");
    assert!(essential(&v4(1, &[3, 4, 0, 0])), "fragmentation needed");
    for message in [[3, 3, 0, 0], [8, 0, 0, 0], [5, 4, 0, 0], [11, 0, 0, 0]] {
        assert!(!essential(&v4(1, &message)), "{message:?}");
    }
}

#[test]
fn neighbour_discovery_is_essential_only_from_the_link() {
    for kind in 0..=u8::MAX {
        let message = [kind, 0, 0, 0];
        let from =
            |hop_limit| ip(&ethernet(IPV6, &ipv6_with(58, hop_limit, &message))).is_essential;
        let forwarded = matches!(kind, 2 | 130..=132 | 143);
        assert_eq!(from(254), forwarded, "{kind} through a router");
        assert_eq!(from(255), forwarded || (133..=137).contains(&kind), "{kind} on the link");
    }
    // A multicast listener report follows a router alert option.
    let mut report = vec![58, 0, 5, 2, 0, 0, 1, 0];
    report.extend([143, 0, 0, 0]);
    assert!(ip(&v6(0, &report)).is_essential);
}

#[test]
fn forgetting_changes_nothing() {
    for frame in [v4(6, &tcp(tcp_flags::SYN)), v6(17, &udp(546, 547, 8)), chain(3)] {
        let headers = ip(&frame);
        assert_eq!(headers.forget::<crate::machine::Native>(0x1234_5678_9abc_def0), headers);
    }
}

#[test]
fn flaws_say_what_is_wrong() {
    use tcp_flags::{ACK, FIN, RST, SYN};
    let flaw = |frame: &[u8]| match parse(frame) {
        Parsed::Malformed(_, flaw) => flaw,
        other => panic!("{other:?}"),
    };
    for flags in [0, FIN, SYN | FIN, SYN | RST, FIN | 0x28, 0x28] {
        assert_eq!(flaw(&v4(6, &tcp(flags))), Flaw::TcpFlags, "{flags:08b}");
    }
    let fragment = |word, payload: &[u8]| ethernet(IPV4, &ipv4_with(6, word, &[], payload));
    assert_eq!(flaw(&fragment(0x2000, &tcp(SYN)[..16])), Flaw::Fragment, "tiny");
    assert_eq!(flaw(&fragment(0x0001, &[0; 32])), Flaw::Fragment, "overlaps");
    assert_eq!(flaw(&fragment(0x0002, &[0; 32])), Flaw::Fragment, "overlaps");
    assert_eq!(flaw(&v4(6, &tcp(ACK)[..16])), Flaw::Transport);
    assert_eq!(flaw(&v4(17, &udp(1, 2, 9))), Flaw::Transport);
    assert_eq!(flaw(&v4(1, &[8])), Flaw::Transport);
    for octet in [224, 239, 240, 255] {
        let mut frame = v4(6, &tcp(ACK));
        frame[26] = octet;
        assert_eq!(flaw(&frame), Flaw::Source, "{octet}: multicast or reserved");
    }
    let mut frame = v6(6, &tcp(ACK));
    frame[22] = 0xff;
    assert_eq!(flaw(&frame), Flaw::Source, "multicast");
    assert_eq!(flaw(&ethernet(0x8100, &[])), Flaw::Link);
    for (value, flaw) in Flaw::ALL.iter().enumerate() {
        assert_eq!(*flaw as usize, value);
        assert!(!flaw.label().is_empty() && !flaw.meaning().is_empty());
    }
}

#[test]
fn arbitrary_bytes_never_panic() {
    let mut state = 0x0dd_ba11_u64;
    let mut frame = [0_u8; 160];
    let (mut seen_ip, mut seen_malformed) = (0_u32, 0_u32);
    for _ in 0..1_000_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (state >> 40) as usize % frame.len();
        frame[at] = state.to_le_bytes()[4];
        // They announce IP, or nearly all would be something else.
        let ether_type = [IPV4, IPV6, 0x8100, 0x88a8][(state >> 60) as usize & 3];
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        frame[14] = if ether_type == IPV4 { 0x45 } else { 0x60 };
        // A length that often fits.
        frame[if ether_type == IPV4 { 16 } else { 18 }] = 0;
        let length = 14 + (state >> 50) as usize % (frame.len() - 13);
        match parse(&frame[..length]) {
            Parsed::Ip(_) => seen_ip += 1,
            Parsed::Malformed(..) => seen_malformed += 1,
            Parsed::NotIp => {}
        }
    }
    assert!(seen_ip > 1_000 && seen_malformed > 1_000, "{seen_ip} {seen_malformed}");
}
