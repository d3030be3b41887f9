//! Authentication schemes as requests meet them.

mod signed;

use http::{HeaderName, HeaderValue, uri::PathAndQuery};

pub(super) use self::signed::{Certificates, Signatures, Webhooks};
use super::{compiled_jwt::Jwt, identity::Identity, jwks::Issuers};
use crate::{
    credentials::signature::{SIGNATURE, SIGNATURE_INPUT},
    limits::{self, AddressKey, Part},
    policy::{
        Mode,
        auth::{ApiKeyPolicy, AuthKind, AuthPolicy, ForwardPolicy},
        upstream::UpstreamPolicy,
    },
};

/// One authentication scheme.
#[derive(Debug)]
pub(super) struct Scheme {
    pub(super) mode: Mode,
    /// Its name, for the upstream.
    pub(super) label: HeaderValue,
    /// Whether the credential is kept from the upstream.
    pub(super) hides: bool,
    pub(super) kind: SchemeKind,
}

/// How a scheme works.
#[derive(Debug)]
pub(super) enum SchemeKind {
    ApiKey(ApiKeys),
    Jwt(Box<Jwt>),
    Forward(Forward),
    Hmac(Webhooks),
    Mtls(Certificates),
    Signature(Signatures),
}

/// Somebody else who is asked.
#[derive(Debug)]
pub(super) struct Forward {
    /// Index of its upstream: behind those of routes.
    pub(super) upstream: usize,
    pub(super) host: HeaderValue,
    pub(super) target: PathAndQuery,
    pub(super) subject: HeaderName,
    pub(super) copied: Vec<HeaderName>,
}

/// API keys by digest.
#[derive(Debug)]
pub(super) struct ApiKeys {
    pub(super) header: HeaderName,
    /// Sorted by digest.
    pub(super) keys: Vec<Key>,
}

/// One API key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) digest: [u8; 32],
    pub(super) expires_unix_seconds: u64,
    pub(super) identity: Identity,
}

impl Scheme {
    /// `upstreams`: those so far, to which it may add its own; `issuers`: those that are known.
    pub(super) fn new(
        policy: &AuthPolicy,
        upstreams: &mut Vec<UpstreamPolicy>,
        issuers: &mut Issuers,
    ) -> Result<Self, String> {
        let label = HeaderValue::from_str(&policy.name)
            .map_err(|_| "scheme name: not a header value".to_owned())?;
        let kind = match &policy.kind {
            AuthKind::ApiKey(keys) => SchemeKind::ApiKey(ApiKeys::new(keys)?),
            AuthKind::Jwt(jwt) => {
                SchemeKind::Jwt(Box::new(Jwt::new(&policy.name, jwt, upstreams, issuers)?))
            }
            AuthKind::Forward(forward) => {
                upstreams.push(forward.upstream.clone());
                SchemeKind::Forward(Forward::new(forward, upstreams.len() - 1)?)
            }
            AuthKind::Hmac(hmac) => SchemeKind::Hmac(Webhooks::new(hmac)?),
            AuthKind::Mtls(mtls) => SchemeKind::Mtls(Certificates::new(mtls)?),
            AuthKind::Signature(keys) => SchemeKind::Signature(Signatures::new(keys)?),
        };
        Ok(Self { mode: policy.mode, label, hides: policy.hide_credentials, kind })
    }

