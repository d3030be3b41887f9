//! Answers decided here without the upstream: the only place that turns a [`Refusal`] into a
//! response (RFC 9457, or as the policy words it). Says what happened, never why inside.

mod elizaos;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER},
};

use crate::{policy::http::ErrorShape, refusal::Refusal};

/// As many as refusals have, without those of the policy and of CORS.
const RESPONSE_HEADERS: usize = 16;

/// How a refusal is worded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wording<'a> {
    /// What the policy says.
    pub(super) shape: ErrorShape,
    /// Name of the limit that refuses, if one does.
    pub(super) limit: Option<&'a str>,
    /// Whether the credential asked for is a token.
    pub(super) asks_token: bool,
}

impl From<ErrorShape> for Wording<'_> {
    fn from(shape: ErrorShape) -> Self {
        Self { shape, limit: None, asks_token: false }
    }
}

/// How a stage ends a request early.
#[derive(Debug)]
pub(super) struct Reply {
    answer: Answer,
    headers: Vec<(HeaderName, HeaderValue)>,
    close: bool,
    /// What is said instead of the problem document.
    instead: Option<Box<(StatusCode, Bytes)>>,
    /// Further members of the problem document.
    members: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer {
    Refused(Refusal),
    /// There is nothing to say: a preflight that the policy admits, `OPTIONS *`.
    Empty,
    /// The same over HTTPS.
    Redirect,
}

impl Reply {
    /// There is no room now, and soon there may be.
    pub(super) fn overloaded() -> Self {
        Self::refuse(Refusal::Overloaded).with(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Refuses.
    pub(super) fn refuse(refusal: Refusal) -> Self {
        Self {
            answer: Answer::Refused(refusal),
            headers: Vec::new(),
            instead: None,
            members: String::new(),
            close: matches!(
                refusal,
                Refusal::MalformedRequest
                    | Refusal::UnsupportedVersion
                    | Refusal::Banned
                    | Refusal::HeadTooLarge
                    | Refusal::BodyTooLarge
                    | Refusal::Timeout
            ),
        }
    }

    /// Says that all is well, such as to a preflight, without a body.
    pub(super) fn empty() -> Self {
        Self { answer: Answer::Empty, close: false, ..Self::refuse(Refusal::NotFound) }
    }

    /// Sends the client elsewhere, for good.
    pub(super) fn redirect(location: &str) -> Self {
        let reply =
            Self { answer: Answer::Redirect, close: false, ..Self::refuse(Refusal::NotFound) };
        match HeaderValue::from_str(location) {
            Ok(location) => reply.with(LOCATION, location),
            Err(_) => Self::refuse(Refusal::MalformedRequest),
        }
    }

    /// Refuses in somebody else's words.
    pub(super) fn in_words_of(
        refusal: Refusal,
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Self {
        Self { headers, instead: Some(Box::new((status, body))), ..Self::refuse(refusal) }
    }

    /// With the names of the limits that refuse (`violated-policies`).
    pub(super) fn violating(mut self, names: &[&str]) -> Self {
        if let Ok(names) = serde_json::to_string(names) {
            self.members = format!(",\"violated-policies\":{names}");
        }
        self
    }

    /// With one more header.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The refusal, unless this is a preflight's answer or a redirect.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self.answer {
            Answer::Refused(refusal) => Some(refusal),
            Answer::Empty | Answer::Redirect => None,
        }
    }

    /// The response and its body; what every response carries is added later. `space`: the headers
    /// of the request, which are no longer needed, but the memory they are in is.
    pub(super) fn into_parts(
        self,
        wording: Wording<'_>,
        request_id: &HeaderValue,
        mut space: HeaderMap,
    ) -> (Response<()>, Bytes) {
        space.clear();
        space.reserve(RESPONSE_HEADERS);
        let mut response = Response::new(());
        *response.headers_mut() = space;
        let body = match self.answer {
            Answer::Empty => {
                *response.status_mut() = StatusCode::NO_CONTENT;
                Bytes::new()
            }
            Answer::Redirect => {
                *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                Bytes::new()
            }
            Answer::Refused(_) if let Some(instead) = self.instead => {
                let (status, body) = *instead;
                *response.status_mut() = status;
                body
            }
            Answer::Refused(refusal) => {
                let said = say(refusal, wording, request_id, &self.members);
                *response.status_mut() = said.status;
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(said.media_type));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                said.body
            }
        };
        let headers = response.headers_mut();
        if !body.is_empty() {
            headers.insert(CONTENT_LENGTH, decimal(u64::try_from(body.len()).unwrap_or(u64::MAX)));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        headers.extend(self.headers);
        (response, body)
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::refuse(refusal)
    }
}

/// The whole answer to a request that no exchange answers, perhaps without its body; the
/// connection is closed after it.
pub(super) fn raw(
    refusal: Refusal,
    shape: ErrorShape,
    request_id: &HeaderValue,
    with_body: bool,
) -> Vec<u8> {
    let Said { status, media_type, body } = say(refusal, shape.into(), request_id, "");
    let retry = if refusal == Refusal::Overloaded { "retry-after: 1\r\n" } else { "" };
    let mut answer = format!(
        "HTTP/1.1 {status}\r\n{retry}content-type: {media_type}\r\n\
         cache-control: no-store\r\nconnection: close\r\ncontent-length: {}\r\nx-request-id: ",
        body.len(),
    )
    .into_bytes();
    answer.extend_from_slice(request_id.as_bytes());
    answer.extend_from_slice(b"\r\n\r\n");
    if with_body {
        answer.extend_from_slice(&body);
    }
    answer
}

fn status(refusal: Refusal) -> StatusCode {
    StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// What a refusal says.
struct Said {
    status: StatusCode,
    media_type: &'static str,
    body: Bytes,
}

fn say(refusal: Refusal, wording: Wording<'_>, request_id: &HeaderValue, members: &str) -> Said {
    match wording.shape {
        ErrorShape::Problem => Said {
            status: status(refusal),
            media_type: "application/problem+json",
            body: problem(refusal, request_id, members),
        },
        ErrorShape::ElizaOs => {
            let words = elizaos::words(refusal, wording.limit, wording.asks_token);
            Said {
                status: StatusCode::from_u16(words.status).unwrap_or_else(|_| status(refusal)),
                media_type: words.media_type,
                body: words.body,
            }
        }
    }
}

/// Problem type and title: registered ones where there is one, else those of the status code.
fn describe(refusal: Refusal) -> (&'static str, &'static str) {
    match refusal {
        Refusal::RateLimited | Refusal::RateLimitedFar | Refusal::ConcurrencyLimited => (
            "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "Request cannot be satisfied as assigned quota has been exceeded",
        ),
        Refusal::Overloaded => (
            "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
            "Request cannot be satisfied due to temporary server capacity constraints",
        ),
        other => ("about:blank", status(other).canonical_reason().unwrap_or("Refused")),
    }
}

/// Bytes of a problem document around its texts, with a status of three digits.
const FRAME_BYTES: usize = 51;

/// The body, with further members (each after a comma). A request id is `[A-Za-z0-9._-]`, so it
/// needs no escaping.
fn problem(refusal: Refusal, request_id: &HeaderValue, members: &str) -> Bytes {
    let (kind, title) = describe(refusal);
    let status = refusal.status();
    let id = request_id.as_bytes();
    // Exactly as long as it gets: shared memory with room to spare is allocated twice.
    let length = FRAME_BYTES + kind.len() + title.len() + id.len() + members.len();
    let mut body = Vec::with_capacity(length);
    for part in [b"{\"type\":\"", kind.as_bytes(), b"\",\"title\":\"", title.as_bytes()] {
        body.extend_from_slice(part);
    }
    body.extend_from_slice(b"\",\"status\":");
    push_decimal(&mut body, u64::from(status));
    body.extend_from_slice(b",\"request_id\":\"");
    body.extend_from_slice(id);
    body.extend_from_slice(b"\"");
    body.extend_from_slice(members.as_bytes());
    body.extend_from_slice(b"}");
    Bytes::from(body)
}

/// A header's value in decimal digits.
pub(super) fn decimal(value: u64) -> HeaderValue {
    let mut digits = [0; DIGITS];
    let first = write_digits(&mut digits, value);
    HeaderValue::from_bytes(&digits[first..]).unwrap_or_else(|_| HeaderValue::from(value))
}

/// Appends `value` in decimal digits: formatting machinery costs more than the rest of an answer's text.
pub(super) fn push_decimal(text: &mut Vec<u8>, value: u64) {
    let mut digits = [0; DIGITS];
    let first = write_digits(&mut digits, value);
    text.extend_from_slice(&digits[first..]);
}

/// `00` to `99`.
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut number: u8 = 0;
    while number < 100 {
        pairs[number as usize * 2] = b'0' + number / 10;
        pairs[number as usize * 2 + 1] = b'0' + number % 10;
        number += 1;
    }
    pairs
};

/// Digits of the largest number.
const DIGITS: usize = 20;

/// Writes to the end of `digits`; where the first one is.
fn write_digits(digits: &mut [u8; DIGITS], mut value: u64) -> usize {
    let mut first = DIGITS;
    // Below ten nearly always at the end, and two at a time before.
    while value >= 10 {
        first -= 2;
        let pair = (value % 100) as usize * 2;
        digits[first..first + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
        value /= 100;
        if value == 0 {
            return if digits[first] == b'0' { first + 1 } else { first };
        }
    }
    first -= 1;
    digits[first] = b'0' + (value % 10) as u8;
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_a_problem_document() {
        let id = HeaderValue::from_static("0123456789abcdef");
        for refusal in Refusal::ALL {
            let (response, body) =
                Reply::refuse(*refusal).into_parts(Wording::default(), &id, HeaderMap::new());
            assert_eq!(response.status().as_u16(), refusal.status());
            let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(document["status"], refusal.status());
            assert_eq!(document["request_id"], "0123456789abcdef");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let raw = String::from_utf8(raw(*refusal, ErrorShape::Problem, &id, true)).unwrap();
            assert!(raw.starts_with(&format!("HTTP/1.1 {} ", refusal.status())));
            let (head, raw_body) = raw.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with("x-request-id: 0123456789abcdef"));
            assert_eq!(raw_body.as_bytes(), body);
        }
    }

    #[test]
    fn numbers_and_the_length_of_a_document_are_exact() {
        for value in [0, 7, 10, 99, 100, 101, 429, 1_000, 10_007, 999_999, u64::MAX] {
            assert_eq!(decimal(value), value.to_string());
        }
        let id = HeaderValue::from_static("0123456789abcdef");
        let body = problem(Refusal::RateLimited, &id, "");
        let (kind, title) = describe(Refusal::RateLimited);
        assert_eq!(body.len(), FRAME_BYTES + kind.len() + title.len() + id.len());
    }

    #[test]
    fn a_preflight_is_empty_and_keeps_the_connection() {
        let id = HeaderValue::from_static("0123456789abcdef");
        let (response, body) = Reply::empty().into_parts(Wording::default(), &id, HeaderMap::new());
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert!(body.is_empty() && response.headers().is_empty());
    }
}
