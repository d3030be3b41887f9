//! A listener that only sends clients to HTTPS.
//!
//! In: a target; out: an answer, always. What holds a credential or a body was sent in the clear
//! already: it is refused, so that somebody notices.

use http::{
    HeaderMap, Method,
    header::{AUTHORIZATION, HOST, PROXY_AUTHORIZATION},
    request::Parts,
};

use crate::{
    proxy::{
        compiled::Compiled, compiled_auth::Scheme, compiled_listener::Redirect, proof::Target,
        reply::Reply,
    },
    refusal::Refusal,
};

const HTTPS: u16 = 443;
const HTTP: u16 = 80;

/// The answer to any request: its head, and whether a body follows.
pub(in crate::proxy) fn answer(
    policy: &Compiled,
    redirect: Redirect,
    target: &Target,
    (parts, has_body): (&Parts, bool),
) -> Reply {
    let headers = &parts.headers;
    let plain = matches!(parts.method, Method::GET | Method::HEAD)
        && !has_body
        && !has_credential(policy, headers);
    if !plain {
        return Refusal::HttpsRequired.into();
    }
    let port = shown_port(redirect, port_of(headers));
    Reply::redirect(&location(target.host(), port, target.path_and_query.as_str()))
}

/// Cookies are left out: browsers send those that are not marked as secure wherever they go, and
/// whoever types a name without its scheme is to get where he wants.
fn has_credential(policy: &Compiled, headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION)
        || headers.contains_key(PROXY_AUTHORIZATION)
        || policy
            .auth
            .iter()
            .flat_map(Scheme::own_headers)
            .any(|header| headers.contains_key(header))
}

/// The port that `Host` names.
fn port_of(headers: &HeaderMap) -> Option<u16> {
    let host = headers.get(HOST)?.to_str().ok()?;
    let (_, port) = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'))?;
    port.parse().ok()
}

/// The port of HTTPS as this client sees it. One that reached another port than ours came through
/// something that maps ports; what it maps HTTPS to is most likely the usual port.
fn shown_port(redirect: Redirect, named: Option<u16>) -> Option<u16> {
    let is_mapped = redirect.from_port.is_some_and(|own| own != named.unwrap_or(HTTP));
    redirect.to_port.filter(|port| !is_mapped && *port != HTTPS)
}

fn location(host: &str, port: Option<u16>, path_and_query: &str) -> String {
    match port {
        Some(port) => format!("https://{host}:{port}{path_and_query}"),
        None => format!("https://{host}{path_and_query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_the_one_that_the_client_can_reach() {
        let shown = |from, to, named| shown_port(Redirect { from_port: from, to_port: to }, named);
        assert_eq!(shown(Some(80), Some(443), None), None);
        assert_eq!(shown(Some(80), Some(8443), None), Some(8443));
        assert_eq!(shown(Some(8080), Some(8443), Some(8080)), Some(8443));
        assert_eq!(shown(Some(8080), Some(8443), None), None, "mapped from 80");
        assert_eq!(shown(Some(8080), Some(443), Some(8080)), None);
        assert_eq!(shown(None, Some(8443), None), Some(8443));
        assert_eq!(shown(None, None, None), None);
    }

    #[test]
    fn ports_of_hosts() {
        let port = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, http::HeaderValue::from_static(host));
            port_of(&headers)
        };
        assert_eq!(port("a.test:8080"), Some(8080));
        assert_eq!(port("a.test"), None);
        assert_eq!(port("[::1]"), None);
        assert_eq!(port("[::1]:81"), Some(81));
    }
}
