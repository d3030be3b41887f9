//! `[limits.NAME]`, `[auth.NAME]`, `[cors.NAME]` and `[headers.NAME]` as written.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{
    Flag, Later, Number, Tables, Text,
    shapes::{NamesDocument, SecretDocument, SignatureKeyDocument},
};

/// `[limits.NAME]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct LimitDocument {
    /// `token_bucket` (default), `sliding_window`, `fixed_window` or `leaky_bucket`.
    pub(in crate::config) algorithm: Option<Text>,
    /// `client` (default), `principal`, `route`, `header:NAME`, or several of them.
    pub(in crate::config) key: Option<Spanned<Vec<Text>>>,
    /// `N/unit`; required unless there are `tiers` or `concurrent`.
    pub(in crate::config) rate: Option<Text>,
    /// How many at once, of a bucket. Default: the rate's N.
    pub(in crate::config) burst: Option<Number>,
    /// `unauthenticated` (default for key `client`) or `all` (default for any other key).
    pub(in crate::config) applies_to: Option<Text>,
    /// `all` (default), `failures` or `successes`.
    pub(in crate::config) count: Option<Text>,
    /// What a request weighs. Default 1.
    pub(in crate::config) cost: Option<Number>,
    /// How long a request may wait for its turn, of a leaky bucket. Default `0s`.
    pub(in crate::config) max_delay: Option<Text>,
    /// Most requests under way at once.
    pub(in crate::config) concurrent: Option<Number>,
    /// Rates by tier: `anonymous`, `authenticated`, `premium`, `internal`, and others.
    pub(in crate::config) tiers: Option<Spanned<BTreeMap<Text, Text>>>,
    /// `enforce` (default) or `monitor`.
    pub(in crate::config) mode: Option<Text>,
}

/// `[auth.NAME]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct AuthDocument {
    /// `api_key`, `jwt`, `hmac`, `mtls`, `signature` or `forward`, required.
    pub(in crate::config) kind: Option<Text>,
    /// Request header that carries the key. Default `X-API-Key`.
    pub(in crate::config) header: Option<Text>,
    /// What `limiter keys` writes.
    pub(in crate::config) keys_file: Option<Text>,
    /// One shared token.
    pub(in crate::config) token: Option<Spanned<SecretDocument>>,
    /// Keep the credential from the upstream. Default `true` for `api_key`, else `false`.
    pub(in crate::config) hide_credentials: Option<Flag>,
    /// `enforce` (default) or `monitor`.
    pub(in crate::config) mode: Option<Text>,
    /// `jwt`: `iss` of its tokens, exactly; required.
    pub(in crate::config) issuer: Option<Text>,
    /// `jwt`: one of these must be in `aud`; required.
    pub(in crate::config) audience: Option<Spanned<NamesDocument>>,
    /// `jwt`: where the issuer publishes its keys, `https://`.
    pub(in crate::config) jwks_url: Option<Text>,
    /// `jwt`: a file with a JWK Set.
    pub(in crate::config) jwks_file: Option<Text>,
    /// `jwt`: a file with one public key (PEM).
    pub(in crate::config) public_key: Option<Text>,
    /// `jwt`: a secret that the issuer has too, for HS256 and its like.
    pub(in crate::config) secret: Option<Spanned<SecretDocument>>,
    /// `hmac`: secrets by the names of their senders, the principals.
    pub(in crate::config) secrets: Option<Tables<SecretDocument>>,
    /// `jwt`: default `RS256`, `ES256`, `EdDSA`; with `secret` `HS256`.
    pub(in crate::config) algorithms: Option<Spanned<Vec<Text>>>,
    /// `jwt`: claim that names the tier; dots lead into objects. Default: none.
    pub(in crate::config) tier_claim: Option<Text>,
    /// `jwt`: file of revoked tokens, a line each: `jti ID` or `sub SUBJECT`.
    pub(in crate::config) revoked: Option<Text>,
    /// `hmac`, `signature`: for how long a message is accepted after it was signed; default `5m`.
    /// `jwt`: how far clocks may differ, at most `5m`; default `60s`.
    pub(in crate::config) tolerance: Option<Text>,
    /// `mtls`: which certificates are whose; the first that matches decides.
    pub(in crate::config) principals: Option<Spanned<Vec<Spanned<PrincipalDocument>>>>,
    /// `signature`: keys by `keyid`, the principal.
    pub(in crate::config) keys: Option<Tables<SignatureKeyDocument>>,
    /// `signature`: what is covered beside the method, the target and the body. Default: nothing.
    pub(in crate::config) components: Option<Spanned<Vec<Text>>>,
    /// `signature`: only signatures with this tag count. Default: all.
    pub(in crate::config) tag: Option<Text>,
    /// `hmac`: of all its principals. Default: none.
    pub(in crate::config) tier: Option<Text>,
    /// `hmac`: of all its principals. Default: none.
    pub(in crate::config) scopes: Option<Spanned<Vec<Text>>>,
    /// `forward`: where to ask, `http://` or `https://` with a path.
    pub(in crate::config) url: Option<Text>,
    /// `forward`: header of the answer that names the principal. Default `X-Auth-Subject`.
    pub(in crate::config) subject_header: Option<Text>,
    /// `forward`: headers of the answer for the upstream. Default: none.
    pub(in crate::config) copy_headers: Option<Spanned<Vec<Text>>>,
    /// `jwt`, `forward`: PEM file of the authorities that the server's certificate must lead to.
    pub(in crate::config) ca: Option<Text>,
}

