//! What must hold of whatever a peer presents, for fuzzers (any bytes) and tests (those of fixed
//! seeds): each function panics where it does not hold. Nothing else calls them.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    base64url,
    certificate::{Names, Pattern},
    digest::{BodyDigest, CONTENT_DIGEST},
    jwks::KeySet,
    jwt::{Algorithm, Jws, Revoked, RevokedList, Rules, Token},
    signature::{self, Key, Message, NamedKey, Requirements, SIGNATURE, SIGNATURE_INPUT, is_sound},
    webhook::Signed,
};

/// Lines of bytes as `Signature-Input`, `Signature`, `Content-Digest` and another field: nothing
/// that was not signed is taken for signed, and no component forges a line of what is.
pub fn signed(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    let other = HeaderName::from_static("x-other");
    for name in [SIGNATURE_INPUT, SIGNATURE, CONTENT_DIGEST, other] {
        let value = lines.next().and_then(|line| HeaderValue::from_bytes(line).ok());
        headers.extend(value.map(|value| (name, value)));
    }
    let message = Message {
        method: "POST",
        scheme: "https",
        authority: "a.test",
        path: "/a",
        query: Some("b=c&d"),
        absolute: None,
        headers: &headers,
        has_body: false,
    };
    let Ok(key) = Key::shared(b"a secret that nobody guesses") else { return };
    let keys = [NamedKey { id: "k".to_owned(), key }];
    let wanted = Requirements { tolerance_seconds: 300, ..Requirements::default() };
    let found = signature::check(&keys, &wanted, &message, 1_700_000_000);
    assert!(!matches!(found, Ok(Some(_))), "{}", data.escape_ascii());
    assert!(is_sound(&message), "{}", data.escape_ascii());
    if let Some(mut digest) = BodyDigest::expected(&headers) {
        digest.update(data);
        assert!(!digest.is_right(), "{}", data.escape_ascii());
    }
    for signed in [Signed::with_time(data), Signed::without_time(data)].into_iter().flatten() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"another secret");
        assert!(signed.signer([&key], data).is_none(), "{}", data.escape_ascii());
    }
}

/// Bytes as a certificate: what it names can stand in an event and a header.
pub fn certificate(data: &[u8]) {
    let Some(names) = Names::read(data) else { return };
    for pattern in ["*.com", "a://b/*", "*@c.de"].map(Pattern::alternative).into_iter().flatten() {
        if let Some(name) = pattern.matched(&names) {
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
        }
    }
    if let Some(name) = Pattern::subject("C=DE").ok().and_then(|one| one.matched(&names)) {
        assert!(!name.chars().any(char::is_control), "{name:?}");
    }
}

/// Bytes as a token, which nobody signed; and, cut at their first line feed, as the header and the
/// claims of one that its issuer signed: what it says can stand in a header as it is.
pub fn token(data: &[u8]) {
    const SECRET: &[u8] = b"a secret of thirty-two bytes, or more";
    static KEYS: LazyLock<Option<KeySet>> = LazyLock::new(|| {
        Some(KeySet::of(vec![super::jwt::Key::secret(SECRET, &[Algorithm::Hs256]).ok()?]))
    });
    let Some(keys) = &*KEYS else { return };
    if let Ok(text) = str::from_utf8(data)
        && let Ok(jws) = Jws::parse(text)
    {
        let payload = text.split('.').nth(1);
        assert_eq!(payload, Some(&*base64url::encode(jws.payload())), "one spelling");
        assert!(keys.verify(&jws).is_err(), "{text}");
    }
    let mut parts = data.splitn(2, |byte| *byte == b'\n').map(base64url::encode);
    let (Some(header), Some(claims)) = (parts.next(), parts.next()) else { return };
    let signed = format!("{header}.{claims}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    let text = format!("{signed}.{}", base64url::encode(tag.as_ref()));
    let Ok(token) = Token::parse(&text) else { return };
    assert!(Token::is_like(text.as_bytes()) || !data.starts_with(b"{\""), "{text}");
    let is_signed = keys.verify(token.jws()).is_ok();
    assert_eq!(is_signed, token.jws().algorithm() == Algorithm::Hs256, "{text}");
    let rules = Rules {
        issuer: None,
        audience: Vec::new(),
        leeway_seconds: 60,
        tier_claim: Some("a.b".to_owned()),
    };
    let now = 1_700_000_000;
    if let Ok(claims) = rules.check(&token, now) {
        assert!(claims.stands(now, claims.certificate.as_ref()).is_ok(), "{claims:?}");
        assert!(claims.stands(claims.expires_unix_seconds, None).is_err(), "{claims:?}");
        let words = claims.scopes.iter().chain([&claims.subject]);
        for word in words {
            let shows = !word.is_empty() && word.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            assert!(shows && word.trim() == word, "{word:?}");
        }
        assert!(!claims.scopes.iter().any(|scope| scope.contains(' ')), "{claims:?}");
        assert!(!claims.is_revoked(&RevokedList::default()));
    }
}

/// Bytes as the document of an issuer: the keys in it verify nothing that they did not sign, and
/// are the same when it is read again.
pub fn key_set(data: &[u8]) {
    let Ok(keys) = KeySet::read(data, &Algorithm::ALL) else { return };
    assert!((1..=100).contains(&keys.len()));
    assert!(KeySet::read(data, &Algorithm::ALL).is_ok_and(|again| again.is_same(&keys)));
    for algorithm in Algorithm::ALL {
        let header = base64url::encode(format!("{{\"alg\":\"{}\"}}", algorithm.name()).as_bytes());
        for signature in [&[0; 64][..], &[0; 256], b""] {
            let text = format!("{header}.e30.{}", base64url::encode(signature));
            let Ok(jws) = Jws::parse(&text) else { continue };
            assert!(keys.verify(&jws).is_err(), "{}: {}", algorithm.name(), data.escape_ascii());
        }
    }
}

/// Bytes as a list of revoked tokens and subjects, of which each entry counts; and as an API key.
pub fn listed(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(all) = Revoked::read(text) {
        let list = RevokedList::new(&all);
        let mut again = Vec::new();
        for entry in &all {
            let (kind, name) = match entry {
                Revoked::Token(id) => ("jti", id),
                Revoked::Subject(subject) => ("sub", subject),
            };
            let is_token = kind == "jti";
            let found = if is_token { list.has(Some(name), "") } else { list.has(None, name) };
            assert!(found && !name.is_empty(), "{entry:?}");
            again.push(format!("{kind} {name}"));
        }
        assert_eq!(Revoked::read(&again.join("\n")).ok().as_deref(), Some(&*all), "{text}");
    }
    if crate::keys::looks_like_ours(text) {
        assert!(text.starts_with(crate::keys::PREFIX) && text.len() == 52, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutated_fields_prove_nothing() {
        const GOOD: &[u8] = b"s=(\"@method\" \"@target-uri\" \"x-other\";bs \"@query-param\";\
            name=\"b\" \"content-digest\";key=\"sha-256\");created=1700000000;keyid=\"k\"\n\
            s=:AAAA:\nsha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:\n a , b\n";
        signed(GOOD);
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut data = GOOD.to_vec();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = usize::try_from(state >> 33).unwrap() % data.len();
                data[at] = state.to_le_bytes()[2];
            }
            signed(&data);
        }
    }
}
