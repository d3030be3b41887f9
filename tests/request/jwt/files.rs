//! Keys in files, secrets, and the list of what is revoked: followed while the agent runs.

use std::{fs, os::unix::fs::PermissionsExt as _};

use limiter_tests::{
    tokens::{Signer, key_set},
    wait::eventually,
};
use serde_json::json;

use super::{ROUTE, claims, section, status};
use crate::support::{SOON, Site, configuration};

fn start(files: &[(&str, &str)], more: &str) -> Site {
    let mut site = Site::prepare("", ROUTE, "");
    for (name, text) in files {
        let path = site.limiter.scratch().write(name, text);
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    site.limiter.configure(&configuration(&site.origin, "", ROUTE, &section(more)));
    site.limiter.restart();
    site
}

#[test]
fn revoked_tokens_and_subjects() {
    let signer = Signer::ed25519();
    let files = [("id.pem", signer.pem()), ("revoked.txt", "# nobody yet\n".to_owned())];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let site = start(&files, "public_key = \"id.pem\"\nrevoked = \"revoked.txt\"\n");
    let token =
        |sub: &str, jti: &str| signer.token("x", &claims(&json!({ "sub": sub, "jti": jti })));
    let (first, second, other) = (token("alice", "1"), token("alice", "2"), token("bob", "3"));
    for token in [&first, &second, &other] {
        assert_eq!(status(&site, token), 200);
    }
    site.limiter.scratch().write("revoked.txt", "jti 1\n");
    eventually(SOON, "one token is revoked", || status(&site, &first) == 401);
    assert_eq!(status(&site, &second), 200);
    site.limiter.scratch().write("revoked.txt", "jti 1\nsub alice\n");
    eventually(SOON, "all of hers are", || status(&site, &second) == 401);
    assert_eq!(status(&site, &token("alice", "4")), 401);
    assert_eq!(status(&site, &other), 200);
    // What cannot be read changes nothing and is told.
    site.limiter.scratch().write("revoked.txt", "alice\n");
    let line = site.limiter.wait_for_line(SOON * 2, "certificates and keys stay as they were");
    assert!(line.contains("revoked.txt: line 1: write `jti ID` or `sub SUBJECT`"), "{line}");
    assert_eq!(status(&site, &second), 401);
    // Nor does it keep a key that somebody else has by now from being replaced.
    let next = Signer::ed25519();
    let by_next = next.token("x", &claims(&json!({ "sub": "carol" })));
    site.limiter.scratch().write("id.pem", next.pem());
    eventually(SOON, "the next key", || status(&site, &by_next) == 200);
    assert_eq!(status(&site, &other), 401);
    site.limiter.scratch().write("id.pem", signer.pem());
    site.limiter.scratch().write("revoked.txt", "");
    eventually(SOON, "forgiven", || status(&site, &second) == 200);
}

/// What is wrong with the files of one scheme keeps no token of another from being revoked.
#[test]
fn a_list_holds_beside_a_file_that_is_broken() {
    let signer = Signer::ed25519();
    let pem = signer.pem();
    let files = [("id.pem", pem.as_str()), ("revoked.txt", ""), ("other.pem", pem.as_str())];
    let other = "[auth.elsewhere]\nkind = \"jwt\"\nissuer = \"elsewhere\"\naudience = \"a\"\n\
                 public_key = \"other.pem\"\n";
    let more = format!("public_key = \"id.pem\"\nrevoked = \"revoked.txt\"\n{other}");
    let site = start(&files, &more);
    let token = signer.token("x", &claims(&json!({ "sub": "alice" })));
    assert_eq!(status(&site, &token), 200);
    site.limiter.scratch().write("other.pem", "no key");
    let line = site.limiter.wait_for_line(SOON * 2, "certificates and keys stay as they were");
    assert!(line.contains("other.pem"), "{line}");
    site.limiter.scratch().write("revoked.txt", "sub alice\n");
    eventually(SOON, "she is revoked", || status(&site, &token) == 401);
}

#[test]
fn a_set_of_keys_in_a_file() {
    let (one, two) = (Signer::p256(), Signer::p256());
    let set = key_set(&[one.jwk("one")]);
    let site = start(&[("keys.json", &set)], "jwks_file = \"keys.json\"\n");
    let (first, second) =
        (one.token("one", &claims(&json!({}))), two.token("two", &claims(&json!({}))));
    assert_eq!((status(&site, &first), status(&site, &second)), (200, 401));
    site.limiter.scratch().write("keys.json", key_set(&[two.jwk("two")]));
    eventually(SOON, "the keys of the file", || status(&site, &second) == 200);
    assert_eq!(status(&site, &first), 401, "verified before, and its key is gone");
    site.limiter.scratch().write("keys.json", "{}");
    site.limiter.wait_for_line(SOON * 2, "keys.json: no array `keys`");
    assert_eq!(status(&site, &second), 200);
}

#[test]
fn a_shared_secret() {
    let secret = "0123456789abcdef0123456789abcdef";
    let site = start(&[("secret", &format!("{secret}\n"))], "secret = { file = \"secret\" }\n");
    let signer = Signer::Secret(secret.as_bytes().to_vec());
    let token = signer.token("any", &claims(&json!({})));
    assert_eq!(status(&site, &token), 200);
    let header = json!({ "alg": "HS512" });
    assert_eq!(status(&site, &signer.token_with(&header, &claims(&json!({})))), 401);
    let other = Signer::Secret(vec![7; 32]).token("any", &claims(&json!({})));
    assert_eq!(status(&site, &other), 401);
    let checked = site.limiter.with_file(&["check"]).succeeded();
    assert!(checked.stdout.contains("jwt of https://id.test for api, HS256, a shared secret"));
    assert!(!format!("{checked:?}").contains(secret));

    let weak = section("secret = { file = \"weak\" }\n");
    let path = site.limiter.scratch().write("weak", "secret");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    site.limiter.configure(&configuration(&site.origin, "", ROUTE, &weak));
    let refused = site.limiter.with_file(&["check"]).ended_with(2);
    assert!(refused.stderr.contains("HS256 needs a secret of at least 32 bytes; this one has 6"));
}

/// The proxy gets a policy at once, with all that is in its files.
#[test]
fn lists_that_are_too_long_together_are_refused_with_the_reason() {
    let signer = Signer::ed25519();
    let pem = signer.pem();
    // Just under what one list may be.
    let line = format!("jti {}\n", "x".repeat(1_000));
    let long = line.repeat(4_170);
    let names: Vec<String> = (0..5).map(|number| format!("revoked{number}.txt")).collect();
    let mut files = vec![("id.pem", pem.as_str())];
    files.extend(names.iter().take(3).map(|name| (name.as_str(), long.as_str())));
    files.extend(names.iter().skip(3).map(|name| (name.as_str(), "")));
    let others = names.iter().skip(1).enumerate().map(|(number, name)| {
        format!(
            "[auth.issuer{number}]\nkind = \"jwt\"\nissuer = \"{number}\"\naudience = \"a\"\n\
             public_key = \"id.pem\"\nrevoked = \"{name}\"\n"
        )
    });
    let others: String = others.collect();
    let more = format!("public_key = \"id.pem\"\nrevoked = \"{}\"\n{others}", names[0]);
    let site = start(&files, &more);
    let token = signer.token("x", &claims(&json!({ "sub": "alice" })));
    assert_eq!(status(&site, &token), 200);

    // While it runs, what does not fit changes nothing and is told.
    site.limiter.scratch().write(&names[3], &long);
    site.limiter.scratch().write(&names[4], &long);
    let line = site.limiter.wait_for_line(SOON * 4, "certificates and keys stay as they were");
    assert!(
        line.contains("at most 16.0 MiB; this is 20.0 MiB (revoked tokens 20.0 MiB)"),
        "{line}"
    );
    assert_eq!(status(&site, &token), 200);
    let refused = site.limiter.cli(&["reload"]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    let checked = site.limiter.with_file(&["check"]).ended_with(2);
    for said in [&refused.stderr, &checked.stderr] {
        assert!(said.contains("auth.") && said.contains(".revoked: the proxy gets"), "{said}");
    }
    assert_eq!(status(&site, &token), 200);
    site.limiter.scratch().write(&names[4], "sub alice\n");
    eventually(SOON, "it fits again", || site.limiter.cli(&["reload"]).code == Some(0));
    assert_eq!(status(&site, &token), 200, "another issuer's alice");
}
