//! One key that tokens are verified with: which algorithms it may be used for is decided when it
//! is read, never by a token.
//!
//! Keys that no signature can be trusted from are refused: RSA below 2048 bits, secrets shorter
//! than their hash (RFC 7518, 3.2 and 3.3; RFC 8725, 3.5).

use std::fmt;

use aws_lc_rs::{
    digest::{Context, SHA256},
    hmac,
    rsa::PublicKeyComponents,
    signature::{self as sign, ParsedPublicKey, RsaParameters, VerificationAlgorithm},
};

use super::algorithm::{Algorithm, Family};

/// Largest RSA modulus: what verifying costs grows with its square.
const MAX_RSA_BITS: usize = 8192;
const MIN_RSA_BITS: usize = 2048;

/// A key with what it may be used for.
pub struct Key {
    kid: Option<String>,
    fingerprint: [u8; 32],
    uses: Vec<(Algorithm, Verifier)>,
}

enum Verifier {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("algorithms", &self.algorithms().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A public key's numbers, big-endian, as JWK and DER have them.
#[derive(Clone, Copy, Debug)]
pub enum Public<'a> {
    /// Modulus and exponent.
    Rsa {
        /// Modulus.
        n: &'a [u8],
        /// Exponent.
        e: &'a [u8],
    },
    /// A point of the family's curve: both coordinates at full length.
    Point(Family, &'a [u8], &'a [u8]),
    /// RFC 8032.
    Ed25519(&'a [u8]),
}

impl Key {
    /// A shared secret, for those of `allowed` that are HMACs. The error says what is wrong
    /// without showing any of it.
    pub fn secret(secret: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        let mut uses = Vec::new();
        for algorithm in allowed.iter().copied().filter(|a| a.family() == Family::Secret) {
            if secret.len() < algorithm.hash_bytes() {
                return Err(format!(
                    "{} needs a secret of at least {} bytes; this one has {}",
                    algorithm.name(),
                    algorithm.hash_bytes(),
                    secret.len()
                ));
            }
            let hash = match algorithm {
                Algorithm::Hs384 => hmac::HMAC_SHA384,
                Algorithm::Hs512 => hmac::HMAC_SHA512,
                _ => hmac::HMAC_SHA256,
            };
            uses.push((algorithm, Verifier::Secret(Box::new(hmac::Key::new(hash, secret)))));
        }
        Self::new(None, fingerprint(&[b"secret", secret]), uses)
    }

    /// A public key, for those of `allowed` that it fits; never for an HMAC.
    pub fn public(
        kid: Option<String>,
        public: Public<'_>,
        allowed: &[Algorithm],
    ) -> Result<Self, String> {
        let (family, identity) = match public {
            Public::Rsa { n, e } => {
                check_rsa(n, e)?;
                (Family::Rsa, fingerprint(&[b"rsa", e, b"\0", n]))
            }
            Public::Point(family, x, y) => (family, fingerprint(&[b"point", x, y])),
            Public::Ed25519(x) => (Family::Ed25519, fingerprint(&[b"ed25519", x])),
        };
        let mut uses = Vec::new();
        for algorithm in allowed.iter().copied().filter(|other| other.family() == family) {
            let key = match (public, method(algorithm)) {
                (Public::Rsa { n, e }, Some(Method::Rsa(method))) => {
                    PublicKeyComponents { n, e }.to_parsed_public_key(method)
                }
                (Public::Point(_, x, y), Some(Method::Other(method))) => {
                    ParsedPublicKey::new(method, [&[4], x, y].concat())
                }
                (Public::Ed25519(x), Some(Method::Other(method))) => {
                    ParsedPublicKey::new(method, x)
                }
                _ => continue,
            };
            let key = key.map_err(|_| "no valid public key")?;
            uses.push((algorithm, Verifier::Public(key)));
        }
        Self::new(kid, identity, uses)
    }

    fn new(
        kid: Option<String>,
        fingerprint: [u8; 32],
        uses: Vec<(Algorithm, Verifier)>,
    ) -> Result<Self, String> {
        if uses.is_empty() {
            return Err("fits none of the algorithms".to_owned());
        }
        Ok(Self { kid, fingerprint, uses })
    }

    /// Its name in a set of keys.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Tells this key from any other, whatever they are called.
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// What it may be used for.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.uses.iter().map(|(algorithm, _)| *algorithm)
    }

    /// Whether `signature` is this key's for `message`, by an algorithm it may be used for.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verifier = self.uses.iter().find(|(own, _)| *own == algorithm);
        verifier.is_some_and(|(_, verifier)| match verifier {
            // Constant time.
            Verifier::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Verifier::Public(key) => key.verify_sig(message, signature).is_ok(),
        })
    }
}

