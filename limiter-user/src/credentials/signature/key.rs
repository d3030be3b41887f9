//! Keys that verify signatures: each with the one algorithm that it is for.

use std::fmt;

use aws_lc_rs::{
    hmac,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
        RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA512, VerificationAlgorithm,
    },
};

/// The registered algorithms (RFC 9421, 6.2) that are supported.
pub const ALGORITHMS: [&str; 6] = [
    "ed25519",
    "ecdsa-p256-sha256",
    "ecdsa-p384-sha384",
    "rsa-pss-sha512",
    "rsa-v1_5-sha256",
    HMAC,
];

const HMAC: &str = "hmac-sha256";

/// A shared secret shorter than this many bytes can be guessed.
const MIN_SECRET_BYTES: usize = 16;

/// A key.
pub enum Key {
    /// Verifies only.
    Public {
        /// One of [`ALGORITHMS`].
        algorithm: &'static str,
        /// The key.
        key: ParsedPublicKey,
    },
    /// Known to both sides.
    Shared(Box<hmac::Key>),
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyError {
    /// Not one of [`ALGORITHMS`], or not one that this key can be used with.
    Algorithm,
    /// Not a public key (Ed25519, P-256, P-384, or RSA of 2048 to 8192 bits) as X.509 describes it.
    Public,
    /// A shared secret of fewer than 16 bytes, or what is a key of another kind.
    Secret,
}

impl Key {
    /// A public key: `SubjectPublicKeyInfo` in DER. The algorithm follows from the key, which for
    /// RSA is `rsa-pss-sha512` unless `algorithm` says otherwise.
    pub fn public(der: &[u8], algorithm: Option<&str>) -> Result<Self, KeyError> {
        let candidates: [(&'static str, &'static dyn VerificationAlgorithm); 5] = [
            ("ed25519", &ED25519),
            ("ecdsa-p256-sha256", &ECDSA_P256_SHA256_FIXED),
            ("ecdsa-p384-sha384", &ECDSA_P384_SHA384_FIXED),
            ("rsa-pss-sha512", &RSA_PSS_2048_8192_SHA512),
            ("rsa-v1_5-sha256", &RSA_PKCS1_2048_8192_SHA256),
        ];
        if algorithm.is_some_and(|wanted| !candidates.iter().any(|(name, _)| *name == wanted)) {
            return Err(KeyError::Algorithm);
        }
        // Bare keys without a description are read by some of them too.
        if der.first() != Some(&0x30) {
            return Err(KeyError::Public);
        }
        let mut readable = false;
        for (name, how) in candidates {
            let Ok(key) = ParsedPublicKey::new(how, der) else { continue };
            readable = true;
            if algorithm.is_none_or(|wanted| wanted == name) {
                return Ok(Self::Public { algorithm: name, key });
            }
        }
        Err(if readable { KeyError::Algorithm } else { KeyError::Public })
    }

    /// A secret for HMAC-SHA256.
    pub fn shared(secret: &[u8]) -> Result<Self, KeyError> {
        // A public key is no secret, whatever its file is called.
        if secret.len() < MIN_SECRET_BYTES || secret.starts_with(b"-----BEGIN") {
            return Err(KeyError::Secret);
        }
        Ok(Self::Shared(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))))
    }

    /// One of [`ALGORITHMS`].
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Public { algorithm, .. } => algorithm,
            Self::Shared(_) => HMAC,
        }
    }

    /// Whether `signature` is that of `message`; a secret's is compared in constant time.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Public { key, .. } => key.verify_sig(message, signature).is_ok(),
            Self::Shared(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.algorithm()).finish()
    }
}
