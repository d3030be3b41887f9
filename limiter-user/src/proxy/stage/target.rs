//! The request's target and framing, read in the one way that is left after strictness.
//!
//! In: the head; out: the path and host that every later stage and the upstream see. What another
//! parser could read differently is refused; the path is normalised once (`path`).

mod path;

use http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING},
    request::Parts,
    uri::PathAndQuery,
};

use self::path::{Normal, normalise};
use crate::{
    proxy::{authority, reply::Reply},
    refusal::Refusal,
};

/// Where a request is for; what the policy sees is what the upstream gets.
#[derive(Debug)]
pub(in crate::proxy) struct Target {
    /// Normalised path, and the query as sent.
    pub(in crate::proxy) path_and_query: PathAndQuery,
    /// The path as a lenient upstream might see it, where that differs.
    alternate: Option<String>,
    host: HeaderValue,
    host_bytes: usize,
    /// The announced method, if this is a CORS preflight.
    pub(in crate::proxy) preflight: Option<Method>,
}

impl Target {
    /// Normalised path.
    pub(in crate::proxy) fn path(&self) -> &str {
        self.path_and_query.path()
    }

    /// The path as a lenient upstream might see it, where that differs.
    pub(in crate::proxy) fn alternate(&self) -> Option<&str> {
        self.alternate.as_deref()
    }

    /// Host as sent, without port and final dot; compare without regard to case.
    pub(in crate::proxy) fn host(&self) -> &str {
        let host = self.host.to_str().unwrap_or_default();
        let host = host.get(..self.host_bytes).unwrap_or_default();
        host.strip_suffix('.').unwrap_or(host)
    }
}

/// Reads the target. `head` is the request head as received, for what the parser does not keep.
pub(in crate::proxy) fn check(parts: &Parts, head: &[u8]) -> Result<Target, Reply> {
    read(parts, head).ok_or_else(|| Reply::refuse(Refusal::MalformedRequest))
}

fn read(parts: &Parts, head: &[u8]) -> Option<Target> {
    if parts.method == Method::CONNECT || !framing_is_plain(parts, head) {
        return None;
    }
    let host = only(&parts.headers, HOST)?;
    let host_bytes = host_bytes(host.as_bytes())?;
    if let Some(authority) = parts.uri.authority()
        && !(authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
            && parts.uri.scheme_str().is_some_and(|scheme| scheme.eq_ignore_ascii_case("http")))
    {
        return None;
    }
    let sent = parts.uri.path_and_query()?;
    let graphic = |byte: u8| byte.is_ascii_graphic();
    if !sent.as_str().bytes().all(graphic) {
        return None;
    }
    let (path_and_query, alternate) = if sent.path() == "*" {
        (parts.method == Method::OPTIONS).then(|| (sent.clone(), None))?
    } else {
        match normalise(sent.path())? {
            Normal::Same => (sent.clone(), None),
            Normal::Changed { path, alternate } if path == sent.path() => (sent.clone(), alternate),
            Normal::Changed { mut path, alternate } => {
                if let Some(query) = sent.query() {
                    path.push('?');
                    path.push_str(query);
                }
                (PathAndQuery::try_from(path).ok()?, alternate)
            }
        }
    };
    Some(Target {
        path_and_query,
        alternate,
        host: host.clone(),
        host_bytes,
        preflight: preflight(parts),
    })
}

fn preflight(parts: &Parts) -> Option<Method> {
    if parts.method != Method::OPTIONS || !parts.headers.contains_key(ORIGIN) {
        return None;
    }
    let announced = parts.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(announced.as_bytes()).ok()
}

/// The value of a header that must be there exactly once.
fn only(headers: &HeaderMap, name: http::HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// `Transfer-Encoding` may only be `chunked`, in HTTP/1.1, without a `Content-Length`. The parser
/// drops the length of such a request, so it is looked for in the head as received; a pipelined
/// request, whose head may not be there as a whole, has no such body.
fn framing_is_plain(parts: &Parts, head: &[u8]) -> bool {
    if !parts.headers.contains_key(TRANSFER_ENCODING) {
        return true;
    }
    parts.version == Version::HTTP_11
        && only(&parts.headers, TRANSFER_ENCODING)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && !parts.headers.contains_key(CONTENT_LENGTH)
        && is_whole_without_length(parts, head)
}

/// Whether `head` begins with this request's line and has all its fields, and no length. A client
/// can split a pipelined request so that its rest looks like a request, but not with as many fields.
fn is_whole_without_length(parts: &Parts, head: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    let head = head.trim_ascii_start();
    if !head.strip_prefix(parts.method.as_str().as_bytes()).is_some_and(|h| h.starts_with(b" ")) {
        return false;
    }
    for (fields, line) in head.split(|byte| *byte == b'\n').skip(1).enumerate() {
        if line.trim_ascii().is_empty() {
            return fields == parts.headers.len();
        }
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            return false;
        }
    }
    false
}