enum Method {
    Rsa(&'static RsaParameters),
    Other(&'static dyn VerificationAlgorithm),
}

fn method(algorithm: Algorithm) -> Option<Method> {
    Some(match algorithm {
        Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => return None,
        Algorithm::Rs256 => Method::Rsa(&sign::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Method::Rsa(&sign::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Method::Rsa(&sign::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => Method::Rsa(&sign::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Method::Rsa(&sign::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Method::Rsa(&sign::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 => Method::Other(&sign::ECDSA_P256_SHA256_FIXED),
        Algorithm::Es384 => Method::Other(&sign::ECDSA_P384_SHA384_FIXED),
        Algorithm::Es512 => Method::Other(&sign::ECDSA_P521_SHA512_FIXED),
        Algorithm::EdDsa | Algorithm::Ed25519 => Method::Other(&sign::ED25519),
    })
}

/// Big-endian numbers without leading zeros.
fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), String> {
    let bits = |number: &[u8]| {
        number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
    };
    if n.first() == Some(&0) || e.first() == Some(&0) {
        return Err("an RSA number has leading zeros".to_owned());
    }
    if bits(n) < MIN_RSA_BITS {
        return Err(format!("an RSA key of {} bits is too weak; 2048 are needed", bits(n)));
    }
    if bits(n) > MAX_RSA_BITS || bits(e) > 33 {
        return Err("an RSA key is too large: at most 8192 bits, exponent at most 33".to_owned());
    }
    if bits(e) < 2 || e.last().is_none_or(|last| last & 1 == 0) || n[n.len() - 1] & 1 == 0 {
        return Err("no valid RSA key".to_owned());
    }
    Ok(())
}

fn fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_secrets_are_refused() {
        for (bytes, algorithm, ok) in [
            (31, Algorithm::Hs256, false),
            (32, Algorithm::Hs256, true),
            (47, Algorithm::Hs384, false),
            (63, Algorithm::Hs512, false),
            (64, Algorithm::Hs512, true),
        ] {
            let key = Key::secret(&vec![7; bytes], &[algorithm]);
            assert_eq!(key.is_ok(), ok, "{bytes} {algorithm:?}");
        }
        assert!(Key::secret(&[7; 64], &[Algorithm::Rs256]).is_err());
        assert!(Key::secret(&[7; 64], &[]).is_err());
    }

    #[test]
    fn weak_rsa_keys_are_refused() {
        let rsa = |bytes: usize, e: &[u8]| {
            let n: Vec<u8> = (0..bytes).map(|_| 0xff).collect();
            Key::public(None, Public::Rsa { n: &n, e }, &[Algorithm::Rs256]).is_ok()
        };
        assert!(rsa(256, &[1, 0, 1]));
        assert!(!rsa(255, &[1, 0, 1]) && !rsa(128, &[1, 0, 1]) && !rsa(1025, &[1, 0, 1]));
        for e in [&[1][..], &[2], &[], &[0, 3], &[1, 0, 0], &[1; 6]] {
            assert!(!rsa(256, e), "{e:?}");
        }
        let even = [[0xff; 255].as_slice(), &[0xfe]].concat();
        let public = Public::Rsa { n: &even, e: &[1, 0, 1] };
        assert!(Key::public(None, public, &[Algorithm::Rs256]).is_err());
        let padded = [&[0][..], &[0xff; 256]].concat();
        let public = Public::Rsa { n: &padded, e: &[1, 0, 1] };
        assert!(Key::public(None, public, &[Algorithm::Rs256]).is_err());
    }

    #[test]
    fn a_key_is_for_its_own_algorithms_only() {
        let n = [0xff; 256];
        let public = Public::Rsa { n: &n, e: &[1, 0, 1] };
        let allowed = [Algorithm::Hs256, Algorithm::Ps384, Algorithm::Es256, Algorithm::EdDsa];
        let key = Key::public(None, public, &allowed).unwrap();
        assert!(key.algorithms().eq([Algorithm::Ps384]));
        // The classic confusion: the public key's bytes as the secret of an HMAC.
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &n), b"x");
        assert!(!key.verify(Algorithm::Hs256, b"x", tag.as_ref()));
        let off_curve = Public::Point(Family::P256, &[1; 32], &[2; 32]);
        assert!(Key::public(None, off_curve, &[Algorithm::Es256]).is_err());
        assert!(Key::public(None, Public::Ed25519(&[1; 31]), &[Algorithm::EdDsa]).is_err());
    }
}