    /// Whom work for it in vain is counted against: an address together with the scheme.
    pub(super) fn work_of(&self, client: AddressKey) -> limits::Key<'_> {
        limits::Key::new([Part::Address(client), Part::Scheme(self.label.as_bytes())])
    }

    /// The headers that carry its credential and nothing else.
    pub(super) fn own_headers(&self) -> &[HeaderName] {
        static OF_SIGNATURES: [HeaderName; 2] = [SIGNATURE_INPUT, SIGNATURE];
        match &self.kind {
            SchemeKind::ApiKey(keys) => std::slice::from_ref(&keys.header),
            SchemeKind::Hmac(webhooks) => std::slice::from_ref(&webhooks.header),
            SchemeKind::Signature(_) => &OF_SIGNATURES,
            SchemeKind::Jwt(_) | SchemeKind::Forward(_) | SchemeKind::Mtls(_) => &[],
        }
    }

    /// The headers that only who is asked says.
    pub(super) fn copied(&self) -> &[HeaderName] {
        self.forward().map_or(&[], |forward| &forward.copied)
    }

    /// Whose the key at `index` of this scheme is.
    pub(super) fn identity(&self, index: usize) -> Option<&Identity> {
        match &self.kind {
            SchemeKind::ApiKey(keys) => keys.keys.get(index).map(|key| &key.identity),
            SchemeKind::Hmac(webhooks) => webhooks.identities.get(index),
            SchemeKind::Signature(signatures) => signatures.identities.get(index),
            SchemeKind::Jwt(_) | SchemeKind::Forward(_) | SchemeKind::Mtls(_) => None,
        }
    }

    /// Its API keys, if these are what it checks.
    pub(super) fn api_keys(&self) -> Option<&ApiKeys> {
        match &self.kind {
            SchemeKind::ApiKey(keys) => Some(keys),
            _ => None,
        }
    }

    /// Whose tokens it accepts, if it accepts any.
    pub(super) fn jwt(&self) -> Option<&Jwt> {
        match &self.kind {
            SchemeKind::Jwt(jwt) => Some(jwt),
            _ => None,
        }
    }

    /// Whom it asks, if that is what it does.
    pub(super) fn forward(&self) -> Option<&Forward> {
        match &self.kind {
            SchemeKind::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    /// The webhooks it checks, if any.
    pub(super) fn webhooks(&self) -> Option<&Webhooks> {
        match &self.kind {
            SchemeKind::Hmac(webhooks) => Some(webhooks),
            _ => None,
        }
    }

    /// Whose certificates it knows, if any.
    pub(super) fn certificates(&self) -> Option<&Certificates> {
        match &self.kind {
            SchemeKind::Mtls(certificates) => Some(certificates),
            _ => None,
        }
    }

    /// The signatures it checks, if any.
    pub(super) fn signatures(&self) -> Option<&Signatures> {
        match &self.kind {
            SchemeKind::Signature(signatures) => Some(signatures),
            _ => None,
        }
    }

    /// For how many seconds after it was made a message is accepted, if that is for once only.
    pub(super) fn once_within(&self) -> Option<u64> {
        match &self.kind {
            SchemeKind::Hmac(webhooks) => webhooks.tolerance_seconds,
            SchemeKind::Signature(signatures) => Some(signatures.requirements.tolerance_seconds),
            _ => None,
        }
    }
}

impl Forward {
    fn new(policy: &ForwardPolicy, upstream: usize) -> Result<Self, String> {
        let name = |text: &String| {
            HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("header name {text:?}"))
        };
        let server = policy.upstream.servers.first().ok_or("nobody to ask")?;
        Ok(Self {
            upstream,
            host: HeaderValue::try_from(server.authority()).map_err(|error| error.to_string())?,
            target: policy.path.parse().map_err(|_| format!("path {:?}", policy.path))?,
            subject: name(&policy.subject_header)?,
            copied: policy.copy_headers.iter().map(name).collect::<Result<_, _>>()?,
        })
    }
}

impl ApiKeys {
    fn new(policy: &ApiKeyPolicy) -> Result<Self, String> {
        let key = |key: &crate::policy::auth::KeyRecord| {
            let scopes = key.scopes.iter().map(|scope| scope.as_str().into());
            Ok(Key {
                digest: key.digest,
                expires_unix_seconds: key.expires_unix_seconds.unwrap_or(u64::MAX),
                identity: Identity::new(&key.name, key.tier.as_deref(), scopes)?,
            })
        };
        let mut keys: Vec<Key> = policy.keys.iter().map(key).collect::<Result<_, String>>()?;
        keys.sort_unstable_by_key(|key| key.digest);
        let header = HeaderName::from_bytes(policy.header.as_bytes())
            .map_err(|_| format!("header name {:?}", policy.header))?;
        Ok(Self { header, keys })
    }

    /// Index of the key with this digest, compared in constant time.
    pub(super) fn find(&self, digest: &[u8; 32]) -> Option<usize> {
        let first = self.keys.partition_point(|key| key.digest[..8] < digest[..8]);
        self.keys[first..]
            .iter()
            .take_while(|key| key.digest[..8] == digest[..8])
            .position(|key| {
                aws_lc_rs::constant_time::verify_slices_are_equal(&key.digest, digest).is_ok()
            })
            .map(|position| first + position)
    }
}
