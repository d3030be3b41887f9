//! `kind = "hmac"`: senders of webhooks, who sign bodies with shared secrets.

use serde::{Deserialize, Serialize};

use super::Grants;
use crate::policy::listener::SecretBytes;

/// Who may sign, and how.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HmacPolicy {
    /// Lower-case name of the header with the signature.
    pub header: String,
    /// Seconds for which a message is accepted after it was signed; `None`: signatures have no
    /// timestamp, so that nothing tells a repeated message from a new one.
    pub tolerance_seconds: Option<u64>,
    /// Senders.
    pub secrets: Vec<HmacSecret>,
    /// What each of them may do.
    pub grants: Grants,
}

/// One sender.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HmacSecret {
    /// Principal.
    pub name: String,
    /// As both sides have it.
    pub secret: SecretBytes,
}
