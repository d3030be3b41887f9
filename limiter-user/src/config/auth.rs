//! `[auth.NAME]`: written -> checked, one file for each kind.

pub(crate) mod api_key;
mod forward;
mod hmac;
pub(crate) mod jwt;
mod mtls;
mod signature;

use std::ops::Range;

use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use toml::Spanned;

pub(super) use self::api_key::{default_scheme, shared_token_scheme};
use super::{
    Scope,
    document::{Tables, Text, access::AuthDocument},
    error::{Place, Report},
    values,
};
use crate::policy::{
    HttpPolicy, Mode,
    auth::{AuthKind, AuthPolicy, Grants},
    listener::ListenerPolicy,
};

/// How long a signed message is accepted where nothing is said.
const DEFAULT_TOLERANCE: u64 = 300;
/// Longer, and whoever reads along has too much time to use what was read.
const MAX_TOLERANCE: u64 = 86_400;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    ApiKey,
    Jwt,
    Forward,
    Hmac,
    Mtls,
    Signature,
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
    let kinds = [
        ("api_key", Kind::ApiKey),
        ("jwt", Kind::Jwt),
        ("forward", Kind::Forward),
        ("hmac", Kind::Hmac),
        ("mtls", Kind::Mtls),
        ("signature", Kind::Signature),
    ];
    let later: [&str; 0] = [];
    let chosen = report.choice(Some(said), &kinds, &later);
    let known = kinds.iter().find(|(label, _)| *label == said.get_ref());
    // The other keys of an unknown kind belong to it; one error says it all.
    let (label, _) = known?;
    refuse_foreign(label, document, report);
    let kind = match chosen {
        Kind::ApiKey => AuthKind::ApiKey(api_key::check(written, scope, report)),
        Kind::Jwt => AuthKind::Jwt(jwt::check(name, written, scope, report)?),
        Kind::Forward => AuthKind::Forward(forward::check(name, written, scope, report)?),
        Kind::Hmac => AuthKind::Hmac(hmac::check(written, scope, report)?),
        Kind::Mtls => AuthKind::Mtls(mtls::check(written, report)?),
        Kind::Signature => AuthKind::Signature(signature::check(written, scope, report)?),
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

/// A scheme for certificates needs a listener that asks for them.
pub(super) fn agree(
    written: &Tables<AuthDocument>,
    listeners: &[ListenerPolicy],
    report: &mut Report,
) {
    let asks =
        |listener: &ListenerPolicy| listener.tls.as_ref().is_some_and(|tls| tls.clients.is_some());
    let is_mtls = |table: &Spanned<AuthDocument>| {
        table.get_ref().kind.as_ref().is_some_and(|kind| kind.get_ref() == "mtls")
    };
    for (name, _) in written.iter().filter(|(_, table)| is_mtls(table)) {
        if !listeners.iter().any(asks) {
            report.refuse_with(
                name.span(),
                "no listener asks clients for certificates",
                "client_ca = \"ca.pem\" in the `tls` of a [[http.listener]]",
            );
        }
    }
}

/// Where most of a policy that is too large comes from, as far as it can be told: the longest list
/// of revoked tokens.
pub(super) fn largest(written: &Tables<AuthDocument>, policy: &HttpPolicy) -> Place {
    let revoked = |scheme: &AuthPolicy| match &scheme.kind {
        AuthKind::Jwt(jwt) => jwt.revoked.as_ref().map_or(0, |list| list.entries.len()),
        _ => 0,
    };
    let longest = policy.auth.iter().max_by_key(|scheme| revoked(scheme));
    let table = written
        .iter()
        .find(|(name, _)| longest.is_some_and(|longest| *name.get_ref() == longest.name));
    let place = table.and_then(|(_, table)| table.get_ref().revoked.as_ref());
    place.map_or_else(|| "configuration".into(), |place| place.span().into())
}

/// `tier` and `scopes` as written beside each other.
fn grants(tier: Option<&Text>, scopes: Option<&Spanned<Vec<Text>>>, report: &mut Report) -> Grants {
    let tier = tier.and_then(|tier| report.value(tier, values::scope));
    let scopes = scopes.map(|list| report.values(list.get_ref(), values::scope));
    Grants { tier, scopes: scopes.unwrap_or_default() }
}

/// Seconds for which a signed message is accepted.
fn tolerance(document: &AuthDocument, report: &mut Report) -> u64 {
    let seconds = |text: &str| match values::duration(text)?.as_secs() {
        seconds @ 1..=MAX_TOLERANCE => Ok(seconds),
        _ => Err("between 1s and 1d".to_owned()),
    };
    report.value_or(document.tolerance.as_ref(), seconds, DEFAULT_TOLERANCE)
}

/// The DER of the only public key in PEM; the error never quotes what could not be read.
fn public_key(pem: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut found = SubjectPublicKeyInfoDer::pem_slice_iter(pem);
    let first = found.next().and_then(Result::ok);
    match (first, found.next()) {
        (None, _) => Err("holds no public key in PEM (`-----BEGIN PUBLIC KEY-----`)"),
        (Some(_), Some(_)) => Err("holds more than one public key"),
        (Some(der), None) => Ok(der.to_vec()),
    }
}

/// A name that events and the upstream get as it is.
fn principal(text: &str) -> Result<String, String> {
    crate::keys::check_name(text).map(|()| text.to_owned())
}

/// A key, where it is, and the kinds that it belongs to.
type Given<'a> = (&'a str, Option<Range<usize>>, &'a [&'a str]);

/// Refuses keys that mean something to other kinds only.
fn refuse_foreign(kind: &str, document: &AuthDocument, report: &mut Report) {
    fn place<T>(value: Option<&Spanned<T>>) -> Option<Range<usize>> {
        value.map(Spanned::span)
    }
    fn first<T>(table: Option<&Tables<T>>) -> Option<Range<usize>> {
        table.and_then(|table| table.keys().next()).map(Spanned::span)
    }
    let given: [Given<'_>; 24] = [
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
        ("secrets", first(document.secrets.as_ref()), &["hmac"]),
        ("tier", place(document.tier.as_ref()), &["hmac"]),
        ("scopes", place(document.scopes.as_ref()), &["hmac"]),
        ("tolerance", place(document.tolerance.as_ref()), &["jwt", "hmac", "signature"]),
        ("principals", place(document.principals.as_ref()), &["mtls"]),
        ("keys", first(document.keys.as_ref()), &["signature"]),
        ("components", place(document.components.as_ref()), &["signature"]),
        ("tag", place(document.tag.as_ref()), &["signature"]),
        ("url", place(document.url.as_ref()), &["forward"]),
        ("subject_header", place(document.subject_header.as_ref()), &["forward"]),
        ("copy_headers", place(document.copy_headers.as_ref()), &["forward"]),
        ("ca", place(document.ca.as_ref()), &["jwt", "forward"]),
    ];
    for (key, place, kinds) in given {
        if let Some(place) = place.filter(|_| !kinds.contains(&kind)) {
            let owners = kinds.join("\" and \"");
            report.refuse(place, format!("`{key}` belongs to kind \"{owners}\", not \"{kind}\""));
        }
    }
}