/// An entry of `principals`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct PrincipalDocument {
    /// `*.svc.example.com`, `spiffe://example.com/*`, `*@example.com`; or `subject`.
    pub(in crate::config) san: Option<Text>,
    /// `CN=name`, or several attributes; or `san`.
    pub(in crate::config) subject: Option<Text>,
    /// Name of the principal. Default: the name that matched.
    pub(in crate::config) name: Option<Text>,
    /// Tier. Default: none.
    pub(in crate::config) tier: Option<Text>,
    /// Scopes. Default: none.
    pub(in crate::config) scopes: Option<Spanned<Vec<Text>>>,
}

/// `[cors.NAME]` (Fetch standard, "CORS protocol").
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct CorsDocument {
    /// `https://app.example.com`, `https://*.example.com`, or `*` alone; required.
    pub(in crate::config) origins: Option<Spanned<Vec<Text>>>,
    /// Default: `GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE`.
    pub(in crate::config) methods: Option<Vec<Text>>,
    /// Request headers. Default: `Content-Type`, `Authorization`, `X-API-Key`, `X-Request-Id`.
    pub(in crate::config) headers: Option<Vec<Text>>,
    /// Response headers for scripts. Default: the limit's, `Retry-After`, `X-Request-Id`.
    pub(in crate::config) expose: Option<Vec<Text>>,
    /// Default `false`; `true` under preset `private`.
    pub(in crate::config) credentials: Option<Flag>,
    /// How long browsers may keep a preflight. Default `24h`.
    pub(in crate::config) max_age: Option<Text>,
    /// `enforce` (default) or `monitor`.
    pub(in crate::config) mode: Option<Text>,
}

/// `[headers.NAME]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct HeadersDocument {
    /// `json-api` (default) or `web-app`.
    pub(in crate::config) preset: Option<Text>,
    /// `Content-Security-Policy`. Default: the preset's.
    pub(in crate::config) csp: Option<Text>,
    /// `true`: browsers only report. Default `false`.
    pub(in crate::config) csp_report_only: Option<Flag>,
    /// Not supported by this version.
    pub(in crate::config) csp_report_path: Option<Later>,
    /// `enforce`.
    pub(in crate::config) mode: Option<Text>,
}
