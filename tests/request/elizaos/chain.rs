//! The key and then the token: both where both are asked for, and in that order.

use limiter_tests::tokens::Signer;
use serde_json::json;

use super::{Eliza, TOKEN};
use crate::{support::SOON, webhooks::now};

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
const ISOLATION: [(&str, &str); 2] = [("ENABLE_DATA_ISOLATION", "true"), ("JWT_SECRET", SECRET)];
const NO_KEY: (&str, &str) = ("ELIZA_SERVER_AUTH_TOKEN", "");

const KEY: Option<&str> = Some(TOKEN);
const WRONG: Option<&str> = Some("wrong");
const KEY_REQUIRED: Option<&str> = Some("API key required");
const TOKEN_REQUIRED: Option<&str> = Some("JWT token required");
const TOKEN_INVALID: Option<&str> = Some("Invalid JWT token");

/// Sends a key and an `Authorization` field (empty: none); what the refusal says, if it is one.
struct Case(Option<&'static str>, String, Option<&'static str>);

fn check(variables: &[(&str, &str)], cases: &[Case]) -> Eliza {
    let eliza = Eliza::start(variables, "");
    for (number, Case(key, authorization, refused)) in cases.iter().enumerate() {
        let mut headers = Vec::new();
        headers.extend(key.map(|key| ("X-API-KEY", key)));
        if !authorization.is_empty() {
            headers.push(("Authorization", authorization.as_str()));
        }
        let answer = eliza.get("/api/agents", &headers);
        match refused {
            None => assert_eq!(answer.status, 200, "{number}: {}", answer.text()),
            Some(words) => {
                assert_eq!(answer.status, 401, "{number}: {}", answer.text());
                let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
                assert!(error.starts_with(words), "{number}: {error}");
            }
        }
    }
    eliza
}

fn bearer(secret: &str) -> String {
    let claims = json!({ "sub": "eliza:alice", "iss": "eliza-server", "exp": now() + 600 });
    format!("Bearer {}", Signer::Secret(secret.into()).token("", &claims))
}

fn good() -> String {
    bearer(SECRET)
}

fn forged() -> String {
    bearer("another-secret-of-at-least-32-bytes!")
}

#[test]
fn the_key_alone() {
    let cases = [Case(None, String::new(), KEY_REQUIRED), Case(KEY, String::new(), None)];
    check(&[], &cases);
}

#[test]
fn the_token_alone() {
    let cases = [
        Case(None, String::new(), TOKEN_REQUIRED),
        Case(None, good(), None),
        Case(None, "InvalidFormat token".to_owned(), TOKEN_REQUIRED),
        Case(None, "some-token".to_owned(), TOKEN_REQUIRED),
        Case(None, "Bearer ".to_owned(), Some("")),
        Case(None, forged(), TOKEN_INVALID),
    ];
    let eliza = check(&[ISOLATION[0], ISOLATION[1], NO_KEY], &cases);
    let seen = eliza.origin.take_one(SOON);
    assert_eq!(seen.header("x-auth-subject").as_deref(), Some("eliza:alice"));
    assert!(seen.header("authorization").is_some(), "the server reads it, too");
    // How one comes by a token.
    assert_eq!(eliza.get("/api/auth/login", &[]).status, 200);
    assert_eq!(eliza.get("/api/auth/login/x", &[]).status, 401, "only that path");
    assert_eq!(eliza.get("/api/x/auth/login", &[]).status, 401, "not whatever ends so");
}

#[test]
fn both() {
    let cases = [
        Case(None, good(), KEY_REQUIRED),
        Case(KEY, String::new(), TOKEN_REQUIRED),
        Case(KEY, good(), None),
        Case(WRONG, good(), KEY_REQUIRED),
        Case(KEY, forged(), TOKEN_INVALID),
        Case(WRONG, forged(), KEY_REQUIRED),
    ];
    let eliza = check(&ISOLATION, &cases);
    let seen = eliza.origin.take_one(SOON);
    assert_eq!(seen.header("x-auth-subject").as_deref(), Some("eliza:alice"));
    assert_eq!(seen.header("x-api-key").as_deref(), Some(TOKEN));
    assert_eq!(eliza.get("/api/auth/login", &[]).status, 401, "the key all the same");
    assert_eq!(eliza.get("/api/auth/login", &[("X-API-KEY", TOKEN)]).status, 200);
}

#[test]
fn without_a_verifier_nothing_is_served() {
    let mut eliza = Eliza::start(&[], "");
    eliza.limiter.terminate(SOON);
    eliza.limiter.environment("ENABLE_DATA_ISOLATION", "true");
    let refused = eliza.limiter.run_to_end();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("ENABLE_DATA_ISOLATION"), "{refused:?}");
}
