//! `kind = "mtls"`: callers with certificates that a listener's authorities vouch for.

use serde::{Deserialize, Serialize};

use super::Grants;

/// Which certificates have a principal.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct MtlsPolicy {
    /// The first that matches decides.
    pub principals: Vec<CertificatePrincipal>,
}

/// Certificates of one kind.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CertificatePrincipal {
    /// Which.
    pub pattern: CertificatePattern,
    /// Principal; `None`: the name in the certificate that matched.
    pub name: Option<String>,
    /// What they may do.
    pub grants: Grants,
}

/// What a certificate has to say, as `credentials::certificate::Pattern` reads it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum CertificatePattern {
    /// An alternative name.
    Alternative(String),
    /// Attributes of the subject.
    Subject(String),
}
