//! One request as a line: Apache's combined format, or JSON with names of the Elastic Common
//! Schema. What a client sent is escaped and bounded; query strings, which may hold secrets, are
//! left out, also those of a `Referer`.

use std::net::IpAddr;

use crate::{events::civil::Civil, policy::http::AccessFormat, proxy::reply::push_decimal};

/// Longest text of a client in a line, before it is escaped.
const MAX_TEXT_BYTES: usize = 512;

/// What nginx writes for a client that went before it was answered.
const CLIENT_GONE: u16 = 499;

/// What is written of a request.
#[derive(Debug)]
pub(in crate::proxy) struct Entry<'a> {
    pub(in crate::proxy) unix_ns: u64,
    pub(in crate::proxy) duration_ns: u64,
    pub(in crate::proxy) client: IpAddr,
    pub(in crate::proxy) peer: IpAddr,
    pub(in crate::proxy) principal: Option<&'a str>,
    pub(in crate::proxy) method: &'a str,
    /// Without its query.
    pub(in crate::proxy) path: &'a str,
    /// `1.1`, `2`.
    pub(in crate::proxy) version: &'static str,
    pub(in crate::proxy) host: &'a [u8],
    /// 0: there was no answer.
    pub(in crate::proxy) status: u16,
    pub(in crate::proxy) sent_bytes: u64,
    pub(in crate::proxy) referer: &'a [u8],
    pub(in crate::proxy) user_agent: &'a [u8],
    pub(in crate::proxy) id: &'a [u8],
    pub(in crate::proxy) route: &'a str,
    pub(in crate::proxy) refusal: &'static str,
    pub(in crate::proxy) trace: &'a str,
}

/// The written form of the second that was written last.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: u64,
    text: String,
}

impl Stamp {
    fn common_log(&mut self, unix_ns: u64) -> &str {
        let second = unix_ns / 1_000_000_000;
        if self.second != second || self.text.is_empty() {
            self.second = second;
            self.text = Civil::from_unix_ns(unix_ns).common_log().to_string();
        }
        &self.text
    }
}

/// Appends the line, with its end.
pub(super) fn append(
    out: &mut Vec<u8>,
    format: AccessFormat,
    entry: &Entry<'_>,
    stamp: &mut Stamp,
) {
    match format {
        AccessFormat::Combined => combined(out, entry, stamp.common_log(entry.unix_ns)),
        AccessFormat::Json => json(out, entry),
    }
    out.push(b'\n');
}

fn combined(out: &mut Vec<u8>, entry: &Entry<'_>, stamp: &str) {
    let quoted = |out: &mut Vec<u8>, text: &[u8]| {
        out.extend_from_slice(b" \"");
        escape(out, if text.is_empty() { b"-" } else { text }, b"\\x");
        out.push(b'"');
    };
    display(out, entry.client);
    out.extend_from_slice(b" - ");
    // A name is one word.
    let principal = entry.principal.unwrap_or("-");
    out.extend(principal.bytes().map(|byte| if byte == b' ' { b'_' } else { byte }));
    out.extend_from_slice(b" [");
    out.extend_from_slice(stamp.as_bytes());
    out.extend_from_slice(b"] \"");
    escape(out, entry.method.as_bytes(), b"\\x");
    out.push(b' ');
    escape(out, entry.path.as_bytes(), b"\\x");
    out.extend_from_slice(b" HTTP/");
    out.extend_from_slice(entry.version.as_bytes());
    out.extend_from_slice(b"\" ");
    push_decimal(out, u64::from(if entry.status == 0 { CLIENT_GONE } else { entry.status }));
    out.push(b' ');
    push_decimal(out, entry.sent_bytes);
    quoted(out, without_query(entry.referer));
    quoted(out, entry.user_agent);
}

fn json(out: &mut Vec<u8>, entry: &Entry<'_>) {
    out.extend_from_slice(b"{\"@timestamp\":\"");
    display(out, Civil::from_unix_ns(entry.unix_ns).rfc3339());
    out.push(b'"');
    number(out, "event.duration", entry.duration_ns);
    out.extend_from_slice(b",\"client.ip\":\"");
    display(out, entry.client);
    out.extend_from_slice(b"\",\"source.ip\":\"");
    display(out, entry.peer);
    out.push(b'"');
    text(out, "user.name", entry.principal.unwrap_or_default().as_bytes());
    text(out, "http.request.method", entry.method.as_bytes());
    text(out, "url.domain", entry.host);
    text(out, "url.path", entry.path.as_bytes());
    text(out, "http.version", entry.version.as_bytes());
    if entry.status != 0 {
        number(out, "http.response.status_code", u64::from(entry.status));
    }
    number(out, "http.response.body.bytes", entry.sent_bytes);
    text(out, "http.request.id", entry.id);
    text(out, "http.request.referrer", without_query(entry.referer));
    text(out, "user_agent.original", entry.user_agent);
    text(out, "limiter.route", entry.route.as_bytes());
    text(out, "limiter.refusal", entry.refusal.as_bytes());
    text(out, "trace.id", entry.trace.as_bytes());
    out.push(b'}');
}

