//! Signed requests (RFC 9421) by a signer of this file, which knows nothing of the code that
//! verifies: whole bodies, bodies that stream, requests that come again, other people's clients.

mod edges;

use std::{thread, time::Duration};

use aws_lc_rs::{
    digest,
    encoding::AsDer as _,
    encoding::PublicKeyX509Der,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use limiter_tests::{
    http::{self, Response},
    wait::eventually,
};

use crate::{
    edge::Edge,
    support::{SOON, Site},
    webhooks::now,
};

const ROUTE: &str = "auth = [\"message\"]\nlimits = \"none\"";
const SECTIONS: &str = "[auth.message]\nkind = \"signature\"\n\
     keys = { k1 = { file = \"k1.pem\", tier = \"gold\", scopes = [\"write\"] } }\n\
     [escalation]\nenabled = false\n";

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        let word = word << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = usize::try_from(word >> (18 - 6 * place) & 63).unwrap();
            text.push(if place <= group.len() { char::from(DIGITS[digit]) } else { '=' });
        }
    }
    text
}

/// A caller with a key of its own.
struct Signer {
    key: Ed25519KeyPair,
    count: u64,
}

/// A request as it is signed.
struct Message {
    input: String,
    signature: String,
    digest: Option<String>,
}

impl Signer {
    fn new() -> Self {
        Self { key: Ed25519KeyPair::generate().unwrap(), count: 0 }
    }

    fn pem(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.key.public_key().as_der().unwrap();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64(der.as_ref()))
    }

    /// Signs what it is told, at a time, with a nonce of its own.
    fn sign(&mut self, method: &str, target: &str, body: &[u8], created: u64) -> Message {
        self.count += 1;
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        let digest = (!body.is_empty()).then(|| {
            format!("sha-256=:{}:", base64(digest::digest(&digest::SHA256, body).as_ref()))
        });
        let mut names = vec!["\"@method\"", "\"@authority\"", "\"@path\""];
        let mut lines = vec![
            format!("\"@method\": {method}"),
            "\"@authority\": test".to_owned(),
            format!("\"@path\": {path}"),
        ];
        if let Some(query) = query {
            names.push("\"@query\"");
            lines.push(format!("\"@query\": ?{query}"));
        }
        if let Some(digest) = &digest {
            names.push("\"content-digest\"");
            lines.push(format!("\"content-digest\": {digest}"));
        }
        let input = format!(
            "({});created={created};nonce=\"{}\";keyid=\"k1\"",
            names.join(" "),
            self.count
        );
        lines.push(format!("\"@signature-params\": {input}"));
        let signature = base64(self.key.sign(lines.join("\n").as_bytes()).as_ref());
        Message { input: format!("s={input}"), signature: format!("s=:{signature}:"), digest }
    }
}

impl Message {
    fn fields<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut fields =
            vec![("Signature-Input", self.input.as_str()), ("Signature", self.signature.as_str())];
        fields.extend(self.digest.as_deref().map(|digest| ("Content-Digest", digest)));
        fields.extend(more);
        fields
    }

    fn request(&self, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
        http::request(method, target, &self.fields(&[]), body)
    }
}

fn start(http: &str, route: &str, sections: &str) -> (Site, Signer) {
    let mut site = Site::prepare(http, route, sections);
    let signer = Signer::new();
    site.limiter.scratch().write("k1.pem", signer.pem());
    site.limiter.restart();
    (site, signer)
}

#[test]
fn a_signed_request_is_the_one_that_was_signed_and_comes_once() {
    let (site, mut signer) = start("", &format!("scopes = [\"write\"]\n{ROUTE}"), SECTIONS);
    let message = signer.sign("GET", "/a%20b?x=1", b"", now());
    assert_eq!(site.send(&message.request("GET", "/a%20b?x=1", b"")).status, 200);
    let seen = site.origin.take_one(SOON);
    assert_eq!(seen.header("x-auth-subject").as_deref(), Some("k1"));
    assert_eq!(seen.header("x-auth-tier").as_deref(), Some("gold"));
    assert!(seen.header("signature-input").is_some(), "the upstream may verify it too");
    assert_eq!(site.send(&message.request("GET", "/a%20b?x=1", b"")).status, 401);
    site.refused("replayed", 1);

    let message = signer.sign("POST", "/", b"{}", now());
    assert_eq!(site.send(&message.request("POST", "/", b"{}")).status, 200);
    assert_eq!(site.origin.take_one(SOON).body, b"{}");

    // Whatever is changed, or not covered, refuses it.
    let message = signer.sign("POST", "/", b"{}", now());
    let bare = signer.sign("POST", "/", b"", now());
    let other = Signer::new().sign("POST", "/", b"{}", now());
    for request in [
        message.request("PUT", "/", b"{}"),
        message.request("POST", "/?", b"{}"),
        message.request("POST", "/x", b"{}"),
        http::request("POST", "/", &message.fields(&[("Host", "other")]), b"{}"),
        message.request("POST", "/", b"{ }"),
        message.request("POST", "/", b""),
        bare.request("POST", "/", b"{}"),
        other.request("POST", "/", b"{}"),
        http::request("POST", "/", &[("Signature-Input", &message.input)], b"{}"),
        http::request("POST", "/", &[("Signature-Input", "x=("), ("Signature", "")], b"{}"),
    ] {
        let answer = site.send(&request);
        assert_eq!(answer.status, 401, "{}", request.escape_ascii());
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.contains("invalid_token"), "{challenge}");
    }
    site.refused("invalid_credential", 10);
    for created in [now() - 302, now() + 40] {
        let message = signer.sign("GET", "/", b"", created);
        assert_eq!(site.send(&message.request("GET", "/", b"")).status, 401);
    }
    assert_eq!(site.get("/", &[("Signature", "s=:AA==:")]).status, 401);
    site.refused("unauthorized", 3);
    assert_eq!(site.origin.count(), 0);
    // None of these attempts used it up.
    assert_eq!(site.send(&message.request("POST", "/", b"{}")).status, 200);
}

