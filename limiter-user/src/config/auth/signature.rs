//! `kind = "signature"`: keys by name, and what a signature covers. A key has one algorithm, and a
//! public one never serves as a shared secret.

use std::{fs, io::Read as _, path::Path};

use toml::Spanned;

use super::{
    super::{
        Scope,
        document::{
            Text,
            access::AuthDocument,
            shapes::{SecretDocument, SignatureKeyDocument},
        },
        error::Report,
        secret, values,
    },
    grants, principal, public_key, tolerance,
};
use crate::{
    credentials::signature::{ALGORITHMS, Key, KeyError},
    policy::{
        auth::{KeyMaterial, SignatureKey, SignaturePolicy},
        listener::SecretBytes,
    },
};

const SHARED: &str = "hmac-sha256";
/// No public key in PEM is longer.
const MAX_PEM_BYTES: u64 = 16 * 1024;
/// Components that can be required.
const MAX_COMPONENTS: usize = 32;

pub(super) fn check(
    written: &Spanned<AuthDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<SignaturePolicy> {
    let document = written.get_ref();
    let Some(keys) = document.keys.as_ref().filter(|keys| !keys.is_empty()) else {
        report.refuse_with(
            written.span(),
            "`keys` is missing: who signs",
            "keys = { k1 = { file = \"k1.pem\" } }",
        );
        return None;
    };
    let keys = keys.iter().filter_map(|(id, key)| one(id, key, scope, report)).collect();
    let components = document.components.as_ref().map_or_else(Vec::new, |list| {
        if list.get_ref().len() > MAX_COMPONENTS {
            report.refuse(list.span(), format!("at most {MAX_COMPONENTS} components"));
        }
        report.values(list.get_ref(), component)
    });
    let tag = document.tag.as_ref().and_then(|tag| report.value(tag, values::scope));
    Some(SignaturePolicy { keys, tolerance_seconds: tolerance(document, report), components, tag })
}

fn one(
    id: &Text,
    written: &Spanned<SignatureKeyDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<SignatureKey> {
    let document = written.get_ref();
    let table = &document.table;
    let algorithm = table.algorithm.as_ref().map(|text| {
        report.value(text, |text| match ALGORITHMS.iter().find(|name| **name == text) {
            Some(name) => Ok(*name),
            None => Err(format!("the algorithms are {}", ALGORITHMS.join(", "))),
        })
    });
    // One that is refused already.
    let algorithm = match algorithm {
        None => None,
        Some(algorithm) => Some(algorithm?),
    };
    let key = if algorithm == Some(SHARED) {
        let text = secret::read_at(written.span(), &document.key, scope, report)?;
        let checked = Key::shared(text.as_bytes());
        checked.map(|_| KeyMaterial::Shared(SecretBytes::new(text.into_bytes())))
    } else {
        let der = public(written, scope, report)?;
        let checked = Key::public(&der, algorithm);
        checked.map(|_| KeyMaterial::Public { der, algorithm: algorithm.map(str::to_owned) })
    };
    let key = key.map_err(|error| report.refuse(written.span(), why(error))).ok();
    let id = report.value(id, principal);
    let grants = grants(table.tier.as_ref(), table.scopes.as_ref(), report);
    Some(SignatureKey { id: id?, key: key?, grants })
}

fn why(error: KeyError) -> &'static str {
    match error {
        KeyError::Algorithm => "the key cannot be used with this algorithm",
        KeyError::Public => {
            "not a public key that is supported: Ed25519, P-256, P-384, RSA of 2048 to 8192 bits"
        }
        KeyError::Secret => "a shared secret has 16 bytes or more, and is no key in PEM",
    }
}

/// The DER of a public key, which is no secret: anybody may read its file.
fn public(
    written: &Spanned<SignatureKeyDocument>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> Option<Vec<u8>> {
    let text = match &written.get_ref().key {
        SecretDocument::Reference(reference)
            if let (None, Some(path)) = (&reference.env, &reference.file) =>
        {
            let found = read(&scope.base.join(Path::new(path.get_ref())));
            found.map_err(|error| report.refuse(path.span(), error)).ok()?
        }
        other => secret::read_at(written.span(), other, scope, report)?,
    };
    let advice =
        "openssl pkey -in private.pem -pubout, or algorithm = \"hmac-sha256\" for a secret";
    let der = public_key(text.as_bytes());
    der.map_err(|why| report.refuse_with(written.span(), why, advice)).ok()
}

fn read(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let file = fs::File::open(path).map_err(|error| format!("{shown}: {error}"))?;
    let mut text = String::new();
    match file.take(MAX_PEM_BYTES + 1).read_to_string(&mut text) {
        Ok(length) if length as u64 <= MAX_PEM_BYTES => Ok(text),
        Ok(_) => Err(format!("{shown} is too large for a public key")),
        Err(error) => Err(format!("{shown}: {error}")),
    }
}

fn component(text: &str) -> Result<String, String> {
    const DERIVED: [&str; 7] =
        ["@method", "@target-uri", "@authority", "@scheme", "@request-target", "@path", "@query"];
    if DERIVED.contains(&text) {
        return Ok(text.to_owned());
    }
    if text.starts_with('@') {
        return Err(format!("a field, or one of {}", DERIVED.join(", ")));
    }
    values::header_name(text)
}
