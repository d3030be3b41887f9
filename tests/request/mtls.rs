//! Certificates of clients as credentials: by alternative name and by subject, over TLS 1.2 and
//! 1.3, resumed too.

use limiter_tests::wait::eventually;

use crate::{
    edge::{Authority, Edge},
    support::SOON,
};

const LISTENER: &str = "[[http.listener]]\naddress = \"127.0.0.1:8443\"\n\
     tls = { certificates = [{ certificate = \"server.pem\", key = \"server.key\" }], \
     client_ca = \"clients.pem\", client_certificate = \"optional\" }";

const SCHEME: &str = "[auth.service]\nkind = \"mtls\"\nprincipals = [\
     { san = \"*.svc.test\", tier = \"internal\", scopes = [\"read\"] }, \
     { subject = \"CN=limiter test\", name = \"anybody\" }]\n";

/// A limiter with the scheme, and the authority of clients.
fn start(principals: &str) -> (Edge, Authority) {
    let (mut edge, clients) = prepare();
    edge.protect("service", principals);
    edge.limiter.restart();
    (edge, clients)
}

/// Not started, and with a route that is open to all.
fn prepare() -> (Edge, Authority) {
    let edge = Edge::prepare("", LISTENER);
    let (servers, clients) = (Authority::new(), Authority::new());
    edge.limiter.scratch().write("ca.pem", servers.pem());
    edge.limiter.scratch().write("clients.pem", clients.pem());
    edge.write_pair("server", &servers.server(&["api.test"]));
    (edge, clients)
}

/// Status and, of what the origin saw, subject and tier.
#[track_caller]
fn get(
    edge: &Edge,
    client: Option<&str>,
    options: &[&str],
) -> (String, Option<String>, Option<String>) {
    let (certificate, key) =
        client.map_or_else(Default::default, |name| (format!("{name}.pem"), format!("{name}.key")));
    let mut arguments =
        vec!["--resolve", "api.test:8443:127.0.0.1", "-o", "/dev/null", "-w", "%{http_code}"];
    if client.is_some() {
        arguments.extend(["--cert", certificate.as_str(), "--key", key.as_str()]);
    }
    arguments.extend(options);
    arguments.push("https://api.test:8443/");
    let said = edge.curl(&arguments).stdout;
    let seen = if said == "200" { Some(edge.origin.take_one(SOON)) } else { None };
    let header = |name: &str| seen.as_ref().and_then(|seen| seen.header(name));
    let (subject, tier) = (header("x-auth-subject"), header("x-auth-tier"));
    (said, subject, tier)
}

#[test]
fn a_certificate_names_its_holder() {
    let (edge, clients) = start(SCHEME);
    edge.write_pair("service", &clients.client_named(&["Billing.svc.test", "other.test"]));
    edge.write_pair("person", &clients.client_named(&["laptop.test"]));
    edge.write_pair("below", &clients.client_named(&["svc.test"]));
    let text = |text: &str| Some(text.to_owned());
    for options in [&["--http1.1", "--tls-max", "1.2"][..], &["--http1.1"], &["--http2"]] {
        let found = get(&edge, Some("service"), options);
        assert_eq!(found, ("200".to_owned(), text("billing.svc.test"), text("internal")));
    }
    for name in ["person", "below"] {
        let found = get(&edge, Some(name), &[]);
        assert_eq!(found, ("200".to_owned(), text("anybody"), None), "{name}");
    }
    assert_eq!(get(&edge, None, &[]).0, "401");
    edge.refused("unauthorized", 1);
    // Nobody says it of himself.
    let forged = ["-H", "X-Auth-Subject: admin", "-H", "X-Auth-Tier: internal"];
    assert_eq!(get(&edge, Some("person"), &forged).1, text("anybody"));
}