#[test]
fn a_large_body_streams_and_its_end_waits_for_the_digest() {
    let (site, mut signer) = start("max_inspected_body = \"1KB\"", ROUTE, SECTIONS);
    let body: Vec<u8> = (0..300_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let message = signer.sign("POST", "/", &body, now());
    assert_eq!(site.send(&message.request("POST", "/", &body)).status, 200);
    assert_eq!(site.origin.take_one(SOON).body, body);

    // In chunks: nobody knows how long it is.
    let chunked = |message: &Message, parts: &[&[u8]]| {
        let fields = message.fields(&[("Transfer-Encoding", "chunked")]);
        [http::request("POST", "/", &fields, b""), http::chunked(parts)].concat()
    };
    let parts: Vec<&[u8]> = body.chunks(701).collect();
    let message = signer.sign("POST", "/", &body, now());
    assert_eq!(site.send(&chunked(&message, &parts)).status, 200);
    assert_eq!(site.origin.take_one(SOON).body, body);
    let small = signer.sign("POST", "/", b"abcd", now());
    assert_eq!(site.send(&chunked(&small, &[b"ab", b"cd"])).status, 200);
    assert_eq!(site.origin.take_one(SOON).body, b"abcd");

    // It begins to go on before it has come, and never ends if it is another one.
    let mut other = body.clone();
    *other.last_mut().unwrap() ^= 1;
    let message = signer.sign("POST", "/", &body, now());
    let request = message.request("POST", "/", &other);
    let (first, last) = request.split_at(request.len() - 1);
    let mut connection = site.connect();
    connection.send(first).unwrap();
    eventually(SOON, "it goes upstream", || site.origin.open_connections() > 0);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(site.origin.count(), 0);
    connection.send(last).unwrap();
    assert_eq!(connection.response().unwrap().status, 401);
    let mut parts: Vec<&[u8]> = other.chunks(701).collect();
    let message = signer.sign("POST", "/", &body, now());
    assert_eq!(site.send(&chunked(&message, &parts)).status, 401);
    // The right bytes and more of them.
    parts = body.chunks(701).collect();
    parts.push(b"x");
    let message = signer.sign("POST", "/", &body, now());
    assert_eq!(site.send(&chunked(&message, &parts)).status, 401);
    site.refused("invalid_credential", 3);
    for cut in site.origin.take() {
        let is_chunked = cut.header("transfer-encoding").is_some();
        let is_whole = if is_chunked {
            cut.raw_body.ends_with(b"\r\n0\r\n\r\n")
        } else {
            cut.body.len() == body.len()
        };
        assert!(!is_whole, "{} of {}", cut.body.len(), body.len());
    }
    let good = signer.sign("GET", "/", b"", now());
    assert_eq!(site.send(&good.request("GET", "/", b"")).status, 200);
}

#[test]
fn beside_other_schemes_a_wrong_signature_refuses() {
    let route = "auth = [\"keys\", \"message\"]\nlimits = \"none\"";
    let sections =
        format!("[auth.keys]\nkind = \"api_key\"\ntoken = {{ env = \"TEST_TOKEN\" }}\n{SECTIONS}");
    let mut site = Site::prepare("", route, &sections);
    let mut signer = Signer::new();
    site.limiter.scratch().write("k1.pem", signer.pem());
    site.limiter.environment("TEST_TOKEN", "an-example-token-of-some-length");
    site.limiter.restart();
    let key = ("X-API-Key", "an-example-token-of-some-length");
    let send = |message: &Message, more: &[(&str, &str)]| -> Response {
        site.send(&http::request("GET", "/", &message.fields(more), b""))
    };
    assert_eq!(site.get("/", &[key]).status, 200);
    assert_eq!(send(&signer.sign("GET", "/", b"", now()), &[]).status, 200);
    assert_eq!(send(&signer.sign("GET", "/x", b"", now()), &[key]).status, 401);
    assert_eq!(send(&signer.sign("GET", "/", b"", now()), &[("X-API-Key", "lk_no")]).status, 401);
    assert_eq!(send(&signer.sign("GET", "/", b"", now()), &[key]).status, 400, "two principals");
}

#[test]
fn in_monitor_mode_nothing_is_refused_or_used_up() {
    let sections = format!("{SECTIONS}\n").replace("[escal", "mode = \"monitor\"\n[escal");
    let (site, mut signer) = start("", ROUTE, &sections);
    let message = signer.sign("POST", "/", b"{}", now());
    for _ in 0..2 {
        assert_eq!(site.send(&message.request("POST", "/", b"{}")).status, 200);
        let seen = site.origin.take_one(SOON);
        assert_eq!(seen.header("x-auth-subject").as_deref(), Some("k1"));
    }
    assert_eq!(site.send(&message.request("POST", "/", b"[]")).status, 200);
    let seen = site.origin.take_one(SOON);
    assert_eq!((seen.header("x-auth-subject"), seen.body), (None, b"[]".to_vec()));
}

#[test]
fn what_another_implementation_signs_is_let_in() {
    let mut site = Site::prepare("max_body = \"3MB\"", ROUTE, SECTIONS);
    let directory = site.limiter.directory().to_owned();
    let openssl = |arguments: &[&str]| {
        let mut command = site.namespace.command("openssl");
        let done = command.args(arguments).current_dir(&directory).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    };
    let curve = |name| format!("ec_paramgen_curve:{name}");
    let keys: [(&str, &str, Vec<String>); 3] = [
        ("ED25519", "ed25519", vec![]),
        ("ECDSA_P256_SHA256", "EC", vec![curve("P-256")]),
        ("RSA_PSS_SHA512", "RSA", vec!["rsa_keygen_bits:2048".to_owned()]),
    ];
    let mut written = Vec::new();
    for (name, kind, options) in &keys {
        let mut arguments = vec!["genpkey", "-algorithm", kind, "-out"];
        let private = format!("{name}.key");
        arguments.push(&private);
        arguments.extend(options.iter().flat_map(|option| ["-pkeyopt", option]));
        openssl(&arguments);
        openssl(&["pkey", "-in", &private, "-pubout", "-out", &format!("{name}.pem")]);
        written.push(format!("{name} = {{ file = \"{name}.pem\" }}"));
    }
    let secret = "a-secret-that-both-sides-have";
    site.limiter.scratch().write("HMAC_SHA256.key", secret);
    written.push("HMAC_SHA256 = { env = \"SHARED\", algorithm = \"hmac-sha256\" }".to_owned());
    let written = written.join(", ");
    let sections = format!(
        "[auth.message]\nkind = \"signature\"\nkeys = {{ {written} }}\n\
         [escalation]\nenabled = false\n"
    );
    let text = crate::support::configuration(&site.origin, "max_body = \"3MB\"", ROUTE, &sections);
    site.limiter.configure(&text);
    site.limiter.environment("SHARED", secret);
    site.limiter.restart();
    for name in ["ED25519", "ECDSA_P256_SHA256", "RSA_PSS_SHA512", "HMAC_SHA256"] {
        let arguments = [name, &format!("{name}.key"), name];
        let said = Edge::python_peer(&site.namespace, &site.limiter, "sign.py", &arguments);
        let said = said.succeeded().stdout;
        assert_eq!(said.trim(), "all as it should be", "{name}");
        let seen = site.origin.take();
        assert_eq!(seen.iter().filter(|seen| seen.target() == "/large").count(), 1);
        assert!(seen.iter().all(|seen| seen.header("x-auth-subject").as_deref() == Some(name)));
    }
}

#[test]
fn keys_that_cannot_verify_are_refused_by_configuration() {
    let mut site = Site::prepare("", ROUTE, SECTIONS);
    let refused = site.limiter.run_to_end().ended_with(2);
    assert!(refused.stderr.contains("k1.pem"), "{refused:?}");
    let private = Ed25519KeyPair::generate().unwrap();
    let private = private.to_pkcs8v1().unwrap();
    let text = base64(private.as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n");
    site.limiter.scratch().write("k1.pem", pem);
    let refused = site.limiter.run_to_end().ended_with(2);
    assert!(refused.stderr.contains("no public key in PEM"), "{refused:?}");
    assert!(!refused.stderr.contains(&text));
    site.limiter.scratch().write("k1.pem", Signer::new().pem());
    let confused = SECTIONS.replace("tier", "algorithm = \"hmac-sha256\", tier");
    site.limiter.configure(&crate::support::configuration(&site.origin, "", ROUTE, &confused));
    let refused = site.limiter.run_to_end().ended_with(2);
    assert!(refused.stderr.contains("can use it"), "{refused:?}");
    site.limiter.configure(&crate::support::configuration(&site.origin, "", ROUTE, SECTIONS));
    site.limiter.restart();
    assert_eq!(site.get("/", &[]).status, 401);
}
