//! TLS as other people's clients see it: certificates by name, resumption, client certificates,
//! files that change, redirects.

use std::{thread, time::Duration};

use limiter_tests::http::{self, Connection};

use crate::{
    edge::{Authority, Edge},
    support::SOON,
};

const PAIRS: &str = "{ certificate = \"first.pem\", key = \"first.key\" }, \
                     { certificate = \"second.pem\", key = \"second.key\" }";

fn listener(more: &str) -> String {
    format!(
        "[[http.listener]]\naddress = \"127.0.0.1:8443\"\ntls = {{ certificates = [{PAIRS}]{more} }}"
    )
}

/// A limiter with certificates for `first.test`, and for `second.test` and what is below it.
fn edge(http: &str, more: &str, others: &str) -> (Edge, Authority) {
    let authority = Authority::new();
    let edge = Edge::prepare(http, &format!("{}\n{others}", listener(more)));
    edge.limiter.scratch().write("ca.pem", authority.pem());
    edge.write_pair("first", &authority.server(&["first.test"]));
    edge.write_pair("second", &authority.server(&["second.test", "*.second.test"]));
    (edge, authority)
}

const RESOLVE: [&str; 6] = [
    "--resolve",
    "first.test:8443:127.0.0.1",
    "--resolve",
    "second.test:8443:127.0.0.1",
    "--resolve",
    "a.second.test:8443:127.0.0.1",
];

/// `curl` with names that lead here; its output.
#[track_caller]
fn curl(edge: &Edge, arguments: &[&str]) -> String {
    let all: Vec<&str> = RESOLVE.iter().chain(arguments).copied().collect();
    edge.curl(&all).succeeded().stdout
}

#[test]
fn names_versions_and_protocols() {
    let (mut edge, _) = edge("", "", "");
    edge.limiter.restart();
    for url in
        ["https://first.test:8443/", "https://second.test:8443/", "https://a.second.test:8443/"]
    {
        for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            for (oldest, newest) in [("--tlsv1.2", "1.2"), ("--tlsv1.3", "1.3")] {
                let said = curl(
                    &edge,
                    &[option, oldest, "--tls-max", newest, "-w", " %{http_version}", url],
                );
                assert_eq!(said, format!("origin {version}"), "{url}");
            }
        }
    }
    for seen in edge.origin.take() {
        assert_eq!(seen.header("x-forwarded-proto").as_deref(), Some("https"));
        assert_eq!(seen.header("forwarded").as_deref(), Some("for=127.0.0.1;proto=https"));
    }

    // A name that nobody has, or none, gets the first certificate.
    for name in [&["-servername", "other.test"][..], &["-noservername"]] {
        let mut arguments = vec!["s_client", "-connect", "127.0.0.1:8443"];
        arguments.extend(name);
        let said = edge.run("openssl", &arguments).stdout;
        assert!(said.contains("CN = limiter test"), "{said}");
        let certificate = said.split("-----BEGIN CERTIFICATE-----").nth(1).unwrap();
        let certificate = certificate.split("-----END").next().unwrap().trim();
        let first = std::fs::read_to_string(edge.limiter.directory().join("first.pem")).unwrap();
        let first: String = first.replace("\r\n", "\n");
        assert!(first.contains(certificate), "{name:?}");
    }
    let old = edge.run("openssl", &["s_client", "-connect", "127.0.0.1:8443", "-tls1_1"]);
    assert_ne!(old.code, Some(0));
}

#[test]
fn a_host_that_the_connection_was_not_made_for_is_misdirected() {
    let (mut edge, _) = edge("", "", "");
    edge.limiter.restart();
    for option in ["--http1.1", "--http2"] {
        let said = curl(
            &edge,
            &[option, "-H", "Host: first.test", "-w", " %{http_code}", "https://second.test:8443/"],
        );
        assert!(said.ends_with(" 421"), "{said}");
    }
    edge.limiter.event("Request for another host from 127.0.0.1: GET /");
    assert!(edge.origin.requests().is_empty());
    // Absolute-form must say the scheme that it came over.
    let said = curl(
        &edge,
        &[
            "--http1.1",
            "--request-target",
            "https://first.test:8443/a",
            "-w",
            "%{http_code}",
            "-o",
            "/dev/null",
            "https://first.test:8443/",
        ],
    );
    assert_eq!(said, "200");
    assert_eq!(edge.origin.take_one(SOON).target(), "/a");
}

