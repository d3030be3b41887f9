//! What is unusual and in order passes, as the upstream is to have it; and good requests behind
//! each other on one connection.

use super::{NO_BANS, data};
use crate::support::{OPEN, SOON, Site};

/// Fields that the proxy always sets.
const SET: [&str; 5] =
    ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"];

#[test]
fn every_one_arrives_as_it_should() {
    let site = Site::start("", OPEN, NO_BANS);
    for case in data::passed() {
        let what = &case.what;
        let line_end = case.bytes.windows(3).position(|bytes| bytes == b"P/1").unwrap() + 7;
        let (first, rest) = case.bytes.split_at(line_end);
        let bytes = [first, b"Host: test\r\n", rest].concat();
        let answer = site.send(&bytes);
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        let seen = site.origin.take_one(SOON);
        assert!(seen.complete, "{what}");
        let own = own_fields(&seen.head);
        let upstream = [own.as_slice(), &seen.body].concat();
        assert_eq!(
            upstream.escape_ascii().to_string(),
            case.upstream.escape_ascii().to_string(),
            "{what}"
        );
    }
    site.refused("malformed_request", 0);
}

/// A head with its fields in the order of names, without those that are always set and `host`.
fn own_fields(head: &[u8]) -> Vec<u8> {
    let text: Vec<&[u8]> = head
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .collect();
    let mut fields: Vec<&[u8]> = text[1..text.len() - 2]
        .iter()
        .copied()
        .filter(|line| {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            let always = SET.iter().any(|set| set.as_bytes() == name);
            !always && *line != b"host: test"
        })
        .collect();
    // Fields of one name keep their order.
    fields.sort_by_key(|line| line.split(|byte| *byte == b':').next());
    let mut own = [text[0], b"\r\n"].concat();
    for field in fields {
        own.extend_from_slice(field);
        own.extend_from_slice(b"\r\n");
    }
    own.extend_from_slice(b"\r\n");
    own
}

#[test]
fn good_requests_may_follow_each_other_in_any_pieces() {
    let site = Site::start("", OPEN, NO_BANS);
    let stream = "GET /1 HTTP/1.1\r\nHost: test\r\n\r\n\
         POST /2 HTTP/1.1\r\nHost: test\r\nContent-Length: 16\r\n\r\nGET /x HTTP/1.1\r\
         POST /3 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n\
         4;a=b\r\nGET \r\n2\r\n\r\n\r\n0\r\nX-Sum: 1\r\n\r\n\
         \r\nPUT /4 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
         GET /5 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    let expected = [
        ("/1", &b""[..]),
        ("/2", b"GET /x HTTP/1.1\r"),
        ("/3", b"GET \r\n"),
        ("/4", b""),
        ("/5", b""),
    ];
    for piece in [1, 7, 64, stream.len()] {
        let mut connection = site.connect();
        for bytes in stream.as_bytes().chunks(piece) {
            connection.send(bytes).unwrap();
        }
        for (target, _) in expected {
            let answer = connection.response().unwrap();
            assert_eq!(answer.status, 200, "{target} in pieces of {piece}");
        }
        assert!(connection.is_closed_within(super::SOON));
        let seen = site.origin.take();
        let seen: Vec<(String, &[u8])> =
            seen.iter().map(|request| (request.target(), request.body.as_slice())).collect();
        let seen: Vec<(&str, &[u8])> =
            seen.iter().map(|(target, body)| (target.as_str(), *body)).collect();
        assert_eq!(seen, expected, "in pieces of {piece}");
    }
}
