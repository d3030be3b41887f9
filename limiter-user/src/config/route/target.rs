//! `host`, `path`, `exact`, `glob` and `strip_prefix`: written -> what requests are compared with.

use std::net::IpAddr;

use super::super::{
    document::{Text, http::RouteDocument},
    error::Report,
    values,
};
use crate::policy::http::PathPattern;

pub(super) fn host(host: &Text, report: &mut Report) -> Option<String> {
    report.value(host, |text| {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(name) => ("*.", name),
            None => ("", text),
        };
        match values::host_and_port(name) {
            Some((host, None)) if wildcard.is_empty() => Ok(host),
            Some((host, None)) if !host.starts_with('[') && host.parse::<IpAddr>().is_err() => {
                Ok(format!("{wildcard}{host}"))
            }
            _ => Err("expected a host name without port, e.g. \"api.example.com\", or \
                      \"*.example.com\" for all below"
                .to_owned()),
        }
    })
}

pub(super) fn path(written: &RouteDocument, report: &mut Report) -> Option<PathPattern> {
    let given = [&written.path, &written.exact, &written.glob];
    if let Some(further) = given.into_iter().flatten().nth(1) {
        report.refuse(further.span(), "a route has either `path` or `exact` or `glob`");
        return None;
    }
    if let Some(exact) = &written.exact {
        return report.value(exact, check_path).map(PathPattern::Exact);
    }
    if let Some(glob) = &written.glob {
        return report.value(glob, check_glob);
    }
    let path = written.path.as_ref().map(|prefix| report.value(prefix, check_path));
    path.unwrap_or_else(|| Some("/".to_owned())).map(|path| PathPattern::Prefix(trimmed(&path)))
}

/// Without a slash at its end, except where that is all.
fn trimmed(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/" } else { trimmed }.to_owned()
}

/// A glob, or what says the same without wildcards.
fn check_glob(text: &str) -> Result<PathPattern, String> {
    plain(text)?;
    let is_odd = |segment: &str| segment.contains("**") && segment != "**";
    if text.split('/').any(is_odd) || text.matches("**").count() > 1 {
        return Err("`**` stands for whole segments, once in a pattern".to_owned());
    }
    if !text.contains('*') {
        return Ok(PathPattern::Exact(text.to_owned()));
    }
    match text.strip_suffix("/**") {
        Some(prefix) if !prefix.contains('*') => Ok(PathPattern::Prefix(trimmed(prefix))),
        _ => Ok(PathPattern::Glob(text.to_owned())),
    }
}

/// A prefix that every path of `pattern` has, as whole segments.
pub(super) fn strip_prefix(
    written: Option<&Text>,
    pattern: &PathPattern,
    report: &mut Report,
) -> Option<String> {
    let written = written?;
    let prefix = trimmed(&report.value(written, check_path)?);
    let literal = pattern.text().split('*').next().unwrap_or_default();
    let rest = literal.strip_prefix(&*prefix);
    let is_whole = |rest: &str| {
        rest.starts_with('/') || (rest.is_empty() && !matches!(pattern, PathPattern::Glob(_)))
    };
    if prefix == "/" {
        report.refuse(written.span(), "takes nothing off; leave it out");
        return None;
    }
    if !rest.is_some_and(is_whole) {
        let sentence = format!("not every path of the route begins with {prefix}");
        report.refuse(written.span(), sentence);
        return None;
    }
    Some(prefix)
}

/// A path as requests are compared with it: normalised, so that none can be meant two ways.
pub(super) fn check_path(text: &str) -> Result<String, String> {
    plain(text)?;
    if text.contains('*') {
        let hint = "\"/api\" covers all below it, and `glob` has wildcards";
        return Err(format!("a path is matched by whole segments: {hint}"));
    }
    Ok(text.to_owned())
}

fn plain(text: &str) -> Result<(), String> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if !text.starts_with('/') || !printable || text.contains(['?', '#', '%', '\\', ';']) {
        return Err("expected a path such as \"/api\", without query or escapes".to_owned());
    }
    if text.contains("//") || text.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("a path has no empty, `.` or `..` segments".to_owned());
    }
    Ok(())
}
