//! What goes over a connection: requests as bytes, answers parsed, and why there is none.

use std::{
    fmt,
    io::{self, ErrorKind},
};

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Nothing within the timeout (of a connection: probably dropped on the way).
    Timeout,
    /// The peer closed; the bytes are what came before.
    Closed(Vec<u8>),
    /// The peer reset or refused the connection.
    Reset,
    /// The answer is not HTTP/1.1; what was wrong.
    Malformed(String),
    /// Anything else.
    Io(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("nothing within the timeout"),
            Self::Closed(before) => write!(f, "closed after {:?}", before.escape_ascii()),
            Self::Reset => f.write_str("reset or refused"),
            Self::Malformed(what) => write!(f, "malformed answer: {what}"),
            Self::Io(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::Timeout,
            // connect() with SO_SNDTIMEO says EINPROGRESS when time is up.
            _ if error.raw_os_error() == Some(libc::EINPROGRESS) => Self::Timeout,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => Self::Reset,
            _ => Self::Io(error),
        }
    }
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// Header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The head as received, with the empty line.
    pub head: Vec<u8>,
    /// The body without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that is there at most once; panics if it is there twice.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.header_values(name).into_iter();
        let first = values.next();
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        first
    }

    /// All values of a header, in order.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics with the body if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// The bytes of a request; `Host: test` and `Content-Length` are added where missing (the latter
/// only beside a body).
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let has = |name: &str| headers.iter().any(|(found, _)| found.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !has("host") {
        head.push_str("Host: test\r\n");
    }
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if !body.is_empty() && !has("content-length") && !has("transfer-encoding") {
        head.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Frames `parts` as a chunked body with its end.
pub fn chunked(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        bytes.extend(format!("{:x}\r\n", part.len()).into_bytes());
        bytes.extend_from_slice(part);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// Reads a status line and header fields.
pub(super) fn parse_head(head: Vec<u8>) -> Result<Response, Failure> {
    let text = String::from_utf8_lossy(&head).into_owned();
    let malformed = |what: &str| Failure::Malformed(format!("{what} in {text:?}"));
    let mut lines = text.split("\r\n").take_while(|line| !line.is_empty());
    let status_line = lines.next().unwrap_or_default();
    let (code, reason) = status_line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| status_line.strip_prefix("HTTP/1.0 "))
        .map(|rest| rest.split_once(' ').unwrap_or((rest, "")))
        .ok_or_else(|| malformed("status line"))?;
    let status = code.parse().map_err(|_| malformed("status code"))?;
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("header"))?;
            Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect::<Result<_, Failure>>()?;
    Ok(Response { status, reason: reason.to_owned(), headers, head, body: Vec::new() })
}
