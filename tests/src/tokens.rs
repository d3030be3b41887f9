//! Signed tokens as issuers make them, and as attackers do: any header, any claims, any key.

use aws_lc_rs::{
    digest, hmac,
    rand::SystemRandom,
    rsa,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding,
    },
};
use serde_json::{Value, json};

/// Something that signs.
#[derive(Debug)]
pub enum Signer {
    /// RS256 or, as the header says, PS256.
    Rsa(Box<rsa::KeyPair>),
    /// ES256.
    P256(Box<EcdsaKeyPair>),
    /// `EdDSA`.
    Ed25519(Box<Ed25519KeyPair>),
    /// HS256, HS384 or HS512, as the header says.
    Secret(Vec<u8>),
}

impl Signer {
    /// A new RSA key of 2048 bits.
    pub fn rsa() -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("an RSA key");
        Self::Rsa(Box::new(pair))
    }

    /// A new key on P-256.
    pub fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("an EC key");
        Self::P256(Box::new(pair))
    }

    /// A new Ed25519 key.
    pub fn ed25519() -> Self {
        Self::Ed25519(Box::new(Ed25519KeyPair::generate().expect("an Ed25519 key")))
    }

    /// The algorithm that it signs with unless a header says another.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
            Self::Secret(_) => "HS256",
        }
    }

    /// Its public half (RFC 7517); of a secret, the secret.
    pub fn jwk(&self, kid: &str) -> Value {
        let mut jwk = match self {
            Self::Rsa(pair) => {
                let (n, e) = rsa_numbers(pair);
                json!({ "kty": "RSA", "n": base64url(&n), "e": base64url(&e) })
            }
            Self::P256(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y) })
            }
            Self::Ed25519(pair) => {
                let x = base64url(pair.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "x": x })
            }
            Self::Secret(secret) => json!({ "kty": "oct", "k": base64url(secret) }),
        };
        jwk["kid"] = kid.into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// Its public half as `SubjectPublicKeyInfo` in PEM.
    pub fn pem(&self) -> String {
        use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
        let der = match self {
            Self::Rsa(pair) => {
                let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a public key");
                der.as_ref().to_vec()
            }
            Self::P256(pair) => {
                let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a public key");
                der.as_ref().to_vec()
            }
            Self::Ed25519(pair) => {
                let der: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("a public key");
                der.as_ref().to_vec()
            }
            Self::Secret(_) => panic!("a secret has no public half"),
        };
        let text = base64(&der);
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(64)
            .map(|line| std::str::from_utf8(line).expect("ASCII"))
            .collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// A token with the usual header.
    pub fn token(&self, kid: &str, claims: &Value) -> String {
        self.token_with(&json!({ "alg": self.algorithm(), "typ": "at+jwt", "kid": kid }), claims)
    }

    /// A token with this header, signed as it says if this key can.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        self.token_of(&header.to_string(), &claims.to_string())
    }

    /// A token of these texts.
    pub fn token_of(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
        let algorithm = serde_json::from_str::<Value>(header)
            .ok()
            .and_then(|header| header["alg"].as_str().map(str::to_owned))
            .unwrap_or_default();
        let signature = self.sign(&algorithm, signed.as_bytes());
        format!("{signed}.{}", base64url(&signature))
    }

    /// The signature of a text by an algorithm, else by this key's own.
    pub fn sign(&self, algorithm: &str, text: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let how: &'static dyn RsaEncoding =
                    if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut made = vec![0; pair.public_modulus_len()];
                pair.sign(how, &random, text, &mut made).expect("a signature");
                made
            }
            Self::P256(pair) => {
                let made: signature::Signature = pair.sign(&random, text).expect("a signature");
                made.as_ref().to_vec()
            }
            Self::Ed25519(pair) => pair.sign(text).as_ref().to_vec(),
            Self::Secret(secret) => {
                let how = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(how, secret), text).as_ref().to_vec()
            }
        }
    }
}

/// A set of keys as an issuer publishes it.
pub fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// base64url without padding.
pub fn base64url(bytes: &[u8]) -> String {
    limiter_user::credentials::base64url::encode(bytes)
}

/// The thumbprint of a certificate (RFC 8705, 3.1).
pub fn thumbprint(der: &[u8]) -> String {
    base64url(digest::digest(&digest::SHA256, der).as_ref())
}

fn base64(bytes: &[u8]) -> String {
    let mut text = base64url(bytes).replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

/// Modulus and exponent out of an `RSAPublicKey` (RFC 8017, A.1.1) of 2048 bits: two integers, the
/// first after 9 bytes of headers, the last 65537.
fn rsa_numbers(pair: &rsa::KeyPair) -> (Vec<u8>, Vec<u8>) {
    let der = pair.public_key().as_ref();
    (der[9..265].to_vec(), der[267..].to_vec())
}
