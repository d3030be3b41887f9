//! Authentication schemes: how a caller proves who it is.
//!
//! Serialisable, as everything that the agent sends to the proxy. What can be a digest is one.

mod hmac;
pub mod jwt;
mod mtls;
mod signature;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::jwt::JwtPolicy;
pub use self::{
    hmac::{HmacPolicy, HmacSecret},
    mtls::{CertificatePattern, CertificatePrincipal, MtlsPolicy},
    signature::{KeyMaterial, SignatureKey, SignaturePolicy},
};
use super::{Mode, upstream::UpstreamPolicy};

/// One authentication scheme.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct AuthPolicy {
    /// Its name in the configuration.
    pub name: String,
    /// How it works.
    pub kind: AuthKind,
    /// Whether the credential is kept from the upstream.
    pub hide_credentials: bool,
    /// Enforce, or only count.
    pub mode: Mode,
}

impl AuthPolicy {
    /// Its keys, if it checks API keys.
    pub fn api_keys(&self) -> Option<&ApiKeyPolicy> {
        match &self.kind {
            AuthKind::ApiKey(keys) => Some(keys),
            _ => None,
        }
    }
}

/// How a scheme works.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum AuthKind {
    /// A key in a header, or as `Authorization: Bearer` with our prefix.
    ApiKey(ApiKeyPolicy),
    /// A signed token, as `Authorization: Bearer`.
    Jwt(JwtPolicy),
    /// Somebody else is asked about each request.
    Forward(ForwardPolicy),
    /// A body signed with a shared secret.
    Hmac(HmacPolicy),
    /// A client's certificate.
    Mtls(MtlsPolicy),
    /// A signed request.
    Signature(SignaturePolicy),
}

/// `kind = "api_key"`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ApiKeyPolicy {
    /// Lower-case header name, e.g. `x-api-key`.
    pub header: String,
    /// Known keys.
    pub keys: Vec<KeyRecord>,
    /// Where all of them but the shared token were read, or will be once it is there.
    pub file: Option<PathBuf>,
}

impl ApiKeyPolicy {
    /// Whether both say the same, whatever is in their file.
    pub fn is_of_same_file(&self, other: &Self) -> bool {
        fn token(policy: &ApiKeyPolicy) -> impl Iterator<Item = &KeyRecord> {
            policy.keys.iter().filter(|key| key.name == crate::keys::SHARED_TOKEN)
        }
        self.file.is_some()
            && (&self.file, &self.header) == (&other.file, &other.header)
            && token(self).eq(token(other))
    }
}

/// One API key as stored: never the key itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct KeyRecord {
    /// Principal: unique, printable ASCII, at most 64 characters.
    pub name: String,
    /// Tier (rate limits by tier come with `[limits.NAME] tiers`).
    pub tier: Option<String>,
    /// Scopes granted.
    pub scopes: Vec<String>,
    /// SHA-256 of the whole presented key.
    pub digest: [u8; 32],
    /// Unix seconds after which it is refused as missing; `None`: never.
    pub expires_unix_seconds: Option<u64>,
}

/// `kind = "forward"`: a sub-request about each request, as nginx's `auth_request` and Caddy's
/// `forward_auth` make it. 2xx lets it in; what else comes is the client's answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ForwardPolicy {
    /// Its one server.
    pub upstream: UpstreamPolicy,
    /// Path and query of the sub-request.
    pub path: String,
    /// Lower-case header of the answer that names the principal.
    pub subject_header: String,
    /// Lower-case headers of the answer for the upstream; a client's are removed.
    pub copy_headers: Vec<String>,
}

/// What a principal may do that has no record of its own for it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Grants {
    /// Tier.
    pub tier: Option<String>,
    /// Scopes.
    pub scopes: Vec<String>,
}
