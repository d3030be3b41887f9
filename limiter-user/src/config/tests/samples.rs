//! The reference sample, reduced to what this version supports, and what it becomes.

use super::*;
use crate::policy::{
    EventFormat, Mode,
    http::{Algorithm, AuthKind, ClientAddressSource, LimitKey, PathPattern, RouteAuth},
    kernel::{Attach, FailsafePort},
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
    assert_eq!(kernel.trusted.len(), 2);
    assert_eq!(
        kernel.failsafe_ports,
        [FailsafePort::Auto, FailsafePort::Tcp(22), FailsafePort::Tcp(2222)]
    );
    let packets = kernel.limits.packets.unwrap();
    assert_eq!((packets.rate.count, packets.burst), (20_000, 40_000));

    let http = policy.http.unwrap();
    assert_eq!(http.trusted, kernel.trusted);
    assert_eq!(http.client_address, ClientAddressSource::XForwardedFor);
    assert_eq!((http.upstreams[0].host.as_str(), http.upstreams[0].port), ("127.0.0.1", 3000));
    let route = &http.routes[0];
    assert_eq!(route.host.as_deref(), Some("api.example.com"));
    assert_eq!(route.path, PathPattern::Prefix("/api".to_owned()));
    assert_eq!(route.methods, ["GET", "POST"]);
    assert_eq!(route.auth, RouteAuth::AnyOf(vec![0]));
    let limits: Vec<_> = route.limits.iter().map(|at| &http.limits[*at]).collect();
    assert_eq!((limits[0].algorithm, limits[0].rate.count), (Algorithm::SlidingWindow, 1_000));
    assert_eq!((limits[1].key, limits[1].mode), (LimitKey::Principal, Mode::Monitor));
    let AuthKind::ApiKey { header, keys } = &http.auth[0].kind;
    assert_eq!((header.as_str(), keys.len()), ("x-api-key", 1));
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
