//! Requests to go on in another protocol: bytes pass after the server's 101, and only then.

use std::time::Duration;

use limiter_tests::{
    http::{self, Connection},
    origin::Behaviour,
    wait::{Deadline, eventually},
};
use nix::sys::signal::Signal;

use crate::support::{OPEN, SOON, Site};

const FIELDS: [(&str, &str); 4] = [
    ("Connection", "keep-alive, Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
];

type Fields<'a> = &'a [(&'a str, &'a str)];

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\
                         \r\n\r\n";

fn site(idle: &str) -> Site {
    let timeouts = format!("timeouts = {{ upstream = \"1s\", idle = \"{idle}\", drain = \"2s\" }}");
    let site = Site::start(&timeouts, OPEN, "");
    site.origin.by_default(Behaviour::Tunnel(SWITCHING.as_bytes().to_vec()));
    site
}

fn open(site: &Site) -> Connection {
    let mut connection = site.connect();
    connection.send(&http::request("GET", "/chat", &FIELDS, b"")).unwrap();
    let head = connection.read_through(b"\r\n\r\n").unwrap();
    let text = String::from_utf8(head).unwrap().to_lowercase();
    assert!(text.starts_with("http/1.1 101 "), "{text}");
    for field in ["connection: upgrade", "upgrade: websocket", "sec-websocket-accept: s3pp"] {
        assert!(text.contains(field), "{field} in {text}");
    }
    connection
}

#[test]
fn bytes_pass_both_ways_until_either_side_ends() {
    let site = site("75s");
    let mut connection = open(&site);
    for message in ["first", "second", "\r\n\r\nGET / HTTP/1.1\r\n\r\n"] {
        connection.send(message.as_bytes()).unwrap();
        connection.read_through(message.as_bytes()).unwrap();
    }
    let seen = &site.origin.requests()[0];
    assert_eq!(seen.header("upgrade").as_deref(), Some("websocket"));
    assert_eq!(seen.header("connection").as_deref(), Some("upgrade"));
    assert!(seen.header("x-forwarded-for").is_some(), "{seen:?}");
    eventually(SOON, "the tunnel to be counted", || {
        let status = site.limiter.status();
        (status.connections_open, status.servers[0].active) == (1, 1)
    });
    connection.send(b"bye").unwrap();
    connection.read_through(b"bye").unwrap();
    assert!(connection.is_closed_within(SOON));
    // The client's end ends the server's.
    drop(open(&site));
    eventually(SOON, "the tunnel to end", || site.origin.open_connections() == 0);
    eventually(SOON, "its connection to be counted out", || {
        site.limiter.status().connections_open == 0
    });
}

#[test]
fn what_the_client_sends_ahead_waits_for_the_101() {
    let site = site("75s");
    let mut connection = site.connect();
    let mut bytes = http::request("GET", "/chat", &FIELDS, b"");
    bytes.extend_from_slice(b"early");
    connection.send(&bytes).unwrap();
    connection.read_through(b"\r\n\r\nearly").unwrap();
    // Where the server declines, it never gets there.
    site.origin.take();
    site.origin.next(Behaviour::ok("no"));
    site.origin.by_default(Behaviour::ok("plain"));
    let mut connection = site.connect();
    let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut bytes = http::request("GET", "/chat", &FIELDS, b"");
    bytes.extend_from_slice(smuggled);
    connection.send(&bytes).unwrap();
    assert_eq!(connection.response().unwrap().text(), "no");
    assert_eq!(connection.response().unwrap().text(), "plain", "a request like any other");
    let seen = site.origin.take();
    assert_eq!(seen.len(), 2);
    assert!(seen[1].header("x-request-id").is_some(), "it was looked at: {seen:?}");
}

#[test]
fn only_what_was_asked_for_is_granted() {
    let site = site("75s");
    let other = SWITCHING.replace("websocket", "other");
    let none = SWITCHING.replace("Upgrade: websocket\r\n", "");
    for answer in [other, none] {
        site.origin.next(Behaviour::Tunnel(answer.into_bytes()));
        let answer = site.send(&http::request("GET", "/", &FIELDS, b""));
        assert_eq!(answer.status, 502, "{answer:?}");
    }
    // Not asked for, or not in a way that can be granted: the server does not hear of it.
    site.origin.by_default(Behaviour::ok("plain"));
    site.origin.take();
    let cases: [(&str, Fields<'_>, &[u8]); 5] = [
        ("POST", &FIELDS[..2], b"body"),
        ("GET", &[("Upgrade", "websocket")], b""),
        ("GET", &[("Connection", "upgrade"), ("Upgrade", "h2c")], b""),
        ("GET", &[("Connection", "upgrade"), ("Upgrade", "a, b")], b""),
        ("GET", &[("Connection", "upgrade"), ("Upgrade", "a"), ("Upgrade", "b")], b""),
    ];
    for (method, fields, body) in cases {
        assert_eq!(site.send(&http::request(method, "/", fields, body)).text(), "plain");
        let seen = site.origin.take_one(SOON);
        assert_eq!((seen.header("upgrade"), seen.header("connection")), (None, None), "{seen:?}");
    }
}

#[test]
fn a_silent_tunnel_ends_and_one_that_is_used_does_not() {
    let site = site("1s");
    let since = Deadline::after(Duration::ZERO);
    let mut silent = open(&site);
    let mut used = open(&site);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(300));
        used.send(b"ping").unwrap();
        used.read_through(b"ping").unwrap();
    }
    assert!(silent.is_closed_within(Duration::from_millis(100)), "{:?}", since.elapsed());
}

#[test]
fn a_ban_and_the_drain_end_tunnels() {
    let mut site = site("75s");
    let mut connection = open(&site);
    let ban = ["ban", "127.0.0.1", "--for", "10s", "--scope", "http", "--force"];
    site.limiter.cli(&ban).succeeded();
    let closed = connection.is_closed_within(SOON);
    site.limiter.cli(&["unban", "127.0.0.1"]);
    assert!(closed, "by the ban");
    let mut connection = open(&site);
    let since = Deadline::after(Duration::ZERO);
    site.limiter.signal(Signal::SIGTERM);
    connection.send(b"still").unwrap();
    connection.read_through(b"still").unwrap();
    site.limiter.wait_end(Duration::from_secs(10));
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    assert!(connection.is_closed_within(SOON));
}
