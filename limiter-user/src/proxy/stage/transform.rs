//! The request as the upstream gets it: nothing that a client could forge, nothing of this hop.
//!
//! In: the head and what admission proved; out: the same head, edited in place.

mod hop;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{AUTHORIZATION, CONNECTION, COOKIE, FORWARDED, HOST, UPGRADE},
    request::Parts,
    uri::PathAndQuery,
};
use http_body::Body;

pub(in crate::proxy) use self::hop::hop_by_hop;
use self::hop::{begins, remove};

use crate::proxy::{
    compiled::{Compiled, Route},
    proof::{Client, Principal, hide, hide_trailers, own_bearer},
    spelling::take,
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// What the client asked of us, for somebody who is asked about it.
pub(in crate::proxy) const X_FORWARDED_METHOD: HeaderName =
    HeaderName::from_static("x-forwarded-method");
/// See [`X_FORWARDED_METHOD`].
pub(in crate::proxy) const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_AUTH_SUBJECT: HeaderName = HeaderName::from_static("x-auth-subject");
const X_AUTH_TIER: HeaderName = HeaderName::from_static("x-auth-tier");
const X_AUTH_SCHEME: HeaderName = HeaderName::from_static("x-auth-scheme");

/// Prefix of every header that names an identity; a client's are always removed.
const IDENTITY_PREFIX: &str = "x-auth-";

/// The address headers as the upstream gets them for one client and peer.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct ForwardedFor {
    client: std::net::IpAddr,
    https: bool,
    chain: HeaderValue,
    forwarded: HeaderValue,
}

