//! Sets of keys (RFC 7517, 5): what an issuer publishes, or a file holds.
//!
//! In: a document and the algorithms that are allowed; out: the keys that can be used for them, by
//! name. Keys of other kinds are left out; shared secrets and private keys do not belong into a
//! set and are never used. Sizes and numbers are bounded.

use serde_json::{Map, Value};

use super::{
    base64url, json,
    jwt::{Algorithm, Family, Flaw, Jws, Key, Public},
};

/// Bytes of a document.
pub const MAX_BYTES: usize = 262_144;
/// Keys of a set that are looked at.
const MAX_KEYS: usize = 100;
/// Signatures verified for one token: keys may share a name while an issuer changes them.
const MAX_TRIES: usize = 3;
const MAX_KID_BYTES: usize = 256;

/// Keys by name.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    named: bool,
}

impl KeySet {
    /// The usable keys of a document. An error if there are none: that is no set to change to.
    pub fn read(document: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        if document.len() > MAX_BYTES {
            return Err(format!("more than {MAX_BYTES} bytes"));
        }
        let document = json::object(document)?;
        let Some(Value::Array(all)) = document.get("keys") else {
            return Err("no array `keys`".to_owned());
        };
        if all.len() > MAX_KEYS {
            return Err(format!("more than {MAX_KEYS} keys"));
        }
        let mut keys = Vec::new();
        let mut first = None;
        for key in all {
            let read = key.as_object().ok_or_else(|| "not an object".to_owned());
            match read.and_then(|key| self::key(key, allowed)) {
                Ok(key) => keys.push(key),
                Err(why) => first = first.or(Some(why)),
            }
        }
        if keys.is_empty() {
            let why =
                first.map_or_else(|| "it is empty".to_owned(), |why| format!("the first: {why}"));
            return Err(format!("no key that can be used ({why})"));
        }
        Ok(Self::of(keys))
    }

    /// These keys.
    pub fn of(keys: Vec<Key>) -> Self {
        let named = keys.iter().any(|key| key.kid().is_some());
        Self { keys, named }
    }

    /// Whether a key has this name. A set without names is asked for none.
    pub fn knows(&self, kid: &str) -> bool {
        !self.named || self.keys.iter().any(|key| key.kid() == Some(kid))
    }

    /// The fingerprint of the key that signed the token.
    pub fn verify(&self, jws: &Jws<'_>) -> Result<[u8; 32], Flaw> {
        let mut fit = self.fitting(jws).peekable();
        if fit.peek().is_none() {
            return Err(Flaw::UnknownKey);
        }
        fit.take(MAX_TRIES)
            .find(|key| jws.is_signed_by(key))
            .map(|key| *key.fingerprint())
            .ok_or(Flaw::Signature)
    }

    /// Whether there is a key for what the token's header says.
    pub fn fits(&self, jws: &Jws<'_>) -> bool {
        self.fitting(jws).next().is_some()
    }

    /// Whether the key with this fingerprint is still in the set, for this algorithm and under the
    /// name that a token gives it.
    pub fn holds(&self, fingerprint: &[u8; 32], algorithm: Algorithm, kid: Option<&str>) -> bool {
        let kid = kid.filter(|_| self.named);
        self.keys.iter().any(|key| {
            key.fingerprint() == fingerprint
                && kid.is_none_or(|kid| key.kid() == Some(kid))
                && key.algorithms().any(|own| own == algorithm)
        })
    }

    /// Whether the same keys are in both, by the same names and for the same use.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |(one, two): (&Key, &Key)| {
            one.fingerprint() == two.fingerprint()
                && one.kid() == two.kid()
                && one.algorithms().eq(two.algorithms())
        };
        self.keys.len() == other.keys.len() && self.keys.iter().zip(&other.keys).all(same)
    }

    /// How many keys there are.
    pub const fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn fitting(&self, jws: &Jws<'_>) -> impl Iterator<Item = &Key> {
        let kid = jws.kid().filter(|_| self.named);
        let algorithm = jws.algorithm();
        self.keys.iter().filter(move |key| {
            kid.is_none_or(|kid| key.kid() == Some(kid))
                && key.algorithms().any(|own| own == algorithm)
        })
    }
}

