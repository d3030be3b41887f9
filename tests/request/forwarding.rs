//! What the upstream receives, byte for byte.

use limiter_tests::http;

use crate::support::{OPEN, SOON, Site};

/// Sends bytes; the head and the raw body that the upstream received.
#[track_caller]
fn received(site: &Site, bytes: &[u8]) -> (String, String) {
    let answer = site.send(bytes);
    assert_eq!(answer.status, 200, "{answer:?}");
    let seen = site.origin.take_one(SOON);
    (String::from_utf8(seen.head).unwrap(), seen.raw_body.escape_ascii().to_string())
}

/// The lines of a head in the order of names: the order between different fields means nothing.
fn lines(head: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = head.trim_end().split("\r\n").collect();
    lines[1..].sort_unstable();
    lines
}

const ADDED: [&str; 4] = [
    "forwarded: for=127.0.0.1;proto=http",
    "x-forwarded-for: 127.0.0.1",
    "x-forwarded-host: test",
    "x-forwarded-proto: http",
];

#[track_caller]
fn assert_head(head: &str, first: &str, own: &[&str]) {
    let mut expected: Vec<&str> = own.iter().chain(&ADDED).copied().collect();
    expected.sort_unstable();
    expected.insert(0, first);
    assert_eq!(lines(head), expected);
}

#[test]
fn heads_are_rebuilt_and_bodies_are_not_touched() {
    let site = Site::start("", OPEN, "");
    let plain = "GET /a/b?q=%20x&y HTTP/1.1\r\nHost: test\r\nX-Request-Id: request-one\r\nAccept: */*\r\n\r\n";
    let (head, body) = received(&site, plain.as_bytes());
    assert_head(
        &head,
        "GET /a/b?q=%20x&y HTTP/1.1",
        &["accept: */*", "host: test", "x-request-id: request-one"],
    );
    assert_eq!(body, "");

    // What is for this hop only, what names an identity, what says who the client is: all gone.
    let hostile = [
        ("X-Request-Id", "request-two"),
        ("Connection", "keep-alive, X-Hop, Foo"),
        ("Foo", "hop"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("TE", "trailers"),
        ("Upgrade", "websocket"),
        ("X-Auth-Subject", "root"),
        ("X-Auth-Tier", "internal"),
        ("X_Auth_Scheme", "keys"),
        ("X-Forwarded-For", "203.0.113.1"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Proto", "https"),
        ("X-Real-IP", "203.0.113.1"),
        ("Forwarded", "for=203.0.113.1"),
        ("X-Kept", "yes"),
        ("Cookie", "a=b; c=d"),
    ];
    let (head, body) = received(&site, &http::request("POST", "/x", &hostile, b"raw \x00 body"));
    assert_head(
        &head,
        "POST /x HTTP/1.1",
        &[
            "content-length: 10",
            "cookie: a=b; c=d",
            "host: test",
            "x-kept: yes",
            "x-request-id: request-two",
        ],
    );
    assert_eq!(body, "raw \\x00 body");

    // Chunks are sent on as chunks, without extensions; trailers are not passed on.
    let mut chunks = http::request(
        "PUT",
        "/x",
        &[("Transfer-Encoding", "chunked"), ("X-Request-Id", "request-three")],
        b"",
    );
    chunks.extend_from_slice(b"4;name=value\r\nwiki\r\n5\r\npedia\r\n0\r\n\r\n");
    let (head, body) = received(&site, &chunks);
    assert_head(
        &head,
        "PUT /x HTTP/1.1",
        &["host: test", "transfer-encoding: chunked", "x-request-id: request-three"],
    );
    assert!(body.ends_with("0\\r\\n\\r\\n") && !body.contains("name"), "{body}");
    assert_eq!(body.matches("wiki").count() + body.matches("pedia").count(), 2);

    // Repeated fields keep their order.
    let twice = [("X-Request-Id", "request-four"), ("Accept", "b"), ("Accept", "a")];
    let (head, _) = received(&site, &http::request("GET", "/", &twice, b""));
    let accept: Vec<&str> = head.split("\r\n").filter(|line| line.starts_with("accept")).collect();
    assert_eq!(accept, ["accept: b", "accept: a"]);
}

#[test]
fn targets_are_what_the_policy_saw() {
    let site = Site::start("", OPEN, "");
    for (sent, expected) in [
        ("/", "/"),
        ("/%61bc?x=%61", "/abc?x=%61"),
        ("/a//b///c", "/a/b/c"),
        ("/a%2fb", "/a%2Fb"),
        ("/%7Euser", "/~user"),
        ("http://test/abs?x", "/abs?x"),
    ] {
        let answer = site.get(sent, &[]);
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(site.origin.take_one(SOON).target(), expected, "{sent}");
    }
}

#[test]
fn behind_a_trusted_proxy_the_client_is_named_and_strangers_are_not_believed() {
    let site = Site::start(
        "client_address = \"x-forwarded-for\"\ntrusted_proxies = [\"127.0.0.2\"]",
        OPEN,
        "",
    );
    let fields = [("X-Forwarded-For", "198.51.100.9, 203.0.113.7"), ("X-Forwarded-Proto", "https")];
    let bytes = http::request("GET", "/", &fields, b"");
    assert_eq!(site.send_from("127.0.0.2", &bytes).status, 200);
    let seen = site.origin.take_one(SOON);
    assert_eq!(seen.header("x-forwarded-for").as_deref(), Some("203.0.113.7, 127.0.0.2"));
    assert_eq!(site.send_from("127.0.0.3", &bytes).status, 200);
    let seen = site.origin.take_one(SOON);
    assert_eq!(seen.header("x-forwarded-for").as_deref(), Some("127.0.0.3"));
    assert_eq!(seen.header("forwarded").as_deref(), Some("for=127.0.0.3;proto=http"));
}

#[test]
fn a_method_that_the_route_refuses_is_not_passed_in_a_field() {
    let site = Site::start("", &format!("methods = [\"POST\"]\n{OPEN}"), "");
    let fields = [
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-HTTP-Method", "DELETE"),
        ("x_method_override", "DELETE"),
        ("X-Original-Method", "DELETE"),
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("X-Original-URI", "/admin"),
        ("X-Method", "kept"),
    ];
    assert_eq!(site.send(&http::request("DELETE", "/", &fields, b"")).status, 405);
    assert_eq!(site.send(&http::request("POST", "/", &fields, b"")).status, 200);
    let seen = site.origin.take_one(SOON);
    let head = String::from_utf8(seen.head.clone()).unwrap();
    assert!(!head.contains("DELETE") && !head.contains("/admin"), "{head}");
    assert_eq!(seen.header("x-method").as_deref(), Some("kept"));
}
