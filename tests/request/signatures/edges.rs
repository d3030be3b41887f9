//! What a signature grants, and what is beside it: bodies that it says nothing of, trailers, other
//! forms of the same target.

use std::{thread, time::Duration};

use limiter_tests::http;

use super::{Message, ROUTE, SECTIONS, base64, start};
use crate::{support::SOON, webhooks::now};

#[test]
fn what_a_key_is_granted_is_what_its_holder_may() {
    let route = "auth = [\"message\"]\nscopes = [\"write\"]\nlimits = [\"tiers\"]";
    let sections = format!(
        "{SECTIONS}[limits.tiers]\nkey = [\"principal\"]\n\
         tiers = {{ gold = \"2/h\", authenticated = \"1/h\" }}\n"
    );
    let (site, mut signer) = start("", route, &sections);
    let mut next = |site: &crate::support::Site| {
        site.send(&signer.sign("GET", "/", b"", now()).request("GET", "/", b"")).status
    };
    assert_eq!([next(&site), next(&site), next(&site)], [200, 200, 429], "as the tier says");
    site.reload("", &route.replace("write", "admin"), &sections);
    assert_eq!(next(&site), 403);
    site.refused("forbidden_scope", 1);
}

#[test]
fn a_body_too_large_for_the_route_uses_nothing_up() {
    let (site, mut signer) =
        start("max_inspected_body = \"1KB\"", &format!("max_body = \"2KB\"\n{ROUTE}"), SECTIONS);
    let body = vec![b'x'; 3000];
    let message = signer.sign("POST", "/", &body, now());
    for _ in 0..3 {
        assert_eq!(site.send(&message.request("POST", "/", &body)).status, 413);
    }
    site.refused("body_too_large", 3);
}

/// As HTTP/1 has a body in chunks, with these trailers.
fn chunked(message: &Message, body: &[u8], trailers: &[(&str, &str)]) -> Vec<u8> {
    let names: Vec<&str> = trailers.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    let fields = message.fields(&[("Transfer-Encoding", "chunked"), ("Trailer", &names)]);
    let mut request = http::request("POST", "/", &fields, b"");
    let chunks = http::chunked(&[body]);
    // Without the empty line.
    request.extend(chunks.strip_suffix(b"\r\n").unwrap());
    for (name, value) in trailers {
        request.extend(format!("{name}: {value}\r\n").as_bytes());
    }
    request.extend(b"\r\n");
    request
}

#[test]
fn trailers_sign_nothing_and_say_nothing_of_the_signature() {
    // What is collected goes on without trailers.
    let (site, mut signer) = start("max_inspected_body = \"1KB\"", ROUTE, SECTIONS);
    let body = [b'x'; 3000];
    let whole = signer.sign("POST", "/", &body, now());
    // A body that only its trailers speak of is not signed.
    let short = signer.sign("POST", "/", b"{}", now());
    let digest = short.digest.clone().unwrap();
    let bare = signer.sign("POST", "/", b"", now());
    assert_eq!(site.send(&chunked(&bare, b"{}", &[("Content-Digest", &digest)])).status, 401);
    let without = Message { digest: None, ..short };
    assert_eq!(site.send(&chunked(&without, b"{}", &[("Content-Digest", &digest)])).status, 401);
    site.refused("invalid_credential", 2);
    assert_eq!(site.origin.count(), 0);

    let beside = [
        ("Content-Digest", "sha-256=:AAAA:"),
        ("content_digest", "sha-256=:AAAA:"),
        ("Signature", "s=:AAAA:"),
        ("signature_input", "s=()"),
        ("X-Checksum", "1"),
    ];
    assert_eq!(site.send(&chunked(&whole, &body, &beside)).status, 200);
    let seen = site.origin.take_one(SOON);
    let trailers = seen.raw_body.escape_ascii().to_string();
    assert!(trailers.contains("x-checksum: 1"), "{trailers}");
    assert!(!trailers.contains("AAAA") && !trailers.contains("s=()"), "{trailers}");
    assert_eq!(seen.body, body);
    assert_eq!(seen.header_values("content-digest"), [whole.digest.unwrap()]);
}

#[test]
fn another_form_of_the_target_is_another_request_target() {
    let (site, signer) = start("", ROUTE, SECTIONS);
    let sign = |target: &str, nonce: &str| {
        let input = format!(
            "(\"@method\" \"@authority\" \"@request-target\");created={};nonce=\"{nonce}\";keyid=\"k1\"",
            now()
        );
        let base = format!(
            "\"@method\": GET\n\"@authority\": test\n\"@request-target\": {target}\n\
             \"@signature-params\": {input}"
        );
        let signature = base64(signer.key.sign(base.as_bytes()).as_ref());
        Message { input: format!("s={input}"), signature: format!("s=:{signature}:"), digest: None }
    };
    for (signed, sent, status) in [
        ("/a?x=1", "/a?x=1", 200),
        ("http://test/a?x=1", "http://test/a?x=1", 200),
        ("/a?x=1", "http://test/a?x=1", 401),
        ("http://test/a?x=1", "/a?x=1", 401),
        ("http://test/a", "http://test:80/a", 401),
    ] {
        let message = sign(signed, &format!("{signed} {sent}"));
        let request = message.request("GET", sent, b"");
        assert_eq!(site.send(&request).status, status, "{signed} {sent}");
    }
}

#[test]
fn what_one_scheme_finds_too_old_another_may_take() {
    let sections = format!(
        "[auth.strict]\nkind = \"signature\"\ntolerance = \"1s\"\n\
         keys = {{ k1 = {{ file = \"k1.pem\" }} }}\n{SECTIONS}"
    );
    let (site, mut signer) = start("", &ROUTE.replace('[', "[\"strict\", "), &sections);
    let message = signer.sign("GET", "/", b"", now());
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(site.send(&message.request("GET", "/", b"")).status, 200);
    let seen = site.origin.take_one(SOON);
    assert_eq!(seen.header("x-auth-scheme").as_deref(), Some("message"));
    assert_eq!(site.send(&message.request("GET", "/", b"")).status, 401);
    site.refused("replayed", 1);
}
