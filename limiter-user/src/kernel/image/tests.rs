//! The image says what the policy means.

use std::time::Duration;

use super::*;
use crate::policy::{
    Networks, Rate,
    kernel::{Attach, PortRange, SynCookies, Trusted},
};

pub(in crate::kernel) fn policy() -> KernelPolicy {
    KernelPolicy {
        interfaces: Vec::new(),
        attach: Attach::Auto,
        required: true,
        mode: Mode::Enforce,
        default: DefaultVerdict::Allow,
        trusted: Vec::new(),
        allow: Networks::default(),
        deny: Networks::default(),
        failsafe_ports: vec![FailsafePort::Auto, FailsafePort::Tcp(9)],
        ipv4_prefix: 32,
        ipv6_prefix: 64,
        max_sources: 1_000,
        max_bans: 100,
        max_prefix_bans: 10,
        table_full: PassOrDrop::Pass,
        syn_cookies: SynCookies::Off,
        malformed: PassOrDrop::Drop,
        fragments: Fragments::Limit,
        forwarded: false,
        limits: Limits::default(),
        total_limits: Limits::default(),
        services: Vec::new(),
    }
}

fn networks(texts: &[&str]) -> Networks {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn running() -> Running {
    Running { generation: 3, set_mask: 7, hash_seed: 9, tick_ns: 4_000_000, tick_offset_ns: 5 }
}

fn rate(count: u64) -> Rate {
    Rate { count, period: Duration::from_secs(1) }
}

#[test]
fn tight_buckets_ask_for_the_precise_clock() {
    let mut policy = policy();
    let rate = rate(20_000);
    policy.limits.packets = Some(RateLimit { rate, burst: 40_000 });
    let image = KernelImage::new(&policy, &HostFacts::default()).unwrap();
    assert!(!image.settings(running(), false).has(flags::PRECISE_CLOCK));
    policy.limits.packets = Some(RateLimit { rate, burst: 10 });
    let image = KernelImage::new(&policy, &HostFacts::default()).unwrap();
    let settings = image.settings(running(), true);
    assert!(settings.has(flags::PRECISE_CLOCK) && settings.has(flags::LISTS_SECOND));
    assert_eq!((settings.generation, settings.set_mask, settings.hash_seed), (3, 7, 9));
}

#[test]
fn every_port_knows_what_it_is() {
    let mut policy = policy();
    let tcp = |first, last| PortRange { protocol: Protocol::Tcp, first, last };
    let service = |name: &str, ports| Service {
        name: name.to_owned(),
        ports,
        allow: None,
        mode: Mode::Enforce,
        limits: Limits::default(),
        total_limits: Limits::default(),
    };
    let dns = PortRange { protocol: Protocol::Udp, first: 53, last: 53 };
    policy.services =
        vec![service("web", vec![tcp(80, 80), tcp(8000, 8010)]), service("dns", vec![dns])];
    let host = HostFacts {
        sshd_ports: vec![22, 2222],
        listening_ports: vec![8005],
        ..HostFacts::default()
    };
    let image = KernelImage::new(&policy, &host).unwrap();
    let facts =
        |is_udp, port| PortFacts::in_word(image.ports[port_word(is_udp, port) as usize], port);
    for port in 0..=u16::MAX {
        let service = u32::from(port == 80 || (8000..=8010).contains(&port));
        assert_eq!(facts(false, port).service(), service, "tcp/{port}");
        assert_eq!(facts(true, port).service(), if port == 53 { 2 } else { 0 }, "udp/{port}");
        assert_eq!(facts(false, port).is_failsafe(), [9, 22, 2222].contains(&port), "{port}");
        assert_eq!(facts(false, port).is_listening(), port == 8005, "{port}");
    }
}

#[test]
fn services_have_lists_limits_and_modes_of_their_own() {
    let mut policy = policy();
    policy.services = vec![Service {
        name: "dns".to_owned(),
        ports: Vec::new(),
        allow: Some(networks(&["10.0.0.0/8", "2001:db8::/32"])),
        mode: Mode::Monitor,
        limits: Limits {
            bytes: Some(ByteRateLimit { rate: rate(1_000_000), burst_bytes: 100_000 }),
            mode: Mode::Monitor,
            ..Limits::default()
        },
        total_limits: Limits { concurrent_connections: Some(7), ..Limits::default() },
    }];
    let image = KernelImage::new(&policy, &HostFacts::default()).unwrap();
    let service = image.services[1];
    for flag in [
        service_flags::LISTED,
        service_flags::LIST_MONITOR,
        service_flags::SOURCE_LIMITS,
        service_flags::TOTAL_LIMITS,
    ] {
        assert!(service.has(flag), "{flag}");
    }
    assert_eq!(service.limits.flags, limit_flags::MONITOR);
    assert_eq!(
        service.limits.bytes,
        BucketRate::of_bytes(1_000_000, 1_000_000_000, 100_000).unwrap()
    );
    assert_eq!(service.total_limits.concurrent_connections, 7);
    assert!(image.is_admitted(1, "10.1.2.3".parse().unwrap()));
    assert!(image.is_admitted(1, "2001:db8::1".parse().unwrap()));
    assert!(!image.is_admitted(1, "192.0.2.1".parse().unwrap()));
    assert!(!image.is_admitted(2, "10.1.2.3".parse().unwrap()));
}

#[test]
fn a_trusted_source_is_trusted_on_its_interface_only() {
    let mut policy = policy();
    let network = "10.0.0.1/32".parse().unwrap();
    policy.trusted = vec![Trusted { network, interface: Some("eth1".to_owned()) }];
    policy.deny = networks(&["10.0.0.0/8"]);
    let host = HostFacts {
        slots: vec![("eth0".to_owned(), 0), ("eth1".to_owned(), 5)],
        ..HostFacts::default()
    };
    let image = KernelImage::new(&policy, &host).unwrap();
    let source = "10.0.0.1".parse().unwrap();
    assert_eq!(image.list(source, 0), ListVerdict::Deny);
    assert_eq!(image.list(source, 5), ListVerdict::Trusted);
}

#[test]
fn forwarded_packets_are_looked_for_where_there_are_any() {
    let forwarding = |forwarded, forwards| {
        let policy = KernelPolicy { forwarded, ..policy() };
        let host = HostFacts { forwards, ..HostFacts::default() };
        KernelImage::new(&policy, &host).unwrap().settings(running(), false).has(flags::FORWARDING)
    };
    assert!(forwarding(false, true));
    assert!(!forwarding(true, true) && !forwarding(false, false));
}

#[test]
fn more_entries_than_fit_are_refused_with_their_number() {
    let mut full = policy();
    let addresses = |count: u32| {
        (0..count)
            .map(|number| IpAddr::from(std::net::Ipv4Addr::from_bits(number)).into())
            .collect()
    };
    full.deny = addresses(1 << 20);
    full.allow = crate::policy::Networks::default();
    full.trusted.clear();
    let listed = |policy: &KernelPolicy| Listed::of(policy, &HostFacts::default()).merge();
    assert_eq!(listed(&full).unwrap().entries().len(), 1 << 20);
    full.deny = addresses((1 << 20) + 1);
    let Err(KernelError::Full(text)) = listed(&full) else { panic!("it fits") };
    assert!(text.contains("1048577 single addresses"), "{text}");
}
