//! What a token says, held against what is expected: issuer, audience, times, subject, scopes,
//! tier.
//!
//! A claim of the wrong type refuses the token: guessing what was meant is how two readers come to
//! differ. Times may have fractions (RFC 7519, 2).

use serde_json::{Map, Value};

use super::{
    revoked::RevokedList,
    token::{Flaw, Token},
};
use crate::credentials::base64url;

/// Bytes of `sub` and `jti`: they become names, keys of counters and header values.
const MAX_NAME_BYTES: usize = 255;

/// What is expected of the tokens of one issuer.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `iss`, exactly; `None`: not looked at.
    pub issuer: Option<String>,
    /// One of these must be in `aud`; empty: not looked at.
    pub audience: Vec<String>,
    /// How far the issuer's clock may be off.
    pub leeway_seconds: u64,
    /// Claim that names the tier; dots lead into objects.
    pub tier_claim: Option<String>,
}

/// The verified claims that matter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claims {
    /// Who it is about.
    pub subject: String,
    /// Its own name, for revocation.
    pub id: Option<String>,
    /// Unix seconds from which on it is accepted, leeway included: a clock may be set back.
    pub begins_unix_seconds: u64,
    /// Unix seconds from which on it is no longer accepted, leeway included.
    pub expires_unix_seconds: u64,
    /// What it may do.
    pub scopes: Vec<String>,
    /// What `tier_claim` says.
    pub tier: Option<String>,
    /// SHA-256 of the certificate that it may be used with (RFC 8705, 3.1).
    pub certificate: Option<[u8; 32]>,
}

impl Rules {
    /// Holds the claims against the rules. Cheap: to be asked before the signature is verified,
    /// and true only once it is.
    pub fn check(&self, token: &Token<'_>, now_unix_seconds: u64) -> Result<Claims, Flaw> {
        let claims = token.claims();
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(Flaw::Issuer);
        }
        if !self.audience.is_empty() && !self.is_meant(claims.get("aud"))? {
            return Err(Flaw::Audience);
        }
        let now = seconds(now_unix_seconds);
        let leeway = seconds(self.leeway_seconds);
        let expires = date(claims, "exp")?.ok_or(Flaw::Claim)?;
        let begins = [date(claims, "nbf")?, date(claims, "iat")?];
        let begins = begins.into_iter().flatten().fold(0.0, f64::max);
        if now >= expires + leeway {
            return Err(Flaw::Expired);
        }
        if begins > now + leeway {
            return Err(Flaw::NotYet);
        }
        Ok(Claims {
            subject: name(claims, "sub")?.ok_or(Flaw::Claim)?,
            id: name(claims, "jti")?,
            begins_unix_seconds: whole(begins - leeway),
            expires_unix_seconds: whole(expires + leeway),
            scopes: scopes(claims)?,
            tier: self.tier_claim.as_deref().and_then(|path| tier(claims, path)),
            certificate: certificate(claims)?,
        })
    }

    fn is_meant(&self, audience: Option<&Value>) -> Result<bool, Flaw> {
        let is_ours = |one: &str| self.audience.iter().any(|own| own == one);
        match audience {
            Some(Value::String(one)) => Ok(is_ours(one)),
            Some(Value::Array(all)) => {
                let mut found = false;
                for one in all {
                    found |= is_ours(one.as_str().ok_or(Flaw::Claim)?);
                }
                Ok(found)
            }
            None => Ok(false),
            Some(_) => Err(Flaw::Claim),
        }
    }
}

impl Claims {
    /// Whether the token or its subject was revoked.
    pub fn is_revoked(&self, list: &RevokedList) -> bool {
        list.has(self.id.as_deref(), &self.subject)
    }

    /// Whether it still is what the client may use at `now`, with the certificate that the client
    /// proved to have (SHA-256 of its DER).
    pub fn stands(
        &self,
        now_unix_seconds: u64,
        certificate: Option<&[u8; 32]>,
    ) -> Result<(), Flaw> {
        if now_unix_seconds >= self.expires_unix_seconds {
            return Err(Flaw::Expired);
        }
        if now_unix_seconds < self.begins_unix_seconds {
            return Err(Flaw::NotYet);
        }
        match &self.certificate {
            Some(bound) if certificate != Some(bound) => Err(Flaw::Binding),
            _ => Ok(()),
        }
    }
}

/// Exact below 2^53, which no clock reaches.
#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^53")]
const fn seconds(whole: u64) -> f64 {
    whole as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "below 2^53, which `date` checks; what is negative saturates to 0"
)]
fn whole(seconds: f64) -> u64 {
    seconds.ceil() as u64
}

