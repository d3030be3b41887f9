//! A token taken apart, before anything in it is believed: what is not the one spelling of one
//! meaning ends here.
//!
//! The header says which key and which algorithm the sender means; both are only compared with
//! what is configured. Keys and addresses of keys inside the header (`jwk`, `jku`, `x5c`, `x5u`)
//! are never read.

use std::fmt;

use serde_json::{Map, Value};

use super::{algorithm::Algorithm, key::Key};
use crate::credentials::{base64url, json};

/// Bytes of a token. Tokens of common issuers have one to three thousand.
pub const MAX_BYTES: usize = 8192;
/// Bytes of a key's name.
const MAX_KID_BYTES: usize = 256;

/// Why a token is not accepted. For logs of our own tests and for what is asked next; a client
/// learns none of it but that its token is invalid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flaw {
    /// Not three parts of base64url, too long, not JSON, or JSON with a name twice.
    Malformed,
    /// An algorithm that is unknown or not allowed, `none` among them.
    Algorithm,
    /// A header that must be understood and is not (`crit`), or a `typ` of something else.
    Header,
    /// No key of that name, or none that fits the algorithm.
    UnknownKey,
    /// The signature is not by the key.
    Signature,
    /// Another issuer.
    Issuer,
    /// Meant for somebody else.
    Audience,
    /// A claim that is missing or has the wrong type.
    Claim,
    /// No longer valid.
    Expired,
    /// Not valid yet, or issued in the future.
    NotYet,
    /// On the list of revoked tokens and subjects.
    Revoked,
    /// Bound to a certificate or key that the client did not prove to have.
    Binding,
}

/// A signed text (RFC 7515, 7.1) whose form is right; nothing in it is verified.
pub struct Jws<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    kid: Option<String>,
    payload: Vec<u8>,
}

impl fmt::Debug for Jws<'_> {
    /// Without its text: whoever has it can use it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jws").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl<'a> Jws<'a> {
    /// Takes `text` apart. Refused: what RFC 7515, 4 and 5.2 (steps 1 to 6) refuse, and names that
    /// occur twice.
    pub fn parse(text: &'a str) -> Result<Self, Flaw> {
        if text.len() > MAX_BYTES {
            return Err(Flaw::Malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Flaw::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Flaw::Malformed)?;
        let decode = |part: &str| base64url::decode(part.as_bytes()).ok_or(Flaw::Malformed);
        // A fourth part would be a dot in the payload, which is not base64url.
        let header = json::object(&decode(header)?).map_err(|_| Flaw::Malformed)?;
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => name.parse().map_err(|()| Flaw::Algorithm)?,
            _ => return Err(Flaw::Malformed),
        };
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= MAX_KID_BYTES => Some(kid.clone()),
            Some(_) => return Err(Flaw::Malformed),
        };
        // No extension is known here: whatever `crit` lists must be understood and is not. An
        // unencoded payload (RFC 7797) has to be in that list. Compressed or encrypted content is
        // no claims set.
        if ["crit", "b64", "zip", "enc"].iter().any(|name| header.contains_key(*name)) {
            return Err(Flaw::Header);
        }
        check_type(header.get("typ"), header.get("cty"))?;
        Ok(Self { signed, signature, algorithm, kid, payload })
    }

    /// How it says it is signed.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Name of the key that it says it is signed with: text of the sender.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What is signed, if it is.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Whether `key` signed it.
    pub fn is_signed_by(&self, key: &Key) -> bool {
        key.verify(self.algorithm, self.signed.as_bytes(), &self.signature)
    }
}

/// A token whose form is right: a signed set of claims; nothing in it is verified.
#[derive(Debug)]
pub struct Token<'a> {
    jws: Jws<'a>,
    claims: Map<String, Value>,
}

impl<'a> Token<'a> {
    /// Whether `text` is meant as a token: three parts, the first of which is a JSON object. What is
    /// not may be for somebody else.
    pub fn is_like(text: &[u8]) -> bool {
        text.starts_with(b"ey") && text.split(|byte| *byte == b'.').count() == 3
    }

    /// Takes `text` apart, as [`Jws::parse`].
    pub fn parse(text: &'a str) -> Result<Self, Flaw> {
        let jws = Jws::parse(text)?;
        let claims = json::object(jws.payload()).map_err(|_| Flaw::Malformed)?;
        Ok(Self { jws, claims })
    }

