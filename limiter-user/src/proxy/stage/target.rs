//! The request's target, read in the one way that is left after strictness.
//!
//! In: the head; out: the path and host that every later stage and the upstream see. What another
//! parser could read differently is refused; the path is normalised once (`path`).

mod path;

use http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, HOST, ORIGIN, TE},
    request::Parts,
    uri::PathAndQuery,
};

use self::path::{Normal, normalise};
use crate::{
    proxy::{authority, framing, reply::Reply},
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

/// Reads the target of a request that came over this scheme.
pub(in crate::proxy) fn check(parts: &Parts, scheme: &str) -> Result<Target, Reply> {
    read(parts, scheme).ok_or_else(|| Reply::refuse(Refusal::MalformedRequest))
}

fn read(parts: &Parts, scheme: &str) -> Option<Target> {
    // What the framing sees to over HTTP/1.
    if parts.version == Version::HTTP_2 && !is_sound(parts) {
        return None;
    }
    if parts.method == Method::CONNECT {
        return None;
    }
    let host = only(&parts.headers, HOST)?;
    let host_bytes = authority::host_bytes(host.as_bytes())?;
    if let Some(named) = parts.uri.authority() {
        let port: &[u8] = if scheme == "https" { b"443" } else { b"80" };
        let agrees = authority::same(named.as_str().as_bytes(), host.as_bytes(), port)
            && parts.uri.scheme_str().is_some_and(|named| named.eq_ignore_ascii_case(scheme));
        if !agrees {
            return None;
        }
    }
    let sent = parts.uri.path_and_query()?;
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

/// `path` in its one form; `None` refuses it.
pub(in crate::proxy) fn normal_path(path: &str) -> Option<String> {
    Some(match normalise(path)? {
        Normal::Same => path.to_owned(),
        Normal::Changed { path, .. } => path,
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

/// What another parser could read differently in a head that came over HTTP/2, beyond what that
/// refuses by itself (RFC 9113, 8.2 and 8.3): upstreams may get it over HTTP/1.
fn is_sound(parts: &Parts) -> bool {
    const OF_THE_CONNECTION: [&str; 5] =
        ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];
    let trimmed = |value: &HeaderValue| value.as_bytes().trim_ascii().len() == value.len();
    let length = |value: &HeaderValue| framing::length(value.as_bytes()).is_some();
    let headers = &parts.headers;
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    framing::is_method(parts.method.as_str().as_bytes())
        && framing::is_target(parts.method.as_str().as_bytes(), path.as_bytes())
        && !OF_THE_CONNECTION.iter().any(|name| headers.contains_key(*name))
        && headers.get_all(TE).iter().all(|value| value == "trailers")
        && (!headers.contains_key(CONTENT_LENGTH)
            || only(headers, CONTENT_LENGTH).is_some_and(length))
        && headers.values().all(trimmed)
        && !headers.keys().any(|name| framing::is_disguised(name.as_str().as_bytes()))
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
        let read = |uri| read(&parts("GET", uri, &[("host", "a.test")]), "http").unwrap();
        assert_eq!(read("/api%2Fadmin").alternate(), Some("/api/admin"));
        assert_eq!(read("/admin;x/y").alternate(), Some("/admin/y"));
        assert_eq!(read("/admin/y").alternate(), None);
    }

    #[test]
    fn there_is_one_host() {
        let accepts =
            |headers: &[(&str, &str)]| read(&parts("GET", "/", headers), "http").is_some();
        assert!(accepts(&[("host", "a.test")]));
        assert!(!accepts(&[("host", "u@a.test")]));
        assert!(!accepts(&[]), "missing");
        assert!(!accepts(&[("host", "a.test"), ("host", "a.test")]), "twice");
    }

    #[test]
    fn absolute_form_must_agree_with_host() {
        let accepts = |uri: &str| read(&parts("GET", uri, &[("host", "a.test")]), "http").is_some();
        assert!(accepts("http://a.test/x") && accepts("http://A.TEST/x"));
        assert!(!accepts("http://b.test/x"));
        assert!(!accepts("http://u@a.test/x"));
        assert!(!accepts("https://a.test/x"));
        assert!(accepts("http://a.test:80/x") && !accepts("http://a.test:81/x"));
    }

    #[test]
    fn methods_with_their_own_targets() {
        let host = [("host", "a.test")];
        assert!(read(&parts("CONNECT", "a.test:80", &host), "http").is_none());
        assert!(read(&parts("GET", "*", &host), "http").is_none());
        assert!(read(&parts("OPTIONS", "*", &host), "http").is_some());
    }

    #[test]
    fn heads_of_http2_are_held_to_the_same() {
        let accepts = |method: &str, uri: &str, headers: &[(&str, &str)]| {
            let mut all = vec![("host", "a.test")];
            all.extend_from_slice(headers);
            let mut parts = parts(method, uri, &all);
            parts.version = Version::HTTP_2;
            read(&parts, "http").is_some()
        };
        assert!(accepts("POST", "/x?y", &[("content-length", "5"), ("te", "trailers")]));
        assert!(accepts("OPTIONS", "*", &[]));
        for (name, value) in [
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("keep-alive", "x"),
            ("proxy-connection", "x"),
            ("te", "gzip"),
            ("content-length", "+5"),
            ("content-length", "05"),
            ("content_length", "5"),
            ("transfer_encoding", "chunked"),
            ("x", " y"),
            ("x", "y\t"),
        ] {
            assert!(!accepts("POST", "/", &[(name, value)]), "{name}: {value}");
        }
        assert!(!accepts("POST", "/", &[("content-length", "5"), ("content-length", "5")]));
        assert!(!accepts("get", "/", &[]) && !accepts("GET", "/{x}", &[]));
        assert!(!accepts("GET", "*", &[]) && !accepts("GET", "/?%zz", &[]));
    }

    #[test]
    fn only_true_preflights_are_preflights() {
        let preflight = |method, headers: &[(&str, &str)]| {
            let mut all = vec![("host", "a.test")];
            all.extend_from_slice(headers);
            read(&parts(method, "/", &all), "http").unwrap().preflight
        };
        let origin = ("origin", "https://x.test");
        let announced = ("access-control-request-method", "PUT");
        assert_eq!(preflight("OPTIONS", &[origin, announced]), Some(Method::PUT));
        assert_eq!(preflight("OPTIONS", &[origin]), None);
        assert_eq!(preflight("OPTIONS", &[announced]), None);
        assert_eq!(preflight("GET", &[origin, announced]), None);
    }
}