#[test]
fn sessions_are_resumed_until_clients_are_judged_anew() {
    let (mut edge, authority) = edge("", "", "");
    edge.limiter.restart();
    let resumes = |edge: &Edge, version: &str| {
        let said = edge.python("resume.py", &[version]).succeeded().stdout;
        said.trim() == "resumed"
    };
    assert!(resumes(&edge, "1.3") && resumes(&edge, "1.2"));

    // With certificates of clients, a new list of revocations makes old tickets worthless.
    edge.write_pair("client", &authority.client(7));
    edge.limiter.scratch().write("crl.pem", authority.revoke(&[9]));
    let clients = ", client_ca = \"ca.pem\", crl = \"crl.pem\"";
    edge.reload("", &listener(clients));
    assert!(resumes(&edge, "1.3") && resumes(&edge, "1.2"));
    let crl = authority.revoke(&[7]);
    let scratch = edge.limiter.directory().to_owned();
    let revoking = thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        std::fs::write(scratch.join("crl.pem"), crl).unwrap();
    });
    let said = edge.python("resume.py", &["1.3", "5"]);
    revoking.join().unwrap();
    assert!(said.code != Some(0) && !said.stdout.contains("resumed"), "{said:?}");
    edge.limiter.event("Invalid credential from 127.0.0.1");
}

#[test]
fn certificates_of_clients() {
    let (mut edge, authority) = edge("", ", client_ca = \"ca.pem\", crl = \"crl.pem\"", "");
    edge.write_pair("good", &authority.client(1));
    edge.write_pair("revoked", &authority.client(2));
    edge.write_pair("expired", &authority.expired_client());
    edge.write_pair("foreign", &Authority::new().client(1));
    edge.limiter.scratch().write("crl.pem", authority.revoke(&[2]));
    edge.limiter.restart();
    let with = |edge: &Edge, name: Option<&str>| {
        let (certificate, key) =
            name.map(|name| (format!("{name}.pem"), format!("{name}.key"))).unwrap_or_default();
        let mut all: Vec<&str> = RESOLVE.to_vec();
        if name.is_some() {
            all.extend(["--cert", &certificate, "--key", &key]);
        }
        all.push("https://first.test:8443/");
        edge.curl(&all).code == Some(0)
    };
    assert!(with(&edge, Some("good")));
    assert!(!with(&edge, None));
    edge.limiter.event("Unauthorized access attempt from 127.0.0.1");
    assert!(!with(&edge, Some("revoked")));
    edge.limiter.event("Invalid credential from 127.0.0.1");
    assert!(!with(&edge, Some("expired")) && !with(&edge, Some("foreign")));
    edge.refused("unauthorized", 2);
    edge.refused("invalid_credential", 2);

    let optional = ", client_ca = \"ca.pem\", client_certificate = \"optional\", crl = \"crl.pem\"";
    edge.reload("", &listener(optional));
    assert!(with(&edge, Some("good")) && with(&edge, None));
    assert!(!with(&edge, Some("revoked")) && !with(&edge, Some("foreign")));
}

#[test]
fn files_that_change_are_followed_and_no_connection_ends() {
    let (mut edge, authority) = edge("", "", "");
    edge.limiter.restart();
    let fresh = authority.server(&["first.test"]);
    let directory = edge.limiter.directory().to_owned();
    let (certificate, key) = (fresh.certificate, fresh.key);
    let replacing = thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        std::fs::write(directory.join("first.pem"), certificate).unwrap();
        std::fs::write(directory.join("first.key"), key).unwrap();
    });
    let said = edge.python("follow.py", &[]).succeeded().stdout;
    replacing.join().unwrap();
    assert_eq!(said.trim(), "followed");
    edge.limiter.event("generation 2: certificates and keys");

    // What cannot be used changes nothing.
    edge.limiter.scratch().write("first.pem", "nothing");
    let line = edge.limiter.wait_for_line(SOON * 2, "certificates and keys stay as they were");
    assert!(line.contains("first.pem holds no certificate"), "{line}");
    assert_eq!(curl(&edge, &["https://first.test:8443/"]), "origin");
}

