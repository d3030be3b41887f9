//! `kind = "jwt"`: whose tokens are accepted, and with which keys they are verified.
//!
//! What a file holds travels with its path, so that the agent can read it again when it changes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    credentials::{
        jwks::KeySet,
        jwt::{Algorithm, Key, Revoked, Rules},
        spki,
    },
    policy::{listener::SecretBytes, upstream::UpstreamPolicy},
};

/// The tokens of one issuer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct JwtPolicy {
    /// `iss`, exactly; `None`: any.
    pub issuer: Option<String>,
    /// One of these must be in `aud`; empty: not looked at.
    pub audience: Vec<String>,
    /// What tokens may be signed with; HMACs with a shared secret, all others with public keys.
    pub algorithms: Vec<Algorithm>,
    /// How far the issuer's clock may be off.
    pub tolerance: Duration,
    /// Claim that names the tier; dots lead into objects.
    pub tier_claim: Option<String>,
    /// Where the keys come from.
    pub keys: JwtKeys,
    /// Tokens and subjects that are refused though they have not expired.
    pub revoked: Option<RevokedPolicy>,
}

/// Where the keys of an issuer come from.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum JwtKeys {
    /// The issuer publishes them; the proxy fetches them.
    Url {
        /// Its one server.
        upstream: UpstreamPolicy,
        /// Path and query.
        path: String,
    },
    /// A JWK Set in a file.
    Set {
        /// Where it was read.
        file: PathBuf,
        /// Its text.
        document: Vec<u8>,
    },
    /// One public key in a file.
    Public {
        /// Where it was read; `None`: in the environment.
        file: Option<PathBuf>,
        /// DER of its `SubjectPublicKeyInfo`.
        spki: Vec<u8>,
    },
    /// A secret that the issuer has too.
    Secret {
        /// Where it was read; `None`: in the environment.
        file: Option<PathBuf>,
        /// At least as long as the hash of each algorithm.
        secret: SecretBytes,
    },
}

/// A list of what is no longer accepted.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RevokedPolicy {
    /// Where it was read.
    pub file: PathBuf,
    /// Its lines.
    pub entries: Vec<Revoked>,
}

impl JwtPolicy {
    /// All files it was read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let keys = match &self.keys {
            JwtKeys::Url { .. } => None,
            JwtKeys::Set { file, .. } => Some(file),
            JwtKeys::Public { file, .. } | JwtKeys::Secret { file, .. } => file.as_ref(),
        };
        keys.into_iter().chain(self.revoked.iter().map(|list| &list.file)).map(PathBuf::as_path)
    }

    /// Whether both say the same, whatever is in their files.
    pub fn is_of_same_files(&self, other: &Self) -> bool {
        let keys = match (&self.keys, &other.keys) {
            (JwtKeys::Set { file: one, .. }, JwtKeys::Set { file: two, .. })
            | (JwtKeys::Public { file: Some(one), .. }, JwtKeys::Public { file: Some(two), .. })
            | (JwtKeys::Secret { file: Some(one), .. }, JwtKeys::Secret { file: Some(two), .. }) => {
                one == two
            }
            (one, two) => one == two,
        };
        let list = |policy: &Self| policy.revoked.as_ref().map(|list| list.file.clone());
        let rest =
            |policy: &Self| Self { keys: self.keys.clone(), revoked: None, ..policy.clone() };
        keys && list(self) == list(other) && rest(self) == rest(other)
    }

    /// What is expected of a token's claims.
    pub fn rules(&self) -> Rules {
        Rules {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            leeway_seconds: self.tolerance.as_secs(),
            tier_claim: self.tier_claim.clone(),
        }
    }

    /// The keys, where they are known already; `None`: they must be fetched. The error says why
    /// they cannot be used and shows none of them.
    pub fn keys(&self) -> Result<Option<KeySet>, String> {
        match &self.keys {
            JwtKeys::Url { .. } => Ok(None),
            JwtKeys::Set { document, .. } => KeySet::read(document, &self.algorithms).map(Some),
            JwtKeys::Public { spki: der, .. } => {
                let public = spki::read(der).ok_or("no public key of a kind that is supported")?;
                let key = Key::public(None, public, &self.algorithms)?;
                Ok(Some(KeySet::of(vec![key])))
            }
            JwtKeys::Secret { secret, .. } => {
                let key = Key::secret(secret.expose(), &self.algorithms)?;
                Ok(Some(KeySet::of(vec![key])))
            }
        }
    }
}
