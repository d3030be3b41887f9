//! What is in force where the file says nothing.

use std::time::Duration;

use super::*;
use crate::{
    policy::{
        BanScope, EventFormat, Mode, SinkKind,
        http::ClientAddressSource,
        kernel::{
            Attach, DefaultVerdict, FailsafePort, Fragments, InterfaceSelection, Limits,
            PassOrDrop, SynCookies,
        },
        limits::{Algorithm, Amounts, AppliesTo, KeyPart},
        store::{OnFailure, StorePolicy},
    },
    refusal::Refusal,
};

#[test]
fn kernel() {
    let kernel = accepted("[kernel]\n").policy.kernel.unwrap();
    assert_eq!(kernel.interfaces, [InterfaceSelection::Auto]);
    assert_eq!((kernel.attach, kernel.required), (Attach::Auto, true));
    assert_eq!((kernel.mode, kernel.default), (Mode::Enforce, DefaultVerdict::Allow));
    assert!(kernel.trusted.is_empty() && kernel.allow.is_empty() && kernel.deny.is_empty());
    assert_eq!(kernel.failsafe_ports, [FailsafePort::Auto]);
    assert_eq!((kernel.ipv4_prefix, kernel.ipv6_prefix), (32, 64));
    assert_eq!((kernel.max_sources, kernel.max_bans), (262_144, 65_536));
    assert_eq!((kernel.max_prefix_bans, kernel.syn_cookies), (1_024, SynCookies::Auto));
    assert_eq!((kernel.table_full, kernel.malformed), (PassOrDrop::Pass, PassOrDrop::Drop));
    assert_eq!(kernel.fragments, Fragments::Limit);
    let nothing = Limits::default();
    assert!(!nothing.any() && nothing.mode == Mode::Enforce);
    assert_eq!((kernel.limits, kernel.total_limits), (nothing, nothing));
    assert!(kernel.services.is_empty() && !kernel.forwarded);
    assert!(accepted(&format!("[kernel]\nenabled = false\n{API}")).policy.kernel.is_none());
}

