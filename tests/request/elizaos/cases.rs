//! What an ElizaOS server 1.7.2 answered, case by case, and what is right where it was not.
//!
//! Recorded with `ELIZA_SERVER_AUTH_TOKEN` and `CORS_ORIGIN=https://app.example.com` set.

use limiter_tests::http::{self, Response};

use super::{JSON, KEY};

/// A request, and what is expected of the answer.
pub(super) struct Case {
    /// As in the recording.
    name: &'static str,
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static [u8],
    expected: Expected,
}

enum Expected {
    /// The server's own answer.
    Served,
    /// Its key check's words.
    KeyRequired,
    /// This status and `error.code`.
    Refused(u16, &'static str),
    /// A preflight, granted or not.
    Preflight(bool),
    /// The server's own answer, readable by scripts of the origin that was sent, or not.
    Readable(bool),
}

const APP: (&str, &str) = ("Origin", "https://app.example.com");
const EVIL: (&str, &str) = ("Origin", "https://evil.example");
const ASKS_POST: (&str, &str) = ("Access-Control-Request-Method", "POST");

const fn get(
    name: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    expected: Expected,
) -> Case {
    Case { name, method: "GET", path, headers, body: b"", expected }
}

const fn post(
    name: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static [u8],
    expected: Expected,
) -> Case {
    Case { name, method: "POST", path: "/api/agents", headers, body, expected }
}

const fn preflight(
    name: &'static str,
    headers: &'static [(&'static str, &'static str)],
    granted: bool,
) -> Case {
    let expected = Expected::Preflight(granted);
    Case { name, method: "OPTIONS", path: "/api/agents", headers, body: b"", expected }
}

pub(super) const CASES: &[Case] = &[
    get("healthz", "/healthz", &[], Expected::Served),
    get("health", "/health", &[], Expected::Served),
    get("api-nokey", "/api/agents", &[], Expected::KeyRequired),
    get("api-badkey", "/api/agents", &[("X-API-KEY", "wrong")], Expected::KeyRequired),
    get("api-emptykey", "/api/agents", &[("X-API-KEY", "")], Expected::KeyRequired),
    get("api-key", "/api/agents", &[KEY], Expected::Served),
    get("api-key-lowercase-header", "/api/agents", &[("x-api-key", KEY.1)], Expected::Served),
    get(
        "api-key-case",
        "/api/agents",
        &[("X-API-KEY", "AN-EXAMPLE-TOKEN-OF-SOME-LENGTH")],
        Expected::KeyRequired,
    ),
    get(
        "bearer-instead",
        "/api/agents",
        &[("Authorization", "Bearer an-example-token-of-some-length")],
        Expected::KeyRequired,
    ),
    get(
        "key-in-query",
        "/api/agents?api_key=an-example-token-of-some-length",
        &[],
        Expected::KeyRequired,
    ),
    preflight("options-nokey", &[], true),
    preflight("preflight-good", &[APP, ASKS_POST], true),
    // There the configured origin was named, which browsers refuse; here nobody is.
    preflight("preflight-evil", &[EVIL, ASKS_POST], false),
    preflight("preflight-null", &[("Origin", "null"), ASKS_POST], false),
    get("cors-good", "/api/agents", &[KEY, APP], Expected::Readable(true)),
    get("cors-evil", "/api/agents", &[KEY, EVIL], Expected::Readable(false)),
    get(
        "cors-suffix",
        "/api/agents",
        &[KEY, ("Origin", "https://app.example.com.evil.example")],
        Expected::Readable(false),
    ),
    get(
        "cors-http",
        "/api/agents",
        &[KEY, ("Origin", "http://app.example.com")],
        Expected::Readable(false),
    ),
    get(
        "cors-port",
        "/api/agents",
        &[KEY, ("Origin", "https://app.example.com:8443")],
        Expected::Readable(false),
    ),
    post(
        "post-text",
        &[KEY, ("Content-Type", "text/plain")],
        b"x",
        Expected::Refused(400, "INVALID_CONTENT_TYPE"),
    ),
    post("post-noct", &[KEY], b"x", Expected::Refused(400, "INVALID_CONTENT_TYPE")),
    post("post-json-empty", &[KEY, JSON], b"{}", Expected::Served),
    post("post-nobody", &[KEY], b"", Expected::Served),
    get("404", "/api/nope", &[KEY], Expected::Served),
    get("404-nokey", "/api/nope", &[], Expected::KeyRequired),
    // There any case of the path was the API, and so it is here: not a page that needs no key.
    get("api-capitals", "/API/agents", &[], Expected::KeyRequired),
    get("api-mixed", "/aPi/Agents", &[KEY], Expected::Served),
    Case {
        name: "put",
        method: "PUT",
        path: "/api/agents",
        headers: &[KEY, JSON],
        body: b"{}",
        expected: Expected::Served,
    },
    get("server-ping", "/api/server/ping", &[KEY], Expected::Served),
    get("xff-spoof", "/api/agents", &[KEY, ("X-Forwarded-For", "6.6.6.6")], Expected::Served),
    // There the file was looked for; here the path itself can be meant in two ways.
    get(
        "media-traversal",
        "/media/uploads/agents/11111111-1111-4111-8111-111111111111/..%2f..%2fetc%2fpasswd",
        &[],
        Expected::Refused(400, "BAD_REQUEST"),
    ),
];

/// Header fields of every answer.
pub(super) const HEADERS: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'self';style-src 'self' 'unsafe-inline' https: http:;script-src * \
         'unsafe-inline' 'unsafe-eval';img-src 'self' data: blob: https: http:;font-src 'self' \
         https: http: data:;connect-src 'self' ws: wss: https: http:;media-src 'self' blob: data:;\
         object-src 'none';frame-src 'self' data:;base-uri 'self';form-action 'self'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "cross-origin"),
    ("origin-agent-cluster", "?1"),
    ("x-content-type-options", "nosniff"),
    ("x-dns-prefetch-control", "off"),
    ("x-download-options", "noopen"),
    ("x-frame-options", "SAMEORIGIN"),
    ("x-permitted-cross-domain-policies", "none"),
];

