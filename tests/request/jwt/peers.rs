//! Tokens that other people's library makes (`PyJWT`), with keys that it makes too.

use limiter_tests::{origin::Behaviour, wait::eventually};

use super::{ROUTE, Scene};
use crate::support::SOON;

#[test]
fn tokens_of_another_library() {
    let algorithms = "algorithms = [\"RS256\", \"RS512\", \"PS384\", \"ES256\", \"ES384\", \
                      \"ES512\", \"EdDSA\"]";
    let mut scene = Scene::prepare(ROUTE, algorithms);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/data/peers/issuer.py");
    let mut command = scene.site.namespace.command("/usr/bin/python3");
    command.arg(script);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let keys = made["keys"].to_string();
    scene.issuer.on("/keys", super::document(&format!("{{\"keys\":{keys}}}")));
    scene.site.limiter.restart();
    let tokens = made["good"].as_object().unwrap();
    let first = tokens.values().next().unwrap().as_str().unwrap();
    eventually(SOON, "the keys", || scene.status(first) == 200);
    assert!(tokens.len() >= 7, "{tokens:?}");
    for (what, token) in tokens {
        assert_eq!(scene.status(token.as_str().unwrap()), 200, "{what}");
    }
    for (what, token) in made["bad"].as_object().unwrap() {
        assert_eq!(scene.status(token.as_str().unwrap()), 401, "{what}");
    }
    scene.issuer.by_default(Behaviour::status(404));
}
