//! `kind = "forward"`: which server is asked about each request.

use toml::Spanned;

use super::super::{
    Scope,
    document::{Text, access::AuthDocument},
    error::Report,
    reserved, upstream,
};
use crate::policy::{auth::ForwardPolicy, upstream::Scheme};

/// Header that names the principal where nothing is said.
const DEFAULT_SUBJECT: &str = "x-auth-subject";

/// Fields that say who a request speaks for: copied too, they would be there twice.
const WRITTEN: [&str; 3] = ["x-auth-scheme", "x-auth-subject", "x-auth-tier"];

pub(super) fn check(
    name: &Text,
    written: &Spanned<AuthDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<ForwardPolicy> {
    let document = written.get_ref();
    let Some(url) = &document.url else {
        let example = "url = \"http://127.0.0.1:9000/auth\"";
        report.refuse_with(written.span(), "`url` is missing: whom to ask", example);
        return None;
    };
    let copied = |text: &str| match reserved::answered_header(text)? {
        name if WRITTEN.contains(&name.as_str()) => {
            Err("the upstream gets this header of every principal anyway".to_owned())
        }
        name => Ok(name),
    };
    let subject_header = report.value_or(
        document.subject_header.as_ref(),
        reserved::answered_header,
        DEFAULT_SUBJECT.to_owned(),
    );
    let copy_headers = document
        .copy_headers
        .as_ref()
        .map_or_else(Vec::new, |list| report.values(list.get_ref(), copied));
    // What no upstream can be called: the metrics tell them apart.
    let label = format!("auth:{}", name.get_ref());
    let (upstream, path) = upstream::asked(label, url, document.ca.as_ref(), scope, report)?;
    let is_plain = upstream.servers.iter().any(|server| {
        let host = server.host.parse::<std::net::IpAddr>();
        let is_local = server.host == "localhost" || host.is_ok_and(|host| host.is_loopback());
        server.scheme != Scheme::Https && !is_local
    });
    if is_plain {
        report.risk(url.span(), "what clients present goes there without TLS");
    }
    Some(ForwardPolicy { upstream, path, subject_header, copy_headers })
}