    /// How, and with which key, it says it is signed.
    pub const fn jws(&self) -> &Jws<'a> {
        &self.jws
    }

    /// The issuer that it names: text of the sender.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// What it says; true only once [`Jws::is_signed_by`] said so.
    pub const fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }
}

/// Access tokens say `at+jwt` (RFC 9068, 2.1) or, older ones, `JWT` or nothing. What says anything
/// else (a logout token, a security event, a proof of possession) is no access token even though
/// the same keys signed it (RFC 8725, 3.11).
fn check_type(typ: Option<&Value>, cty: Option<&Value>) -> Result<(), Flaw> {
    let known = match typ {
        None => true,
        Some(Value::String(typ)) => {
            let typ = typ.to_ascii_lowercase();
            matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
        }
        Some(_) => return Err(Flaw::Malformed),
    };
    // `cty` announces a nested token.
    if known && cty.is_none() { Ok(()) } else { Err(Flaw::Header) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let encode = |text: &str| base64url::encode(text.as_bytes());
        format!("{}.{}.c2ln", encode(header), encode(payload))
    }

    fn flaw(header: &str) -> Option<Flaw> {
        Token::parse(&token(header, "{}")).err()
    }

    #[test]
    fn headers() {
        assert_eq!(flaw(r#"{"alg":"ES256"}"#), None);
        for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "application/jwt"] {
            assert_eq!(flaw(&format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#)), None, "{typ}");
        }
        // Never read.
        let embedded =
            r#"{"alg":"RS256","jwk":{"kty":"oct","k":""},"jku":"http://a","x5u":"","x5c":1}"#;
        assert_eq!(flaw(embedded), None);
        for (header, expected) in [
            (r#"{"alg":"none"}"#, Flaw::Algorithm),
            (r#"{"alg":"nOnE"}"#, Flaw::Algorithm),
            (r#"{"alg":""}"#, Flaw::Algorithm),
            (r#"{"alg":["RS256"]}"#, Flaw::Malformed),
            (r#"{"typ":"JWT"}"#, Flaw::Malformed),
            (r#"{"alg":"RS256","alg":"HS256"}"#, Flaw::Malformed),
            (r#"{"alg":"RS256","\u0061lg":"none"}"#, Flaw::Malformed),
            (r#"{"alg":"RS256","kid":7}"#, Flaw::Malformed),
            (r#"{"alg":"RS256","crit":["exp"],"exp":1}"#, Flaw::Header),
            (r#"{"alg":"RS256","crit":[]}"#, Flaw::Header),
            (r#"{"alg":"RS256","b64":false}"#, Flaw::Header),
            (r#"{"alg":"RS256","enc":"A128GCM"}"#, Flaw::Header),
            (r#"{"alg":"RS256","zip":"DEF"}"#, Flaw::Header),
            (r#"{"alg":"RS256","cty":"JWT"}"#, Flaw::Header),
            (r#"{"alg":"RS256","typ":"dpop+jwt"}"#, Flaw::Header),
            (r#"{"alg":"RS256","typ":"logout+jwt"}"#, Flaw::Header),
            (r#"{"alg":"RS256","typ":"JOSE"}"#, Flaw::Header),
            (r#"{"alg":"RS256","typ":null}"#, Flaw::Malformed),
            ("[]", Flaw::Malformed),
            ("", Flaw::Malformed),
        ] {
            assert_eq!(flaw(header), Some(expected), "{header}");
        }
    }

    #[test]
    fn one_spelling() {
        let good = token(r#"{"alg":"ES256"}"#, r#"{"sub":"a"}"#);
        assert!(Token::parse(&good).is_ok());
        let (front, back) = good.split_once('.').unwrap();
        for other in [
            format!("{good}="),
            format!("{good}\n"),
            format!(" {good}"),
            format!("{good}."),
            format!(".{good}"),
            format!("{front}=.{back}"),
            front.to_owned(),
            format!("{front}."),
            format!("{front}.."),
            good.replace("c2ln", "c2lo+"),
            format!("{front}.{}.{}", "e30", "c2l"),
            format!("{front}.{back}.e30.e30"),
            String::new(),
            "..".to_owned(),
            format!("{front}.{}.c2ln", base64url::encode(&vec![b' '; MAX_BYTES])),
        ] {
            assert_eq!(Token::parse(&other).err(), Some(Flaw::Malformed), "{other}");
        }
        let long_kid = format!(r#"{{"alg":"ES256","kid":"{}"}}"#, "k".repeat(257));
        assert_eq!(flaw(&long_kid), Some(Flaw::Malformed));
    }
}
