//! The reference sample, reduced to what this version supports, and what it becomes.

use std::time::Duration;

use super::*;
use crate::policy::{
    EventFormat, KernelPolicy, Mode,
    http::{ClientAddressSource, PathPattern, RouteAuth},
    kernel::{Attach, FailsafePort, Limits, Trusted},
    limits::{Algorithm, KeyPart},
};

const SAMPLE: &str = include_str!("sample.toml");

#[test]
fn the_whole_sample() {
    let scratch = Scratch::new();
    scratch.write("keys.toml", "", 0o600);
    let token = [("LIMITER_AUTH_TOKEN", "correct-horse-battery")];
    let loaded = load_in(&scratch.0, SAMPLE, &token).unwrap_or_else(|error| panic!("{error}"));
    let policy = loaded.policy;

    let kernel = policy.kernel.unwrap();
    assert_eq!(kernel.attach, Attach::Auto);
    let monitoring =
        Trusted { network: "192.0.2.10/32".parse().unwrap(), interface: Some("eth1".to_owned()) };
    assert_eq!((kernel.trusted.len(), &kernel.trusted[0]), (2, &monitoring));
    assert_eq!(
        kernel.failsafe_ports,
        [FailsafePort::Auto, FailsafePort::Tcp(22), FailsafePort::Tcp(2222)]
    );
    check_kernel_limits(&kernel);

    let http = policy.http.unwrap();
    // The proxy cannot tell interfaces apart, so that it trusts only who is trusted on all.
    assert_eq!(http.trusted, ["2001:db8:ad::/48".parse().unwrap()]);
    assert_eq!(kernel.trusted_networks().count(), 2);
    assert_eq!(http.client_address, ClientAddressSource::XForwardedFor);
    assert_eq!(http.upstreams[0].servers[0].to_string(), "http://127.0.0.1:3000");
    let route = &http.routes[0];
    assert_eq!(route.host.as_deref(), Some("api.example.com"));
    assert_eq!(route.path, PathPattern::Prefix("/api".to_owned()));
    assert_eq!(route.methods, ["GET", "POST"]);
    assert_eq!(route.auth, RouteAuth::AnyOf(vec![0]));
    let limits: Vec<_> = route.limits.iter().map(|at| &http.limits[*at]).collect();
    let quota = limits[0].quota.as_ref().unwrap();
    assert_eq!(quota.algorithm, Algorithm::SlidingWindow);
    assert_eq!(quota.amounts.each()[0].1.rate.count, 1_000);
    assert_eq!((&*limits[1].key, limits[1].mode), (&[KeyPart::Principal][..], Mode::Monitor));
    let keys = http.auth[0].api_keys().unwrap();
    assert_eq!((keys.header.as_str(), keys.keys.len()), ("x-api-key", 1));
    let cors = &http.cors[route.cors.unwrap()];
    assert!(cors.credentials && cors.headers.contains(&"x-request-id".to_owned()));
    assert!(
        http.headers[route.headers.unwrap()]
            .set
            .iter()
            .any(|(name, _)| name == "content-security-policy")
    );
    assert_eq!(policy.sinks[1].format, EventFormat::Json);
    assert_eq!(policy.sinks[1].kinds, ["banned", "detected_*"]);
    // Relative paths start at the file's directory.
    assert_eq!(policy.agent.state, scratch.0.join("state"));
}

fn check_kernel_limits(kernel: &KernelPolicy) {
    let Limits { packets, bytes, new_connections, udp_packets, icmp_packets, .. } = kernel.limits;
    let numbers = [packets, new_connections, udp_packets, icmp_packets].map(|limit| {
        let limit = limit.unwrap();
        assert_eq!(limit.rate.period, Duration::from_secs(1));
        (limit.rate.count, limit.burst)
    });
    assert_eq!(numbers, [(20_000, 40_000), (200, 200), (10_000, 10_000), (50, 50)]);
    let bytes = bytes.unwrap();
    assert_eq!((bytes.rate.count, bytes.burst_bytes), (100_000_000, 100_000_000));
    assert_eq!(kernel.limits.concurrent_connections, Some(1_000));
    assert_eq!((kernel.limits.mode, kernel.total_limits), (Mode::Enforce, Limits::default()));

    let [dns] = &kernel.services[..] else { panic!("{:?}", kernel.services) };
    let ports: Vec<_> = dns.ports.iter().map(ToString::to_string).collect();
    assert_eq!((dns.name.as_str(), ports.join(" ")), ("dns", "udp/53 tcp/53 tcp/8000-8010".into()));
    assert_eq!(dns.allow.as_deref().unwrap(), ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(dns.limits.packets.unwrap().rate.count, 500);
    assert_eq!(dns.total_limits.packets.unwrap().burst, 50_000);
}

#[test]
fn who_monitors_a_service_monitors_all_of_it() {
    let modes = |lines: &str| {
        let text = format!(
            "[[kernel.service]]\nname = \"a\"\nports = [\"tcp/1\"]\n{lines}\n\
             [kernel.limits]\nmode = \"monitor\"\nbytes = \"1MB/s\"\n"
        );
        let kernel = accepted(&text).policy.kernel.unwrap();
        assert_eq!((kernel.mode, kernel.limits.mode), (Mode::Enforce, Mode::Monitor));
        let service = &kernel.services[0];
        (service.mode, service.limits.mode, service.total_limits.mode)
    };
    let (enforce, monitor) = (Mode::Enforce, Mode::Monitor);
    assert_eq!(modes("limits = { packets = \"1/s\" }"), (enforce, enforce, enforce));
    let inner = "total_limits = { packets = \"1/s\", mode = \"monitor\" }";
    assert_eq!(modes(inner), (enforce, enforce, monitor));
    let outer = "mode = \"monitor\"\nlimits = { packets = \"1/s\", mode = \"enforce\" }";
    assert_eq!(modes(outer), (monitor, monitor, monitor));
}

/// Whatever is cut off or put in: an answer, never a panic, and no secret in it.
#[test]
fn no_damage_to_the_sample_panics() {
    let scratch = Scratch::new();
    let token = [("LIMITER_AUTH_TOKEN", "correct-horse-battery")];
    let mut invalid = 0;
    for at in (0..SAMPLE.len()).step_by(11) {
        for damage in ["", "\0", "é\t\"", "\n[", "= 9\n", "\r\n"] {
            let tail = if damage.is_empty() { "" } else { &SAMPLE[at..] };
            let text = format!("{}{damage}{tail}", &SAMPLE[..at]);
            if let Err(error) = load_in(&scratch.0, &text, &token) {
                invalid += 1;
                assert!(!error.to_string().contains("correct-horse"), "{error}");
            }
        }
    }
    assert!(invalid > 500, "{invalid}");
}
