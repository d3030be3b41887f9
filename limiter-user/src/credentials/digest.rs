//! `Content-Digest` (RFC 9530): what a message says about the bytes of its body.
//!
//! In: the field and the bytes as they arrive; out: whether they are the ones. Only `sha-256` and
//! `sha-512` count; the others of the registry are broken and prove nothing.

use std::fmt;

use aws_lc_rs::{
    constant_time,
    digest::{Context, SHA256, SHA512},
};
use http::{HeaderMap, HeaderName};
use sfv::{BareItem, ListEntry};

use super::fields::{combined, dictionary};

/// The field.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// A body being checked against each digest that was given.
#[derive(Clone)]
pub struct BodyDigest {
    expected: Vec<(Context, Vec<u8>)>,
}

impl BodyDigest {
    /// What the field says. `None` if there is no field, it cannot be read, or it has no digest
    /// that counts.
    pub fn expected(headers: &HeaderMap) -> Option<Self> {
        let fields = combined(headers, &CONTENT_DIGEST)?;
        let members = dictionary(&fields)?;
        let mut expected = Vec::new();
        for (name, member) in members {
            let algorithm = match name.as_str() {
                "sha-256" => &SHA256,
                "sha-512" => &SHA512,
                _ => continue,
            };
            let ListEntry::Item(item) = member else { return None };
            let BareItem::ByteSequence(bytes) = item.bare_item else { return None };
            if bytes.len() != algorithm.output_len() {
                return None;
            }
            expected.push((Context::new(algorithm), bytes));
        }
        (!expected.is_empty()).then_some(Self { expected })
    }

    /// The next bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        for (context, _) in &mut self.expected {
            context.update(bytes);
        }
    }

    /// Whether these were all of them, and every digest is right.
    pub fn is_right(self) -> bool {
        self.expected.into_iter().all(|(context, expected)| {
            constant_time::verify_slices_are_equal(context.finish().as_ref(), &expected).is_ok()
        })
    }
}

impl fmt::Debug for BodyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyDigest").field("algorithms", &self.expected.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// RFC 9530, appendix D: of `{"hello": "world"}` and a line feed (D.1's representation).
    const SHA_256: &str = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    const BODY: &[u8] = b"{\"hello\": \"world\"}\n";

    fn check(values: &[&str], pieces: &[&[u8]]) -> Option<bool> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_DIGEST, HeaderValue::from_str(value).unwrap());
        }
        let mut digest = BodyDigest::expected(&headers)?;
        for piece in pieces {
            digest.update(piece);
        }
        Some(digest.is_right())
    }

    #[test]
    fn a_published_digest_is_right_however_the_body_comes() {
        assert_eq!(check(&[SHA_256], &[BODY]), Some(true));
        assert_eq!(check(&[SHA_256], &[&BODY[..1], b"", &BODY[1..]]), Some(true));
        assert_eq!(check(&[SHA_256], &[&BODY[..18]]), Some(false));
        assert_eq!(check(&["md5=:AAAA:", SHA_256], &[BODY]), Some(true), "md5 says nothing");
        // RFC 9421, B.2: of `{"hello": "world"}`.
        let long = "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";
        assert_eq!(check(&[long], &[&BODY[..18]]), Some(true));
        assert_eq!(check(&[long, SHA_256], &[BODY]), Some(false), "one of two is wrong");
    }

    #[test]
    fn what_proves_nothing_is_no_digest() {
        for bad in
            ["", "sha-256", "sha-256=AAAA", "sha-256=:AAAA:", "md5=:AAAA:", "sha-256=(:AA==:)", ","]
        {
            assert_eq!(check(&[bad], &[]), None, "{bad}");
        }
        assert_eq!(check(&[], &[]), None);
        // Who reads the first of two names, and who the last, see two digests.
        assert_eq!(check(&[SHA_256, SHA_256], &[BODY]), None);
        // One that is too long, or of another kind, spoils the good one beside it.
        let long = format!("{SHA_256}, sha-512=:{}:", "A".repeat(64));
        assert_eq!(check(&[&long], &[BODY]), None);
        assert_eq!(check(&[&format!("{SHA_256}, sha-512=?1")], &[BODY]), None);
    }

    #[test]
    fn nothing_has_a_digest_too() {
        let nothing = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        assert_eq!(check(&[nothing], &[]), Some(true));
        assert_eq!(check(&[nothing], &[b"x"]), Some(false));
        assert_eq!(check(&[&format!("unknown=:AA==:, {nothing};x=1")], &[b""]), Some(true));
    }
}
