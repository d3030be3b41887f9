//! The frame builder against an independent parser, and the generator against itself.

use std::collections::HashSet;

use etherparse::{
    IpNumber, Ipv6ExtensionSlice, LaxPacketHeaders, NetHeaders, NetSlice, PacketHeaders,
    SlicedPacket, TransportHeader, TransportSlice,
};
use limiter_tests::frames::{
    Arp, Authentication, Ethernet, Extension, Fragment6, Frame, Generator, Ipv4, Ipv6, Payload,
    Tcp, Udp, Vlan, dhcp_discover, mld_report, tcp_flags,
};

/// Parses strictly and recomputes every checksum.
fn check(bytes: &[u8]) -> PacketHeaders<'_> {
    let packet = PacketHeaders::from_ethernet_slice(bytes)
        .unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
    let payload = packet.payload.slice();
    match (&packet.net, &packet.transport) {
        (Some(NetHeaders::Ipv4(ip, _)), transport) => {
            assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
            match transport {
                Some(TransportHeader::Tcp(tcp)) => {
                    assert_eq!(tcp.calc_checksum_ipv4(ip, payload).unwrap(), tcp.checksum);
                }
                Some(TransportHeader::Udp(udp)) => {
                    assert_eq!(udp.calc_checksum_ipv4(ip, payload).unwrap(), udp.checksum);
                }
                Some(TransportHeader::Icmpv4(icmp)) => {
                    assert_eq!(icmp.icmp_type.calc_checksum(payload), icmp.checksum);
                }
                _ => {}
            }
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Tcp(tcp))) => {
            assert_eq!(tcp.calc_checksum_ipv6(ip, payload).unwrap(), tcp.checksum);
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Udp(udp))) => {
            assert_eq!(udp.calc_checksum_ipv6(ip, payload).unwrap(), udp.checksum);
        }
        (Some(NetHeaders::Ipv6(ip, _)), Some(TransportHeader::Icmpv6(icmp))) => {
            let computed = icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload);
            assert_eq!(computed.unwrap(), icmp.checksum);
        }
        _ => {}
    }
    packet
}

#[test]
fn tcp_and_udp_of_both_families_are_what_an_independent_parser_reads() {
    for (source, destination) in
        [("192.0.2.1:1024", "192.0.2.2:443"), ("[2001:db8::1]:1024", "[2001:db8::2]:443")]
    {
        let bytes = Frame::tcp(source, destination, tcp_flags::SYN | tcp_flags::ACK)
            .map::<Tcp>(|tcp| tcp.options = vec![2, 4, 5, 0xb4])
            .with(Payload(b"odd".to_vec()))
            .bytes();
        let packet = check(&bytes);
        let tcp = packet.transport.unwrap().tcp().unwrap();
        assert_eq!((tcp.source_port, tcp.destination_port), (1024, 443));
        assert!(tcp.syn && tcp.ack && !tcp.rst && !tcp.fin);
        assert_eq!(tcp.data_offset(), 6);
        assert_eq!(packet.payload.slice(), b"odd");

        let bytes = Frame::udp(source, destination, b"payload").bytes();
        let packet = check(&bytes);
        let udp = packet.transport.unwrap().udp().unwrap();
        assert_eq!((udp.destination_port, udp.length), (443, 15));
    }
}

