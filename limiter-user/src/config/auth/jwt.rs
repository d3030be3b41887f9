//! `kind = "jwt"`: whose tokens, and where the keys come from. Reads the files, and reads them again
//! when they change.

use std::{path::Path, time::Duration};

use anyhow::anyhow;
use toml::Spanned;

use super::{
    super::{
        Scope, agent,
        document::{
            Text,
            access::AuthDocument,
            shapes::{NamesDocument, SecretDocument},
        },
        error::Report,
        secret,
        tls::read,
        upstream, values,
    },
    public_key,
};
use crate::{
    credentials::{
        jwks,
        jwt::{Algorithm, Family, Revoked},
    },
    keys::file::read_private,
    policy::{
        auth::jwt::{JwtKeys, JwtPolicy, RevokedPolicy},
        listener::SecretBytes,
        upstream::Scheme,
    },
};

/// What is accepted where nothing is said and keys are public.
const DEFAULT_ALGORITHMS: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

/// How far clocks may differ: where nothing is said, and at most.
pub(in crate::config) const DEFAULT_TOLERANCE: Duration = Duration::from_mins(1);
const MAX_TOLERANCE: Duration = Duration::from_mins(5);

const ISSUER: &str = "issuer = \"https://id.example.com\"";

const MAX_KEY_BYTES: u64 = 1 << 16;
const MAX_SECRET_BYTES: u64 = 4096;
/// Policies travel in one frame of 16 MiB.
const MAX_REVOKED_BYTES: u64 = 4 << 20;

pub(super) fn check(
    name: &Text,
    written: &Spanned<AuthDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<JwtPolicy> {
    let document = written.get_ref();
    let Some(issuer) = &document.issuer else {
        report.refuse_with(written.span(), "`issuer` is missing: whose tokens", ISSUER);
        return None;
    };
    let audience = document.audience.as_ref().map(|names| match names.get_ref() {
        NamesDocument::One(name) => vec![name.clone()],
        NamesDocument::Many(names) => names.iter().map(|name| name.get_ref().clone()).collect(),
    });
    let audience = audience.unwrap_or_default();
    if issuer.get_ref().is_empty() {
        report.refuse_with(issuer.span(), "no token names an empty issuer", ISSUER);
        return None;
    }
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        let example = "audience = \"api\"";
        let message = "`audience` is missing: a token for somebody else would be accepted";
        report.refuse_with(written.span(), message, example);
        return None;
    }
    let algorithms = algorithms(document, report)?;
    let tolerance = report.value_or(
        document.tolerance.as_ref(),
        |text| match values::duration(text)? {
            long if long > MAX_TOLERANCE => Err("at most 5m".to_owned()),
            duration => Ok(duration),
        },
        DEFAULT_TOLERANCE,
    );
    let keys = keys(name, written, scope, report)?;
    let revoked = document.revoked.as_ref().and_then(|file| {
        let path = agent::path(file, scope, report);
        read_revoked(&path).map_err(|error| report.refuse(file.span(), format!("{error:#}"))).ok()
    });
    let policy = JwtPolicy {
        issuer: Some(issuer.get_ref().clone()),
        audience,
        algorithms,
        tolerance,
        tier_claim: document.tier_claim.as_ref().and_then(|claim| report.value(claim, tier_claim)),
        keys,
        revoked,
    };
    if let Err(why) = policy.keys() {
        let place = match (&document.jwks_file, &document.public_key, &document.secret) {
            (Some(file), _, _) | (_, Some(file), _) => file.span(),
            (_, _, Some(secret)) => secret.span(),
            _ => written.span(),
        };
        report.refuse(place, why);
    }
    Some(policy)
}

/// The same policy from its files as they are now. What cannot be used stays as it was, and is
/// noted by an error that names the file: a list that is broken keeps no key from being replaced.
pub(crate) fn reread(policy: &JwtPolicy, mut note: impl FnMut(anyhow::Error)) -> JwtPolicy {
    let mut fresh = policy.clone();
    match reread_keys(policy) {
        Ok(keys) => fresh.keys = keys,
        Err(error) => note(error),
    }
    match policy.revoked.as_ref().map(|list| read_revoked(&list.file)).transpose() {
        Ok(revoked) => fresh.revoked = revoked,
        Err(error) => note(error),
    }
    fresh
}

fn reread_keys(policy: &JwtPolicy) -> anyhow::Result<JwtKeys> {
    let (keys, file) = match &policy.keys {
        JwtKeys::Set { file, .. } => (read_set(file)?, file),
        JwtKeys::Public { file: Some(file), .. } => (read_public(file)?, file),
        JwtKeys::Secret { file: Some(file), .. } => (read_secret(file)?, file),
        keys @ (JwtKeys::Url { .. }
        | JwtKeys::Public { file: None, .. }
        | JwtKeys::Secret { file: None, .. }) => return Ok(keys.clone()),
    };
    let fresh = JwtPolicy { keys, ..policy.clone() };
    fresh.keys().map_err(|why| anyhow!("{}: {why}", file.display()))?;
    Ok(fresh.keys)
}