impl ForwardedFor {
    /// For a client behind `peer`, which may be the client itself, that spoke TLS or not.
    pub(in crate::proxy) fn new(
        client: std::net::IpAddr,
        peer: std::net::IpAddr,
        https: bool,
    ) -> Self {
        let node = match client {
            std::net::IpAddr::V4(address) => address.to_string(),
            std::net::IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let chain = if client == peer { client.to_string() } else { format!("{client}, {peer}") };
        let value = |text: String| {
            HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        };
        let forwarded = format!("for={node};proto={}", scheme(https));
        Self { client, https, chain: value(chain), forwarded: value(forwarded) }
    }

    /// Whether these are the headers for `client` over TLS or not.
    pub(in crate::proxy) fn is_for(&self, client: std::net::IpAddr, https: bool) -> bool {
        self.client == client && self.https == https
    }
}

/// The path for the upstream, without what the route takes off its front.
pub(in crate::proxy) fn target(route: &Route, target: PathAndQuery) -> PathAndQuery {
    let Some(rest) = target.as_str().get(route.strip_bytes..).filter(|_| route.strip_bytes > 0)
    else {
        return target;
    };
    let stripped = if rest.starts_with('/') {
        PathAndQuery::try_from(rest)
    } else {
        PathAndQuery::try_from(format!("/{rest}"))
    };
    stripped.unwrap_or(target)
}

fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

/// Edits the headers for the upstream.
pub(in crate::proxy) fn headers(
    policy: &Compiled,
    route: &Route,
    headers: &mut HeaderMap,
    (client, forwarded): (&Client, &ForwardedFor),
    principal: Option<&Principal>,
) {
    debug_assert!(forwarded.client == client.address, "address headers of another client");
    let mut has_cookie = false;
    hop::and(headers, |name| {
        has_cookie |= name == "cookie";
        matches!(name, "expect" | "proxy-authorization") || is_forged(name)
    });
    if has_cookie {
        one_cookie(headers);
    }
    hide(route, headers);
    take(headers, &route.request_headers.names());
    route.request_headers.apply(headers);
    if let Some(principal) = principal {
        let identity = principal.identity(policy);
        headers.insert(X_AUTH_SUBJECT, identity.subject.clone());
        headers.insert(X_AUTH_SCHEME, principal.scheme(policy).clone());
        if let Some(tier) = &identity.tier {
            headers.insert(X_AUTH_TIER, tier.label.clone());
        }
        for (name, value) in &identity.said {
            headers.append(name, value.clone());
        }
    }
    forwarding(headers, forwarded);
}

/// Headers of a sub-request about a request: without its body, its conditions, and what this hop
/// or a forger says. What the client shows to others than this host stays, whatever the upstream
/// gets of it; the answer is asked for as it is, since the client may get it.
pub(in crate::proxy) fn about(route: &Route, headers: &mut HeaderMap, forwarded: &ForwardedFor) {
    one_cookie(headers);
    hop::and(headers, |name| {
        matches!(
            name,
            "accept-encoding"
                | "expect"
                | "proxy-authorization"
                | "content-length"
                | "content-type"
                | "content-encoding"
                | "transfer-encoding"
                | "range"
        ) || name.starts_with("if-")
            || is_forged(name)
    });
    let shown = [AUTHORIZATION, COOKIE].map(|name| {
        let value = headers.get(&name).filter(|value| own_bearer(value).is_none()).cloned();
        (name, value)
    });
    hide(route, headers);
    for (name, value) in shown {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    forwarding(headers, forwarded);
}

/// Who the client is and how it came here.
fn forwarding(headers: &mut HeaderMap, forwarded: &ForwardedFor) {
    headers.insert(X_FORWARDED_FOR, forwarded.chain.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme(forwarded.https)));
    if let Some(host) = headers.get(HOST).cloned() {
        headers.insert(X_FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED, forwarded.forwarded.clone());
}

/// Joins cookies that came in several fields, as HTTP/2 lets them, as HTTP/1 has them (RFC 9113,
/// 8.2.3).
fn one_cookie(headers: &mut HeaderMap) {
    let mut fields = headers.get_all(COOKIE).iter();
    if fields.next().is_none() || fields.next().is_none() {
        return;
    }
    let fields: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(mut joined) = HeaderValue::from_bytes(&fields.join(&b"; "[..])) {
        joined.set_sensitive(true);
        headers.insert(COOKIE, joined);
    }
}

/// Whether a header says, or could be taken to say, what is only for a proxy to say: who the client
/// is (RFC 9440, 4, and what servers knew before it) and how it came here, which path and method it
/// asked for (some servers believe that more than the request line, by which the policy decided),
/// or the request's id, not spelled as it is set here.
fn is_forged(name: &str) -> bool {
    const NAMES: [&str; 23] = [
        "client-cert",
        "client-cert-chain",
        "x-client-cert",
        "x-client-cert-chain",
        "x-client-dn",
        "x-arr-clientcert",
        "x-ssl-cert",
        "remote-user",
        "x-remote-user",
        "x-remote-group",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "fastly-client-ip",
        "x-original-url",
        "x-original-uri",
        "x-original-method",
        "x-rewrite-url",
        "x-http-method-override",
        "x-http-method",
        "x-method-override",
    ];
    // Most names are none of these by their first letter.
    matches!(name.as_bytes(), [b'x' | b't' | b'c' | b'f' | b's' | b'r', ..]) && {
        begins(name, IDENTITY_PREFIX)
            || begins(name, "x-forwarded-")
            || begins(name, "x-ssl-client-")
            || begins(name, "ssl-client-")
            || NAMES.iter().any(|known| name.len() == known.len() && begins(name, known))
            || (name.contains('_') && begins(name, "x-request-id"))
    }
}

/// The protocol that a request asks to go on in (RFC 9110, 7.8), if that can be granted: one, over
/// HTTP/1.1, without a body. HTTP/2 is not asked for in this way any more (RFC 9113, 3.1).
pub(in crate::proxy) fn upgrade(head: &Parts, is_without_body: bool) -> Option<HeaderValue> {
    let headers = &head.headers;
    let mut asked = headers.get_all(UPGRADE).iter();
    let protocol = asked.next()?;
    let named = || {
        let lines = headers.get_all(CONNECTION).iter().filter_map(|line| line.to_str().ok());
        lines
            .flat_map(|line| line.split(','))
            .any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
    };
    let is_one = |protocol: &[u8]| {
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._/".contains(byte);
        !protocol.is_empty() && protocol.iter().all(token)
    };
    let usable = head.version == Version::HTTP_11
        && is_without_body
        && asked.next().is_none()
        && is_one(protocol.as_bytes())
        && !protocol.as_bytes().eq_ignore_ascii_case(b"h2c")
        && named();
    usable.then(|| protocol.clone())
}

/// Whether a body would be lost: hyper sends one of unknown length with these methods only where a
/// field says so (over HTTP/2 it takes that off again).
pub(in crate::proxy) fn is_unannounced(method: &Method, body: &impl Body) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
        && !body.is_end_stream()
        && body.size_hint().exact().is_none()
}

/// Removes from trailers what is not theirs to say: how the message is framed and routed, whose it
/// is, and everything that is set or taken off here (some servers merge trailers into the head).
pub(in crate::proxy) fn trailers(
    policy: &Compiled,
    route: Option<&Route>,
    trailers: &mut HeaderMap,
) {
    const NEVER: [&str; 18] = [
        "age",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "proxy-authorization",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    remove(trailers, |name| {
        NEVER.iter().any(|never| name.len() == never.len() && begins(name, never))
            || is_forged(name)
            || begins(name, "x-request-id")
            || begins(name, "access-control-")
    });
    if let Some(route) = route {
        hide_trailers(policy, route, trailers);
        take(trailers, &route.request_headers.names());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn forged_identities_go() {
        let mut headers = map(&[("x-auth-subject", "root"), ("x_auth_tier", "x"), ("x-auth", "y")]);
        remove(&mut headers, is_forged);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("x-auth"));
    }

    #[test]
    fn cookies_are_one_field() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
        one_cookie(&mut headers);
        let all: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn what_only_a_proxy_says_is_forged_however_it_is_spelled() {
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded_host",
            "x-forwarded-port",
            "x-forwarded-user",
            "client_cert",
            "client-cert-chain",
            "ssl_client_s_dn",
            "x-ssl-client-verify",
            "x-client_cert",
            "remote_user",
            "x-remote-group",
            "x_real_ip",
            "x_request-id",
            "true-client-ip",
            "cf_connecting_ip",
            "x-original-url",
            "x-http-method-override",
            "x_http_method",
            "x-method_override",
        ] {
            assert!(is_forged(name), "{name}");
        }
        for name in [
            "x-request-id",
            "x_requested_with",
            "x-original",
            "forwarded",
            "a_b",
            "sec-fetch-site",
            "range",
        ] {
            assert!(!is_forged(name), "{name}");
        }
    }

    #[test]
    fn address_headers() {
        let peer = "10.0.0.1".parse().unwrap();
        let alone = ForwardedFor::new(peer, peer, false);
        assert_eq!(alone.chain, "10.0.0.1");
        let behind = ForwardedFor::new("2001:db8::1".parse().unwrap(), peer, true);
        assert_eq!(behind.chain, "2001:db8::1, 10.0.0.1");
        assert_eq!(behind.forwarded, "for=\"[2001:db8::1]\";proto=https");
    }
}
