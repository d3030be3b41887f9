//! One request head, judged line by line as it comes (RFC 9112, 2 to 6), in one pass.
//!
//! In: the bytes of the head so far; out: where it ends and what body follows. What is legal but
//! read differently by some is refused too; what a value means is left to later stages, except
//! where it decides about framing.

use memchr::{memchr, memchr_iter};

use super::{Body, Limits};
use crate::{proxy::authority, refusal::Refusal};

/// Longest method; the longest registered one has 17 bytes.
const MAX_METHOD_BYTES: usize = 24;

/// Longest field name.
const MAX_NAME_BYTES: usize = 1024;

/// Most digits of a `Content-Length`.
const MAX_LENGTH_DIGITS: usize = 18;

/// Longest target that hyper takes.
const MAX_TARGET_BYTES: usize = 65_534;

/// `tchar` of RFC 9110, 5.6.2: in names.
const NAME: u8 = 1;
/// In methods: upper case, since some servers read `get` as `GET` and some do not.
const METHOD: u8 = 2;
/// In a path: RFC 3986's, with `|`, `[` and `]`, which browsers send as they are.
const PATH: u8 = 4;
/// In a query: what browsers send as it is besides.
const QUERY: u8 = 8;

const CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut code: u8 = 0x21;
    while code < 0x7f {
        let byte = code as usize;
        let word = code.is_ascii_alphanumeric();
        if word || is_one_of(code, b"!#$%&'*+-.^_`|~") {
            table[byte] |= NAME;
        }
        if code.is_ascii_uppercase() || code.is_ascii_digit() || code == b'-' || code == b'_' {
            table[byte] |= METHOD;
        }
        if word || is_one_of(code, b"-._~!$&'()*+,;=:@/%|[]") {
            table[byte] |= PATH | QUERY;
        }
        if is_one_of(code, b"?\\^`{}") {
            table[byte] |= QUERY;
        }
        code += 1;
    }
    table
}

const fn is_one_of(byte: u8, list: &[u8]) -> bool {
    let mut at = 0;
    while at < list.len() {
        if list[at] == byte {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether every byte is of a class.
fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|byte| CLASSES[usize::from(*byte)] & class != 0)
}

/// Whether a byte may be in no line: controls but tab. Branchless, so that it runs on vectors.
pub(super) fn has_controls(bytes: &[u8]) -> bool {
    let found = bytes.iter().fold(0, |found, byte| {
        let known = u8::from(*byte == b'\t') | u8::from(*byte == b'\r') | u8::from(*byte == b'\n');
        found | (u8::from(*byte < 0x20) & !known) | u8::from(*byte == 0x7f)
    });
    found != 0
}

/// Methods whose requests or answers are framed in their own way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Method {
    /// Its answer has no body.
    Head,
    /// Has no body.
    Trace,
    Other,
}

/// What is known of a head whose end has not come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    /// Where the first line begins that has not ended.
    line: usize,
    /// Up to where there is no line feed behind `line`.
    searched: usize,
    /// Up to where bytes were looked at one by one.
    checked: usize,
    /// Carriage returns up to there.
    returns: usize,
    lines: usize,
    /// Of a request line in order.
    method: Option<Method>,
    http_10: bool,
    host: bool,
    chunked: bool,
    length: Option<u64>,
}

/// A whole head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Whole {
    /// Its length with the empty line.
    pub(super) bytes: usize,
    /// What follows.
    pub(super) body: Body,
}

impl Scan {
    /// Looks at what came since the last time. `head` is everything since the request line's
    /// first byte, and may go on behind the end. `None`: there is more to come. What is behind the
    /// bound is not looked at: however a head is cut, the same is said of it.
    pub(super) fn feed(&mut self, head: &[u8], limits: Limits) -> Result<Option<Whole>, Refusal> {
        let head = &head[..head.len().min(limits.head_bytes)];
        while let Some(found) = memchr(b'\n', &head[self.searched..]) {
            let end = self.searched + found;
            let Some(line) = head[self.line..end].strip_suffix(b"\r") else {
                return Err(Refusal::MalformedRequest);
            };
            self.line = end + 1;
            self.searched = self.line;
            self.lines += 1;
            match line {
                [] if self.lines > 1 => {
                    self.check(&head[..self.line])?;
                    return self.end().map(Some);
                }
                _ if self.lines == 1 => self.request_line(line)?,
                _ => {
                    let is_one_more = self.lines > limits.fields + 1;
                    let judged =
                        if is_one_more { Err(Refusal::HeadTooLarge) } else { self.field(line) };
                    if judged.is_err() {
                        self.check(&head[..self.line])?;
                    }
                    judged?;
                }
            }
        }
        self.searched = head.len();
        self.check(head)?;
        if head.len() >= limits.head_bytes { Err(Refusal::HeadTooLarge) } else { Ok(None) }
    }

    /// Controls, and carriage returns other than before a line feed: there are as many as lines
    /// ended, and perhaps one more whose line feed is still to come.
    fn check(&mut self, head: &[u8]) -> Result<(), Refusal> {
        let fresh = &head[self.checked..];
        self.returns += memchr_iter(b'\r', fresh).count();
        self.checked = head.len();
        let open = head.len() > self.line && head.last() == Some(&b'\r');
        if has_controls(fresh) || self.returns != self.lines + usize::from(open) {
            return Err(Refusal::MalformedRequest);
        }
        Ok(())
    }

