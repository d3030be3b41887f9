//! What is only for one hop (RFC 9110, 7.6.1), and how names of fields are taken off.
//!
//! In: the fields of a message; out: the same, edited in place.

use http::{
    HeaderMap, HeaderName,
    header::{CONNECTION, Entry},
};

/// Removes the fields that `Connection` names, but none that carries the request's meaning, and the
/// fixed ones.
pub(in crate::proxy) fn hop_by_hop(headers: &mut HeaderMap) {
    and(headers, |_| false);
}

/// As [`hop_by_hop`], and fields of other names. Few messages have any: one walk over the names
/// costs less than looking each one up.
pub(super) fn and(headers: &mut HeaderMap, mut also: impl FnMut(&str) -> bool) {
    let (mut names_others, mut has_unwanted) = (false, false);
    for name in headers.keys() {
        let name = name.as_str();
        if name == "connection" {
            names_others = true;
        } else {
            has_unwanted |= is_fixed(name) | also(name);
        }
    }
    if names_others {
        take_named(headers);
    }
    if has_unwanted {
        remove(headers, |name| is_fixed(name) || also(name));
    }
}

fn is_fixed(name: &str) -> bool {
    matches!(
        name,
        "keep-alive"
            | "proxy-connection"
            | "http2-settings"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Removes `Connection` and what it names.
fn take_named(headers: &mut HeaderMap) {
    let Entry::Occupied(connection) = headers.entry(CONNECTION) else {
        return;
    };
    let mut named = Vec::new();
    for line in connection.iter() {
        // What nearly all say names no field.
        if matches!(line.as_bytes(), b"keep-alive" | b"Keep-Alive" | b"close") {
            continue;
        }
        let words = line.to_str().into_iter().flat_map(|line| line.split(','));
        let fields = words.filter_map(|word| HeaderName::from_bytes(word.trim().as_bytes()).ok());
        named.extend(fields.filter(may_be_named));
    }
    connection.remove_entry_mult();
    for name in named {
        headers.remove(name);
    }
}

/// Not what says who asks, for what and how: named here by a client, it would be taken from under
/// a policy or an upstream that relies on it.
fn may_be_named(name: &HeaderName) -> bool {
    const MEANING: [&str; 16] = [
        "host",
        "authorization",
        "cookie",
        "set-cookie",
        "origin",
        "date",
        "cache-control",
        "range",
        "user-agent",
        "referer",
        "forwarded",
        "via",
        "traceparent",
        "tracestate",
        "signature",
        "signature-input",
    ];
    const FAMILIES: [&str; 11] = [
        "content-",
        "accept",
        "access-control-",
        "if-",
        "sec-",
        "x-api-",
        "x-auth-",
        "x-forwarded-",
        "x-hub-signature",
        "x-request-id",
        "x-signature",
    ];
    let name = name.as_str();
    !MEANING.contains(&name) && !FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Whether a name begins so, however its separators are written (CGI-like upstreams read
/// `X_Auth-Subject` as `X-Auth-Subject`).
pub(super) fn begins(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(byte, wanted)| byte == wanted || (byte == b'_' && wanted == b'-'))
}

/// Removes the headers of these names. Few requests have any: one walk over the names costs less
/// than looking each one up.
pub(super) fn remove(headers: &mut HeaderMap, mut unwanted: impl FnMut(&str) -> bool) {
    if headers.keys().any(|name| unwanted(name.as_str())) {
        let names: Vec<HeaderName> =
            headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn hop_by_hop_goes_and_meaning_stays() {
        let mut headers = map(&[
            ("connection", "close, Foo, x-hop, host, authorization, x-api-key, x-forwarded-for"),
            ("foo", "1"),
            ("x-hop", "1"),
            ("host", "a"),
            ("authorization", "b"),
            ("x-api-key", "c"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
        ]);
        hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "host", "x-api-key"]);
    }

    #[test]
    fn several_lines_name_several_fields() {
        let mut headers = map(&[
            ("connection", "keep-alive"),
            ("connection", "Foo"),
            ("foo", "1"),
            ("keep-alive", "1"),
            ("bar", "1"),
            ("baz", "1"),
        ]);
        and(&mut headers, |name| name == "baz");
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["bar"]);
    }
}
