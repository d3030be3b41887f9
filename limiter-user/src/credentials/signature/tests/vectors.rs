//! The request vectors of RFC 9421, B.2.

use http::HeaderValue;
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject as _};
use sfv::BareItem;

use super::*;

/// RFC 9421, B.1: keys of the examples.
pub(super) const RSA: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2
+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+
oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHq
gDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5W
Utzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4
aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI
2wIDAQAB
-----END PUBLIC KEY-----
";
pub(super) const P256: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lf
w0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==
-----END PUBLIC KEY-----
";
pub(super) const ED25519: &str = "-----BEGIN PUBLIC KEY-----
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