    /// The method, if the request line came and is in order.
    pub(super) fn method(&self) -> Option<Method> {
        self.method
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        const MALFORMED: Refusal = Refusal::MalformedRequest;
        let space = memchr(b' ', line).ok_or(MALFORMED)?;
        let (method, rest) = (&line[..space], &line[space + 1..]);
        if !is_method(method) {
            return Err(MALFORMED);
        }
        let (target, version) =
            rest.split_at_checked(rest.len().wrapping_sub(9)).ok_or(MALFORMED)?;
        self.http_10 = match version {
            b" HTTP/1.1" => false,
            b" HTTP/1.0" => true,
            // One of the future, if the rest of the line can be read.
            [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => {
                let refusal =
                    if is_target(method, target) { Refusal::UnsupportedVersion } else { MALFORMED };
                return Err(refusal);
            }
            _ => return Err(MALFORMED),
        };
        if !is_target(method, target) {
            return Err(MALFORMED);
        }
        if target.len() > MAX_TARGET_BYTES {
            return Err(Refusal::HeadTooLarge);
        }
        self.method = Some(match method {
            b"HEAD" => Method::Head,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        });
        Ok(())
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (name, value) = split_field(line).ok_or(Refusal::MalformedRequest)?;
        let fine = match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                !std::mem::replace(&mut self.host, true)
                    && authority::host_bytes(trim_spaces(value)).is_some()
            }
            14 if is_called(name, b"content-length") => {
                let length = length(trim_spaces(value));
                name[7] == b'-' && length.is_some() && self.length.is_none() && {
                    self.length = length;
                    true
                }
            }
            17 if is_called(name, b"transfer-encoding") => {
                name[8] == b'-'
                    && !std::mem::replace(&mut self.chunked, true)
                    && trim_spaces(value).eq_ignore_ascii_case(b"chunked")
            }
            4..=MAX_NAME_BYTES | 1..4 => true,
            _ => return Err(Refusal::HeadTooLarge),
        };
        if fine { Ok(()) } else { Err(Refusal::MalformedRequest) }
    }

    /// What the fields say together.
    fn end(&self) -> Result<Whole, Refusal> {
        let body = match (self.chunked, self.length) {
            (true, None) => Body::Chunked,
            (true, Some(_)) => return Err(Refusal::MalformedRequest),
            (false, length) => Body::Bytes(length.unwrap_or(0)),
        };
        if !self.host
            || (self.chunked && self.http_10)
            || (self.method == Some(Method::Trace) && body != Body::Bytes(0))
        {
            return Err(Refusal::MalformedRequest);
        }
        Ok(Whole { bytes: self.line, body })
    }
}

/// Name and value of a field line; `None` for anything else, such as a folded line.
pub(super) fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| CLASSES[usize::from(*byte)] & NAME == 0)?;
    (colon > 0 && line[colon] == b':').then(|| (&line[..colon], &line[colon + 1..]))
}

/// Whether a name is this, or would be to a server that takes `_` for `-`.
pub(super) fn is_called(name: &[u8], wanted: &[u8]) -> bool {
    name.len() == wanted.len()
        && name.iter().zip(wanted).all(|(byte, wanted)| {
            byte.to_ascii_lowercase() == *wanted || (*byte == b'_' && *wanted == b'-')
        })
}

/// Without spaces around it. Tabs, which are as legal, stay and are refused where this is used:
/// they are how a framing field is hidden from one of two parsers.
fn trim_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

/// Upper-case letters, and digits, `-` and `_` behind the first.
pub(in crate::proxy) fn is_method(method: &[u8]) -> bool {
    method.first().is_some_and(u8::is_ascii_uppercase)
        && method.len() <= MAX_METHOD_BYTES
        && all(method, METHOD)
}

/// Whether a name is one of framing to servers that take `_` for `-`, and to those only.
pub(in crate::proxy) fn is_disguised(name: &[u8]) -> bool {
    memchr(b'_', name).is_some()
        && (is_called(name, b"content-length") || is_called(name, b"transfer-encoding"))
}

/// Digits without a leading zero, which some read as octal.
pub(in crate::proxy) fn length(digits: &[u8]) -> Option<u64> {
    if !(1..=MAX_LENGTH_DIGITS).contains(&digits.len()) || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    digits.iter().try_fold(0, |value: u64, digit| {
        digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0'))
    })
}

/// The forms of RFC 9112, 3.2, but the one of CONNECT, which is not spoken here.
pub(in crate::proxy) fn is_target(method: &[u8], target: &[u8]) -> bool {
    if method == b"CONNECT" {
        return false;
    }
    match target {
        [b'/', ..] => is_path_and_query(target),
        b"*" => method == b"OPTIONS",
        _ => {
            let after = |scheme: &[u8]| {
                let (first, rest) = target.split_at_checked(scheme.len())?;
                first.eq_ignore_ascii_case(scheme).then_some(rest)
            };
            let Some(rest) = after(b"http://").or_else(|| after(b"https://")) else {
                return false;
            };
            let (host, path) = rest.split_at(memchr(b'/', rest).unwrap_or(rest.len()));
            authority::host_bytes(host).is_some() && (path.is_empty() || is_path_and_query(path))
        }
    }
}

/// Known bytes, whole escapes, and no NUL, also escaped.
fn is_path_and_query(target: &[u8]) -> bool {
    let mut class = PATH;
    let mut bytes = target;
    while let [byte, rest @ ..] = bytes {
        bytes = rest;
        if CLASSES[usize::from(*byte)] & class == 0 {
            if *byte != b'?' {
                return false;
            }
            class = QUERY;
        }
        if *byte == b'%' {
            match bytes {
                [b'0', b'0', ..] => return false,
                [high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    bytes = rest;
                }
                _ => return false,
            }
        }
    }
    true
}

#[cfg(test)]
mod tests;
