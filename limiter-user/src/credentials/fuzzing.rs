//! What must hold of whatever a peer presents, for fuzzers (any bytes) and tests (those of fixed
//! seeds): each function panics where it does not hold. Nothing else calls them.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    certificate::{Names, Pattern},
    digest::{BodyDigest, CONTENT_DIGEST},
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
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"another secret");
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
