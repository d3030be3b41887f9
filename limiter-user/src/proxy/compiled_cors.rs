//! A CORS policy ready to answer: origins comparable, header values prebuilt (Fetch standard,
//! "CORS protocol").

use http::HeaderValue;

use crate::policy::{
    Mode,
    http::{CorsOrigins, CorsPolicy, OriginPattern},
};

/// One CORS policy.
#[derive(Debug)]
pub(super) struct Cors {
    pub(super) mode: Mode,
    pub(super) credentials: bool,
    /// `None`: any origin, answered with `*`.
    origins: Option<Vec<OriginPattern>>,
    methods: Vec<String>,
    headers: Vec<String>,
    pub(super) allow_methods: HeaderValue,
    pub(super) allow_headers: Option<HeaderValue>,
    pub(super) expose: Option<HeaderValue>,
    pub(super) max_age: HeaderValue,
}

/// Methods that every cross-origin request may use (Fetch, "CORS-safelisted method").
const SAFELISTED_METHODS: [&str; 3] = ["GET", "HEAD", "POST"];

impl Cors {
    /// Checks and prepares; the message names what is wrong.
    pub(super) fn new(policy: &CorsPolicy) -> Result<Self, String> {
        let join = |names: &[String]| {
            HeaderValue::from_str(&names.join(", "))
                .map_err(|_| format!("cors {}: not a header value", policy.name))
        };
        let origins = match &policy.origins {
            CorsOrigins::Any if policy.credentials => {
                return Err(format!("cors {}: any origin with credentials", policy.name));
            }
            CorsOrigins::Any => None,
            CorsOrigins::List(origins) => Some(origins.clone()),
        };
        let mut methods: Vec<String> = SAFELISTED_METHODS.map(str::to_owned).to_vec();
        methods.extend(
            policy
                .methods
                .iter()
                .filter(|method| !SAFELISTED_METHODS.contains(&method.as_str()))
                .cloned(),
        );
        let optional = |names: &[String]| (!names.is_empty()).then(|| join(names)).transpose();
        Ok(Self {
            mode: policy.mode,
            credentials: policy.credentials,
            origins,
            allow_methods: join(&methods)?,
            allow_headers: optional(&policy.headers)?,
            expose: optional(&policy.expose)?,
            max_age: HeaderValue::from(policy.max_age.as_secs()),
            methods,
            headers: policy.headers.clone(),
        })
    }

    /// Whether every origin is admitted, so that the answer is `*` and does not vary.
    pub(super) fn admits_any(&self) -> bool {
        self.origins.is_none()
    }

    /// Whether scripts of `origin` (as sent) may read responses.
    pub(super) fn admits(&self, origin: &[u8]) -> bool {
        let Some(origins) = &self.origins else {
            return true;
        };
        let Some((scheme, host, port)) = split(origin) else {
            return false;
        };
        origins.iter().any(|pattern| {
            let default = if pattern.scheme == "https" { 443 } else { 80 };
            scheme.eq_ignore_ascii_case(&pattern.scheme)
                && port.unwrap_or(default) == pattern.port.unwrap_or(default)
                && host_matches(pattern, host)
        })
    }

    /// Whether a preflight may announce this method (case-sensitive).
    pub(super) fn admits_method(&self, method: &str) -> bool {
        self.methods.iter().any(|admitted| admitted == method)
    }

    /// Whether a preflight may announce this request header. `*` does not cover `authorization`
    /// and counts only without credentials.
    pub(super) fn admits_header(&self, name: &str) -> bool {
        self.headers.iter().any(|admitted| {
            admitted.eq_ignore_ascii_case(name)
                || (admitted == "*"
                    && !self.credentials
                    && !name.eq_ignore_ascii_case("authorization"))
        })
    }
}

fn host_matches(pattern: &OriginPattern, host: &str) -> bool {
    if !pattern.subdomains {
        return host.eq_ignore_ascii_case(&pattern.host);
    }
    let Some(labels) = host.len().checked_sub(pattern.host.len() + 1) else {
        return false;
    };
    labels > 0
        && host.as_bytes()[labels] == b'.'
        && host.get(labels + 1..).is_some_and(|rest| rest.eq_ignore_ascii_case(&pattern.host))
}

/// Scheme, host and port of a serialised origin; `None` for `null` and anything else.
fn split(origin: &[u8]) -> Option<(&str, &str, Option<u16>)> {
    let (scheme, rest) = std::str::from_utf8(origin).ok()?.split_once("://")?;
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, Some(port.parse().ok()?)),
        _ => (rest, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    (!host.is_empty() && host.bytes().all(plain)).then_some((scheme, host, port))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cors(patterns: &[(&str, &str, Option<u16>, bool)]) -> Cors {
        let origins = patterns
            .iter()
            .map(|(scheme, host, port, subdomains)| OriginPattern {
                scheme: (*scheme).into(),
                host: (*host).into(),
                port: *port,
                subdomains: *subdomains,
            })
            .collect();
        Cors::new(&CorsPolicy {
            name: "app".into(),
            origins: CorsOrigins::List(origins),
            methods: vec!["PUT".into()],
            headers: vec!["content-type".into(), "*".into()],
            expose: Vec::new(),
            credentials: false,
            max_age: Duration::from_mins(1),
            mode: Mode::Enforce,
        })
        .unwrap()
    }

    #[test]
    fn origins_match_by_scheme_host_and_port() {
        let cors = cors(&[
            ("https", "app.example.com", None, false),
            ("https", "apps.example.com", Some(8443), true),
        ]);
        for origin in [
            "https://app.example.com",
            "https://APP.example.com",
            "https://app.example.com:443",
            "https://a.apps.example.com:8443",
            "https://a.b.apps.example.com:8443",
        ] {
            assert!(cors.admits(origin.as_bytes()), "{origin}");
        }
        for origin in [
            "null",
            "http://app.example.com",
            "https://app.example.com:444",
            "https://app.example.com.evil.test",
            "https://evilapp.example.com",
            "https://apps.example.com:8443",
            "https://a.apps.example.com",
            "https://evilapps.example.com:8443",
            "https://app.example.com@evil.test",
            "https://app.example.com/",
            "https://",
            "\u{e9}",
        ] {
            assert!(!cors.admits(origin.as_bytes()), "{origin}");
        }
    }

    #[test]
    fn methods_and_headers() {
        let cors = cors(&[]);
        assert!(cors.admits_method("GET") && cors.admits_method("PUT"));
        assert!(!cors.admits_method("put") && !cors.admits_method("DELETE"));
        assert!(cors.admits_header("Content-Type") && cors.admits_header("x-any"));
        assert!(!cors.admits_header("Authorization"));
    }
}
