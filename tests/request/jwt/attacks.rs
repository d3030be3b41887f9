//! Tokens that nobody should accept, made with everything that an attacker can have: the public
//! keys, a valid token, keys of his own. Every one is refused, and nothing of it goes upstream.

use limiter_tests::{
    http,
    tokens::{Signer, base64url},
    wait::eventually,
};
use serde_json::{Value, json};

use super::{ROUTE, Scene, claims, now};
use crate::support::SOON;

/// What is tried, with what it is.
type Attempts = Vec<(String, String)>;

/// Everything that is tried.
fn attempts(rsa: &Signer, ec: &Signer) -> Attempts {
    let mut all = Attempts::new();
    unsigned(rsa, ec, &mut |what, token| all.push((what.to_owned(), token)));
    confused(rsa, ec, &mut |what, token| all.push((what.to_owned(), token)));
    keys_of_his_own(rsa, &mut |what, token| all.push((what.to_owned(), token)));
    ambiguous(rsa, &mut |what, token| all.push((what.to_owned(), token)));
    spelled_otherwise(rsa, &mut |what, token| all.push((what.to_owned(), token)));
    all
}

/// No signature, under every name of it, and signatures of nothing.
fn unsigned(rsa: &Signer, ec: &Signer, add: &mut dyn FnMut(&str, String)) {
    let plain = claims(&json!({}));
    let payload = base64url(plain.to_string().as_bytes());
    for none in ["none", "None", "NONE", "nOnE", "", "null"] {
        let header = base64url(json!({ "alg": none, "kid": "rsa" }).to_string().as_bytes());
        add(&format!("alg {none:?}, no signature"), format!("{header}.{payload}."));
        let signature = base64url(&rsa.sign("RS256", format!("{header}.{payload}").as_bytes()));
        add(&format!("alg {none:?}, signed"), format!("{header}.{payload}.{signature}"));
    }
    let good = rsa.token("rsa", &plain);
    let (signed, _) = good.rsplit_once('.').unwrap();
    add("its signature cut off", format!("{signed}."));
    add("its last part cut off", signed.to_owned());
    add("a signature of zeros", format!("{signed}.{}", base64url(&[0; 256])));
    add(
        "an empty signature of ES256",
        format!("{}.", ec.token("ec", &plain).rsplit_once('.').unwrap().0),
    );
    add("zeros as ES256", swap(&ec.token("ec", &plain), &[0; 64]));
    add("one and zero as ES256", {
        let mut signature = [0; 64];
        (signature[31], signature[63]) = (1, 1);
        swap(&ec.token("ec", &plain), &signature)
    });
}

