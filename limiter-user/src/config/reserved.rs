//! Header fields that already mean something: which of them the configuration may give a meaning of
//! its own.
//!
//! In: a name as written; out: the name in lower case, or why it cannot be this. `_` is read as
//! `-`, as servers behind CGI-like interfaces do.

use super::values;

/// Fields of one connection, and those that say where a message ends.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields that say where a request goes and where it comes from, and beginnings of their names.
const ROUTING: [&str; 17] = [
    "cf-connecting-ip",
    "fastly-client-ip",
    "forwarded",
    "host",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded-*",
    "x-http-method*",
    "x-method-override",
    "x-original-*",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];

/// Fields of a request with a meaning of their own that no credential has.
const MEANT: [&str; 21] = [
    "accept",
    "accept-*",
    "access-control-*",
    "authorization",
    "cache-control",
    "cookie",
    "date",
    "early-data",
    "from",
    "if-*",
    "max-forwards",
    "origin",
    "pragma",
    "priority",
    "range",
    "referer",
    "sec-*",
    "set-cookie",
    "signature",
    "signature-input",
    "user-agent",
];

/// Beginning of the names of fields that say who a request speaks for.
const IDENTITY: &str = "x-auth-";

/// Whether a field frames a message, or is for one connection only.
pub(super) fn frames(name: &str) -> bool {
    FRAMING.contains(&name)
}

/// The name of a header that carries a credential and nothing else.
pub(super) fn credential_header(text: &str) -> Result<String, String> {
    let name = values::header_name(text)?;
    let plain = name.replace('_', "-");
    if plain.starts_with(IDENTITY) {
        return Err("a header that begins so says who a request speaks for: a client's is removed"
            .to_owned());
    }
    if is_taken(&plain) || is_one_of(&MEANT, &plain) {
        return Err("this header means something else".to_owned());
    }
    Ok(name)
}

/// The name of a header that another server says something with, for the upstream.
pub(super) fn answered_header(text: &str) -> Result<String, String> {
    let name = values::header_name(text)?;
    if is_taken(&name.replace('_', "-")) {
        return Err("this header means something else".to_owned());
    }
    Ok(name)
}

/// What a message is, where it goes and where it comes from.
fn is_taken(name: &str) -> bool {
    frames(name) || name.starts_with("content-") || is_one_of(&ROUTING, name)
}

fn is_one_of(names: &[&str], name: &str) -> bool {
    names.iter().any(|known| match known.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => name == *known,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_have_headers_of_their_own() {
        for name in [
            "Content-Type",
            "content_type",
            "Content-Digest",
            "Host",
            "Connection",
            "Keep-Alive",
            "Cookie",
            "Authorization",
            "Proxy-Authorization",
            "Forwarded",
            "X-Forwarded-For",
            "X_Forwarded_Host",
            "X-Real-IP",
            "X-Request-Id",
            "X-HTTP-Method-Override",
            "Traceparent",
            "Signature",
            "Signature-Input",
            "Origin",
            "If-None-Match",
            "Sec-Fetch-Site",
            "Accept",
            "Accept-Encoding",
            "X-Auth-Token",
            "X-Auth-Subject",
            "x_auth_key",
            "a b",
            "",
        ] {
            assert!(credential_header(name).is_err(), "{name}");
        }
        for name in
            ["X-API-Key", "API-Key", "X-Signature", "X-Hub-Signature-256", "X-Auth", "X-Token"]
        {
            assert_eq!(credential_header(name).as_deref(), Ok(&*name.to_ascii_lowercase()));
        }
    }

    #[test]
    fn answers_say_nothing_of_the_message() {
        for name in ["Content-Type", "Content-Length", "Host", "TE", "X-Forwarded-For", "Forwarded"]
        {
            assert!(answered_header(name).is_err(), "{name}");
        }
        for name in ["Authorization", "Cookie", "Remote-User", "X-Auth-Request-Email"] {
            assert_eq!(answered_header(name).as_deref(), Ok(&*name.to_ascii_lowercase()));
        }
    }
}
