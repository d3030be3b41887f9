//! Signatures of webhooks: HMAC-SHA256 over a body, with a timestamp (`t=1700000000,v1=<hex>`) or
//! without (`sha256=<hex>`, the form of `X-Hub-Signature-256`).
//!
//! In: a header's value, secrets, the body; out: which secret made the signature. Says nothing of
//! how old a timestamp may be.

use aws_lc_rs::{constant_time, hmac};

/// Length of a tag.
const TAG_BYTES: usize = 32;

/// Signatures in one header: one for each secret while the sender changes it.
const MAX_TAGS: usize = 4;

/// Decimal digits of a timestamp.
const MAX_DIGITS: usize = 12;

/// What a header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Signed<'a> {
    /// As written, and in Unix seconds; `None`: the form without one.
    time: Option<(&'a [u8], u64)>,
    tags: [[u8; TAG_BYTES]; MAX_TAGS],
    count: usize,
}

impl<'a> Signed<'a> {
    /// `t=<Unix seconds>,v1=<hex>[,v1=<hex>]`, in any order; other members are left alone. `None`
    /// without a timestamp or a `v1`, or if one of them cannot be read.
    pub fn with_time(value: &'a [u8]) -> Option<Self> {
        let mut signed = Self { time: None, tags: [[0; TAG_BYTES]; MAX_TAGS], count: 0 };
        for member in value.split(|byte| *byte == b',') {
            let member = member.trim_ascii();
            if let Some(digits) = member.strip_prefix(b"t=") {
                if signed.time.is_some() {
                    return None;
                }
                signed.time = Some((digits, seconds(digits)?));
            } else if let Some(text) = member.strip_prefix(b"v1=") {
                signed.push(tag(text)?)?;
            }
        }
        (signed.time.is_some() && signed.count > 0).then_some(signed)
    }

    /// `sha256=<hex>`.
    pub fn without_time(value: &[u8]) -> Option<Self> {
        let mut signed = Self { time: None, tags: [[0; TAG_BYTES]; MAX_TAGS], count: 0 };
        signed.push(tag(value.trim_ascii().strip_prefix(b"sha256=")?)?)?;
        Some(signed)
    }

    /// When it was made, in Unix seconds, if it says so.
    pub fn unix_seconds(&self) -> Option<u64> {
        self.time.map(|(_, seconds)| seconds)
    }

    /// Index of the first of `keys` that signed `body`, compared in constant time, and the tags by
    /// all of them, which no other message has: with one taken off it still is the same message.
    /// Reads the body once for each key.
    pub fn signer<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k hmac::Key>,
        body: &[u8],
    ) -> Option<(usize, Vec<[u8; TAG_BYTES]>)> {
        let mut first = None;
        let mut found = Vec::new();
        for (index, key) in keys.into_iter().enumerate() {
            let mut context = hmac::Context::with_key(key);
            if let Some((text, _)) = self.time {
                context.update(text);
                context.update(b".");
            }
            context.update(body);
            let made = context.sign();
            let tag = self.tags[..self.count]
                .iter()
                .find(|tag| constant_time::verify_slices_are_equal(made.as_ref(), *tag).is_ok());
            if let Some(tag) = tag.filter(|tag| !found.contains(*tag)) {
                first.get_or_insert(index);
                found.push(*tag);
                if found.len() == self.count {
                    break;
                }
            }
        }
        first.map(|index| (index, found))
    }

    fn push(&mut self, tag: [u8; TAG_BYTES]) -> Option<()> {
        *self.tags.get_mut(self.count)? = tag;
        self.count += 1;
        Some(())
    }
}

fn seconds(digits: &[u8]) -> Option<u64> {
    let readable =
        !digits.is_empty() && digits.len() <= MAX_DIGITS && digits.iter().all(u8::is_ascii_digit);
    readable.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn tag(hex: &[u8]) -> Option<[u8; TAG_BYTES]> {
    let nibble = |byte: u8| char::from(byte).to_digit(16);
    let mut tag = [0; TAG_BYTES];
    if hex.len() != 2 * TAG_BYTES {
        return None;
    }
    for (byte, pair) in tag.iter_mut().zip(hex.as_chunks::<2>().0) {
        *byte = u8::try_from(nibble(pair[0])? << 4 | nibble(pair[1])?).ok()?;
    }
    Some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &[u8]) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, secret)
    }

    fn hex(tag: &hmac::Tag) -> String {
        tag.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    }

    #[test]
    fn github_s_own_example_is_verified() {
        // GitHub's documentation, "Validating webhook deliveries", "Testing the webhook payload".
        let key = key(b"It's a Secret to Everybody");
        let value = b"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let signed = Signed::without_time(value).unwrap();
        assert_eq!(signed.signer([&key], b"Hello, World!").map(|(index, _)| index), Some(0));
        assert_eq!(signed.signer([&key], b"Hello, World?"), None);
        assert_eq!(signed.unix_seconds(), None);
    }

    #[test]
    fn the_time_is_signed_with_the_body() {
        let keys = [key(b"old"), key(b"new")];
        let made = hex(&hmac::sign(&keys[1], b"1700000000.{}"));
        let value = format!("t=1700000000, v0=00,v1={},v1={made}", "0".repeat(64));
        let signed = Signed::with_time(value.as_bytes()).unwrap();
        assert_eq!(signed.unix_seconds(), Some(1_700_000_000));
        assert_eq!(signed.signer(&keys, b"{}").map(|(index, _)| index), Some(1));
        assert_eq!(signed.signer(&keys[..1], b"{}"), None);
        assert_eq!(signed.signer(&keys, b"{} "), None);
        let later = value.replace("1700000000", "1700000001");
        assert_eq!(Signed::with_time(later.as_bytes()).unwrap().signer(&keys, b"{}"), None);
    }

    #[test]
    fn every_tag_that_is_right_tells_the_message() {
        let keys = [key(b"old"), key(b"new"), key(b"old")];
        let made = |key: &hmac::Key| hex(&hmac::sign(key, b"1.{}"));
        let (old, new) = (made(&keys[0]), made(&keys[1]));
        let tags = |value: &str| Signed::with_time(value.as_bytes())?.signer(&keys, b"{}");
        let (first, both) = tags(&format!("t=1,v1={new},v1={old}")).unwrap();
        assert_eq!((first, both.len()), (0, 2));
        for one in [&old, &new] {
            let (_, alone) = tags(&format!("t=1,v1={one},v1={}", "0".repeat(64))).unwrap();
            assert!(alone.len() == 1 && both.contains(&alone[0]));
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_signature() {
        let tag = "ab".repeat(32);
        for bad in [
            String::new(),
            "t=1".to_owned(),
            format!("v1={tag}"),
            format!("t=,v1={tag}"),
            format!("t=-1,v1={tag}"),
            format!("t= 1,v1={tag}"),
            format!("t=1,t=2,v1={tag}"),
            format!("t=1234567890123,v1={tag}"),
            format!("t=1,v1={}", &tag[1..]),
            format!("t=1,v1={}g", &tag[1..]),
            format!("t=1,v1={tag},v1="),
            format!("t=1{}", format!(",v1={tag}").repeat(MAX_TAGS + 1)),
        ] {
            assert_eq!(Signed::with_time(bad.as_bytes()), None, "{bad}");
        }
        for bad in ["", "sha1=ab", "sha256=", "sha256=00"] {
            assert_eq!(Signed::without_time(bad.as_bytes()), None, "{bad}");
        }
    }
}
