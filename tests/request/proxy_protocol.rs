//! The PROXY protocol: who may speak it, what is believed, what is refused.

use std::net::SocketAddr;

use limiter_tests::http::{self, Connection};

use crate::{
    edge::{Authority, Edge},
    support::SOON,
};

const HTTP: &str = "client_address = \"proxy\"\ntrusted_proxies = [\"127.0.0.1\"]";
const PLAIN: &str = "[[http.listener]]\naddress = \"0.0.0.0:8080\"\nproxy_protocol = true";

fn address() -> SocketAddr {
    "127.0.0.1:8080".parse().unwrap()
}

/// Version 2 of a connection of 192.0.2.77.
fn version_2(command: u8, extensions: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11]);
    header.extend(u16::try_from(12 + extensions.len()).unwrap().to_be_bytes());
    header.extend([192, 0, 2, 77, 198, 51, 100, 1, 0x12, 0x34, 0x01, 0xbb]);
    header.extend(extensions);
    header
}

/// The status of a request behind this header, and the client that the upstream was told of.
fn through(edge: &Edge, header: &[u8]) -> Option<String> {
    let mut bytes = header.to_vec();
    bytes.extend(http::request("GET", "/", &[("X-Forwarded-For", "203.0.113.9")], b""));
    let answer = edge.namespace.run(|| {
        // In two parts, at an unlucky place.
        let mut connection = Connection::open(address()).unwrap();
        let (first, second) = bytes.split_at(header.len() - 1);
        connection.send(first).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        connection.send(second).ok()?;
        connection.response().ok()
    })?;
    assert_eq!(answer.status, 200);
    edge.origin.take_one(SOON).header("x-forwarded-for")
}

#[test]
fn the_client_is_who_the_proxy_says() {
    let edge = Edge::start(HTTP, PLAIN);
    let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
    assert_eq!(through(&edge, line).as_deref(), Some("192.0.2.7, 127.0.0.1"));
    let six = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n";
    assert_eq!(through(&edge, six).as_deref(), Some("2001:db8::7, 127.0.0.1"));
    let noop = [4, 0, 2, 0, 0];
    assert_eq!(through(&edge, &version_2(1, &noop)).as_deref(), Some("192.0.2.77, 127.0.0.1"));
    // The proxy itself.
    assert_eq!(through(&edge, &version_2(0, &[])).as_deref(), Some("127.0.0.1"));

    let said = edge.curl(&["--haproxy-protocol", "http://127.0.0.1:8080/"]).succeeded();
    assert_eq!(said.stdout, "origin");
}

#[test]
fn what_is_no_header_is_refused() {
    let edge = Edge::start(HTTP, PLAIN);
    for header in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PROXY UNKNOWN\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 0443 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\n",
        &version_2(1, &[3, 0, 4, 1, 2, 3, 4]),
        &version_2(2, &[]),
        &version_2(1, &[4, 0, 9]),
    ] {
        assert_eq!(through(&edge, header), None, "{}", header.escape_ascii());
    }
    edge.limiter.event("Malformed request from 127.0.0.1");
    assert_eq!(edge.origin.count(), 0);
    edge.refused("malformed_request", 7);
}

#[test]
fn only_trusted_proxies_are_believed() {
    let edge = Edge::start(HTTP, PLAIN);
    let mut bytes = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n".to_vec();
    bytes.extend(http::request("GET", "/", &[], b""));
    edge.namespace.run(|| {
        let from = Some("127.0.0.2".parse().unwrap());
        let mut connection = Connection::open_from(from, address(), SOON).unwrap();
        connection.send(&bytes).unwrap();
        assert!(connection.is_closed_within(SOON));
    });
    edge.limiter.event("Forbidden address 127.0.0.2");
    assert_eq!(edge.origin.count(), 0);
}

#[test]
fn a_header_must_come_in_time_and_counts_connections_by_its_client() {
    let http =
        format!("{HTTP}\nmax_connections_per_client = 2\ntimeouts = {{ header = \"700ms\" }}");
    let edge = Edge::start(&http, PLAIN);
    edge.namespace.run(|| {
        let mut silent = Connection::open(address()).unwrap();
        silent.send(b"PROXY TCP4 192.").unwrap();
        assert!(silent.is_closed_within(SOON));
        let open = |client: &str| {
            let mut connection = Connection::open(address()).unwrap();
            let mut bytes = format!("PROXY TCP4 {client} 198.51.100.1 1 2\r\n").into_bytes();
            bytes.extend(http::request("GET", "/", &[], b""));
            connection.send(&bytes).unwrap();
            (connection.response().is_ok(), connection)
        };
        let held = [open("192.0.2.1"), open("192.0.2.1")];
        assert!(held.iter().all(|(answered, _)| *answered));
        assert!(!open("192.0.2.1").0, "the third of one client");
        assert!(open("192.0.2.2").0, "another client of the same proxy");
    });
    edge.limiter.event("Request timed out from 127.0.0.1");
    edge.limiter.event("Overloaded, request refused from 192.0.2.1");
}

#[test]
fn tls_comes_behind_the_header() {
    let tls = "[[http.listener]]\naddress = \"127.0.0.1:8443\"\nproxy_protocol = true\n\
               tls = { certificates = [{ certificate = \"a.pem\", key = \"a.key\" }] }";
    let mut edge = Edge::prepare(HTTP, tls);
    let authority = Authority::new();
    edge.limiter.scratch().write("ca.pem", authority.pem());
    edge.write_pair("a", &authority.server(&["a.test"]));
    edge.limiter.restart();
    for version in ["--http1.1", "--http2"] {
        let said = edge.curl(&[
            version,
            "--haproxy-protocol",
            "--resolve",
            "a.test:8443:127.0.0.1",
            "https://a.test:8443/",
        ]);
        assert_eq!(said.succeeded().stdout, "origin");
    }
}