/// One key of a set (RFC 7517, 4; RFC 7518, 6; RFC 8037, 2).
fn key(jwk: &Map<String, Value>, allowed: &[Algorithm]) -> Result<Key, String> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let number = |name: &str| {
        let bytes = text(name).and_then(|text| base64url::decode(text.as_bytes()));
        bytes.ok_or_else(|| format!("`{name}` is not base64url"))
    };
    if jwk.get("use").is_some_and(|usage| usage.as_str() != Some("sig")) {
        return Err("not for signatures".to_owned());
    }
    if let Some(uses) = jwk.get("key_ops") {
        let verifies = |uses: &Vec<Value>| uses.iter().any(|one| one.as_str() == Some("verify"));
        if !uses.as_array().is_some_and(verifies) {
            return Err("not for verifying".to_owned());
        }
    }
    // Published by mistake: whoever can read the set can sign.
    if jwk.contains_key("d") || jwk.contains_key("k") {
        return Err("it is a private key or a secret".to_owned());
    }
    let kid = match jwk.get("kid") {
        None => None,
        Some(Value::String(kid)) if kid.len() <= MAX_KID_BYTES => Some(kid.clone()),
        Some(_) => return Err("`kid` is no text or too long".to_owned()),
    };
    let own: Vec<Algorithm> = match jwk.get("alg") {
        None => allowed.to_vec(),
        Some(name) => {
            let named = name.as_str().and_then(|name| name.parse::<Algorithm>().ok());
            allowed.iter().copied().filter(|allowed| Some(*allowed) == named).collect()
        }
    };
    match (text("kty"), text("crv")) {
        (Some("RSA"), _) => {
            let (n, e) = (number("n")?, number("e")?);
            Key::public(kid, Public::Rsa { n: &n, e: &e }, &own)
        }
        (Some("EC"), Some(curve)) => {
            let (family, bytes) = match curve {
                "P-256" => (Family::P256, 32),
                "P-384" => (Family::P384, 48),
                "P-521" => (Family::P521, 66),
                _ => return Err("a curve that is not supported".to_owned()),
            };
            let (x, y) = (number("x")?, number("y")?);
            if x.len() != bytes || y.len() != bytes {
                return Err("a coordinate that is not of its curve's length".to_owned());
            }
            Key::public(kid, Public::Point(family, &x, &y), &own)
        }
        (Some("OKP"), Some("Ed25519")) => Key::public(kid, Public::Ed25519(&number("x")?), &own),
        _ => Err("a kind of key that is not supported".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// RFC 8037, A.2, and RFC 7515, A.3.1.
    const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn ed(changes: &Value) -> Value {
        let mut jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": ED });
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    fn read(keys: &[Value]) -> Result<KeySet, String> {
        KeySet::read(json!({ "keys": keys }).to_string().as_bytes(), &Algorithm::ALL)
    }

    #[test]
    fn what_cannot_be_used_is_left_out() {
        let set = read(&[
            ed(&json!({ "kid": "a" })),
            ed(&json!({ "use": "sig", "key_ops": ["verify"], "alg": "EdDSA", "x5c": 5 })),
            json!({ "kty": "EC", "crv": "P-256", "x": X, "y": Y }),
        ]);
        assert_eq!(set.unwrap().len(), 3);
        for (jwk, why) in [
            (ed(&json!({ "use": "enc" })), "not for signatures"),
            (ed(&json!({ "use": 1 })), "not for signatures"),
            (ed(&json!({ "key_ops": ["sign"] })), "not for verifying"),
            (ed(&json!({ "key_ops": "verify" })), "not for verifying"),
            (ed(&json!({ "d": ED })), "private key"),
            (ed(&json!({ "alg": "RS256" })), "fits none"),
            (ed(&json!({ "alg": "none" })), "fits none"),
            (ed(&json!({ "alg": 5 })), "fits none"),
            (ed(&json!({ "kid": 5 })), "`kid`"),
            (ed(&json!({ "kid": "k".repeat(257) })), "`kid`"),
            (ed(&json!({ "x": "AAAA" })), "no valid public key"),
            (ed(&json!({ "x": format!("{ED}=") })), "base64url"),
            (ed(&json!({ "x": 7 })), "base64url"),
            (ed(&json!({ "crv": "Ed448" })), "not supported"),
            (json!({ "kty": "oct", "k": "AAAA" }), "a secret"),
            (json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB" }), "too weak"),
            (json!({ "kty": "EC", "crv": "P-256", "x": Y, "y": X }), "no valid public key"),
            (json!({ "kty": "EC", "crv": "P-384", "x": X, "y": Y }), "length"),
            (json!({ "kty": "EC", "crv": "secp256k1", "x": X, "y": Y }), "not supported"),
            (json!(5), "not an object"),
        ] {
            let error = read(std::slice::from_ref(&jwk)).unwrap_err();
            assert!(error.contains(why), "{jwk}: {error}");
            assert_eq!(read(&[jwk, ed(&json!({}))]).unwrap().len(), 1);
        }
        assert!(read(&vec![ed(&json!({})); MAX_KEYS + 1]).is_err());
        for document in ["", "[]", "{}", "{\"keys\":[]}", "{\"keys\":[],\"keys\":[]}"] {
            assert!(KeySet::read(document.as_bytes(), &Algorithm::ALL).is_err());
        }
    }

    #[test]
    fn names_are_asked_for_only_where_there_are_names() {
        let jws = |kid: &str| {
            let header =
                base64url::encode(format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#).as_bytes());
            format!("{header}.e30.c2ln")
        };
        let (a, b) = (jws("a"), jws("b"));
        let [a, b] = [&a, &b].map(|text| Jws::parse(text).unwrap());
        let named = read(&[ed(&json!({ "kid": "a" })), ed(&json!({}))]).unwrap();
        assert!(named.fits(&a) && !named.fits(&b) && named.knows("a") && !named.knows("b"));
        let unnamed = read(&[ed(&json!({}))]).unwrap();
        assert!(unnamed.fits(&a) && unnamed.fits(&b) && unnamed.knows("b"));
        assert_eq!(named.verify(&b), Err(Flaw::UnknownKey));
        assert_eq!(named.verify(&a), Err(Flaw::Signature));
        assert!(named.is_same(&read(&[ed(&json!({ "kid": "a" })), ed(&json!({}))]).unwrap()));
        assert!(!named.is_same(&unnamed));
    }
}
