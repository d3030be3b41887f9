//! What a signature has to be like beyond being right.

use super::*;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _,
    },
};
use http::HeaderValue;
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};

mod components;
mod fields;
mod vectors;

use self::vectors::{ED25519, P256, RSA};

/// The fields of the examples' request.
const FIELDS: [(&str, &str); 5] = [
    ("host", "example.com"),
    ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
    ("content-type", "application/json"),
    (
        "content-digest",
        "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
    ),
    ("content-length", "18"),
];

const NOW: u64 = 1_618_884_473;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn request(headers: &HeaderMap) -> Message<'_> {
    Message {
        method: "POST",
        scheme: "http",
        authority: "Example.com:80",
        path: "/foo",
        query: Some("param=Value&Pet=dog"),
        absolute: None,
        headers,
        has_body: true,
    }
}

fn parsed(input: &str) -> InnerList {
    let text = format!("x={input}");
    let parsed: Dictionary = Parser::new(&text).parse().unwrap();
    let Some(ListEntry::InnerList(list)) = parsed.get("x") else { panic!("{input}") };
    list.clone()
}

/// A request as its signer makes it.
struct Signer {
    key: Ed25519KeyPair,
    headers: HeaderMap,
}

impl Signer {
    fn new() -> Self {
        Self { key: Ed25519KeyPair::generate().unwrap(), headers: headers(&FIELDS) }
    }

    fn keys(&self) -> [NamedKey; 1] {
        let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
            self.key.public_key(),
        );
        [NamedKey { id: "k".to_owned(), key: Key::public(der.unwrap().as_ref(), None).unwrap() }]
    }

    /// Signs `message`, but for its headers, under the label `s`.
    fn sign(&mut self, input: &str, message: &Message<'_>) {
        let message = Message { headers: &self.headers, ..*message };
        let base = base::of(&parsed(input), &message).unwrap();
        let signature = self.key.sign(&base);
        let mut list = sfv::ListSerializer::new();
        list.bare_item(signature.as_ref());
        let value = |text: String| HeaderValue::from_str(&text).unwrap();
        self.headers.insert(SIGNATURE_INPUT, value(format!("s={input}")));
        self.headers.insert(SIGNATURE, value(format!("s={}", list.finish().unwrap())));
    }
}

/// What a signature over `input`, made for `message`, is worth under `wanted` at `NOW`.
fn verdict(
    input: &str,
    message: &Message<'_>,
    wanted: &Requirements,
) -> Result<Option<Verified>, Fault> {
    let mut signer = Signer::new();
    signer.sign(input, message);
    check(&signer.keys(), wanted, &Message { headers: &signer.headers, ..*message }, NOW)
}

const ALL: &str = r#""@method" "@authority" "@path" "@query" "content-digest""#;

fn wanted() -> Requirements {
    Requirements { tolerance_seconds: 300, ..Requirements::default() }
}

