//! `[cors.NAME]`: written -> checked (Fetch standard, "CORS protocol").

use std::time::Duration;

use toml::Spanned;

use super::{
    Scope,
    document::{Text, access::CorsDocument},
    error::Report,
    preset::Preset,
    values,
};
use crate::policy::http::{CorsOrigins, CorsPolicy};

pub(super) const DEFAULT_MAX_AGE: Duration = Duration::from_hours(24);

pub(super) fn default_methods() -> Vec<String> {
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].map(str::to_owned).to_vec()
}

pub(super) fn default_headers() -> Vec<String> {
    ["content-type", "authorization", "x-api-key", "x-request-id"].map(str::to_owned).to_vec()
}

/// What a script needs to behave: how much is left, when to come back, what to report.
pub(super) fn default_expose() -> Vec<String> {
    [
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "ratelimit",
        "ratelimit-policy",
        "retry-after",
        "x-request-id",
    ]
    .map(str::to_owned)
    .to_vec()
}

pub(super) fn check(
    name: &Text,
    written: &Spanned<CorsDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<CorsPolicy> {
    let document = written.get_ref();
    let credentials = document
        .credentials
        .as_ref()
        .map_or(scope.preset == Some(Preset::Private), |flag| *flag.get_ref());
    let methods = document.methods.as_deref();
    let methods = methods.map_or_else(default_methods, |list| report.values(list, values::method));
    let headers = document.headers.as_deref();
    let headers =
        headers.map_or_else(default_headers, |list| report.values(list, values::header_name));
    let expose = document.expose.as_deref();
    let expose =
        expose.map_or_else(default_expose, |list| report.values(list, values::header_name));
    let max_age = report.value_or(document.max_age.as_ref(), values::duration, DEFAULT_MAX_AGE);
    let mode = report.mode(document.mode.as_ref());
    let Some(origins) = &document.origins else {
        let example = "origins = [\"https://app.example.com\"]";
        report.refuse_with(written.span(), "`origins` is missing", example);
        return None;
    };
    let any = origins.get_ref().iter().find(|origin| origin.get_ref() == "*");
    let origins = if let Some(any) = any {
        if origins.get_ref().len() > 1 {
            report.refuse(any.span(), "\"*\" stands alone: it covers all the others");
        }
        if credentials {
            report.refuse_with(
                any.span(),
                "\"*\" with credentials would let every web page act as its visitor",
                "list the origins, or set credentials = false",
            );
        } else {
            report.risk(any.span(), "scripts of every web page may read the responses");
        }
        CorsOrigins::Any
    } else {
        CorsOrigins::List(report.values(origins.get_ref(), values::origin))
    };
    let name = report.value(name, values::name)?;
    Some(CorsPolicy { name, origins, methods, headers, expose, credentials, max_age, mode })
}
