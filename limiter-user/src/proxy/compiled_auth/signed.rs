//! Schemes that check signatures and certificates, as requests meet them: keys parsed, identities
//! prebuilt.

use aws_lc_rs::hmac;
use http::HeaderName;

use crate::{
    credentials::{
        certificate::{Names, Pattern},
        signature::{Key, NamedKey, Requirements},
    },
    policy::auth::{
        CertificatePattern, Grants, HmacPolicy, KeyMaterial, MtlsPolicy, SignaturePolicy,
    },
    proxy::identity::Identity,
};

/// Webhooks.
#[derive(Debug)]
pub(in crate::proxy) struct Webhooks {
    pub(in crate::proxy) header: HeaderName,
    /// `None`: signatures have no timestamp.
    pub(in crate::proxy) tolerance_seconds: Option<u64>,
    pub(in crate::proxy) keys: Vec<hmac::Key>,
    /// Of each key.
    pub(in crate::proxy) identities: Vec<Identity>,
}

/// Signed requests.
#[derive(Debug)]
pub(in crate::proxy) struct Signatures {
    pub(in crate::proxy) keys: Vec<NamedKey>,
    /// Of each key.
    pub(in crate::proxy) identities: Vec<Identity>,
    pub(in crate::proxy) requirements: Requirements,
}

/// Certificates of clients.
#[derive(Debug)]
pub(in crate::proxy) struct Certificates(Vec<Holder>);

#[derive(Debug)]
struct Holder {
    pattern: Pattern,
    name: Option<String>,
    grants: Grants,
}

impl Webhooks {
    pub(super) fn new(policy: &HmacPolicy) -> Result<Self, String> {
        let key = |secret: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        Ok(Self {
            header: HeaderName::from_bytes(policy.header.as_bytes())
                .map_err(|_| format!("header name {:?}", policy.header))?,
            tolerance_seconds: policy.tolerance_seconds,
            keys: policy.secrets.iter().map(|one| key(one.secret.expose())).collect(),
            identities: policy
                .secrets
                .iter()
                .map(|one| identity(&one.name, &policy.grants))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl Signatures {
    pub(super) fn new(policy: &SignaturePolicy) -> Result<Self, String> {
        let key = |material: &KeyMaterial| match material {
            KeyMaterial::Public { der, algorithm } => Key::public(der, algorithm.as_deref()),
            KeyMaterial::Shared(secret) => Key::shared(secret.expose()),
        };
        let named = |one: &crate::policy::auth::SignatureKey| {
            let key = key(&one.key).map_err(|error| format!("key {}: {error:?}", one.id))?;
            Ok(NamedKey { id: one.id.clone(), key })
        };
        Ok(Self {
            keys: policy.keys.iter().map(named).collect::<Result<_, String>>()?,
            identities: policy
                .keys
                .iter()
                .map(|one| identity(&one.id, &one.grants))
                .collect::<Result<_, _>>()?,
            requirements: Requirements {
                tolerance_seconds: policy.tolerance_seconds,
                components: policy.components.clone(),
                tag: policy.tag.clone(),
            },
        })
    }
}

impl Certificates {
    pub(super) fn new(policy: &MtlsPolicy) -> Result<Self, String> {
        let holder = |one: &crate::policy::auth::CertificatePrincipal| {
            let pattern = match &one.pattern {
                CertificatePattern::Alternative(text) => Pattern::alternative(text)?,
                CertificatePattern::Subject(text) => Pattern::subject(text)?,
            };
            Ok(Holder { pattern, name: one.name.clone(), grants: one.grants.clone() })
        };
        policy.principals.iter().map(holder).collect::<Result<_, _>>().map(Self)
    }

    /// Whose certificate this is, if anybody's.
    pub(in crate::proxy) fn holder(&self, names: &Names) -> Option<Identity> {
        self.0.iter().find_map(|holder| {
            let matched = holder.pattern.matched(names)?;
            let name = holder.name.as_ref().unwrap_or(&matched);
            identity(&in_header(name), &holder.grants).ok()
        })
    }
}

fn identity(name: &str, grants: &Grants) -> Result<Identity, &'static str> {
    let scopes = grants.scopes.iter().map(|scope| scope.as_str().into());
    Identity::new(name, grants.tier.as_deref(), scopes)
}

/// As it is if it can be a header's value, else with `%` and what is beyond ASCII encoded, so that
/// no two names become one.
fn in_header(name: &str) -> String {
    if name.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !name.contains('%') {
        return name.to_owned();
    }
    name.bytes().fold(String::with_capacity(name.len() + 16), |text, byte| match byte {
        b'%' | ..b' ' | b'\x7f'.. => format!("{text}%{byte:02X}"),
        _ => text + char::from(byte).encode_utf8(&mut [0; 4]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_ascii_are_encoded_one_to_one() {
        assert_eq!(in_header("alice"), "alice");
        assert_eq!(in_header("Exämple"), "Ex%C3%A4mple");
        assert_eq!(in_header("Ex%C3%A4mple"), "Ex%25C3%25A4mple");
    }
}