/// Length of the host in `host[:port]`; `None` if it is not one (RFC 3986, 3.2.2, without
/// percent-encoding and sub-delimiters, which no host name has).
fn host_bytes(value: &[u8]) -> Option<usize> {
    let length = if value.first() == Some(&b'[') {
        let end = value.iter().position(|byte| *byte == b']')?;
        let address = std::str::from_utf8(&value[1..end]).ok()?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        end + 1
    } else {
        let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
        let name = &value[..end];
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
        if name.is_empty() || name == b"." || !name.iter().all(plain) {
            return None;
        }
        end
    };
    match &value[length..] {
        [] => Some(length),
        [b':', port @ ..] if (1..=5).contains(&port.len()) => {
            port.iter().all(u8::is_ascii_digit).then_some(length)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn separators_in_disguise_have_an_alternate() {
        let read = |uri| read(&parts("GET", uri, &[("host", "a.test")]), b"").unwrap();
        assert_eq!(read("/api%2Fadmin").alternate(), Some("/api/admin"));
        assert_eq!(read("/admin;x/y").alternate(), Some("/admin/y"));
        assert_eq!(read("/admin/y").alternate(), None);
    }

    #[test]
    fn hosts() {
        let accepts = |headers: &[(&str, &str)]| read(&parts("GET", "/", headers), b"").is_some();
        for host in ["a.test", "A.test:8080", "127.0.0.1:1", "[::1]", "[::1]:80", "a_b.test", "a."]
        {
            assert!(accepts(&[("host", host)]), "{host}");
        }
        for host in [
            "",
            ".",
            "a b",
            "u@a.test",
            "a.test:",
            "a.test:x",
            "a.test:123456",
            "[::1",
            "[x]",
            ":80",
            "a/b",
            "a?b",
            "a,b",
            "a%00",
        ] {
            assert!(!accepts(&[("host", host)]), "{host}");
        }
        assert!(!accepts(&[]), "missing");
        assert!(!accepts(&[("host", "a.test"), ("host", "a.test")]), "twice");
    }

    #[test]
    fn absolute_form_must_agree_with_host() {
        let accepts = |uri: &str| read(&parts("GET", uri, &[("host", "a.test")]), b"").is_some();
        assert!(accepts("http://a.test/x") && accepts("http://A.TEST/x"));
        assert!(!accepts("http://b.test/x"));
        assert!(!accepts("http://u@a.test/x"));
        assert!(!accepts("https://a.test/x"));
        assert!(!accepts("http://a.test:80/x"));
    }

    #[test]
    fn methods_with_their_own_targets() {
        let host = [("host", "a.test")];
        assert!(read(&parts("CONNECT", "a.test:80", &host), b"").is_none());
        assert!(read(&parts("GET", "*", &host), b"").is_none());
        assert!(read(&parts("OPTIONS", "*", &host), b"").is_some());
    }

    #[test]
    fn framing() {
        let refused = |headers: &[(&str, &str)], head: &[u8]| {
            let mut all = vec![("host", "a.test")];
            all.extend_from_slice(headers);
            read(&parts("POST", "/", &all), head).is_none()
        };
        let chunked = [("transfer-encoding", "chunked")];
        let head: &[u8] =
            b"POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\ncontent-length: 5";
        assert!(!refused(&chunked, head), "what follows the head is the body's");
        let both = b"POST / HTTP/1.1\r\nContent-LENGTH: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(refused(&chunked, both));
        assert!(refused(&chunked, b""), "a pipelined head was not kept");
        assert!(refused(&chunked, &head[10..]), "nor was this as a whole");
        assert!(refused(&[chunked[0], ("x", "POST / HTTP/1.1")], head), "a rest in disguise");
        assert!(refused(&[("transfer-encoding", "gzip, chunked")], head));
        assert!(refused(&[chunked[0], chunked[0]], head));
        assert!(!refused(&[("content-length", "5")], b""));
    }

    #[test]
    fn only_true_preflights_are_preflights() {
        let preflight = |method, headers: &[(&str, &str)]| {
            let mut all = vec![("host", "a.test")];
            all.extend_from_slice(headers);
            read(&parts(method, "/", &all), b"").unwrap().preflight
        };
        let origin = ("origin", "https://x.test");
        let announced = ("access-control-request-method", "PUT");
        assert_eq!(preflight("OPTIONS", &[origin, announced]), Some(Method::PUT));
        assert_eq!(preflight("OPTIONS", &[origin]), None);
        assert_eq!(preflight("OPTIONS", &[announced]), None);
        assert_eq!(preflight("GET", &[origin, announced]), None);
    }
}
