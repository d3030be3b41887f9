//! Streams through the framing, cut in every way.

use super::*;
use crate::proxy::fuzzing::{self, pass};

const LIMITS: Limits = Limits { head_bytes: 1000, fields: 20 };
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn good_streams_pass_however_they_are_cut() {
    let post = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /";
    let chunked = "PUT /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n";
    let stream = [GET, post, chunked, GET, chunked, post, GET].concat();
    for piece in [1, 2, 3, 7, 50, 10_000] {
        for room in [1, 9, 64, 10_000] {
            let (passed, violation, answers) = pass(stream.as_bytes(), piece, room);
            assert_eq!(
                passed.escape_ascii().to_string(),
                stream.as_bytes().escape_ascii().to_string(),
                "{piece} {room}"
            );
            assert_eq!((violation, answers), (None, 7));
        }
    }
}

#[test]
fn empty_lines_before_a_request_are_dropped() {
    for piece in [1, 2, 100] {
        let stream = format!("\r\n\r\n{GET}\r\n{GET}");
        let (passed, violation, answers) = pass(stream.as_bytes(), piece, 100);
        assert_eq!(passed, GET.repeat(2).as_bytes());
        assert_eq!((violation, answers), (None, 2));
        for bad in ["\n", "\r\n\n", "\r\r\n", "\r\n\r\n\r\n"] {
            let (passed, violation, _) = pass(format!("{bad}{GET}").as_bytes(), piece, 100);
            assert!(passed.is_empty() && violation.is_some(), "{bad:?}");
        }
    }
}

/// What is wrong before a bound is wrong first, what is behind it was not looked at.
#[test]
fn a_head_is_refused_for_the_same_however_it_is_cut() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\n";
    let (long, short) = ("x".repeat(1200), "x".repeat(900));
    let many = "A: b\r\n".repeat(19);
    let cases = [
        (format!("{head}A: {long}\r\n\r\n"), Refusal::HeadTooLarge),
        (format!("{head}A: {long}\n\r\n"), Refusal::HeadTooLarge),
        (format!("{head}A: {long}\0\r\n\r\n"), Refusal::HeadTooLarge),
        (format!("{head}A: \0{long}\r\n\r\n"), Refusal::MalformedRequest),
        (format!("{head}A: \r{long}\r\n\r\n"), Refusal::MalformedRequest),
        (format!("{head}A: {short}\0{short}"), Refusal::MalformedRequest),
        (format!("{head}{many}A: b\r\n\r\n"), Refusal::HeadTooLarge),
        (format!("{head}A: \0\r\n{many}A: b\r\n\r\n"), Refusal::MalformedRequest),
    ];
    for (stream, expected) in cases {
        for piece in [1, 7, 50, 100, 10_000] {
            let (_, violation, _) = pass(stream.as_bytes(), piece, 10_000);
            let refusal = violation.map(|violation| violation.refusal);
            assert_eq!(refusal, Some(expected), "{piece}: {stream:?}");
        }
    }
}

#[test]
fn nothing_of_a_refused_request_passes() {
    let unseen = Violation { refusal: Refusal::MalformedRequest, unseen: true };
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ] {
        for room in [1, 7, 10_000] {
            let stream = format!("{GET}{bad}{GET}");
            let (passed, violation, answers) = pass(stream.as_bytes(), 10_000, room);
            let together = room == 10_000 || !bad.contains("xyz");
            if together {
                assert_eq!(passed, GET.as_bytes(), "{bad:?} {room}");
                assert_eq!(violation, Some(unseen));
            }
            assert_eq!(answers, 1);
        }
    }
    // In pieces a head is passed on before its body is here.
    let stream = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n";
    let (passed, violation, _) = pass(stream.as_bytes(), 1, 100);
    assert!(stream.as_bytes().starts_with(&passed) && passed.ends_with(b"1\r\nx"));
    assert_eq!(violation, Some(Violation { unseen: false, ..unseen }));
}

#[test]
fn the_next_request_waits_for_the_answer() {
    let mut framer = Framer::new(LIMITS);
    let two = GET.repeat(2);
    assert_eq!(framer.receive(two.as_bytes()), Some(GET.len()));
    assert_eq!(framer.head(), GET.as_bytes());
    assert_eq!(framer.release(100), Some(&b""[..]));
    assert!(framer.is_full());
    assert!(framer.answered(), "there is more");
    assert_eq!(framer.release(100), Some(GET.as_bytes()));
    assert_eq!(framer.release(100), Some(&b""[..]));
    assert!(!framer.is_full() && !framer.answered());
}

#[test]
fn a_tunnel_passes_everything() {
    let mut framer = Framer::new(LIMITS);
    let stream = format!("{GET}\0early");
    assert_eq!(framer.receive(stream.as_bytes()), Some(GET.len()));
    framer.open();
    assert_eq!(framer.release(100), Some(&b"\0early"[..]));
    assert_eq!(framer.release(100), Some(&b""[..]));
    assert!(!framer.is_full());
    assert_eq!(framer.receive(b"\xff\0"), Some(2));
}

#[test]
fn heads_too_large_are_told_apart() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(2000));
    for piece in [1, 100, 10_000] {
        let (passed, violation, _) = pass(long.as_bytes(), piece, 10_000);
        let refusal = Refusal::HeadTooLarge;
        assert!(passed.is_empty());
        assert_eq!(violation, Some(Violation { refusal, unseen: true }));
    }
}

/// What libFuzzer would do with a wrong guess now and then: however a stream is mutated and cut,
/// what passes is its beginning, the same for every cut, and a violation ends it.
#[test]
fn mutated_streams_are_read_in_one_way() {
    let seed = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n\
                5;x=\"y\"\r\nhello\r\n0\r\nX: y\r\n\r\n\
                PUT /b HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nGET /\
                GET /%20?q HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(bound).unwrap()).unwrap()
    };
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut bytes = seed.as_bytes().to_vec();
        for _ in 0..=random(3) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, b"\r\n\0:;,% \t\"\xff0"[random(12)]),
                _ if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        let cut = [random(9), random(50)].map(|count| u8::try_from(count).unwrap());
        refused += usize::from(fuzzing::framing(&[&cut[..], &bytes].concat()));
    }
    assert!((2_000..19_000).contains(&refused), "{refused}");
}
