//! `host`, `path` and `exact`: written -> what requests are compared with.

use super::super::{
    document::{Text, http::RouteDocument},
    error::Report,
    values,
};
use crate::policy::http::PathPattern;

pub(super) fn host(host: &Text, report: &mut Report) -> Option<String> {
    if host.get_ref().starts_with("*.") {
        report.unsupported(host.span(), "a wildcard host", "a whole host name, or none for any");
        return None;
    }
    report.value(host, |text| match values::host_and_port(text) {
        Some((host, None)) => Ok(host),
        _ => Err("expected a host name without port, e.g. \"api.example.com\"".to_owned()),
    })
}

pub(super) fn path(written: &RouteDocument, report: &mut Report) -> Option<PathPattern> {
    match (&written.path, &written.exact) {
        (Some(_), Some(exact)) => {
            report.refuse(exact.span(), "a route has either `path` or `exact`");
            None
        }
        (None, Some(exact)) => report.value(exact, check_path).map(PathPattern::Exact),
        (Some(prefix), None) => report.value(prefix, check_path).map(|path| {
            let trimmed = path.trim_end_matches('/');
            PathPattern::Prefix(if trimmed.is_empty() { "/" } else { trimmed }.to_owned())
        }),
        (None, None) => Some(PathPattern::Prefix("/".to_owned())),
    }
}

/// A path as requests are compared with it: normalised, so that none can be meant two ways.
pub(super) fn check_path(text: &str) -> Result<String, String> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !text.starts_with('/') || !printable || text.contains(['?', '#', '%', '\\', ';']) {
        return Err("expected a path such as \"/api\", without query or escapes".to_owned());
    }
    if text.contains("//") || text.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("a path has no empty, `.` or `..` segments".to_owned());
    }
    if text.contains('*') {
        return Err("a path is matched by whole segments: \"/api\" covers all below it".to_owned());
    }
    Ok(text.to_owned())
}
