//! A scheme of tokens as requests meet it: its rules, its list of revoked ones, its keys.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::{
    jwks::{self, Issuer, Issuers, Missing},
    upstream::Upstream,
};
use crate::{
    credentials::{
        jwks::KeySet,
        jwt::{Jws, RevokedList, Rules},
    },
    policy::{
        auth::jwt::{JwtKeys, JwtPolicy},
        upstream::UpstreamPolicy,
    },
};

/// Tells each making of a scheme from any before it.
static EPOCHS: AtomicU64 = AtomicU64::new(0);

/// The tokens of one issuer.
#[derive(Debug)]
pub(super) struct Jwt {
    /// Of its name: the same from policy to policy.
    pub(super) number: u64,
    pub(super) rules: Rules,
    pub(super) revoked: RevokedList,
    epoch: u64,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    /// From the configuration.
    Fixed(Arc<KeySet>),
    /// From the issuer, which is the one server of an upstream.
    Published(Arc<Issuer>, usize),
}

impl Jwt {
    /// `upstreams`: those so far, to which an issuer is added; `issuers`: those that are known.
    pub(super) fn new(
        name: &str,
        policy: &JwtPolicy,
        upstreams: &mut Vec<UpstreamPolicy>,
        issuers: &mut Issuers,
    ) -> Result<Self, String> {
        let keys = match (policy.keys()?, &policy.keys) {
            (Some(keys), _) => Keys::Fixed(Arc::new(keys)),
            (None, JwtKeys::Url { upstream, path }) => {
                upstreams.push(upstream.clone());
                let issuer = issuers.at(upstream, path, &policy.algorithms);
                Keys::Published(issuer, upstreams.len() - 1)
            }
            (None, _) => return Err(format!("scheme {name}: no keys")),
        };
        let mut number = [0; 8];
        number.copy_from_slice(&crate::keys::digest(name.as_bytes())[..8]);
        Ok(Self {
            number: u64::from_le_bytes(number),
            rules: policy.rules(),
            revoked: RevokedList::new(
                policy.revoked.as_ref().map_or(&[], |list| list.entries.as_slice()),
            ),
            epoch: EPOCHS.fetch_add(1, Relaxed),
            keys,
        })
    }

    /// What tokens are held against now: changes with the policy and with the keys.
    pub(super) fn epoch(&self) -> (u64, u64) {
        let generation = match &self.keys {
            Keys::Fixed(_) => 0,
            Keys::Published(issuer, _) => issuer.generation(),
        };
        (self.epoch, generation)
    }

    /// The keys as they are known now.
    pub(super) fn keys_now(&self) -> Option<Arc<KeySet>> {
        match &self.keys {
            Keys::Fixed(keys) => Some(Arc::clone(keys)),
            Keys::Published(issuer, _) => issuer.now(),
        }
    }

    /// Keys with one for this token; perhaps after waiting for the issuer.
    pub(super) async fn keys_for(
        &self,
        jws: &Jws<'_>,
        now_ns: u64,
    ) -> Result<Arc<KeySet>, Missing> {
        match &self.keys {
            Keys::Fixed(keys) if keys.fits(jws) => Ok(Arc::clone(keys)),
            Keys::Fixed(_) => Err(Missing::Unknown),
            Keys::Published(issuer, _) => issuer.find(jws, now_ns).await,
        }
    }

    /// Begins to ask the issuer for its keys, if it is to be asked and new.
    pub(super) fn ask_issuer(&self, upstreams: &[Arc<Upstream>]) {
        if let Keys::Published(issuer, upstream) = &self.keys {
            jwks::start(issuer, &upstreams[*upstream]);
        }
    }
}