impl Case {
    #[track_caller]
    pub(super) fn check(&self, send: impl FnOnce(&[u8]) -> Response) {
        let answer = send(&http::request(self.method, self.path, self.headers, self.body));
        let name = self.name;
        let text = answer.text();
        let readable = answer.header("access-control-allow-origin");
        match self.expected {
            Expected::Served => {
                assert_eq!(answer.status, 200, "{name}: {text}");
                assert!(text.starts_with("{\"success\":true"), "{name}: {text}");
            }
            Expected::KeyRequired => {
                assert_eq!(answer.status, 401, "{name}: {text}");
                assert_eq!(
                    text,
                    "{\"error\":\"API key required\",\"message\":\"Missing or invalid X-API-KEY \
                     header\"}",
                    "{name}"
                );
                let kind = Some("application/json; charset=utf-8");
                assert_eq!(answer.header("content-type"), kind, "{name}");
                assert!(answer.header("www-authenticate").is_some(), "{name}");
            }
            Expected::Refused(status, code) => {
                assert_eq!(answer.status, status, "{name}: {text}");
                assert_eq!(answer.json()["success"], false, "{name}");
                assert_eq!(answer.json()["error"]["code"], code, "{name}");
            }
            Expected::Preflight(true) => {
                assert_eq!(answer.status, 204, "{name}: {text}");
                let methods = answer.header("access-control-allow-methods").unwrap();
                for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
                    assert!(methods.split(", ").any(|named| named == method), "{name}: {methods}");
                }
                let headers = answer.header("access-control-allow-headers").unwrap();
                assert!(headers.eq_ignore_ascii_case("content-type, authorization, x-api-key"));
                assert_eq!(answer.header("access-control-max-age"), Some("86400"), "{name}");
                assert_eq!(readable.is_some(), self.headers.contains(&APP), "{name}");
            }
            Expected::Preflight(false) => {
                assert_eq!((answer.status, readable), (403, None), "{name}: {text}");
            }
            Expected::Readable(is_readable) => {
                assert_eq!(answer.status, 200, "{name}: {text}");
                assert_eq!(readable, is_readable.then_some(APP.1), "{name}");
                let credentials = answer.header("access-control-allow-credentials");
                assert_eq!(credentials, is_readable.then_some("true"), "{name}");
                let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
                assert_eq!(exposed.contains("x-total-count"), is_readable, "{name}: {exposed}");
            }
        }
    }
}
