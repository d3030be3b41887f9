//! Requests that could be read in two ways: refused, told, and never sent on.

use std::time::Duration;

use limiter_tests::http::Connection;

use crate::support::{OPEN, Site};

/// Each with `\r\n` where the text has a line feed.
const REFUSED: [(&str, &str); 24] = [
    (
        "two framings",
        "POST / HTTP/1.1\nHost: test\nContent-Length: 4\nTransfer-Encoding: chunked\n\n0\n\n",
    ),
    (
        "two framings, the other way round",
        "POST / HTTP/1.1\nHost: test\nTransfer-Encoding: chunked\nContent-Length: 4\n\n0\n\n",
    ),
    ("two lengths", "POST / HTTP/1.1\nHost: test\nContent-Length: 4\nContent-Length: 5\n\nbody"),
    ("a list of lengths", "POST / HTTP/1.1\nHost: test\nContent-Length: 4, 5\n\nbody"),
    ("a signed length", "POST / HTTP/1.1\nHost: test\nContent-Length: +4\n\nbody"),
    ("a length that is none", "POST / HTTP/1.1\nHost: test\nContent-Length: 4x\n\nbody"),
    ("an unknown coding", "POST / HTTP/1.1\nHost: test\nTransfer-Encoding: gzip, chunked\n\n0\n\n"),
    (
        "chunked twice",
        "POST / HTTP/1.1\nHost: test\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n",
    ),
    ("an obscured coding", "POST / HTTP/1.1\nHost: test\nTransfer-Encoding: xchunked\n\n0\n\n"),
    ("chunks in HTTP/1.0", "POST / HTTP/1.0\nHost: test\nTransfer-Encoding: chunked\n\n0\n\n"),
    ("no host", "GET / HTTP/1.1\n\n"),
    ("two hosts", "GET / HTTP/1.1\nHost: test\nHost: other\n\n"),
    ("a host that is none", "GET / HTTP/1.1\nHost: te st\n\n"),
    ("another authority than the host", "GET http://other/ HTTP/1.1\nHost: test\n\n"),
    ("a blank before the colon", "GET / HTTP/1.1\nHost: test\nX-A : b\n\n"),
    ("a folded line", "GET / HTTP/1.1\nHost: test\nX-A: b\n c\n\n"),
    ("a NUL in a value", "GET / HTTP/1.1\nHost: test\nX-A: b\0c\n\n"),
    ("a name that is none", "GET / HTTP/1.1\nHost: test\nX A: b\n\n"),
    ("a version of the future", "GET / HTTP/7.3\nHost: test\n\n"),
    ("a tunnel", "CONNECT test:80 HTTP/1.1\nHost: test\n\n"),
    ("an escape cut off", "GET /%4 HTTP/1.1\nHost: test\n\n"),
    ("an encoded NUL", "GET /%00 HTTP/1.1\nHost: test\n\n"),
    ("a segment that climbs", "GET /a/%2e%2E/b HTTP/1.1\nHost: test\n\n"),
    ("a backslash", "GET /a\\b HTTP/1.1\nHost: test\n\n"),
];

#[test]
fn every_one_is_refused_told_and_closes_the_connection() {
    // No ban in between, or the rest would not be answered.
    let site = Site::start("", OPEN, "[escalation]\nenabled = false\n");
    for (what, text) in REFUSED {
        let mut connection: Connection = site.connect();
        connection.send(text.replace('\n', "\r\n").as_bytes()).unwrap();
        let answer = connection.response().unwrap_or_else(|failure| panic!("{what}: {failure}"));
        assert_eq!(answer.status, 400, "{what}: {answer:?}");
        assert!(connection.is_closed_within(Duration::from_secs(2)), "{what}");
    }
    assert_eq!(site.origin.count(), 0);
    site.refused("malformed_request", REFUSED.len() as u64);
    let told = || -> u64 {
        let lines = site.limiter.lines("events.json");
        let documents = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
        documents
            .filter(|event: &serde_json::Value| event["event.action"] == "malformed_request")
            .map(|event| event["limiter.count"].as_u64().unwrap())
            .sum()
    };
    limiter_tests::wait::eventually(crate::support::SOON, "all are told", || {
        told() == REFUSED.len() as u64
    });
}

#[test]
fn what_a_client_sends_never_makes_a_line_of_its_own() {
    let site = Site::start("", OPEN, "[escalation]\nenabled = false\n");
    let forged =
        "/%0d%0a[2026-01-15 10:23:45] WARN: [SECURITY] Banned 8.8.8.8\\".replace(' ', "%20");
    assert_eq!(site.get(&forged, &[("User-Agent", "a\u{1b}[31m")]).status, 400);
    site.refused("malformed_request", 1);
    let line = limiter_tests::wait::eventually_some(crate::support::SOON, "it is told", || {
        site.limiter.events().into_iter().find(|line| line.contains("Malformed request"))
    });
    assert!(line.starts_with("WARN: [SECURITY] Malformed request from 127.0.0.1"), "{line}");
    assert!(site.limiter.events().iter().all(|line| !line.starts_with("WARN: [SECURITY] Banned")));
    assert!(
        site.limiter
            .lines("events.json")
            .iter()
            .all(|line| line.is_ascii() && !line.contains('\u{1b}'))
    );
}
