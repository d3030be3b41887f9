//! As much of HTTP/1.1 (RFC 9112) as the sample API and the clients need: heads are read into
//! fields, bodies are read and forgotten. Everything has a bound.

use std::io::{self, BufRead, Read};

use anyhow::{Context, Result, bail};

const HEAD_LIMIT: u64 = 64 * 1024;
const BODY_LIMIT: u64 = 4 << 20;

/// A request or response head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Request line or status line.
    pub(super) first: String,
    /// Fields in order, names in lower case.
    pub(super) fields: Vec<(String, String)>,
}

impl Head {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(known, _)| known == name);
        field.map(|(_, value)| value.as_str())
    }

    /// Of a status line.
    pub(super) fn status(&self) -> Result<u16> {
        let code = self.first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let code = code.and_then(|code| code.parse().ok());
        code.with_context(|| format!("not a status line: {:?}", self.first))
    }

    pub(super) fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The next head, or `None` where the peer closed instead.
pub(super) fn read_head(reader: &mut impl BufRead) -> Result<Option<Head>> {
    let mut reader = reader.take(HEAD_LIMIT);
    let Some(first) = line(&mut reader)? else { return Ok(None) };
    let mut fields = Vec::new();
    loop {
        let text = line(&mut reader)?.context("a head ends too early, or is too long")?;
        if text.is_empty() {
            return Ok(Some(Head { first, fields }));
        }
        let (name, value) = text.split_once(':').with_context(|| format!("no field: {text:?}"))?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// Reads the body that `head` announces; returns its length.
pub(super) fn skip_body(reader: &mut impl BufRead, head: &Head) -> Result<u64> {
    let is_chunked = head.field("transfer-encoding").is_some_and(|value| value == "chunked");
    if !is_chunked {
        let length = head.field("content-length").map_or(Ok(0), str::parse)?;
        return skip(reader, length);
    }
    let mut total = 0;
    loop {
        let mut bounded = reader.take(HEAD_LIMIT);
        let text = line(&mut bounded)?.context("a chunk is missing")?;
        let length = u64::from_str_radix(text.split(';').next().unwrap_or_default().trim(), 16)?;
        total += skip(reader, length)?;
        if length == 0 {
            // Trailers, to the empty line.
            let mut bounded = reader.take(HEAD_LIMIT);
            while !line(&mut bounded)?.context("the trailers do not end")?.is_empty() {}
            return Ok(total);
        }
        if total > BODY_LIMIT {
            bail!("a body is longer than {BODY_LIMIT} bytes");
        }
        skip(reader, 2)?;
    }
}

fn skip(reader: &mut impl BufRead, length: u64) -> Result<u64> {
    if length > BODY_LIMIT {
        bail!("a body is longer than {BODY_LIMIT} bytes");
    }
    let read = io::copy(&mut reader.take(length), &mut io::sink())?;
    if read < length {
        bail!("a body ends too early");
    }
    Ok(read)
}

/// A line without its end; `None` where there is none.
fn line(reader: &mut impl BufRead) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    if reader.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        bail!("a line ends too early, or is too long");
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_bodies_follow_each_other() {
        let mut text = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc\
                        HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n\
                        HTTP/1.1 204 None\r\nConnection: close\r\n\r\n"
            .as_bytes();
        let expected = [(200, 3, false), (401, 2, false), (204, 0, true)];
        for (status, length, closes) in expected {
            let head = read_head(&mut text).unwrap().unwrap();
            assert_eq!(head.status().unwrap(), status);
            assert_eq!(head.closes(), closes);
            assert_eq!(skip_body(&mut text, &head).unwrap(), length);
        }
        assert_eq!(read_head(&mut text).unwrap(), None);
    }

    #[test]
    fn what_ends_early_or_never_is_an_error() {
        for text in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nno field\r\n\r\n", "GET"] {
            assert!(read_head(&mut text.as_bytes()).is_err(), "{text}");
        }
        let endless = format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(20_000));
        assert!(read_head(&mut endless.as_bytes()).is_err());
        let head = |field: (&str, &str)| Head {
            first: String::new(),
            fields: vec![(field.0.to_owned(), field.1.to_owned())],
        };
        assert!(skip_body(&mut "ab".as_bytes(), &head(("content-length", "3"))).is_err());
        assert!(
            skip_body(&mut "5\r\nab".as_bytes(), &head(("transfer-encoding", "chunked"))).is_err()
        );
        assert!(skip_body(&mut "".as_bytes(), &head(("content-length", "99999999999"))).is_err());
    }
}
