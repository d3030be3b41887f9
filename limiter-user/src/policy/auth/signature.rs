//! `kind = "signature"`: callers who sign their requests (RFC 9421).

use serde::{Deserialize, Serialize};

use super::Grants;
use crate::policy::listener::SecretBytes;

/// Who may sign, and what a signature covers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SignaturePolicy {
    /// By key.
    pub keys: Vec<SignatureKey>,
    /// Seconds for which a message is accepted after it was signed.
    pub tolerance_seconds: u64,
    /// Components that are covered beside the method, the whole target and the body: lower-case
    /// field names, or derived ones with their `@`.
    pub components: Vec<String>,
    /// The tag of signatures that count; `None`: all do.
    pub tag: Option<String>,
}

/// One caller.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SignatureKey {
    /// `keyid`, and principal.
    pub id: String,
    /// How it verifies.
    pub key: KeyMaterial,
    /// What the caller may do.
    pub grants: Grants,
}

/// What signatures are verified with.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum KeyMaterial {
    /// A public key.
    Public {
        /// `SubjectPublicKeyInfo`.
        der: Vec<u8>,
        /// One that the key can be used with; `None`: what follows from the key.
        algorithm: Option<String>,
    },
    /// A secret of both sides, for `hmac-sha256`.
    Shared(SecretBytes),
}
