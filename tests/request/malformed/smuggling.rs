//! Two framings, one of them hidden: each byte that some parser takes for nothing, at each place of
//! the field that hides it, with a body for either reading. However it ends, the upstream gets at
//! most one request, framed in one way, and nothing of the rest.

use limiter_tests::http::Failure;

use super::NO_BANS;
use crate::support::{OPEN, Site};

/// Bytes that some parsers skip, take for a line end, or for part of a name.
const BYTES: [u8; 16] = [
    0x00, 0x01, 0x04, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x1f, b' ', 0x7f, 0x85, 0xa0, 0xff, b'_',
];

/// `%` is the byte.
const PLACES: [&str; 16] = [
    "%Transfer-Encoding: chunked",
    "Transfer%Encoding: chunked",
    "Transfer-Encoding%: chunked",
    "Transfer-Encoding:%chunked",
    "Transfer-Encoding: %chunked",
    "Transfer-Encoding: chunked%",
    "Transfer-Encoding: chunk%ed",
    "Transfer-Encoding: chunked%X: X",
    "X: X%Transfer-Encoding: chunked",
    "X: X\r%Transfer-Encoding: chunked",
    "X: X%\nTransfer-Encoding: chunked",
    "X: X\n%Transfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r%X: X",
    "Transfer-Encoding: chunked%\nX: X",
    "Transfer-Encoding: x%\r\nTransfer-Encoding: chunked",
    "Content-Length:%0\r\nX: Transfer-Encoding: chunked",
];

/// A length, and a body that reads differently by chunks.
const BODIES: [(usize, &str); 3] = [
    (5, "1\r\nZ\r\nQ\r\n\r\n"),
    (6, "0\r\n\r\nX"),
    (40, "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"),
];

#[test]
fn nothing_hidden_reaches_the_upstream() {
    let site = Site::start("timeouts = { body = \"1s\", header = \"1s\" }", OPEN, NO_BANS);
    let mut passed = 0;
    for byte in BYTES {
        for place in PLACES {
            let (before, after) = place.split_once('%').unwrap();
            let field = [before.as_bytes(), &[byte], after.as_bytes()].concat();
            for (length, body) in BODIES {
                let mut request =
                    format!("POST /front HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n")
                        .into_bytes();
                request.extend_from_slice(&field);
                request.extend_from_slice(format!("\r\n\r\n{body}").as_bytes());
                let mut connection = site.connect();
                connection.send(&request).unwrap();
                connection.finish();
                let shown = request.escape_ascii().to_string();
                let status = match connection.response() {
                    Ok(answer) => answer.status,
                    // Shorter than it says, and the client is gone.
                    Err(Failure::Closed(_)) if body.len() < length => 0,
                    Err(failure) => panic!("{shown}: {failure}"),
                };
                assert!(matches!(status, 0 | 200 | 400), "{status}: {shown}");
                assert!(connection.is_closed_within(super::SOON), "{shown}");
                for seen in site.origin.take() {
                    assert_eq!(seen.target(), "/front", "{shown}");
                    assert_eq!(seen.header_values("content-length"), [length.to_string()]);
                    assert!(seen.header_values("transfer-encoding").is_empty(), "{shown}");
                    let sent = &body.as_bytes()[..length.min(body.len())];
                    assert!(sent.starts_with(&seen.raw_body), "{shown}");
                    passed += 1;
                }
            }
        }
    }
    // Where the byte is nothing but part of another field's value.
    assert!(passed > 0 && passed < 200, "{passed}");
}
