//! `[headers.NAME]`: written -> checked; what the presets set.
//!
//! `json-api` is the OWASP REST security cheat sheet's list; both leave out
//! `Strict-Transport-Security`, which means nothing on a listener without TLS.

use toml::Spanned;

use super::{
    document::{Text, access::HeadersDocument},
    error::Report,
    values,
};
use crate::policy::http::HeadersPolicy;

/// A set of headers to begin with.
#[derive(Clone, Copy)]
enum Base {
    JsonApi,
    WebApp,
}

const JSON_API: [(&str, &str); 5] = [
    ("cache-control", "no-store"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
];

const WEB_APP: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'self'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'; \
         object-src 'none'",
    ),
    ("cross-origin-opener-policy", "same-origin"),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "SAMEORIGIN"),
];

/// What every preset takes out of upstream responses: it only helps an attacker.
const REMOVE: [&str; 2] = ["server", "x-powered-by"];

pub(super) fn check(
    name: &Text,
    written: &Spanned<HeadersDocument>,
    report: &mut Report,
) -> Option<HeadersPolicy> {
    let document = written.get_ref();
    report.later(&[&document.csp_report_path], "preset, csp, csp_report_only");
    report.choice(document.mode.as_ref(), &[("enforce", ())], &["monitor"]);
    let base = report.choice(
        document.preset.as_ref(),
        &[("json-api", Base::JsonApi), ("web-app", Base::WebApp)],
        &[],
    );
    let csp = document.csp.as_ref().and_then(|text| report.value(text, header_value));
    let report_only = document.csp_report_only.as_ref().is_some_and(|flag| *flag.get_ref());
    let name = report.value(name, values::name)?;
    let mut policy = of_base(name, base);
    for (header, value) in &mut policy.set {
        if header == "content-security-policy" {
            if let Some(csp) = &csp {
                value.clone_from(csp);
            }
            if report_only {
                header.push_str("-report-only");
            }
        }
    }
    Some(policy)
}

/// What a preset gives to routes that name no policy.
pub(super) fn json_api() -> HeadersPolicy {
    of_base("json-api".to_owned(), Base::JsonApi)
}

fn of_base(name: String, base: Base) -> HeadersPolicy {
    let set = match base {
        Base::JsonApi => &JSON_API,
        Base::WebApp => &WEB_APP,
    };
    HeadersPolicy {
        name,
        set: set.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        remove: REMOVE.map(str::to_owned).to_vec(),
    }
}

/// What follows the colon: printable ASCII on one line.
pub(super) fn header_value(text: &str) -> Result<String, String> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if text.is_empty() || text.len() > 8192 || !printable {
        return Err("a header value is printable ASCII on one line".to_owned());
    }
    Ok(text.to_owned())
}