/// What is public as the secret of an HMAC, and another algorithm than the key's, or one that is
/// not allowed.
fn confused(rsa: &Signer, ec: &Signer, add: &mut dyn FnMut(&str, String)) {
    let plain = claims(&json!({}));
    let secrets: Vec<Vec<u8>> = vec![
        rsa.pem().into_bytes(),
        rsa.pem().trim().as_bytes().to_vec(),
        rsa.pem().replace('\n', "").into_bytes(),
        limiter_user::credentials::base64url::decode(
            rsa.jwk("rsa")["n"].as_str().unwrap().as_bytes(),
        )
        .unwrap(),
        rsa.jwk("rsa")["n"].as_str().unwrap().as_bytes().to_vec(),
        rsa.jwk("rsa").to_string().into_bytes(),
        ec.pem().into_bytes(),
        Vec::new(),
        b"secret".to_vec(),
        vec![0; 32],
    ];
    for secret in secrets {
        for algorithm in ["HS256", "HS384", "HS512"] {
            for kid in ["rsa", "ec"] {
                let header = json!({ "alg": algorithm, "kid": kid });
                let token = Signer::Secret(secret.clone()).token_with(&header, &plain);
                add(&format!("{algorithm} by {}", secret.escape_ascii()), token);
            }
        }
    }
    for (algorithm, kid) in [
        ("PS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("ES256", "rsa"),
        ("EdDSA", "rsa"),
        ("RS256", "ec"),
        ("rs256", "rsa"),
        ("RS256 ", "rsa"),
        ("ES256K", "ec"),
        ("ES384", "ec"),
        ("RSA1_5", "rsa"),
    ] {
        let header = json!({ "alg": algorithm, "kid": kid });
        add(&format!("{algorithm} for {kid}"), rsa.token_with(&header, &plain));
        add(&format!("{algorithm} for {kid} by EC"), ec.token_with(&header, &plain));
    }
}

/// Keys that come along, or are fetched from where the token says, and names of keys as paths,
/// queries and commands.
fn keys_of_his_own(rsa: &Signer, add: &mut dyn FnMut(&str, String)) {
    let mine = Signer::rsa();
    let plain = claims(&json!({}));
    let own = mine.jwk("mine");
    for header in [
        json!({ "alg": "RS256", "jwk": own }),
        json!({ "alg": "RS256", "kid": "rsa", "jwk": own }),
        json!({ "alg": "RS256", "kid": "mine", "jwk": own }),
        json!({ "alg": "RS256", "jku": "http://127.0.0.1:8080/keys", "kid": "mine" }),
        json!({ "alg": "RS256", "x5u": "http://127.0.0.1:8080/keys" }),
        json!({ "alg": "RS256", "x5c": [base64url(b"certificate")] }),
        json!({ "alg": "RS256", "kid": "rsa", "x5t": "AAAA" }),
    ] {
        add(&format!("own key in {header}"), mine.token_with(&header, &plain));
    }
    for kid in [
        "../../../../dev/null",
        "/dev/null",
        "' UNION SELECT 'x",
        "rsa' OR '1'='1",
        "$(id)",
        "rsa\0",
        " rsa",
        "RSA",
        "",
        "*",
        "rsa\n",
        "\u{202e}asr",
    ] {
        let header = json!({ "alg": "RS256", "kid": kid });
        add(&format!("kid {kid:?}"), mine.token_with(&header, &plain));
        let header = json!({ "alg": "HS256", "kid": kid });
        add(&format!("kid {kid:?} HMAC"), Signer::Secret(Vec::new()).token_with(&header, &plain));
    }
    for kid in
        [json!(1), json!(null), json!(["rsa"]), json!({ "kid": "rsa" }), json!("k".repeat(300))]
    {
        let header = json!({ "alg": "RS256", "kid": kid });
        add(&format!("kid {kid}"), rsa.token_with(&header, &plain));
    }
    add("by a key of his own", mine.token("rsa", &plain));
    add("by a key of his own, no kid", mine.token_with(&json!({ "alg": "RS256" }), &plain));
}

/// Headers and claims that mean two things, or something that is not understood, or not this.
fn ambiguous(rsa: &Signer, add: &mut dyn FnMut(&str, String)) {
    let plain = claims(&json!({}));
    let text = plain.to_string();
    for header in [
        r#"{"alg":"none","alg":"RS256","kid":"rsa"}"#,
        r#"{"alg":"RS256","alg":"RS256","kid":"rsa"}"#,
        r#"{"alg":"RS256","kid":"other","kid":"rsa"}"#,
        r#"{"alg":"RS256","kid":"rsa","crit":["exp"]}"#,
        r#"{"alg":"RS256","kid":"rsa","crit":["b64"],"b64":true}"#,
        r#"{"alg":"RS256","kid":"rsa","crit":[]}"#,
        r#"{"alg":"RS256","kid":"rsa","b64":false}"#,
        r#"{"alg":"RS256","kid":"rsa","zip":"DEF"}"#,
        r#"{"alg":"RS256","kid":"rsa","enc":"A256GCM"}"#,
        r#"{"alg":"RS256","kid":"rsa","cty":"JWT"}"#,
        r#"{"alg":"RS256","kid":"rsa","typ":"logout+jwt"}"#,
        r#"{"alg":"RS256","kid":"rsa","typ":"secevent+jwt"}"#,
        r#"{"alg":"RS256","kid":"rsa","typ":"dpop+jwt"}"#,
        r#" {"alg":"RS256","kid":"rsa"}x"#,
        r#"{"alg":"RS256","kid":"rsa"}{}"#,
        r#"[{"alg":"RS256","kid":"rsa"}]"#,
        "{\"alg\":\"RS256\",\"kid\":\"rsa\"}\0",
        "\u{feff}{\"alg\":\"RS256\",\"kid\":\"rsa\"}",
    ] {
        add(header, rsa.token_of(header, &text));
    }
    for claims in [
        text.replacen('{', r#"{"sub":"root","#, 1),
        text.replacen('{', r#"{"\u0073ub":"root","#, 1),
        text.replacen('{', r#"{"exp":99999999999,"#, 1),
        format!("[{text}]"),
        format!("{text}{text}"),
        String::new(),
        "null".to_owned(),
        "{".repeat(2000),
        format!("{{\"a\":{}1{},{}", "[".repeat(100), "]".repeat(100), &text[1..]),
    ] {
        add(&claims, rsa.token_of(r#"{"alg":"RS256","kid":"rsa"}"#, &claims));
    }
    for changes in wrong_claims() {
        add(&changes.to_string(), rsa.token("rsa", &claims(&changes)));
    }
}

/// A good token, spelled otherwise or put together anew.
fn spelled_otherwise(rsa: &Signer, add: &mut dyn FnMut(&str, String)) {
    let plain = claims(&json!({}));
    let payload = base64url(plain.to_string().as_bytes());
    let good = rsa.token("rsa", &plain);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    for other in [
        format!("{good}="),
        format!("{good}=="),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{good}"),
        format!("{good},{good}"),
        format!("{good}\t{good}"),
        format!("{signed}.{signature}A"),
        format!("{signed}.{}", &signature[..signature.len() - 1]),
        format!("{signed}.{signature}%3D"),
        good.replacen('.', "%2E", 1),
        good.replacen('.', "=.", 1),
        good.replacen('.', "..", 1),
        good.to_lowercase(),
        last_bits(&good),
        format!("{}{good}", "A".repeat(8200)),
        format!("\"{good}\""),
    ] {
        add("another spelling", other);
    }
    let standard = rsa.token("rsa", &claims(&json!({ "x": "\u{3ff}\u{3ff}~~~???>>>" })));
    if standard.contains(['-', '_']) {
        add("the other alphabet", standard.replace('-', "+").replace('_', "/"));
    }
    // JSON serialisation instead of the compact one.
    let (header, _) = signed.split_once('.').unwrap();
    let flat = json!({ "protected": header, "payload": payload, "signature": signature });
    add("JSON serialisation", flat.to_string());
    add("JSON serialisation, encoded", base64url(flat.to_string().as_bytes()));
    // Five parts, as an encrypted one has.
    add("five parts", format!("{header}.{payload}.{payload}.{payload}.{signature}"));
    // One token's claims with another's signature.
    let root = rsa.token("rsa", &claims(&json!({ "sub": "bob" })));
    add("another's signature", format!("{signed}.{}", root.rsplit('.').next().unwrap()));
}

fn wrong_claims() -> Vec<Value> {
    vec![
        json!({ "iss": null }),
        json!({ "iss": "https://id.test/" }),
        json!({ "iss": "HTTPS://ID.TEST" }),
        json!({ "iss": "https://id.test.evil.test" }),
        json!({ "iss": ["https://id.test"] }),
        json!({ "aud": null }),
        json!({ "aud": "other" }),
        json!({ "aud": "API" }),
        json!({ "aud": "api2" }),
        json!({ "aud": [] }),
        json!({ "aud": ["other"] }),
        json!({ "aud": { "api": 1 } }),
        json!({ "aud": [["api"]] }),
        json!({ "exp": null }),
        json!({ "exp": "99999999999" }),
        json!({ "exp": true }),
        json!({ "exp": -1 }),
        json!({ "exp": 1e300 }),
        json!({ "exp": now() - 61 }),
        json!({ "exp": 0 }),
        json!({ "nbf": now() + 300 }),
        json!({ "nbf": "0" }),
        json!({ "iat": now() + 300 }),
        json!({ "sub": null }),
        json!({ "sub": "" }),
        json!({ "sub": 1 }),
        json!({ "sub": " alice" }),
        json!({ "sub": "alice\r\nX-Auth-Tier: internal" }),
        json!({ "sub": "al\u{0}ice" }),
        json!({ "sub": "al\u{ef}ce" }),
        json!({ "jti": 1 }),
        json!({ "scope": 1 }),
        json!({ "scope": "a\r\nb" }),
        json!({ "cnf": { "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" } }),
        json!({ "cnf": { "x5t#S256": base64url(&[7; 32]) } }),
        json!({ "cnf": { "x5t#S256": base64url(&[7; 32]), "jkt": "x" } }),
        json!({ "cnf": {} }),
        json!({ "cnf": null, "sub": null }),
    ]
}

/// The token with another signature.
fn swap(token: &str, signature: &[u8]) -> String {
    format!("{}.{}", token.rsplit_once('.').unwrap().0, base64url(signature))
}

/// The same bytes, by another last character: 256 bytes leave two bits unused.
fn last_bits(token: &str) -> String {
    let (front, last) = token.split_at(token.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).unwrap();
    format!("{front}{}", alphabet.chars().nth(place + 1).unwrap())
}

#[test]
fn every_forged_token_is_refused() {
    let scene = Scene::start(ROUTE, "");
    let ec = Signer::p256();
    let rsa = &scene.rsa;
    let mut bound = rsa.jwk("rsa");
    bound["alg"] = "RS256".into();
    scene.publish(&[bound, ec.jwk("ec"), Signer::Secret(vec![7; 32]).jwk("oct")]);
    let good = ec.token("ec", &claims(&json!({})));
    eventually(SOON * 3, "the keys", || scene.status(&good) == 200);
    scene.site.origin.take();
    let all = attempts(rsa, &ec);
    assert!(all.len() > 220, "{}", all.len());
    for (number, (what, token)) in all.iter().enumerate() {
        // Each from an address of its own, whose budget is whole.
        let source = format!("127.7.{}.{}", number / 250, number % 250 + 1);
        let bearer = format!("Bearer {token}");
        let request = http::request("GET", "/", &[("Authorization", &bearer)], b"");
        let response = scene.site.namespace.run(|| {
            http::exchange_from(source.parse().unwrap(), crate::support::Site::address(), &request)
        });
        let status = response.unwrap_or_else(|failure| panic!("{what}: {failure}")).status;
        assert!([400, 401, 431].contains(&status), "{status} for {what}: {token}");
    }
    assert_eq!(scene.site.origin.count(), 0, "nothing of it went on");
    assert_eq!(scene.status(&good), 200);
    assert_eq!(scene.status(&rsa.token("rsa", &claims(&json!({})))), 200);
}
