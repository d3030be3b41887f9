//! Which certificate a client gets: by the server name that it asks for.
//!
//! The names are those in the certificates; an exact one comes before a wildcard, and the first
//! certificate of the policy is for clients that ask for none, or for a name that nobody has.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::suitable;
use crate::policy::listener::CertificatePolicy;

/// Certificates by name; several where their keys are of different kinds.
#[derive(Debug)]
pub(super) struct Certificates {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// By what follows the `*.`, which stands for one label.
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    pub(super) fn new(
        policies: &[CertificatePolicy],
        provider: &CryptoProvider,
    ) -> Result<Self, rustls::Error> {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        let mut first: Option<(Vec<String>, Vec<Arc<CertifiedKey>>)> = None;
        for policy in policies {
            let chain: Vec<CertificateDer<'static>> =
                policy.chain.iter().map(|one| CertificateDer::from(one.clone())).collect();
            let key = PrivateKeyDer::try_from(policy.key.expose().to_vec())
                .map_err(|why| rustls::Error::General(why.to_owned()))?;
            let names = names(&chain);
            let key = Arc::new(CertifiedKey::from_der(chain, key, provider)?);
            for name in &names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut wildcard, rest),
                    None => (&mut exact, name.as_str()),
                };
                let keys: &mut Vec<_> = names.entry(name.to_owned()).or_default();
                keys.push(Arc::clone(&key));
            }
            match &mut first {
                None => first = Some((names, vec![key])),
                // The same names with another kind of key.
                Some((of, keys)) if *of == names => keys.push(key),
                Some(_) => {}
            }
        }
        let (_, first) =
            first.ok_or_else(|| rustls::Error::General("there is no certificate".to_owned()))?;
        Ok(Self { exact, wildcard, first })
    }

    fn find(&self, name: &str) -> &[Arc<CertifiedKey>] {
        let name = name.to_ascii_lowercase();
        if let Some(keys) = self.exact.get(&name) {
            return keys;
        }
        let rest = name.split_once('.').map(|(_, rest)| rest);
        rest.and_then(|rest| self.wildcard.get(rest)).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let keys = hello.server_name().map_or(&self.first[..], |name| self.find(name));
        suitable(keys, &hello).map(Arc::clone)
    }
}

/// DNS names of the first certificate, lower case.
fn names(chain: &[CertificateDer<'static>]) -> Vec<String> {
    let Some(own) = chain.first().and_then(|own| webpki::EndEntityCert::try_from(own).ok()) else {
        return Vec::new();
    };
    let mut names: Vec<String> = own.valid_dns_names().map(str::to_ascii_lowercase).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::crypto::aws_lc_rs;

    use super::*;
    use crate::policy::listener::SecretBytes;

    fn certificate(names: &[&str]) -> CertificatePolicy {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        CertificatePolicy {
            certificate_file: "a.pem".into(),
            key_file: "a.key".into(),
            chain: vec![certificate.der().to_vec()],
            key: SecretBytes::new(key.serialize_der()),
        }
    }

    #[test]
    fn the_most_specific_name_decides() {
        let policies = [
            certificate(&["first.test"]),
            certificate(&["*.example.com", "example.com"]),
            certificate(&["API.example.com"]),
            certificate(&["first.test"]),
        ];
        let found = Certificates::new(&policies, &aws_lc_rs::default_provider()).unwrap();
        let is = |name: &str, index: usize| {
            found.find(name)[0].cert[0].as_ref() == policies[index].chain[0]
        };
        assert!(is("api.example.com", 2));
        assert!(is("Www.example.com", 1));
        assert!(is("example.com", 1));
        for unknown in ["a.b.example.com", "other.test", "com", ""] {
            assert!(is(unknown, 0), "{unknown}");
        }
        assert_eq!(found.first.len(), 2, "the same names with another key");
        assert!(Certificates::new(&[], &aws_lc_rs::default_provider()).is_err());
    }
}
