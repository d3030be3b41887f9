//! Heads by rule: what is taken and what is refused.

use super::*;

const LIMITS: Limits = Limits { head_bytes: 1000, fields: 10 };

/// At once and byte by byte: the same.
fn judge(head: &[u8]) -> Result<Option<Whole>, Refusal> {
    let whole = Scan::default().feed(head, LIMITS);
    let mut scan = Scan::default();
    let mut slow = Ok(None);
    for end in 1..=head.len() {
        slow = scan.feed(&head[..end], LIMITS);
        if slow != Ok(None) {
            break;
        }
    }
    assert_eq!(whole, slow, "{}", head.escape_ascii());
    whole
}

fn with(fields: &str) -> Result<Option<Whole>, Refusal> {
    judge(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())
}

fn line(line: &str) -> Result<(), Refusal> {
    judge(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()).map(drop)
}

#[test]
fn bodies() {
    let body = |fields: &str| with(fields).map(|whole| whole.unwrap().body).ok();
    for (fields, expected) in [
        ("", Body::Bytes(0)),
        ("Content-Length: 0\r\n", Body::Bytes(0)),
        ("content-LENGTH:12\r\n", Body::Bytes(12)),
        ("Content-Length:  12  \r\n", Body::Bytes(12)),
        ("Content-Length: 999999999999999999\r\n", Body::Bytes(999_999_999_999_999_999)),
        ("Transfer-Encoding: chunked\r\n", Body::Chunked),
        ("TRANSFER-ENCODING:Chunked\r\n", Body::Chunked),
    ] {
        assert_eq!(body(fields), Some(expected), "{fields}");
    }
    for fields in [
        "Content-Length: \r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 1,1\r\n",
        "Content-Length: 1 1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length: 01\r\n",
        "Content-Length: 1.0\r\n",
        "Content-Length:\t1\r\n",
        "Content-Length: 9999999999999999999\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nContent_Length: 1\r\n",
        "Content_Length: 1\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: , chunked\r\n",
        "Transfer-Encoding:\tchunked\r\n",
        "Transfer-Encoding: chunked\t\r\n",
        "Transfer-Encoding: \r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
    ] {
        assert_eq!(with(fields), Err(Refusal::MalformedRequest), "{fields}");
    }
    let old = b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(judge(old), Err(Refusal::MalformedRequest));
    let trace = b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(judge(trace), Err(Refusal::MalformedRequest));
}

#[test]
fn request_lines() {
    for text in [
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "PATCH /a/b?c=d&e[]=%20{}|\\^` HTTP/1.1",
        "M-SEARCH /x HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://a HTTP/1.1",
        "GET HTTP://a:80/x?y HTTP/1.1",
        "GET //a HTTP/1.1",
        "GET /?? HTTP/1.1",
        "GET /a:b@c HTTP/1.1",
    ] {
        assert_eq!(line(text), Ok(()), "{text}");
    }
    for text in [
        "",
        "GET",
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "GET HTTP/1.1",
        "get / HTTP/1.1",
        "GE(T / HTTP/1.1",
        "-X / HTTP/1.1",
        "AAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1",
        "GET / HTTP/01.1",
        "GET / HTTP/ 1.1",
        "GET / HTTP/2.0",
        "GET / HTTP/1.10",
        "GET /a b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /?a#b HTTP/1.1",
        "GET /<a> HTTP/1.1",
        "GET /\"a HTTP/1.1",
        "GET /{a} HTTP/1.1",
        "GET /a\\b HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /?\u{e9} HTTP/1.1",
        "GET /% HTTP/1.1",
        "GET /%4 HTTP/1.1",
        "GET /%zz HTTP/1.1",
        "GET /?%u0041 HTTP/1.1",
        "GET /%00 HTTP/1.1",
        "GET /?a=%00 HTTP/1.1",
        "GET * HTTP/1.1",
        "GET *x HTTP/1.1",
        "GET a HTTP/1.1",
        "GET a:80 HTTP/1.1",
        "CONNECT a:80 HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "GET ftp://a/ HTTP/1.1",
        "GET http:// HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET http://u@a/x HTTP/1.1",
        "GET http://a?x HTTP/1.1",
        "GET http:/a HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        assert_eq!(line(text), Err(Refusal::MalformedRequest), "{text}");
    }
    assert_eq!(line("GET / HTTP/1.2"), Err(Refusal::UnsupportedVersion));
    assert_eq!(line("GET /  HTTP/1.2"), Err(Refusal::MalformedRequest));
}

#[test]
fn lines() {
    for fields in [
        "X: \r\n",
        "X:\r\n",
        "X:a\r\n",
        "X:\t a b\t\r\n",
        "X: \u{e9}\u{fc}\r\n",
        "!#$%&'*+-.^_`|~0aZ: x\r\n",
        "X: a:b,\"c\r\n",
        "Content_Type: x\r\n",
    ] {
        assert!(with(fields).is_ok(), "{fields:?}");
    }
    for fields in [
        " X: a\r\n",
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        " \r\nX: a\r\n",
        "X : a\r\n",
        "X\t: a\r\n",
        ": a\r\n",
        "X\r\n",
        "X[: a\r\n",
        "X\u{e9}: a\r\n",
        "X: a\n",
        "X: a\rb\r\n",
        "X: a\r\r\n",
        "X: \0\r\n",
        "X: \u{7f}\r\n",
        "X: \u{1}\r\n",
        "X: \u{b}\r\n",
        "\rX: a\r\n",
        "Host: a\r\n",
        "Host: b\r\n",
    ] {
        assert_eq!(with(fields), Err(Refusal::MalformedRequest), "{fields:?}");
    }
    for head in [
        &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..],
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: \r\r",
        b"GET / HTTP/1.1\r\nHo\0",
    ] {
        assert_eq!(judge(head), Err(Refusal::MalformedRequest), "{}", head.escape_ascii());
    }
    assert_eq!(judge(b"GET / HTTP/1.1\r\nHost: a\r\n\r"), Ok(None));
    let behind = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0\n\r";
    assert_eq!(judge(behind).unwrap().unwrap().bytes, behind.len() - 3);
}

#[test]
fn bounds() {
    let many = |count: usize| with(&"X: y\r\n".repeat(count)).map(drop);
    assert_eq!((many(9), many(10)), (Ok(()), Err(Refusal::HeadTooLarge)));
    let long = |bytes: usize| with(&format!("X: {}\r\n", "y".repeat(bytes))).map(drop);
    // 26 and 2 around it, 5 of the line itself.
    assert_eq!((long(1000 - 33), long(1000 - 32)), (Ok(()), Err(Refusal::HeadTooLarge)));
    let unended = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(1000));
    assert_eq!(judge(unended.as_bytes()), Err(Refusal::HeadTooLarge));
}
