//! Response headers of an ElizaOS server, as it sets them itself; `Server` and `X-Powered-By` go.

use crate::policy::http::HeadersPolicy;

/// Those of both halves.
const COMMON: [(&str, &str); 8] = [
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "cross-origin"),
    ("origin-agent-cluster", "?1"),
    ("x-content-type-options", "nosniff"),
    ("x-dns-prefetch-control", "off"),
    ("x-download-options", "noopen"),
    ("x-frame-options", "SAMEORIGIN"),
    ("x-permitted-cross-domain-policies", "none"),
];

const DEVELOPMENT_CSP: &str = "default-src 'self';style-src 'self' 'unsafe-inline' https: http:;\
    script-src * 'unsafe-inline' 'unsafe-eval';img-src 'self' data: blob: https: http:;\
    font-src 'self' https: http: data:;connect-src 'self' ws: wss: https: http:;\
    media-src 'self' blob: data:;object-src 'none';frame-src 'self' data:;base-uri 'self';\
    form-action 'self'";

/// Of pages, media, health and sockets.
pub(super) fn app(is_production: bool, has_ui: bool) -> HeadersPolicy {
    let own = [("referrer-policy", "no-referrer-when-downgrade"), ("x-xss-protection", "0")];
    let transport = is_production.then_some("max-age=31536000; includeSubDomains; preload");
    policy("app", &own, transport, csp(is_production, has_ui))
}

/// Of what is under `/api`.
pub(super) fn api(is_production: bool, has_ui: bool) -> HeadersPolicy {
    let own = [("referrer-policy", "no-referrer"), ("x-xss-protection", "1; mode=block")];
    let transport = Some("max-age=31536000; includeSubDomains");
    policy("api", &own, transport, csp(is_production, has_ui))
}

fn policy(name: &str, own: &[(&str, &str)], transport: Option<&str>, csp: String) -> HeadersPolicy {
    let pairs = COMMON.iter().chain(own);
    let mut set: Vec<(String, String)> =
        pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    set.push(("content-security-policy".to_owned(), csp));
    if let Some(value) = transport {
        set.push(("strict-transport-security".to_owned(), value.to_owned()));
    }
    HeadersPolicy {
        name: name.to_owned(),
        set,
        remove: ["server", "x-powered-by"].map(str::to_owned).to_vec(),
    }
}

fn csp(is_production: bool, has_ui: bool) -> String {
    if !is_production {
        return DEVELOPMENT_CSP.to_owned();
    }
    let frames = if has_ui { "'self'" } else { "'none'" };
    format!(
        "default-src 'self';style-src 'self' 'unsafe-inline' https:;script-src 'self' \
         'unsafe-inline' 'unsafe-eval';img-src 'self' data: blob: https: http:;font-src 'self' \
         https: data:;connect-src 'self' ws: wss: https: http:;media-src 'self' blob: data:;\
         object-src 'none';frame-src {frames};base-uri 'self';form-action 'self';\
         frame-ancestors 'self';script-src-attr 'none';upgrade-insecure-requests"
    )
}