#[test]
fn handshakes_that_do_not_end_are_ended() {
    let (mut edge, _) = edge("timeouts = { handshake = \"500ms\" }", "", "");
    edge.limiter.restart();
    let address = "127.0.0.1:8443".parse().unwrap();
    edge.namespace.run(|| {
        for bytes in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
            let mut silent = Connection::open(address).unwrap();
            silent.send(bytes).unwrap();
            assert!(silent.is_closed_within(SOON));
        }
        // What is no TLS at all is not waited for.
        let mut other = Connection::open(address).unwrap();
        other.send(b"\x00\x01\x02\x03\x04\x05\x06\x07").unwrap();
        assert!(other.is_closed_within(SOON));
    });
    edge.limiter.event("Request timed out from 127.0.0.1");
}

#[test]
fn plain_http_where_tls_is_spoken_is_told_so() {
    let (mut edge, _) = edge("", "", "");
    edge.limiter.restart();
    let address = "127.0.0.1:8443".parse().unwrap();
    for request in [&b"GET / HTTP/1.1\r\nHost: first.test\r\n\r\n"[..], b"P"] {
        let mut plain = edge.namespace.run(|| Connection::open(address).unwrap());
        plain.send(request).unwrap();
        let answer = plain.response().unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (400, Some("text/plain")));
        assert_eq!(answer.text(), "400 The plain HTTP request was sent to HTTPS port\n");
        assert!(plain.is_closed_within(SOON));
    }
    edge.refused("https_required", 2);
    edge.limiter.event("Request without TLS refused from 127.0.0.1");
    assert!(edge.origin.requests().is_empty());
}

#[test]
fn who_is_banned_gets_no_handshake() {
    let (mut edge, _) = edge("", "", "");
    edge.limiter.restart();
    let url = "https://first.test:8443/";
    assert_eq!(curl(&edge, &[url]), "origin");
    let handshakes = || {
        let metrics = edge.limiter.control("GET", "/metrics", b"").text();
        let lines = metrics.lines().filter(|line| line.starts_with("limiter_tls_handshakes"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    edge.limiter.cli(&["ban", "127.0.0.1", "--scope", "http", "--force"]).succeeded();
    let all: Vec<&str> = RESOLVE.iter().chain(&[url]).copied().collect();
    // It fails while it connects, or in the handshake.
    let refused = || matches!(edge.curl(&all).code, Some(7 | 35));
    limiter_tests::wait::eventually(SOON, "the ban", refused);
    // Counts are gathered once a second.
    limiter_tests::wait::eventually(SOON, "the first handshake", || !handshakes().is_empty());
    let before = handshakes();
    assert!(refused());
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(handshakes(), before);
    edge.limiter.event("Request refused from banned 127.0.0.1");
    edge.limiter.cli(&["unban", "127.0.0.1"]).succeeded();
    limiter_tests::wait::eventually(SOON, "no ban", || edge.curl(&all).code == Some(0));
}

#[test]
fn what_comes_without_tls_is_sent_to_https_or_refused() {
    let redirecting = "[[http.listener]]\naddress = \"127.0.0.1:8080\"\nredirect_https = true";
    let (mut edge, _) = edge("", "", redirecting);
    edge.limiter.restart();
    let address = "127.0.0.1:8080".parse().unwrap();
    let send = |method: &str, headers: &[(&str, &str)], body: &[u8]| {
        let bytes = http::request(method, "/a?b=%20", headers, body);
        edge.namespace.run(|| http::exchange(address, &bytes).unwrap())
    };
    for method in ["GET", "HEAD"] {
        let answer = send(method, &[("Host", "first.test:8080"), ("Cookie", "session=1")], b"");
        assert_eq!(answer.status, 308);
        assert_eq!(answer.header("location"), Some("https://first.test:8443/a?b=%20"));
    }
    let answer = send("GET", &[("Host", "first.test")], b"");
    assert_eq!(answer.header("location"), Some("https://first.test/a?b=%20"), "ports are mapped");
    for (method, headers, body) in [
        ("POST", &[][..], &b""[..]),
        ("GET", &[], b"x"),
        ("GET", &[("Authorization", "Basic eDp5")], b""),
        ("GET", &[("Proxy-Authorization", "Basic eDp5")], b""),
    ] {
        let answer = send(method, headers, body);
        assert_eq!(answer.status, 403, "{method} {headers:?}");
    }
    edge.python("h2_peer.py", &["plain"]).succeeded();
    edge.limiter.event("Request without TLS refused from 127.0.0.1: GET /a");
    assert!(edge.origin.requests().is_empty());
}
