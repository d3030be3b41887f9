//! `[[http.upstream]]`: written -> checked.

use toml::Spanned;

use super::{
    Scope,
    document::http::UpstreamDocument,
    error::{Place, Report},
    values,
};
use crate::policy::http::UpstreamPolicy;

/// Name of the upstream of `LIMITER_UPSTREAM` where the file has none.
const DEFAULT_NAME: &str = "default";

pub(super) fn check(
    written: &[Spanned<UpstreamDocument>],
    scope: &Scope<'_>,
    report: &mut Report,
) -> Vec<UpstreamPolicy> {
    let override_ = match &scope.sources.upstream {
        Some(url) => Some((Place::from("--upstream"), url.clone())),
        None => {
            scope.sources.variable("LIMITER_UPSTREAM").map(|url| ("LIMITER_UPSTREAM".into(), url))
        }
    };
    let mut upstreams: Vec<UpstreamPolicy> = Vec::new();
    for entry in written {
        let document = entry.get_ref();
        refuse_later(document, report);
        let name = report.value(&document.name, values::name);
        if let Some(name) = &name
            && upstreams.iter().any(|other| other.name == *name)
        {
            report.refuse(document.name.span(), format!("two upstreams are named {name:?}"));
        }
        let server = match document.servers.get_ref().as_slice() {
            [] => {
                let example = "servers = [\"http://127.0.0.1:3000\"]";
                report.refuse_with(document.servers.span(), "names no server", example);
                None
            }
            [only] => server(only.span().into(), only.get_ref(), report),
            _ => {
                report.unsupported(document.servers.span(), "more than one server", "one");
                None
            }
        };
        if let (Some(name), Some((host, port))) = (name, server) {
            upstreams.push(UpstreamPolicy { name, host, port });
        }
    }
    if let Some((place, url)) = override_ {
        let parsed = server(place.clone(), &url, report);
        match (upstreams.as_mut_slice(), parsed) {
            (_, None) => {}
            ([], Some((host, port))) => {
                upstreams.push(UpstreamPolicy { name: DEFAULT_NAME.to_owned(), host, port });
            }
            ([only], Some((host, port))) => (only.host, only.port) = (host, port),
            _ => report.refuse(place, "the file has several upstreams; which one is meant?"),
        }
    }
    if upstreams.is_empty() && report.is_clean() {
        report.refuse_with(
            "http.upstream",
            "no upstream is named",
            "add [[http.upstream]] with name and servers, or set LIMITER_UPSTREAM",
        );
    }
    upstreams
}

fn refuse_later(document: &UpstreamDocument, report: &mut Report) {
    let same = [("round_robin", ()), ("least_requests", ()), ("consistent_hash", ())];
    report.choice(document.balance.as_ref(), &same, &[]);
    report.later(&[&document.health, &document.breaker], "name, servers");
    if let Some(retries) = document.retries.as_ref().filter(|retries| *retries.get_ref() != 0) {
        report.unsupported(retries.span(), &retries.get_ref().to_string(), "0");
    }
}

/// `http://HOST[:PORT]`. The URL is never repeated in a message: it may hold a password.
fn server(place: Place, url: &str, report: &mut Report) -> Option<(String, u16)> {
    let example = "e.g. \"http://127.0.0.1:3000\"";
    if url.contains('@') {
        report.refuse_with(place, "a URL holds no user or password here", example);
        return None;
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        report.refuse_with(place, "an upstream is http://HOST:PORT", example);
        return None;
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" => {}
        later @ ("https" | "h2c" | "unix") => {
            report.unsupported(place, &format!("{later}://"), "http://");
            return None;
        }
        _ => {
            report.refuse_with(place, "an upstream is http://HOST:PORT", example);
            return None;
        }
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        report.refuse_with(place, "an upstream has no path: requests keep theirs", example);
        return None;
    }
    let Some((host, port)) = values::host_and_port(authority) else {
        report.refuse_with(place, "has no usable host and port", example);
        return None;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some((host, port.unwrap_or(80)))
}