fn tier_claim(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("names no claim".to_owned()) } else { Ok(text.to_owned()) }
}

/// HMACs and signatures never together: a public key is no secret.
fn algorithms(document: &AuthDocument, report: &mut Report) -> Option<Vec<Algorithm>> {
    let is_secret = document.secret.is_some();
    let Some(written) = &document.algorithms else {
        return Some(if is_secret { vec![Algorithm::Hs256] } else { DEFAULT_ALGORITHMS.to_vec() });
    };
    let fitting = |algorithm: &Algorithm| (algorithm.family() == Family::Secret) == is_secret;
    let names: Vec<&str> =
        Algorithm::ALL.into_iter().filter(fitting).map(Algorithm::name).collect();
    let keys = if is_secret { "a shared secret" } else { "public keys" };
    let found = report.values(written.get_ref(), |text| {
        let known = text.parse::<Algorithm>().ok().filter(fitting);
        known.ok_or_else(|| format!("with {keys} it is one of {}", names.join(", ")))
    });
    if written.get_ref().is_empty() {
        report.refuse(written.span(), "an empty list accepts no token");
    }
    (!found.is_empty()).then_some(found)
}

fn keys(
    name: &Text,
    written: &Spanned<AuthDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<JwtKeys> {
    let document = written.get_ref();
    if let (Some(ca), None) = (&document.ca, &document.jwks_url) {
        report.refuse(ca.span(), "`ca` is for `jwks_url`");
    }
    let path = |file: &Text, report: &mut Report| agent::path(file, scope, report);
    let (place, read) = match document {
        AuthDocument {
            jwks_url: Some(url),
            jwks_file: None,
            public_key: None,
            secret: None,
            ..
        } => return published(name, url, document.ca.as_ref(), scope, report),
        AuthDocument {
            jwks_url: None,
            jwks_file: Some(file),
            public_key: None,
            secret: None,
            ..
        } => (file.span(), read_set(&path(file, report))),
        AuthDocument {
            jwks_url: None,
            jwks_file: None,
            public_key: Some(file),
            secret: None,
            ..
        } => (file.span(), read_public(&path(file, report))),
        AuthDocument {
            jwks_url: None,
            jwks_file: None,
            public_key: None,
            secret: Some(secret),
            ..
        } => return self::secret(secret, scope, report),
        _ => {
            report.refuse_with(
                written.span(),
                "exactly one of `jwks_url`, `jwks_file`, `public_key` and `secret` is needed",
                "jwks_url = \"https://id.example.com/.well-known/jwks.json\"",
            );
            return None;
        }
    };
    read.map_err(|error| report.refuse(place, format!("{error:#}"))).ok()
}

/// The keys that an issuer publishes.
pub(in crate::config) fn published(
    name: &Text,
    url: &Text,
    ca: Option<&Text>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<JwtKeys> {
    // What no upstream can be called: the metrics tell them apart.
    let label = format!("auth:{}", name.get_ref());
    let (upstream, path) = upstream::asked(label, url, ca, scope, report)?;
    let server = upstream.servers.first()?;
    let is_local = server.host == "localhost"
        || server.host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    if server.scheme != Scheme::Https && !(server.scheme == Scheme::Http && is_local) {
        let message = "keys that come without TLS can be anybody's; http:// is for this host only";
        report.refuse_with(url.span(), message, "jwks_url = \"https://...\"");
        return None;
    }
    Some(JwtKeys::Url { upstream, path })
}

fn secret(
    written: &Spanned<SecretDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<JwtKeys> {
    let text = secret::read(written, scope, report)?;
    let file = secret::file(written, scope);
    Some(JwtKeys::Secret { file, secret: SecretBytes::new(text.into_bytes()) })
}

fn read_set(path: &Path) -> anyhow::Result<JwtKeys> {
    let document = read(path, jwks::MAX_BYTES as u64)?;
    Ok(JwtKeys::Set { file: path.to_owned(), document })
}

fn read_public(path: &Path) -> anyhow::Result<JwtKeys> {
    let shown = path.display();
    let text = read(path, MAX_KEY_BYTES)?;
    let spki = public_key(&text).map_err(|why| anyhow!("{shown} {why}"))?;
    Ok(JwtKeys::Public { file: Some(path.to_owned()), spki })
}

fn read_secret(path: &Path) -> anyhow::Result<JwtKeys> {
    let text = zeroize::Zeroizing::new(read_private(path, MAX_SECRET_BYTES)?);
    let secret = SecretBytes::new(text.trim_end_matches(['\r', '\n']).as_bytes().to_vec());
    Ok(JwtKeys::Secret { file: Some(path.to_owned()), secret })
}

fn read_revoked(path: &Path) -> anyhow::Result<RevokedPolicy> {
    let shown = path.display();
    let text = String::from_utf8(read(path, MAX_REVOKED_BYTES)?)
        .map_err(|_| anyhow!("{shown} is not UTF-8"))?;
    let entries = Revoked::read(&text).map_err(|why| anyhow!("{shown}: {why}"))?;
    Ok(RevokedPolicy { file: path.to_owned(), entries })
}
