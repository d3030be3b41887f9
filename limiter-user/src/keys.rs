//! API keys: how one is made, recognised and stored.
//!
//! A key is shown once, when it is made; only its SHA-256 is kept. 32 random bytes need no slow
//! hash. A checksum tells a mistyped key from a wrong one without looking anything up.

pub mod date;
pub mod file;

use std::fmt;

use anyhow::Context as _;
use aws_lc_rs::{digest as hash, rand};

/// What every key begins with.
pub const PREFIX: &str = "lk_";
/// Where `limiter keys` writes unless the configuration says otherwise.
pub const DEFAULT_FILE: &str = "/etc/limiter/keys.toml";
/// Principal of the shared token; no key can have this name.
pub const SHARED_TOKEN: &str = "shared-token";

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const SECRET_BYTES: usize = 32;
/// 62^43 > 2^256.
const SECRET_CHARS: usize = 43;
const CHECKSUM_CHARS: usize = 6;
const KEY_CHARS: usize = PREFIX.len() + SECRET_CHARS + CHECKSUM_CHARS;

/// A whole API key. Never shown by `Debug`.
pub struct ApiKey(String);

impl ApiKey {
    /// A new random key: `lk_`, 43 base-62 characters of 256 random bits, 6 of checksum.
    pub fn generate() -> anyhow::Result<Self> {
        let mut secret = [0; SECRET_BYTES];
        rand::fill(&mut secret).ok().context("the system has no randomness to give")?;
        Ok(Self::from_secret(secret))
    }

    fn from_secret(secret: [u8; SECRET_BYTES]) -> Self {
        let mut key = PREFIX.to_owned();
        key.push_str(&base62::<SECRET_CHARS>(secret.to_vec()));
        let checksum = checksum(&key);
        key.push_str(&checksum);
        Self(key)
    }

    /// The key as its owner presents it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn digest(&self) -> [u8; 32] {
        digest(self.0.as_bytes())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// SHA-256.
pub fn digest(presented: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash::digest(&hash::SHA256, presented).as_ref());
    bytes
}

/// Whether `presented` has the form and the checksum of a key of ours.
pub fn looks_like_ours(presented: &str) -> bool {
    let bytes = presented.as_bytes();
    bytes.len() == KEY_CHARS
        && presented.starts_with(PREFIX)
        && bytes[PREFIX.len()..].iter().all(u8::is_ascii_alphanumeric)
        && checksum(&presented[..KEY_CHARS - CHECKSUM_CHARS])
            == presented[KEY_CHARS - CHECKSUM_CHARS..]
}

/// A principal's name: printable ASCII without blanks at its ends, at most 64 characters.
pub fn check_name(name: &str) -> Result<(), String> {
    let printable = name.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if name.is_empty() || name.len() > 64 || !printable || name.trim() != name {
        return Err("a key's name has 1 to 64 printable ASCII characters".to_owned());
    }
    if name == SHARED_TOKEN {
        return Err(format!("`{SHARED_TOKEN}` is the name of the shared token"));
    }
    Ok(())
}

/// A tier or scope: what can stand in a claim or a header without quoting.
pub fn check_label(label: &str) -> Result<(), String> {
    let ok = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    if label.is_empty() || label.len() > 64 || !label.bytes().all(ok) {
        return Err("tiers and scopes have 1 to 64 letters, digits or `-_.:/`".to_owned());
    }
    Ok(())
}

fn checksum(key: &str) -> String {
    base62::<CHECKSUM_CHARS>(digest(key.as_bytes())[..5].to_vec())
}

/// The last `CHARS` base-62 digits of a big-endian number.
fn base62<const CHARS: usize>(mut number: Vec<u8>) -> String {
    let mut digits = [b'0'; CHARS];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in &mut number {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        *digit = ALPHABET[remainder as usize];
    }
    digits.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_key_is_recognised_and_a_typo_is_not() {
        let key = ApiKey::generate().unwrap();
        let text = key.reveal();
        assert_eq!(text.len(), 52);
        assert!(looks_like_ours(text));
        for at in 0..text.len() {
            let mut typo = text.as_bytes().to_vec();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert!(!looks_like_ours(std::str::from_utf8(&typo).unwrap()), "position {at}");
        }
        assert!(!looks_like_ours("") && !looks_like_ours("lk_") && !looks_like_ours(&text[1..]));
        let wide = format!("lk_{}", "é".repeat(24) + "x");
        assert!(wide.len() == 52 && !looks_like_ours(&wide));
    }

    #[test]
    fn keys_differ_and_hide_themselves() {
        let keys: HashSet<_> =
            (0..100).map(|_| ApiKey::generate().unwrap().reveal().to_owned()).collect();
        assert_eq!(keys.len(), 100);
        let key = ApiKey::generate().unwrap();
        assert!(!format!("{key:?}").contains(&key.reveal()[3..]));
    }

    #[test]
    fn base_62_is_positional() {
        assert_eq!(base62::<3>(vec![0]), "000");
        assert_eq!(base62::<3>(vec![61]), "00z");
        assert_eq!(base62::<3>(vec![1, 0]), "048");
        assert_eq!(ApiKey::from_secret([255; 32]).reveal().len(), 52);
    }

    #[test]
    fn digest_is_sha_256() {
        assert_eq!(digest(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }

    #[test]
    fn names() {
        assert!(check_name("alice@example.com").is_ok());
        for bad in ["", " a", "a\n", "é", SHARED_TOKEN, &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(check_label("orders:read").is_ok() && check_label("a b").is_err());
    }
}