#[test]
fn whatever_could_be_changed_is_covered() {
    let none = HeaderMap::new();
    let post = request(&none);
    let get = Message { method: "GET", query: None, has_body: false, ..post };
    for (components, message, enough) in [
        (ALL, post, true),
        (r#""@method" "@target-uri" "content-digest""#, post, true),
        (r#""@method" "@authority" "@request-target" "content-digest";sf"#, post, true),
        (r#""@method" "@target-uri" "content-digest";key="sha-512""#, post, false),
        (r#""@method" "@authority" "@path" "content-digest""#, post, false),
        (r#""@method" "@path" "@query" "content-digest""#, post, false),
        (r#""@authority" "@path" "@query" "content-digest""#, post, false),
        (r#""@method" "@authority" "@path" "@query""#, post, false),
        (r#""@method" "@authority" "@path""#, get, true),
        (r#""@method" "@target-uri""#, get, true),
        (r#""@method" "@target-uri""#, Message { has_body: true, ..get }, false),
    ] {
        let input = format!(r#"({components});created={NOW};keyid="k""#);
        let found = verdict(&input, &message, &wanted());
        assert_eq!(matches!(found, Ok(Some(_))), enough, "{components}: {found:?}");
    }
    let input = format!(r#"({ALL});created={NOW};keyid="k""#);
    let strict = Requirements { components: vec!["content-type".to_owned()], ..wanted() };
    assert_eq!(verdict(&input, &post, &strict), Err(Fault::Invalid));
    let input = format!(r#"({ALL} "content-type");created={NOW};keyid="k""#);
    assert!(verdict(&input, &post, &strict).is_ok());
}

#[test]
fn times_bound_a_signature_on_both_sides() {
    let none = HeaderMap::new();
    let post = request(&none);
    for (parameters, expected) in [
        (format!("created={}", NOW - 300), None),
        (format!("created={}", NOW - 301), Some(Fault::Expired)),
        (format!("created={}", NOW + MAX_AHEAD_SECONDS), None),
        (format!("created={}", NOW + MAX_AHEAD_SECONDS + 1), Some(Fault::Expired)),
        (format!("created={NOW};expires={}", NOW + 1), None),
        (format!("created={NOW};expires={NOW}"), Some(Fault::Expired)),
        (format!("expires={}", NOW + 1), Some(Fault::Invalid)),
        ("created=-1".to_owned(), Some(Fault::Invalid)),
        (format!("created=\"{NOW}\""), Some(Fault::Invalid)),
        (format!("created={NOW}.0"), Some(Fault::Invalid)),
        (format!("created={NOW};alg=\"ed25519\""), None),
        (format!("created={NOW};alg=\"hmac-sha256\""), Some(Fault::Invalid)),
        (format!("created={NOW};nonce=1"), Some(Fault::Invalid)),
        (format!("created={NOW};nonce=\"n\";tag=\"t\""), None),
    ] {
        let input = format!(r#"({ALL});{parameters};keyid="k""#);
        assert_eq!(verdict(&input, &post, &wanted()).err(), expected, "{parameters}");
    }
}

#[test]
fn one_signature_counts_and_no_key_but_its_own_verifies_it() {
    let none = HeaderMap::new();
    let post = request(&none);
    let mut signer = Signer::new();
    signer.sign(&format!(r#"({ALL});created={NOW};keyid="k";tag="t""#), &post);
    let good = signer.headers.clone();
    let keys = signer.keys();
    let tagged = |tag: &str| Requirements { tag: Some(tag.to_owned()), ..wanted() };
    let check = |headers: &HeaderMap, wanted: &Requirements| {
        check(&keys, wanted, &Message { headers, ..post }, NOW)
    };
    let first = check(&good, &wanted()).unwrap().unwrap();
    assert!(check(&good, &tagged("t")).is_ok());
    assert_eq!(check(&good, &tagged("u")), Err(Fault::Invalid));

    // Another signature, by somebody unknown, changes nothing; one more by the same key does.
    let mut two = good.clone();
    two.append(SIGNATURE_INPUT, HeaderValue::from_static("p=();keyid=\"proxy\""));
    two.append(SIGNATURE, HeaderValue::from_static("p=:AA==:"));
    assert_eq!(check(&two, &wanted()), Ok(Some(first)));
    two.append(SIGNATURE_INPUT, HeaderValue::from_static("q=();keyid=\"k\""));
    assert_eq!(check(&two, &wanted()), Err(Fault::Invalid));

    for (name, value) in [
        (SIGNATURE_INPUT, "s"),
        (SIGNATURE_INPUT, "s=1"),
        (SIGNATURE_INPUT, ""),
        (SIGNATURE_INPUT, "s=()"),
        (SIGNATURE_INPUT, "S=()"),
        (SIGNATURE, "s=:AAAA:, s=:AAAA:"),
        (SIGNATURE, ""),
        (SIGNATURE, "s=1"),
        (SIGNATURE, "t=:AAAA:"),
        (SIGNATURE, "s=::"),
    ] {
        let mut bad = good.clone();
        bad.insert(name, HeaderValue::from_static(value));
        assert_eq!(check(&bad, &wanted()), Err(Fault::Invalid), "{value}");
    }
    let mut bad = good.clone();
    bad.remove(SIGNATURE);
    assert_eq!(check(&bad, &wanted()), Err(Fault::Invalid));
    // Every covered part that is changed makes it wrong, and nothing else does.
    for changed in [
        Message { method: "PUT", ..post },
        Message { authority: "other.com", ..post },
        Message { path: "/Foo", ..post },
        Message { query: Some("param=Value&Pet=dog&"), ..post },
    ] {
        let found = super::check(&keys, &wanted(), &Message { headers: &good, ..changed }, NOW);
        assert_eq!(found, Err(Fault::Invalid));
    }
    let mut other = good.clone();
    other.append(CONTENT_DIGEST, HeaderValue::from_static("sha-256=:AAAA:"));
    assert_eq!(check(&other, &wanted()), Err(Fault::Invalid));
    other.clone_from(&good);
    other.append("x-other", HeaderValue::from_static("1"));
    assert_eq!(check(&other, &wanted()), Ok(Some(first)));
    assert_eq!(
        super::check(&Signer::new().keys(), &wanted(), &Message { headers: &good, ..post }, NOW),
        Err(Fault::Invalid)
    );
}

#[test]
fn components_mean_what_the_standard_says() {
    let headers = headers(&[
        ("x-list", " a "),
        ("x-list", ""),
        ("x-list", "b\tc"),
        ("x-empty", ""),
        ("content-digest", "sha-256=:AAAA:  ,  md5=:AA==:; q=1"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ]);
    let message = Message {
        method: "GET",
        scheme: "https",
        authority: "WWW.Example.com:443",
        path: "/a%2Fb",
        query: Some(
            "var=this%20is%20a%20big%0Amultiline%20value&bar=with+plus+whitespace&fa%C3%A7ade%22%3A%20=something&two=1&two=2&none",
        ),
        absolute: None,
        headers: &headers,
        has_body: false,
    };
    let value = |component: &str| {
        let base = base::of(&parsed(&format!("({component})")), &message)?;
        let text = String::from_utf8(base).unwrap();
        let line = text.lines().next().unwrap().to_owned();
        Some(line.strip_prefix(component).unwrap().strip_prefix(": ").unwrap().to_owned())
    };
    let query = message.query.unwrap();
    for (component, expected) in [
        (r#""@method""#, "GET"),
        (r#""@scheme""#, "https"),
        (r#""@authority""#, "www.example.com"),
        (r#""@path""#, "/a%2Fb"),
        (r#""@query""#, &*format!("?{query}")),
        (r#""@request-target""#, &*format!("/a%2Fb?{query}")),
        (r#""@target-uri""#, &*format!("https://www.example.com/a%2Fb?{query}")),
        // RFC 9421, 2.2.8.
        (r#""@query-param";name="var""#, "this%20is%20a%20big%0Amultiline%20value"),
        (r#""@query-param";name="bar""#, "with%20plus%20whitespace"),
        (r#""@query-param";name="fa%C3%A7ade%22%3A%20""#, "something"),
        (r#""@query-param";name="none""#, ""),
        (r#""x-list""#, "a, , b\tc"),
        (r#""x-list";bs"#, ":YQ==:, ::, :Ygljw==:"),
        (r#""x-empty""#, ""),
        (r#""cookie""#, "a=1; b=2"),
        (r#""content-digest";sf"#, "sha-256=:AAAA:, md5=:AA==:;q=1"),
        (r#""content-digest";key="md5""#, ":AA==:;q=1"),
    ] {
        let expected = expected.replace(":Ygljw==:", ":Yglj:");
        assert_eq!(value(component).as_deref(), Some(&*expected), "{component}");
    }
    for impossible in [
        r#""@query-param";name="two""#,
        r#""@query-param";name="absent""#,
        r#""@query-param""#,
        r#""@status""#,
        r#""@signature-params""#,
        r#""@method";req"#,
        r#""x-absent""#,
        r#""x-list";sf"#,
        r#""x-list";tr"#,
        r#""x-list";key="a""#,
        r#""content-digest";key="sha-512""#,
        r#""content-digest";sf;bs"#,
        r#""X-List""#,
        r"x-list",
        r#""@method" "@method""#,
    ] {
        assert_eq!(base::of(&parsed(&format!("({impossible})")), &message), None, "{impossible}");
    }
}

#[test]
fn a_key_has_one_algorithm() {
    let der = |pem: &str| SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).unwrap();
    let algorithm =
        |pem: &str, wanted: Option<&str>| Key::public(&der(pem), wanted).map(|key| key.algorithm());
    assert_eq!(algorithm(RSA, Some("rsa-v1_5-sha256")), Ok("rsa-v1_5-sha256"));
    assert_eq!(algorithm(ED25519, Some("ed25519")), Ok("ed25519"));
    for (pem, wanted) in [
        (RSA, "hmac-sha256"),
        (RSA, "ed25519"),
        (P256, "ecdsa-p384-sha384"),
        (P256, "rsa-pss-sha512"),
        (ED25519, "none"),
    ] {
        assert_eq!(algorithm(pem, Some(wanted)), Err(KeyError::Algorithm), "{wanted}");
    }
    assert!(matches!(Key::public(b"0", None), Err(KeyError::Public)));
    assert!(matches!(Key::public(&[4; 65], None), Err(KeyError::Public)));
    assert!(matches!(Key::public(&[7; 32], None), Err(KeyError::Public)));
    assert!(matches!(Key::shared(P256.as_bytes()), Err(KeyError::Secret)));
    assert!(matches!(Key::shared(b"short"), Err(KeyError::Secret)));
    assert_eq!(format!("{:?}", Key::shared(&[77; 16]).unwrap()), "Key(\"hmac-sha256\")");

    let random = SystemRandom::new();
    for (signing, name) in [
        (&ECDSA_P256_SHA256_FIXED_SIGNING, "ecdsa-p256-sha256"),
        (&ECDSA_P384_SHA384_FIXED_SIGNING, "ecdsa-p384-sha384"),
    ] {
        let pair = EcdsaKeyPair::generate(signing).unwrap();
        let der = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
            pair.public_key(),
        );
        let key = Key::public(der.unwrap().as_ref(), None).unwrap();
        assert_eq!(key.algorithm(), name);
        let signature = pair.sign(&random, b"message").unwrap();
        assert!(key.verifies(b"message", signature.as_ref()));
        assert!(!key.verifies(b"messagE", signature.as_ref()));
    }
}