#[test]
fn tags_options_and_extension_headers_chain() {
    let frame = Frame::udp("192.0.2.1:1", "192.0.2.2:2", b"x")
        .map::<Ipv4>(|ipv4| ipv4.options = vec![1; 5])
        .after_ethernet(Vlan::new(20))
        .after_ethernet(Vlan::service(10))
        .macs([2; 6], [4; 6]);
    let bytes = frame.bytes();
    let packet = check(&bytes);
    assert_eq!(packet.link.clone().unwrap().ethernet2().unwrap().source, [2; 6]);
    let ids: Vec<u16> = packet.vlan_ids().iter().map(|id| id.value()).collect();
    assert_eq!(ids, [10, 20]);
    let Some(NetHeaders::Ipv4(ip, _)) = packet.net.clone() else {
        panic!("IPv4: {packet:?}");
    };
    assert_eq!(ip.options.len(), 8);

    let frame = Frame::ip("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
        .with(Extension::hop_by_hop(Vec::new()))
        .with(Extension::routing(2))
        .with(Fragment6::default())
        .with(Authentication::default())
        .with(Extension::destination_options(vec![1, 12]))
        .with(Udp::new(5, 6))
        .with(Payload(vec![7; 9]));
    let bytes = frame.bytes();
    let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
    let Some(TransportSlice::Udp(udp)) = packet.transport.clone() else {
        panic!("UDP behind every extension header: {packet:?}");
    };
    assert_eq!(udp.payload(), [7; 9]);
    let Some(NetSlice::Ipv6(ip)) = packet.net.clone() else {
        panic!("IPv6: {packet:?}");
    };
    let kinds: Vec<&str> = ip
        .extensions()
        .clone()
        .into_iter()
        .map(|extension| match extension {
            Ipv6ExtensionSlice::HopByHop(_) => "hop by hop",
            Ipv6ExtensionSlice::Routing(_) => "routing",
            Ipv6ExtensionSlice::Fragment(_) => "fragment",
            Ipv6ExtensionSlice::Authentication(_) => "authentication",
            Ipv6ExtensionSlice::DestinationOptions(_) => "options",
        })
        .collect();
    let expected = ["hop by hop", "routing", "fragment", "authentication", "options"];
    assert_eq!(kinds, expected);
}

#[test]
fn fragments_put_together_are_the_datagram() {
    for (source, destination) in
        [("192.0.2.1:1", "192.0.2.2:2"), ("[2001:db8::1]:1", "[2001:db8::2]:2")]
    {
        let whole = Frame::udp(source, destination, &[3; 50]);
        let fragments = whole.fragments(24, 77);
        assert_eq!(fragments.len(), 3, "58 bytes");
        let mut datagram = Vec::new();
        for (index, fragment) in fragments.iter().enumerate() {
            let packet = SlicedPacket::from_ethernet(fragment).unwrap();
            assert!(packet.transport.is_none(), "{packet:?}");
            let (offset, more, payload) = match packet.net.unwrap() {
                NetSlice::Ipv4(ip) => {
                    let header = ip.header();
                    assert_eq!(header.identification(), 77);
                    let offset = usize::from(header.fragments_offset().byte_offset());
                    (offset, header.more_fragments(), ip.payload().payload)
                }
                NetSlice::Ipv6(ip) => {
                    let (extensions, _, _) = etherparse::Ipv6Extensions::from_slice(
                        IpNumber::IPV6_FRAGMENTATION_HEADER,
                        &fragment[54..],
                    )
                    .unwrap();
                    let header = extensions.fragment.unwrap();
                    assert_eq!(header.identification, 77);
                    let offset = usize::from(header.fragment_offset.byte_offset());
                    (offset, header.more_fragments, ip.payload().payload)
                }
                NetSlice::Arp(arp) => panic!("{arp:?}"),
            };
            assert_eq!(offset, datagram.len());
            assert_eq!(more, index < 2);
            datagram.extend_from_slice(payload);
        }
        let bytes = whole.bytes();
        assert_eq!(datagram, bytes[bytes.len() - 58..]);
    }
}

#[test]
fn what_a_network_needs_parses() {
    let ping = |source: &str, destination: &str| {
        Frame::ping(source.parse().unwrap(), destination.parse().unwrap()).bytes()
    };
    check(&ping("192.0.2.1", "192.0.2.2"));
    check(&ping("2001:db8::1", "2001:db8::2"));
    let discover = dhcp_discover().bytes();
    let packet = check(&discover);
    assert_eq!(packet.transport.unwrap().udp().unwrap().source_port, 68);
    let report = mld_report("fe80::1".parse().unwrap(), "ff02::fb".parse().unwrap()).bytes();
    let packet = check(&report);
    assert_eq!(packet.transport.unwrap().icmpv6().unwrap().icmp_type.type_u8(), 143);
    let arp = Frame::new()
        .with(Ethernet::default())
        .with(Arp::request([192, 0, 2, 1].into(), [192, 0, 2, 2].into()))
        .bytes();
    assert!(matches!(check(&arp).net, Some(NetHeaders::Arp(_))));
}

#[test]
fn every_override_lies_where_it_says() {
    let frame = Frame::tcp("192.0.2.1:1", "192.0.2.2:2", tcp_flags::SYN);
    let honest = frame.bytes();
    let changed = |frame: Frame| -> Vec<usize> {
        let bytes = frame.bytes();
        assert_eq!(bytes.len(), honest.len());
        (0..bytes.len()).filter(|at| bytes[*at] != honest[*at]).collect()
    };
    let fixed = u16::from_be_bytes([honest[24], honest[25]]);
    let ipv4 = |change: fn(&mut Ipv4)| {
        let frame = frame.clone().map::<Ipv4>(change);
        changed(frame.map::<Ipv4>(|ipv4| ipv4.checksum = Some(fixed)))
    };
    assert_eq!(ipv4(|ip| ip.version = Some(5)), [14]);
    assert_eq!(ipv4(|ip| ip.header_words = Some(4)), [14]);
    assert_eq!(ipv4(|ip| ip.total_length = Some(0xffff)), [16, 17]);
    assert_eq!(ipv4(|ip| ip.protocol = Some(17)), [23]);
    assert_eq!(ipv4(|_| ()), [0; 0]);
    let tcp = |change: fn(&mut Tcp)| changed(frame.clone().map::<Tcp>(change));
    assert_eq!(tcp(|tcp| tcp.checksum = Some(0)), [50, 51]);
    let ethernet = frame.clone().map::<Ethernet>(|it| it.ether_type = Some(0x86dd));
    assert_eq!(changed(ethernet), [12, 13]);

    let frame = Frame::udp("[2001:db8::1]:1", "[2001:db8::2]:2", b"");
    let lie = frame
        .map::<Udp>(|udp| udp.length = Some(7))
        .map::<Ipv6>(|ipv6| ipv6.payload_length = Some(3))
        .bytes();
    assert_eq!(lie[18..20], [0, 3]);
    assert_eq!(lie[58..60], [0, 7]);
}

#[test]
fn the_generator_repeats_itself_for_a_seed_and_only_then() {
    let run = |seed| {
        let mut generator = Generator::new(seed);
        (0..500).map(|_| generator.any()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn valid_frames_parse_and_cover_every_shape() {
    let mut generator = Generator::new(7);
    let mut shapes = HashSet::new();
    for _ in 0..20_000 {
        let bytes = generator.valid();
        // A first fragment may end within a header, which the strict parser refuses.
        let lax = LaxPacketHeaders::from_ethernet(&bytes).unwrap();
        let fragment = match &lax.net {
            Some(NetHeaders::Ipv4(ip, _)) => ip.is_fragmenting_payload(),
            Some(NetHeaders::Ipv6(_, extensions)) => extensions.is_fragmenting_payload(),
            _ => false,
        };
        if fragment {
            let family = if lax.net.unwrap().is_ipv4() { "v4 fragment" } else { "v6 fragment" };
            shapes.insert((lax.link_exts.len(), family, "none"));
            continue;
        }
        let packet = check(&bytes);
        let net = match &packet.net {
            Some(NetHeaders::Ipv4(ip, _)) if ip.options.is_empty() => "v4",
            Some(NetHeaders::Ipv4(..)) => "v4 options",
            Some(NetHeaders::Ipv6(_, e)) if e.is_empty() => "v6",
            Some(NetHeaders::Ipv6(..)) => "v6 extensions",
            Some(NetHeaders::Arp(_)) => "arp",
            None => "other",
        };
        let transport = match packet.transport {
            Some(TransportHeader::Tcp(_)) => "tcp",
            Some(TransportHeader::Udp(_)) => "udp",
            Some(TransportHeader::Icmpv4(_) | TransportHeader::Icmpv6(_)) => "icmp",
            None => "none",
        };
        shapes.insert((packet.link_exts.len(), net, transport));
    }
    for tags in 0..3 {
        for net in ["v4", "v4 options", "v6", "v6 extensions"] {
            for transport in ["tcp", "udp", "icmp", "none"] {
                let shape = (tags, net, transport);
                assert!(shapes.contains(&shape), "{shape:?}");
            }
        }
        for net in ["v4 fragment", "v6 fragment", "arp", "other"] {
            assert!(shapes.contains(&(tags, net, "none")), "{tags} {net}");
        }
    }
}

#[test]
fn mutated_frames_are_bounded_and_mostly_wrong() {
    let mut generator = Generator::new(11);
    let (mut refused, mut shortest, mut longest) = (0, usize::MAX, 0);
    for _ in 0..20_000 {
        let bytes = generator.mutated();
        shortest = shortest.min(bytes.len());
        longest = longest.max(bytes.len());
        refused += usize::from(SlicedPacket::from_ethernet(&bytes).is_err());
    }
    assert_eq!(shortest, 14);
    assert!(longest <= 1600, "{longest}");
    assert!((4_000..16_000).contains(&refused), "{refused} of 20,000 do not parse");
}