#[test]
fn a_certificate_of_nobody_here_is_no_credential() {
    let (edge, clients) =
        start("[auth.service]\nkind = \"mtls\"\nprincipals = [{ san = \"spiffe://test/ns/*\" }]\n");
    edge.write_pair("other", &clients.client_named(&["laptop.test"]));
    edge.write_pair("workload", &clients.client_named(&["spiffe://test/ns/a/sa/b"]));
    edge.write_pair("stranger", &Authority::new().client_named(&["spiffe://test/ns/a/sa/b"]));
    assert_eq!(get(&edge, Some("other"), &[]).0, "401");
    edge.refused("unauthorized", 1);
    let found = get(&edge, Some("workload"), &[]);
    assert_eq!(found.1.as_deref(), Some("spiffe://test/ns/a/sa/b"));
    assert_ne!(get(&edge, Some("stranger"), &[]).0, "200", "no authority of ours");
}

/// A client sends its certificate whatever it asks for; a key it sends because it means it.
#[test]
fn a_key_beside_a_certificate_names_the_caller() {
    let (mut edge, clients) = prepare();
    edge.write_pair("service", &clients.client_named(&["billing.svc.test"]));
    edge.write_pair("other", &clients.client_named(&["laptop.test"]));
    let sections = SCHEME.to_owned()
        + "[auth.keys]\nkind = \"api_key\"\ntoken = { env = \"TEST_TOKEN\" }\n\
           [auth.more]\nkind = \"api_key\"\nheader = \"X-More\"\nkeys_file = \"keys.toml\"\n";
    edge.protect("service\", \"keys\", \"more", &sections);
    edge.limiter.environment("TEST_TOKEN", "an-example-token-of-some-length");
    edge.limiter.restart();
    let made = edge.limiter.with_file(&["keys", "new", "--name", "alice"]).succeeded().stdout;
    let alice = made.lines().find(|line| line.starts_with("lk_")).unwrap().trim().to_owned();
    let (token, alice) =
        ("X-API-Key: an-example-token-of-some-length".to_owned(), format!("X-More: {alice}"));
    eventually(SOON, "the new key opens", || get(&edge, None, &["-H", &alice]).0 == "200");
    for client in [None, Some("service"), Some("other")] {
        let (status, subject, _) = get(&edge, client, &["-H", &token]);
        assert_eq!((&*status, subject.as_deref()), ("200", Some("shared-token")), "{client:?}");
        // One that is wrong is no better for the certificate beside it.
        assert_eq!(get(&edge, client, &["-H", "X-API-Key: wrong"]).0, "401", "{client:?}");
        // Two that the client means do not agree.
        assert_eq!(get(&edge, client, &["-H", &token, "-H", &alice]).0, "400", "{client:?}");
    }
    let (status, subject, _) = get(&edge, Some("service"), &[]);
    assert_eq!((&*status, subject.as_deref()), ("200", Some("billing.svc.test")));
    edge.refused("malformed_request", 3);
}

#[test]
fn what_an_entry_grants_is_what_its_holder_may() {
    let (mut edge, clients) = prepare();
    edge.write_pair("service", &clients.client_named(&["billing.svc.test"]));
    edge.write_pair("person", &clients.client_named(&["laptop.test"]));
    let text = std::fs::read_to_string(edge.limiter.configuration()).unwrap();
    let route = "auth = [\"service\"]\nscopes = [\"read\"]\nlimits = [\"tiers\"]";
    let text = text.replace("auth = \"none\"\nlimits = \"none\"", route);
    let limit = "[limits.tiers]\nkey = [\"principal\"]\n\
                 tiers = { internal = \"2/h\", authenticated = \"1/h\" }\n";
    edge.limiter.configure_exactly(&format!("{text}\n{SCHEME}{limit}"));
    edge.limiter.restart();
    let found: Vec<String> = (0..3).map(|_| get(&edge, Some("service"), &[]).0).collect();
    assert_eq!(found, ["200", "200", "429"], "as its tier says");
    assert_eq!(get(&edge, Some("person"), &[]).0, "403");
    edge.refused("forbidden_scope", 1);
}
