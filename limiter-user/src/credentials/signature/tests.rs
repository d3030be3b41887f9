//! The request vectors of RFC 9421, B.2, and what a signature has to be like beyond being right.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _,
    },
};
use http::HeaderValue;
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use sfv::BareItem;

use super::*;

/// RFC 9421, B.1: keys of the examples.
const RSA: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
2wIDAQAB
-----END PUBLIC KEY-----
";
const P256: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf
w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==
-----END PUBLIC KEY-----
";
const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
-----END PUBLIC KEY-----
";
/// Base64.
const SHARED: &str =
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";

/// Key, algorithm, label, what is covered, signature, base.
const VECTORS: [(&str, &str, &str, &str, &str, &str); 5] = [
    (
        "test-key-rsa-pss",
        "rsa-pss-sha512",
        "sig-b21",
        r#"();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd""#,
        "d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==",
        r#""@signature-params": ();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd""#,
    ),
    (
        "test-key-rsa-pss",
        "rsa-pss-sha512",
        "sig-b22",
        r#"("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example""#,
        "LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTugEjHSw==",
        r#""@authority": example.com
"content-digest": sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:
"@query-param";name="Pet": dog
"@signature-params": ("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example""#,
    ),
    (
        "test-key-rsa-pss",
        "rsa-pss-sha512",
        "sig-b23",
        r#"("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss""#,
        "bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==",
        r#""date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@query": ?param=Value&Pet=dog
"@authority": example.com
"content-type": application/json
"content-digest": sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss""#,
    ),
    (
        "test-shared-secret",
        "hmac-sha256",
        "sig-b25",
        r#"("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#,
        "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=",
        r#""date": Tue, 20 Apr 2021 02:07:55 GMT
"@authority": example.com
"content-type": application/json
"@signature-params": ("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#,
    ),
    (
        "test-key-ed25519",
        "ed25519",
        "sig-b26",
        r#"("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#,
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==",
        r#""date": Tue, 20 Apr 2021 02:07:55 GMT
"@method": POST
"@path": /foo
"@authority": example.com
"content-type": application/json
"content-length": 18
"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#,
    ),
];

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
        headers,
        has_body: true,
    }
}

fn public(pem: &str) -> Key {
    Key::public(&SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).unwrap(), None).unwrap()
}

fn published(id: &str) -> Key {
    match id {
        "test-key-rsa-pss" => public(RSA),
        "test-key-ecc-p256" => public(P256),
        "test-key-ed25519" => public(ED25519),
        _ => {
            let encoded = format!(":{SHARED}:");
            let item: Item = Parser::new(&encoded).parse().unwrap();
            let BareItem::ByteSequence(secret) = item.bare_item else { panic!("{encoded}") };
            Key::shared(&secret).unwrap()
        }
    }
}

fn parsed(input: &str) -> InnerList {
    let text = format!("x={input}");
    let parsed: Dictionary = Parser::new(&text).parse().unwrap();
    let Some(ListEntry::InnerList(list)) = parsed.get("x") else { panic!("{input}") };
    list.clone()
}

#[test]
fn the_published_signatures_are_verified_over_the_published_bases() {
    for (id, algorithm, label, input, signature, expected) in VECTORS {
        let key = published(id);
        assert_eq!(key.algorithm(), algorithm);
        let headers = headers(&FIELDS);
        let base = base::of(&parsed(input), &request(&headers)).unwrap();
        assert_eq!(String::from_utf8(base.clone()).unwrap(), expected, "{label}");
        let encoded = format!(":{signature}:");
        let item: Item = Parser::new(&encoded).parse().unwrap();
        let BareItem::ByteSequence(mut bytes) = item.bare_item else { panic!("{label}") };
        assert!(key.verifies(&base, &bytes), "{label}");
        assert!(!key.verifies(&base[1..], &bytes), "{label}");
        bytes[7] ^= 1;
        assert!(!key.verifies(&base, &bytes), "{label}");
    }
}

#[test]
fn of_the_published_requests_those_pass_that_cover_enough() {
    let wanted = Requirements { tolerance_seconds: 300, ..Requirements::default() };
    for (id, _, label, input, signature, _) in VECTORS {
        let mut headers = headers(&FIELDS);
        let value = |text: String| HeaderValue::from_str(&text).unwrap();
        headers.append(SIGNATURE_INPUT, value(format!("{label}={input}")));
        headers.append(SIGNATURE, value(format!("{label}=:{signature}:")));
        let keys = [NamedKey { id: id.to_owned(), key: published(id) }];
        let found = check(&keys, &wanted, &request(&headers), NOW);
        if label == "sig-b23" {
            let verified = found.unwrap().unwrap();
            assert!(verified.covers_digest);
            assert_eq!((verified.key, verified.created), (0, NOW));
        } else {
            assert_eq!(found, Err(Fault::Invalid), "{label}");
        }
        headers.remove(SIGNATURE_INPUT);
        assert_eq!(check(&keys, &wanted, &request(&headers), NOW), Ok(None));
    }
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
