//! `[auth.NAME]`: written -> checked, one file for each kind.

mod api_key;
mod forward;

use std::ops::Range;

use toml::Spanned;

pub(super) use self::api_key::{default_scheme, shared_token_scheme};
use super::{
    Scope,
    document::{Text, access::AuthDocument},
    error::Report,
    values,
};
use crate::policy::{
    Mode,
    auth::{AuthKind, AuthPolicy},
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    ApiKey,
    Forward,
}

pub(super) fn check(
    name: &Text,
    written: &Spanned<AuthDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<AuthPolicy> {
    let document = written.get_ref();
    let Some(said) = &document.kind else {
        report.refuse_with(written.span(), "`kind` is missing", "kind = \"api_key\"");
        return None;
    };
    let kinds = [("api_key", Kind::ApiKey), ("forward", Kind::Forward)];
    let later = ["jwt", "mtls", "hmac", "signature"];
    let chosen = report.choice(Some(said), &kinds, &later);
    let known = kinds.iter().find(|(label, _)| *label == said.get_ref());
    // The other keys of an unknown kind belong to it; one error says it all.
    let (label, _) = known?;
    refuse_foreign(label, document, report);
    let kind = match chosen {
        Kind::ApiKey => AuthKind::ApiKey(api_key::check(written, scope, report)),
        Kind::Forward => AuthKind::Forward(forward::check(name, written, scope, report)?),
    };
    let hide_credentials = document
        .hide_credentials
        .as_ref()
        .map_or(matches!(kind, AuthKind::ApiKey(_)), |flag| *flag.get_ref());
    let mode = report.mode(document.mode.as_ref());
    if let (Mode::Monitor, Some(place)) = (mode, &document.mode) {
        report.risk(place.span(), "requests without a valid credential are let through");
    }
    let name = report.value(name, values::name)?;
    Some(AuthPolicy { name, kind, hide_credentials, mode })
}

/// Refuses keys that mean something to other kinds only.
fn refuse_foreign(kind: &str, document: &AuthDocument, report: &mut Report) {
    fn place<T>(value: Option<&Spanned<T>>) -> Option<Range<usize>> {
        value.map(Spanned::span)
    }
    let given: [(&str, Option<Range<usize>>, &[&str]); 20] = [
        ("header", place(document.header.as_ref()), &["api_key", "hmac"]),
        ("keys_file", place(document.keys_file.as_ref()), &["api_key"]),
        ("token", place(document.token.as_ref()), &["api_key"]),
        ("issuer", place(document.issuer.as_ref()), &["jwt"]),
        ("audience", place(document.audience.as_ref()), &["jwt"]),
        ("jwks_url", place(document.jwks_url.as_ref()), &["jwt"]),
        ("jwks_file", place(document.jwks_file.as_ref()), &["jwt"]),
        ("public_key", place(document.public_key.as_ref()), &["jwt"]),
        ("secret", place(document.secret.as_ref()), &["jwt"]),
        ("algorithms", place(document.algorithms.as_ref()), &["jwt"]),
        ("tier_claim", place(document.tier_claim.as_ref()), &["jwt"]),
        ("revoked", place(document.revoked.as_ref()), &["jwt"]),
        ("secrets", place(document.secrets.as_ref()), &["hmac"]),
        ("tolerance", place(document.tolerance.as_ref()), &["hmac", "signature"]),
        ("principals", place(document.principals.as_ref()), &["mtls"]),
        ("keys", place(document.keys.as_ref()), &["signature"]),
        ("url", place(document.url.as_ref()), &["forward"]),
        ("subject_header", place(document.subject_header.as_ref()), &["forward"]),
        ("copy_headers", place(document.copy_headers.as_ref()), &["forward"]),
        ("ca", place(document.ca.as_ref()), &["forward"]),
    ];
    for (key, place, kinds) in given {
        if let Some(place) = place.filter(|_| !kinds.contains(&kind)) {
            let owners = kinds.join("\" and \"");
            report.refuse(place, format!("`{key}` belongs to kind \"{owners}\", not \"{kind}\""));
        }
    }
}