#[test]
fn http() {
    let loaded = accepted(&format!("{API}limits = \"a\"\n[limits.a]\nrate = \"60/h\"\n"));
    let http = loaded.policy.http.unwrap();
    assert_eq!(http.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(http.client_address, ClientAddressSource::Peer);
    let bounds = http.bounds;
    assert_eq!((bounds.max_body_bytes, bounds.max_header_bytes), (2_000_000, 32_000));
    assert_eq!((bounds.max_headers, bounds.max_connections), (100, 20_000));
    assert_eq!(bounds.max_connections_per_client, 256);
    let timeouts = http.timeouts;
    let seconds = [
        timeouts.header,
        timeouts.body,
        timeouts.idle,
        timeouts.connect,
        timeouts.upstream,
        timeouts.drain,
    ]
    .map(|timeout| timeout.as_secs());
    assert_eq!(seconds, [10, 30, 75, 3, 60, 30]);
    let limit = &http.limits[0];
    let quota = limit.quota.as_ref().unwrap();
    assert_eq!((quota.algorithm, &*limit.key), (Algorithm::TokenBucket, &[KeyPart::Client][..]));
    assert!(matches!(quota.amounts, Amounts::Same(amount) if amount.burst == 60));
    assert_eq!((limit.applies_to, limit.concurrent), (AppliesTo::Unauthenticated, None));
    let route = &http.routes[0];
    assert_eq!((route.cors, route.headers, route.name.as_str()), (None, None, "/"));
    assert!(loaded.policy.kernel.is_none(), "no [kernel]: HTTP only");
    // Ten invalid keys make a ban; the guard must let the proxy see them.
    assert!(http.guard.failures.count >= 20);
}

#[test]
fn escalation_and_sinks() {
    let policy = accepted("[kernel]\n").policy;
    let escalation = policy.escalation;
    assert_eq!(
        escalation.scores,
        [
            (Refusal::MalformedRequest, 25),
            (Refusal::InvalidCredential, 5),
            (Refusal::Replayed, 25),
            (Refusal::RateLimitedFar, 5)
        ]
    );
    assert_eq!((escalation.threshold, escalation.factor), (50, 4));
    assert_eq!(escalation.window, Duration::from_mins(1));
    assert_eq!(escalation.first_ban, Duration::from_mins(10));
    assert_eq!(escalation.max_ban, Duration::from_hours(168));
    assert_eq!(escalation.decay, Duration::from_hours(24));
    assert_eq!(escalation.shared_address_guard, Duration::from_hours(1));
    assert_eq!((escalation.scope, escalation.enabled), (BanScope::Kernel, true));
    assert_eq!(policy.sinks.len(), 2);
    assert_eq!(policy.sinks[0].kind, SinkKind::Stderr);
    assert!(
        matches!(&policy.sinks[1].kind, SinkKind::File { path, rotate_bytes: 100_000_000, keep: 10 }
        if path == Path::new("/var/log/limiter/security.log"))
    );
    assert!(policy.sinks.iter().all(|sink| sink.format == EventFormat::Text));
    assert_eq!(policy.agent.state, Path::new("/var/lib/limiter"));
    assert_eq!(policy.agent.runtime, Path::new("/run/limiter"));
    assert_eq!(policy.agent.pins, Path::new("/sys/fs/bpf/limiter"));
}

#[test]
fn scores_are_replaced_one_by_one() {
    let text = "[kernel]\n[escalation]\nscores = { invalid_credential = 9, malformed_request = 0, replayed = 0, detected = 20 }\n";
    let scores = accepted(text).policy.escalation.scores;
    assert_eq!(scores, [(Refusal::InvalidCredential, 9), (Refusal::RateLimitedFar, 5)]);
}

#[test]
fn the_most_specific_route_comes_first() {
    let route = |more: &str| format!("[[http.route]]\nauth = \"none\"\n{more}\n");
    let text = [
        API.to_owned(),
        route("path = \"/api/\""),
        route("path = \"/api/v1\""),
        route("exact = \"/api\""),
        route("path = \"/api\"\nmethods = [\"POST\"]"),
        route("host = \"Api.Example.com\""),
        route("host = \"*.example.com\"\nglob = \"/a*\""),
        route("glob = \"/api/*\""),
        route("glob = \"/b/**\""),
    ]
    .concat();
    let http = accepted(&text).policy.http.unwrap();
    let order: Vec<_> =
        http.routes.iter().map(|route| (route.name.as_str(), route.methods.len())).collect();
    assert_eq!(
        order,
        [
            ("api.example.com/", 0),
            ("*.example.com/a*", 0),
            ("/api/v1", 0),
            ("/api", 0),
            ("/api/*", 0),
            ("/api", 1),
            ("/api", 0),
            ("/b", 0),
            ("/", 0)
        ]
    );
}

#[test]
fn routes_that_nothing_reaches_and_credentials_in_the_clear_are_risks() {
    let text = format!(
        "[[http.listener]]\naddress = \"127.0.0.1:1\"\n[[http.listener]]\naddress = \"192.0.2.1:80\"\n\
         {API}[[http.route]]\npath = \"/a\"\nauth = [\"keys\"]\n\
         [[http.route]]\npath = \"/b\"\nmethods = [\"CONNECT\"]\nauth = \"none\"\n\
         request_headers = {{ set = {{ Authorization = \"x\" }} }}\n\
         [[http.route]]\npath = \"/a\"\nauth = \"none\"\n\
         [auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n"
    );
    let risks = accepted(&text).risks;
    let of = |key: &str| -> Vec<&str> {
        risks.iter().filter(|risk| risk.key == key).map(|risk| risk.sentence.as_str()).collect()
    };
    assert!(of("http.route[2]").contains(&"no request can match it: CONNECT is always refused"));
    let sentence = "no request can match it: one before it is for the same requests";
    assert!(of("http.route[3]").contains(&sentence), "{risks:?}");
    let plain = "192.0.2.1:80: whoever is on the way can read the credentials for /a: no TLS";
    assert_eq!(of("http.listener"), [plain]);
    let secret = of("http.route[2].request_headers.set.Authorization");
    assert_eq!(secret, ["a secret stands in the configuration file"], "{risks:?}");
}

#[test]
fn a_limit_that_counts_nobody_is_a_risk() {
    let keys = "[auth.k]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"";
    let api = API.replace("\"none\"", "\"k\"");
    let with_keys = |limit: &str| {
        let text = format!("{api}limits = \"a\"\n{keys}\n[limits.a]\n{limit}");
        accepted(&text).risks.iter().any(|risk| risk.key == "limits.a")
    };
    assert!(with_keys("rate = \"1/s\""));
    assert!(!with_keys("rate = \"1/s\"\napplies_to = \"all\""));
    assert!(!with_keys("rate = \"1/s\"\ncount = \"failures\""), "wrong keys");
    assert!(!with_keys("rate = \"1/s\"\nkey = [\"principal\"]"));
    let public = accepted(&format!("{API}limits = \"a\"\n[limits.a]\nrate = \"1/s\""));
    assert!(public.risks.iter().all(|risk| risk.key != "limits.a"));
}

#[test]
fn risks_are_named_with_their_keys() {
    let text = format!(
        "[kernel]\ndefault = \"deny\"\ntrusted = [\"::/0\"]\ndeny = [\"127.0.0.0/8\"]\n\
         failsafe_ports = []\nrequired = false\n[[http.listener]]\naddress = \"0.0.0.0:80\"\n\
         {API}cors = \"a\"\nallow = []\n[cors.a]\norigins = [\"*\"]\n[limits.unused]\nrate = \"1/s\"\n"
    );
    let loaded = accepted(&text);
    let keys: Vec<_> = loaded.risks.iter().map(|risk| risk.key.as_str()).collect();
    for key in [
        "kernel.trusted[0]",
        "kernel.deny[0]",
        "kernel.failsafe_ports",
        "kernel.required",
        "http.route[0]",
        "http.route[0].allow",
        "cors.a.origins[0]",
        "limits.unused",
    ] {
        assert!(keys.contains(&key), "{key} in {:#?}", loaded.risks);
    }
    let text = "[kernel]\ninterfaces = [\"eth0\"]\nsyn_cookies = \"always\"\n\
         malformed = \"pass\"\nfragments = \"pass\"\ntable_full = \"drop\"\n\
         trusted = [{ cidr = \"10.0.0.0/8\", interface = \"eth1\" }]\n\
         limits = { bytes = \"10KB/s\" }\ntotal_limits = { bytes = \"1MB/s\", bytes_burst = \"1KB\" }\n\
         [[kernel.service]]\nname = \"a\"\nports = [\"tcp/1\"]\nallow = []\n\
         limits = { udp_packets = \"1/s\", icmp_packets = \"1/s\" }\n\
         [[kernel.service]]\nname = \"b\"\nports = [\"udp/1\"]\n\
         total_limits = { concurrent_connections = 5 }\n\
         [[kernel.service]]\nname = \"c\"\nports = [\"udp/2\"]\n";
    let risks = accepted(text).risks;
    for (key, sentence) in [
        ("kernel.syn_cookies", "loses TCP options"),
        ("kernel.malformed", "exempt from bans"),
        ("kernel.fragments", "exempt from every limit"),
        ("kernel.table_full", "new sources are shut out"),
        ("kernel.trusted[0].interface", "packets of eth1 are not filtered"),
        ("kernel.limits.bytes", "longer than the burst of 10000 bytes"),
        ("kernel.total_limits.bytes_burst", "never admits a full frame of 1514"),
        ("kernel.service[0].allow", "nobody but trusted sources"),
        ("kernel.service[0].limits.udp_packets", "no UDP port"),
        ("kernel.service[0].limits.icmp_packets", "ICMP has no ports"),
        ("kernel.service[1].total_limits.concurrent_connections", "no TCP port"),
        ("kernel.service[2]", "neither restricts nor limits"),
    ] {
        let found = risks.iter().any(|risk| risk.key == key && risk.sentence.contains(sentence));
        assert!(found, "{key}: {sentence} in {risks:#?}");
    }
    assert_eq!(risks.len(), 12, "{risks:#?}");
    // Which interfaces are meant cannot be told.
    let quiet = "[kernel]\ntrusted = [{ cidr = \"10.0.0.0/8\", interface = \"eth1\" }]\n\
                 limits = { bytes = \"64KiB/s\" }\n";
    assert_eq!(accepted(quiet).risks, []);
    let locked_out = accepted("[kernel]\ndefault = \"deny\"\n").risks;
    assert!(locked_out[0].sentence.contains("only failsafe ports answer"));
}

#[test]
fn tiers_have_rates_unless_the_file_has_others() {
    let text = "limits = \"a\"\n[limits.a]\ntiers = { premium = \"5/s\", gold = \"7/s\" }\n";
    let loaded = accepted(&format!("{API}{text}"));
    let http = loaded.policy.http.unwrap();
    let limit = &http.limits[0];
    let amounts = limit.quota.as_ref().unwrap().amounts.each();
    let amounts: Vec<_> =
        amounts.iter().map(|(tier, amount)| (tier.unwrap(), amount.rate.count)).collect();
    let expected = [
        ("anonymous", 60),
        ("authenticated", 1_000),
        ("premium", 5),
        ("internal", 100_000),
        ("gold", 7),
    ];
    assert_eq!(amounts, expected);
    assert_eq!(limit.applies_to, AppliesTo::All);
}

#[test]
fn store() {
    assert_eq!(accepted("[kernel]\n").policy.store, None);
    let plain = "[store]\nkind = \"redis\"\nurl = \"redis://127.0.0.1\"\n";
    let policy = accepted(&format!("{API}{plain}")).policy;
    assert_eq!(policy.store, Some(StorePolicy::plain("127.0.0.1", 6379)));
    assert_eq!(policy.http.unwrap().store, policy.store, "requests are counted there, too");
    assert!(accepted(&format!("[kernel]\n{plain}")).policy.store.is_some(), "for bans alone");

    let written = "[kernel]\n[store]\nkind = \"redis\"\nurl = \"redis://store:7000/3\"\n\
                   user = \"limiter\"\npassword = { env = \"P\" }\ntimeout = \"20ms\"\n\
                   on_failure = \"closed\"\n";
    let loaded = load_with(written, &[("P", "hunter2")]).unwrap();
    let store = loaded.policy.store.unwrap();
    assert_eq!(store.to_string(), "redis://store:7000/3");
    assert_eq!((store.user.as_deref(), store.on_failure), (Some("limiter"), OnFailure::Closed));
    assert_eq!((store.password.unwrap().expose(), store.roots), (&b"hunter2"[..], None));
    assert_eq!(store.timeout, Duration::from_millis(20));
    assert!(loaded.risks.iter().any(|risk| risk.key == "store.url"), "not encrypted");

    // What only another kind uses is said, and not read.
    let unused = "[kernel]\n[store]\nkind = \"local\"\nurl = \"redis://127.0.0.1:6379\"\n\
                  password = { env = \"REDIS_PASSWORD\" }\non_failure = \"local\"\n";
    let loaded = accepted(unused);
    assert_eq!(loaded.policy.store, None);
    assert_eq!(loaded.risks.len(), 2, "{:?}", loaded.risks);
}
