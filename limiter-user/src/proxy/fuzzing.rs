//! What must hold of whatever a peer sends, for fuzzers (any bytes) and tests (those of fixed
//! seeds): each function panics where it does not hold. Nothing else calls them.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use ipnet::IpNet;

use super::{
    framing::{Framer, Limits, Violation},
    proxy_protocol::{self, Parsed},
    stage::{client_address, older_limits, target},
};
use crate::policy::http::ClientAddressSource;

/// Bounds of a head that is fuzzed.
const LIMITS: Limits = Limits { head_bytes: 1000, fields: 20 };

/// The largest version 2 header of the PROXY protocol: 16 bytes, and a length of two.
const MAX_PROXY_HEADER_BYTES: usize = 16 + 0xffff;

/// Bytes after the first two as a stream of requests over HTTP/1: however it is cut, what passes
/// is its beginning, the same for every cut, and a violation ends it. Whether one did.
pub fn framing(data: &[u8]) -> bool {
    let [piece, room, bytes @ ..] = data else { return false };
    let (whole, violation, answers) = pass(bytes, 10_000, 10_000);
    let (slow, slow_violation, slow_answers) =
        pass(bytes, 1 + usize::from(*piece), 1 + usize::from(*room));
    let shown = bytes.escape_ascii();
    assert_eq!(violation.map(|v| v.refusal), slow_violation.map(|v| v.refusal), "{shown}");
    assert_eq!(answers, slow_answers, "{shown}");
    // A body refused with its head passes nothing; in pieces its head was passed on before.
    assert!(slow.starts_with(&whole), "{shown}");
    assert!(violation.is_some() || slow == whole, "{shown}");
    // Empty lines before a request do not pass.
    let blank = bytes.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    assert!(answers > 1 || bytes[blank..].starts_with(&slow), "{shown}");
    violation.is_some()
}

/// What hyper would get of `stream`, cut into pieces of `piece` bytes and read into room for
/// `room`, a request being answered as soon as nothing more passes; the violation that ended it,
/// and how many requests were answered.
pub(super) fn pass(
    stream: &[u8],
    piece: usize,
    room: usize,
) -> (Vec<u8>, Option<Violation>, usize) {
    let mut framer = Framer::new(LIMITS);
    let mut passed = Vec::new();
    let mut answers = 0;
    let mut pieces = stream.chunks(piece.min(room));
    loop {
        match framer.release(room) {
            None => break,
            Some([]) => {}
            Some(bytes) => {
                passed.extend_from_slice(bytes);
                continue;
            }
        }
        if framer.awaits_answer() {
            framer.answered();
            answers += 1;
            continue;
        }
        if framer.is_full() {
            continue;
        }
        let Some(bytes) = pieces.next() else { break };
        match framer.receive(bytes) {
            None => break,
            Some(count) => passed.extend_from_slice(&bytes[..count]),
        }
    }
    (passed, framer.violation(), answers)
}

/// The visible bytes as a path: what is accepted is normal, stays so and does not climb.
pub fn path(data: &[u8]) {
    let visible = data.iter().filter(|byte| byte.is_ascii_graphic());
    let sent: String = std::iter::once('/').chain(visible.map(|byte| char::from(*byte))).collect();
    let Some(normal) = target::normal_path(&sent) else { return };
    assert_eq!(target::normal_path(&normal).as_ref(), Some(&normal), "{sent}");
    assert!(normal.starts_with('/') && !normal.contains("//"), "{sent} {normal}");
    let climbs = |segment: &str| matches!(segment, "." | "..");
    assert!(!normal.split('/').any(climbs), "{sent} {normal}");
}

/// The bytes as what a client claims of its address: the hop that the trusted proxy adds behind
/// them, in the same field or in one of its own, is the client all the same.
pub fn client_address(data: &[u8]) {
    let proxies: [IpNet; 1] = [IpNet::from(IpAddr::from([10, 0, 0, 1]))];
    let (peer, client) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([192, 0, 2, 7]));
    let forwarded_for = HeaderName::from_static("x-forwarded-for");
    for (source, name, hop) in [
        (ClientAddressSource::Forwarded, FORWARDED, "for=192.0.2.7"),
        (ClientAddressSource::XForwardedFor, forwarded_for, "192.0.2.7"),
    ] {
        let together = [data, b", ", hop.as_bytes()].concat();
        let fields: [&[&[u8]]; 2] = [&[&together], &[data, hop.as_bytes()]];
        for fields in fields {
            let mut headers = HeaderMap::new();
            for field in fields {
                let Ok(value) = HeaderValue::from_bytes(field) else { return };
                headers.append(&name, value);
            }
            let (found, _) = client_address::by(source, &proxies, (peer, None), &headers);
            assert_eq!(found, client, "{source:?}: {}", data.escape_ascii());
        }
    }
}

/// The bytes as the beginning of a connection that speaks the PROXY protocol: a header is the same
/// whatever follows it, and each of its beginnings is one that may still become a header.
pub fn proxy_protocol(data: &[u8]) {
    match proxy_protocol::parse(data) {
        Parsed::Whole(header) => {
            assert!(header.bytes <= data.len() && header.bytes <= MAX_PROXY_HEADER_BYTES);
            let alone = &data[..header.bytes];
            assert_eq!(proxy_protocol::parse(alone), Parsed::Whole(header));
            for end in (0..header.bytes).rev().take(300) {
                assert_eq!(proxy_protocol::parse(&alone[..end]), Parsed::Partial);
            }
        }
        Parsed::Partial => assert!(data.len() < MAX_PROXY_HEADER_BYTES),
        Parsed::Malformed => {
            let longer = [data, b"\r\n"].concat();
            assert_eq!(proxy_protocol::parse(&longer), Parsed::Malformed);
        }
    }
}

/// Lines of bytes as what an upstream of an older kind says of its limits: what clients are told
/// of it can be read as structured fields (RFC 9651), and says the same when it is told back.
pub fn upstream_limits(data: &[u8]) {
    const OLDER: [&str; 3] = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"];
    const NOW: u64 = 1_700_000_000;
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [OLDER[0], OLDER[1], OLDER[2], "ratelimit-policy"].map(HeaderName::from_static) {
        let value = lines.next().and_then(|line| HeaderValue::from_bytes(line).ok());
        headers.extend(value.map(|value| (name, value)));
    }
    let before = headers.clone();
    older_limits::translate(NOW, &mut headers);
    if !headers.contains_key("ratelimit") {
        assert_eq!(headers, before);
        return;
    }
    for name in ["ratelimit", "ratelimit-policy"] {
        let text = headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
        let list = sfv::Parser::new(text).parse::<sfv::List>();
        assert!(list.is_ok_and(|list| list.len() == 1), "{name}: {}", text.escape_ascii());
    }
    older_limits::repeat(NOW, &mut headers);
    let number = |headers: &HeaderMap, name| -> Option<u64> {
        headers.get(name)?.to_str().ok()?.trim().parse().ok()
    };
    for name in OLDER {
        assert_eq!(number(&headers, name), number(&before, name), "{name}");
    }
}
