//! Every key that the parser knows is in docs/CONFIGURATION.md.

use super::*;

const REFERENCE: &str = include_str!("../../../../docs/CONFIGURATION.md");

/// Where keys can stand.
const SECTIONS: [&str; 28] = [
    "",
    "[agent]",
    "[kernel]",
    "[kernel.limits]",
    "[kernel.total_limits]",
    "[[kernel.service]]",
    "[[kernel.service]]\n[kernel.service.limits]",
    "[http]",
    "[http.timeouts]",
    "[[http.listener]]\naddress = \"127.0.0.1:1\"",
    "[[http.upstream]]\nname = \"a\"\nservers = []",
    "[[http.upstream]]\nname = \"a\"\nservers = []\n[http.upstream.health]\npath = \"/\"",
    "[[http.upstream]]\nname = \"a\"\nservers = []\n[http.upstream.breaker]",
    "[[http.route]]",
    "[limits.a]",
    "[auth.a]",
    "[auth.a.token]",
    "[cors.a]",
    "[headers.a]",
    "[escalation]",
    "[escalation.ban]",
    "[events]",
    "[[events.sink]]",
    "[[events.sink]]\n[events.sink.rotate]",
    "[[events.sink]]\n[events.sink.filter]",
    "[store]",
    "[admin]",
    "[[kernel.trusted]]",
];

#[test]
fn every_key_is_in_the_reference() {
    let known = |key: &str| {
        REFERENCE
            .split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
            .any(|word| word == key)
    };
    let mut keys = 0;
    for section in SECTIONS {
        let error = refused(&format!("{section}\nzzzzzzzzzzzzzzzzzz = 1\n"));
        let allowed = error.split("allowed here: ").nth(1).unwrap_or_else(|| panic!("{error}"));
        for key in allowed.lines().next().unwrap().split(", ") {
            assert!(known(key), "{section} {key} is not in docs/CONFIGURATION.md");
            keys += 1;
        }
    }
    assert!(keys > 150, "{keys}");
}