fn number(out: &mut Vec<u8>, name: &str, value: u64) {
    for part in [",\"", name, "\":"] {
        out.extend_from_slice(part.as_bytes());
    }
    push_decimal(out, value);
}

/// A member, unless it is empty.
fn text(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    if !value.is_empty() {
        for part in [",\"", name, "\":\""] {
            out.extend_from_slice(part.as_bytes());
        }
        escape(out, value, b"\\u00");
        out.push(b'"');
    }
}

/// Graphic ASCII and blanks as they are; any other byte, quotes and backslashes as two digits after
/// `mark`.
fn escape(out: &mut Vec<u8>, text: &[u8], mark: &[u8]) {
    for byte in &text[..text.len().min(MAX_TEXT_BYTES)] {
        if (b' '..=b'~').contains(byte) && !matches!(byte, b'"' | b'\\') {
            out.push(*byte);
        } else {
            const DIGITS: [u8; 16] = *b"0123456789abcdef";
            out.extend_from_slice(mark);
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
    }
}

fn without_query(url: &[u8]) -> &[u8] {
    let end = url.iter().position(|byte| matches!(byte, b'?' | b'#'));
    &url[..end.unwrap_or(url.len())]
}

fn display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    // Writing to memory cannot fail.
    drop(std::io::Write::write_fmt(out, format_args!("{value}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            unix_ns: 1_768_472_625_123_456_789,
            duration_ns: 1_500_000,
            client: "203.0.113.9".parse().unwrap(),
            peer: "10.0.0.1".parse().unwrap(),
            principal: Some("alice smith"),
            method: "GET",
            path: "/a\"b",
            version: "1.1",
            host: b"a.test",
            status: 200,
            sent_bytes: 42,
            referer: b"https://x.test/y?token=secret",
            user_agent: b"evil\" \\ \r\n\xe9",
            id: b"request-1",
            route: "/",
            refusal: "",
            trace: "",
        }
    }

    fn line(format: AccessFormat, entry: &Entry<'_>) -> String {
        let mut out = Vec::new();
        append(&mut out, format, entry, &mut Stamp::default());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn combined_lines() {
        assert_eq!(
            line(AccessFormat::Combined, &entry()),
            "203.0.113.9 - alice_smith [15/Jan/2026:10:23:45 +0000] \"GET /a\\x22b HTTP/1.1\" 200 42 \
             \"https://x.test/y\" \"evil\\x22 \\x5c \\x0d\\x0a\\xe9\"\n"
        );
        let none = Entry { principal: None, status: 0, referer: b"", user_agent: b"", ..entry() };
        assert!(
            line(AccessFormat::Combined, &none)
                .ends_with("\"GET /a\\x22b HTTP/1.1\" 499 42 \"-\" \"-\"\n")
        );
    }

    #[test]
    fn json_lines_are_documents() {
        let text = line(AccessFormat::Json, &entry());
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, value) in [
            ("@timestamp", "2026-01-15T10:23:45.123456Z"),
            ("client.ip", "203.0.113.9"),
            ("source.ip", "10.0.0.1"),
            ("user.name", "alice smith"),
            ("url.path", "/a\"b"),
            ("user_agent.original", "evil\" \\ \r\n\u{e9}"),
            ("http.request.referrer", "https://x.test/y"),
        ] {
            assert_eq!(document[name], value, "{text}");
        }
        assert_eq!(document["event.duration"], 1_500_000);
        assert_eq!(document["http.response.status_code"], 200);
        assert!(document.get("trace.id").is_none() && !text.contains("secret"), "{text}");
    }

    #[test]
    fn lines_are_bounded() {
        let long = [b'\n'; 10_000];
        let many = Entry { user_agent: &long, referer: &long, host: &long, ..entry() };
        for format in [AccessFormat::Combined, AccessFormat::Json] {
            let text = line(format, &many);
            assert!(text.len() < 12_000 && text.lines().count() == 1, "{}", text.len());
        }
    }
}