/// A `NumericDate`: a number of seconds, perhaps with a fraction, within what can be told apart.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, Flaw> {
    const LATEST: f64 = 9_007_199_254_740_992.0;
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(seconds) if (0.0..LATEST).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(Flaw::Claim),
        },
        Some(_) => Err(Flaw::Claim),
    }
}

/// Printable ASCII that can stand in a header as it is: nothing that a reader behind us would cut
/// off or take for something else.
fn name(claims: &Map<String, Value>, claim: &str) -> Result<Option<String>, Flaw> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(text))
            if (1..=MAX_NAME_BYTES).contains(&text.len())
                && text.trim() == text
                && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) =>
        {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(Flaw::Claim),
    }
}

/// `scope` (RFC 8693, 4.2: text with blanks), or `scp`, which issuers write as text or as a list.
fn scopes(claims: &Map<String, Value>) -> Result<Vec<String>, Flaw> {
    let mut all = Vec::new();
    for claim in ["scope", "scp"] {
        match claims.get(claim) {
            None => {}
            Some(Value::String(text)) => {
                all.extend(text.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned));
            }
            Some(Value::Array(list)) => {
                for scope in list {
                    all.push(scope.as_str().ok_or(Flaw::Claim)?.to_owned());
                }
            }
            Some(_) => return Err(Flaw::Claim),
        }
    }
    // RFC 6749, 3.3.
    let is_scope = |scope: &String| {
        let ok = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        !scope.is_empty() && scope.bytes().all(ok)
    };
    if !all.iter().all(is_scope) {
        return Err(Flaw::Claim);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The claim called `path`, or what its dots lead to: names of claims may hold dots themselves
/// (`https://example.com/plan`).
fn tier(claims: &Map<String, Value>, path: &str) -> Option<String> {
    let found = claims.get(path).or_else(|| {
        let (first, rest) = path.split_once('.')?;
        rest.split('.').try_fold(claims.get(first)?, |value, name| value.as_object()?.get(name))
    });
    found?.as_str().map(str::to_owned)
}

/// The certificate that `cnf` binds the token to. A token that is bound to anything else (a `DPoP`
/// key, say) is not a bearer token, and proof of that is not read here.
fn certificate(claims: &Map<String, Value>) -> Result<Option<[u8; 32]>, Flaw> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(None) };
    let methods = confirmation.as_object().ok_or(Flaw::Claim)?;
    let (Some(Value::String(thumbprint)), 1) = (methods.get("x5t#S256"), methods.len()) else {
        return Err(Flaw::Binding);
    };
    let digest = base64url::decode(thumbprint.as_bytes()).and_then(|bytes| bytes.try_into().ok());
    digest.map(Some).ok_or(Flaw::Claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn rules() -> Rules {
        Rules {
            issuer: Some("https://id.example.com".to_owned()),
            audience: vec!["api".to_owned(), "api-2".to_owned()],
            leeway_seconds: 60,
            tier_claim: Some("plan".to_owned()),
        }
    }

    fn check_text(rules: &Rules, payload: &str) -> Result<Claims, Flaw> {
        let encode = |text: &str| base64url::encode(text.as_bytes());
        let text = format!("{}.{}.c2ln", encode(r#"{"alg":"ES256"}"#), encode(payload));
        rules.check(&Token::parse(&text).unwrap(), NOW)
    }

    /// A token that is right but for these claims; `null` takes one away.
    fn check(changes: &Value) -> Result<Claims, Flaw> {
        let mut all = serde_json::json!({
            "iss": "https://id.example.com", "aud": "api", "sub": "alice", "exp": NOW + 600,
        });
        for (name, value) in changes.as_object().unwrap() {
            all[name] = value.clone();
        }
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        check_text(&rules(), &all.to_string())
    }

    #[test]
    fn what_is_expected() {
        let claims = check(&serde_json::json!({
            "jti": "1", "scope": "write read ", "scp": ["read", "admin"], "plan": "premium",
            "nbf": NOW, "iat": 1_699_999_999.5,
        }))
        .unwrap();
        assert_eq!(claims.subject, "alice");
        assert_eq!(claims.id.as_deref(), Some("1"));
        assert_eq!(claims.scopes, ["admin", "read", "write"]);
        assert_eq!(claims.tier.as_deref(), Some("premium"));
        assert_eq!(claims.expires_unix_seconds, NOW + 660);
        assert_eq!(claims.certificate, None);
        assert!(check(&serde_json::json!({"aud": ["other", "api-2"]})).is_ok());
    }

    #[test]
    fn what_is_not() {
        use serde_json::json;
        for (changes, flaw) in [
            (json!({"iss": null}), Flaw::Issuer),
            (json!({"iss": "https://id.example.com/"}), Flaw::Issuer),
            (json!({"iss": ["https://id.example.com"]}), Flaw::Issuer),
            (json!({"aud": null}), Flaw::Audience),
            (json!({"aud": "API"}), Flaw::Audience),
            (json!({"aud": "api "}), Flaw::Audience),
            (json!({"aud": []}), Flaw::Audience),
            (json!({"aud": ["api", 1]}), Flaw::Claim),
            (json!({"aud": {"api": true}}), Flaw::Claim),
            (json!({"exp": null}), Flaw::Claim),
            (json!({"exp": (NOW + 600).to_string()}), Flaw::Claim),
            (json!({"exp": -1}), Flaw::Claim),
            (json!({"exp": 1e300}), Flaw::Claim),
            (json!({"exp": u64::MAX}), Flaw::Claim),
            (json!({"exp": [NOW + 600]}), Flaw::Claim),
            (json!({"exp": NOW - 60}), Flaw::Expired),
            (json!({"exp": 1_699_999_939.5}), Flaw::Expired),
            (json!({"exp": 0}), Flaw::Expired),
            (json!({"nbf": NOW + 61}), Flaw::NotYet),
            (json!({"iat": NOW + 61}), Flaw::NotYet),
            (json!({"iat": 1_700_000_060.5}), Flaw::NotYet),
            (json!({"nbf": "soon"}), Flaw::Claim),
            (json!({"iat": true}), Flaw::Claim),
            (json!({"sub": null}), Flaw::Claim),
            (json!({"sub": ""}), Flaw::Claim),
            (json!({"sub": 1}), Flaw::Claim),
            (json!({"sub": " alice"}), Flaw::Claim),
            (json!({"sub": "a\r\nX-Admin: 1"}), Flaw::Claim),
            (json!({"sub": "a\u{0}b"}), Flaw::Claim),
            (json!({"sub": "a".repeat(256)}), Flaw::Claim),
            (json!({"sub": "al\u{ef}ce"}), Flaw::Claim),
            (json!({"jti": 5}), Flaw::Claim),
            (json!({"scope": "a\"b"}), Flaw::Claim),
            (json!({"scope": "a\nb"}), Flaw::Claim),
            (json!({"scp": ["a b"]}), Flaw::Claim),
            (json!({"scp": [""]}), Flaw::Claim),
            (json!({"scope": 5}), Flaw::Claim),
            (json!({"scp": [["admin"]]}), Flaw::Claim),
            (json!({"cnf": "x"}), Flaw::Claim),
            (json!({"cnf": {}}), Flaw::Binding),
            (json!({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}), Flaw::Binding),
            (json!({"cnf": {"x5t#S256": "AAAA"}}), Flaw::Claim),
            (json!({"cnf": {"x5t#S256": 5}}), Flaw::Binding),
        ] {
            assert_eq!(check(&changes), Err(flaw), "{changes}");
        }
    }

    #[test]
    fn clocks_may_differ_a_little() {
        use serde_json::json;
        for changes in [
            json!({"exp": NOW - 59}),
            json!({"exp": 1_699_999_940.25}),
            json!({"nbf": NOW + 60}),
            json!({"iat": 1_700_000_059.5}),
        ] {
            assert!(check(&changes).is_ok(), "{changes}");
        }
        let claims = check(&json!({"exp": 1_699_999_940.25})).unwrap();
        assert_eq!(claims.stands(NOW, None), Ok(()));
        assert_eq!(claims.stands(NOW + 1, None), Err(Flaw::Expired));
    }

    #[test]
    fn bound_to_a_certificate() {
        let thumbprint = base64url::encode(&[7; 32]);
        let claims = check(&serde_json::json!({"cnf": {"x5t#S256": thumbprint}})).unwrap();
        assert_eq!(claims.stands(NOW, Some(&[7; 32])), Ok(()));
        assert_eq!(claims.stands(NOW, Some(&[8; 32])), Err(Flaw::Binding));
        assert_eq!(claims.stands(NOW, None), Err(Flaw::Binding));
    }

    #[test]
    fn tiers_are_found_by_name_and_by_path() {
        let claims = serde_json::json!({
            "https://example.com/plan": "a", "app": {"plan": {"name": "b"}, "n": 5}, "plan": "c",
        });
        let claims = claims.as_object().unwrap();
        for (path, expected) in [
            ("https://example.com/plan", Some("a")),
            ("app.plan.name", Some("b")),
            ("plan", Some("c")),
            ("app.plan", None),
            ("app.n", None),
            ("app.n.x", None),
            ("other.plan", None),
            ("", None),
        ] {
            assert_eq!(tier(claims, path).as_deref(), expected, "{path}");
        }
    }
}
