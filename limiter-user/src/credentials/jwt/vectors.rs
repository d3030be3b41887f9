//! Published texts and keys: every one is accepted or refused as its source says.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::{Algorithm, Jws, Key};
use crate::credentials::{base64url, jwks::KeySet};

const VECTORS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/jose/vectors.json"));

/// What a configuration would make of a key: a secret for its algorithm only.
fn keys(jwk: &Value) -> Result<KeySet, String> {
    if jwk["kty"] != "oct" {
        return KeySet::read(json!({ "keys": [jwk] }).to_string().as_bytes(), &Algorithm::ALL);
    }
    let secret = base64url::decode(jwk["k"].as_str().unwrap().as_bytes()).unwrap();
    Key::secret(&secret, &[Algorithm::Hs256]).map(|key| KeySet::of(vec![key]))
}

fn is_accepted(keys: &KeySet, text: &str) -> bool {
    Jws::parse(text).is_ok_and(|jws| keys.verify(&jws).is_ok())
}

#[test]
fn published_vectors() {
    let groups: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    for group in &groups {
        let keys = keys(&group["key"]);
        for test in group["tests"].as_array().unwrap() {
            let (what, text) = (&test[0], test[1].as_str().unwrap());
            let valid = keys.as_ref().is_ok_and(|keys| is_accepted(keys, text));
            assert_eq!(valid, test[2].as_bool().unwrap(), "{what}: {text}");
            if valid { accepted += 1 } else { refused += 1 }
        }
    }
    assert_eq!((accepted, refused), (34, 282));
}

#[test]
fn published_keys() {
    const KEYS: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/jose/keys.json"));
    let keys: Vec<(String, Value, bool)> = serde_json::from_str(KEYS).unwrap();
    assert_eq!(keys.len(), 9);
    for (what, jwk, usable) in keys {
        let set = json!({ "keys": [jwk] }).to_string();
        let read = KeySet::read(set.as_bytes(), &Algorithm::ALL);
        assert_eq!(read.is_ok(), usable, "{what}: {read:?}");
    }
}

/// A character more, less or another, anywhere in a text that is accepted.
#[test]
fn nothing_can_be_changed() {
    let groups: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    for group in &groups {
        let Ok(keys) = keys(&group["key"]) else { continue };
        for test in group["tests"].as_array().unwrap() {
            let text = test[1].as_str().unwrap();
            if !is_accepted(&keys, text) {
                continue;
            }
            for at in 0..text.len() {
                // Every position in turn, with a character that its place decides.
                let number = usize::from(digest(&SHA256, &at.to_be_bytes()).as_ref()[0]);
                let other = char::from(b"ABCDghijwxyz0189-_.=+/ \n"[number % 24]);
                let (front, back) = text.split_at(at);
                for changed in [
                    format!("{front}{back}{other}"),
                    format!("{front}{other}{back}"),
                    format!("{front}{}", &back[1..]),
                    format!("{front}{other}{}", &back[1..]),
                    front.to_owned(),
                ] {
                    assert!(changed == text || !is_accepted(&keys, &changed), "{changed}");
                }
            }
        }
    }
}
