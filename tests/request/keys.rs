//! API keys: made, revoked and rotated while the proxy runs; expired ones; every way to send one.

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use limiter_tests::{http, wait::eventually};

use crate::support::{SOON, Site};

const ROUTE: &str = "auth = [\"keys\"]\nlimits = \"none\"";
const SECTIONS: &str = "[auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n";

fn make(site: &Site, arguments: &[&str]) -> String {
    let made = site.limiter.with_file(&[&["keys"], arguments].concat()).succeeded();
    let key = made.stdout.trim().to_owned();
    assert!(key.starts_with("lk_") && key.len() == 52, "{made:?}");
    assert!(!made.stderr.contains(&key), "only once, and only on stdout");
    key
}

/// A file that only its owner reads.
fn put(site: &Site, name: &str, text: &str) -> PathBuf {
    let path = site.limiter.scratch().write(name, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn status(site: &Site, key: &str) -> u16 {
    site.get("/", &[("X-API-Key", key)]).status
}

#[test]
fn keys_are_effective_without_a_restart() {
    let site = Site::start("", ROUTE, SECTIONS);
    assert_eq!(site.get("/", &[]).status, 401);
    let alice = make(&site, &["new", "--name", "alice", "--tier", "gold"]);
    eventually(SOON, "the new key opens", || status(&site, &alice) == 200);
    let upstream = site.origin.take_one(SOON);
    assert_eq!(upstream.header("x-auth-subject").as_deref(), Some("alice"));
    assert_eq!(upstream.header("x-auth-tier").as_deref(), Some("gold"));
    assert_eq!(upstream.header("x-auth-scheme").as_deref(), Some("keys"));
    assert_eq!(upstream.header("x-api-key"), None, "the credential stays here");

    // The other way to send it, and both at once.
    let bearer = format!("Bearer {alice}");
    assert_eq!(site.get("/", &[("Authorization", &bearer)]).status, 200);
    assert_eq!(site.origin.take_one(SOON).header("authorization"), None);
    let both = [("Authorization", bearer.as_str()), ("X-API-Key", "lk_wrong")];
    assert_eq!(site.get("/", &both).status, 401, "an invalid one beside a valid one");
    let twice = [("X-API-Key", alice.as_str()), ("X-API-Key", alice.as_str())];
    assert_eq!(site.get("/", &twice).status, 400);
    assert_eq!(site.origin.count(), 0);

    let rotated = make(&site, &["rotate", "alice", "--grace", "1h"]);
    eventually(SOON, "the new one opens", || status(&site, &rotated) == 200);
    assert_eq!(status(&site, &alice), 200, "the old one for a while");
    let listed = site.limiter.with_file(&["keys", "list"]).succeeded();
    assert!(listed.stdout.contains("alice"), "{listed:?}");
    for key in [&alice, &rotated] {
        assert!(!listed.stdout.contains(key.as_str()));
        let stored = std::fs::read_to_string(site.limiter.directory().join("keys.toml")).unwrap();
        assert!(!stored.contains(key.as_str()), "digests only");
    }
    site.limiter.with_file(&["keys", "revoke", "alice"]).succeeded();
    eventually(SOON, "neither opens", || {
        status(&site, &rotated) == 401 && status(&site, &alice) == 401
    });
    site.limiter.event("Invalid credential from 127.0.0.1");
    for line in site.limiter.lines("events.json").iter().chain(&site.limiter.events()) {
        assert!(
            !line.contains(&alice) && !line.contains(&rotated) && !line.contains("lk_wrong"),
            "{line}"
        );
    }
}

#[test]
fn an_expired_key_is_as_if_nothing_had_been_presented() {
    let site = Site::start("", ROUTE, SECTIONS);
    let key = make(&site, &["new", "--name", "brief", "--expires", "1s"]);
    let refused = || site.get("/", &[("X-API-Key", &key)]);
    limiter_tests::wait::eventually_some(SOON, "it expires", || {
        std::thread::sleep(Duration::from_millis(100));
        (refused().status == 401).then_some(())
    });
    std::thread::sleep(Duration::from_millis(1_100));
    for _ in 0..20 {
        let answer = refused();
        assert_eq!(answer.status, 401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"api\""));
    }
    let why = site.limiter.json(&["why", "127.0.0.1", "--json"]);
    assert_eq!(why["score"], 0, "not the client's own doing");
    assert!(site.limiter.json(&["bans", "--json"]).as_array().unwrap().is_empty());
}

#[test]
fn a_shared_token_from_the_environment_opens() {
    let sections =
        "[auth.keys]\nkind = \"api_key\"\nheader = \"X-Other\"\ntoken = { env = \"TEST_TOKEN\" }\n";
    let mut site = Site::prepare("", ROUTE, sections);
    // Without the variable it refuses to start and names it.
    let refused = site.limiter.run_to_end().ended_with(2);
    assert!(refused.stderr.contains("TEST_TOKEN"), "{refused:?}");
    site.limiter.environment("TEST_TOKEN", "an-example-token-of-some-length");
    site.limiter.restart();
    let with = |name: &str, value: &str| site.get("/", &[(name, value)]).status;
    assert_eq!(with("X-Other", "an-example-token-of-some-length"), 200);
    assert_eq!(with("X-Other", "an-example-token-of-some-lengtH"), 401);
    assert_eq!(with("X-API-Key", "an-example-token-of-some-length"), 401);
    let subject = site.origin.take_one(SOON).header("x-auth-subject");
    assert_eq!(subject.as_deref(), Some("shared-token"));
    let pid = site.limiter.proxy_pid().unwrap();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    assert!(
        !String::from_utf8_lossy(&environment).contains("an-example-token"),
        "the proxy's environment"
    );
}

/// Beyond the guard's budget too, which other routes of the same client still have.
#[test]
fn in_monitor_mode_no_number_of_wrong_keys_is_refused() {
    let sections = format!("{SECTIONS}mode = \"monitor\"\n");
    let site = Site::start("", ROUTE, &sections);
    for _ in 0..40 {
        assert_eq!(status(&site, "wrong"), 200);
    }
    site.reload("", ROUTE, SECTIONS);
    assert_eq!(status(&site, "wrong"), 401);
}

/// A credential that was good once is refused, whatever stands beside it, and scores nothing.
#[test]
fn what_has_expired_refuses_beside_what_is_valid() {
    let mut site = Site::prepare(
        "",
        "auth = [\"keys\", \"hook\"]\nlimits = \"none\"",
        &format!(
            "{SECTIONS}[auth.hook]\nkind = \"hmac\"\nheader = \"X-Signature\"\n\
             secrets = {{ a = {{ file = \"secret\" }} }}\n"
        ),
    );
    put(&site, "secret", "0123456789abcdef");
    site.limiter.restart();
    let key = make(&site, &["new", "--name", "alice"]);
    let brief = make(&site, &["new", "--name", "brief", "--expires", "1s"]);
    eventually(SOON, "the key opens", || status(&site, &key) == 200);
    eventually(SOON, "the other expires", || status(&site, &brief) == 401);
    let before = site.origin.count();
    let bearer = format!("Bearer {key}");
    let old = format!("t=1,v1={}", "0".repeat(64));
    for (name, value) in [("X-API-Key", brief.as_str()), ("X-Signature", old.as_str())] {
        let both = [("Authorization", bearer.as_str()), (name, value)];
        assert_eq!(site.get("/", &both).status, 401, "{name}");
    }
    assert_eq!(site.origin.count(), before, "the upstream hears of neither");
    assert_eq!(site.limiter.json(&["why", "127.0.0.1", "--json"])["score"], 0);
}

/// `limiter keys` tells the agent that it finds. Whoever changes the file otherwise, or has a
/// configuration that is broken at the moment, revokes a key all the same.
#[test]
fn the_file_is_followed_without_being_told() {
    let site = Site::start("", ROUTE, SECTIONS);
    let bob = make(&site, &["new", "--name", "bob"]);
    let path = site.limiter.directory().join("keys.toml");
    let without_her = std::fs::read_to_string(&path).unwrap();
    let alice = make(&site, &["new", "--name", "alice"]);
    let both = std::fs::read_to_string(&path).unwrap();
    eventually(SOON, "both open", || status(&site, &alice) == 200 && status(&site, &bob) == 200);
    put(&site, "keys.toml", &without_her);
    eventually(SOON, "hers is revoked", || status(&site, &alice) == 401);
    assert_eq!(status(&site, &bob), 200);
    // What cannot be used, or is gone, changes nothing and is told.
    std::fs::remove_file(&path).unwrap();
    site.limiter.wait_for_line(SOON * 2, "keys.toml any more");
    assert_eq!(status(&site, &bob), 200);
    let path = put(&site, "keys.toml", &both);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    site.limiter.wait_for_line(SOON * 2, "keys.toml has mode");
    assert_eq!(status(&site, &alice), 401);
}

/// Who may not do it is known all the same; the upstream hears what callers may do.
#[test]
fn scopes_are_told_to_the_upstream_and_names_in_events() {
    let site = Site::start("", "auth = [\"keys\"]\nscopes = [\"read\"]", SECTIONS);
    let reader = make(&site, &["new", "--name", "reader", "--scope", "read", "--scope", "list"]);
    let other = make(&site, &["new", "--name", "other", "--scope", "list"]);
    eventually(SOON, "it opens", || status(&site, &reader) == 200);
    let upstream = site.origin.take_one(SOON);
    assert_eq!(upstream.header("x-auth-scopes").as_deref(), Some("read list"));
    let request = http::request("GET", "/", &[("X-API-Key", &other)], b"");
    assert_eq!(site.send_from("127.0.0.2", &request).status, 403);
    eventually(SOON, "the event says who", || {
        site.limiter.lines("events.json").iter().any(|line| {
            line.contains("\"event.action\":\"forbidden_scope\"")
                && line.contains("\"user.name\":\"other\"")
        })
    });
}

/// Servers that take a tab for a space would find a credential where nobody here looked for one.
#[test]
fn a_scheme_is_parted_from_its_credential_by_spaces() {
    let sections = format!("{SECTIONS}[escalation]\nenabled = false\n");
    let site = Site::start("", ROUTE, &sections);
    let key = make(&site, &["new", "--name", "alice"]);
    eventually(SOON, "the new key opens", || status(&site, &key) == 200);
    site.origin.take();
    let values = [
        "Bearer\tforeign".to_owned(),
        "Bearer \tforeign".to_owned(),
        "Bearer\u{a0}foreign".to_owned(),
        "Basic\tdTpw".to_owned(),
        format!("Bearer\t{key}"),
        format!("Bearer \t{key}"),
    ];
    for value in &values {
        let beside = [("X-API-Key", key.as_str()), ("Authorization", value)];
        let refused = site.get("/", &beside);
        assert_eq!(refused.status, 400, "{value:?}: {refused:?}");
        let challenge = refused.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("error=\"invalid_request\""), "{challenge}");
    }
    site.refused("malformed_request", values.len() as u64);
    assert_eq!(site.origin.count(), 0);
    for value in [format!("Bearer  {key}"), format!("bearer {key}\t"), format!("BEARER {key}")] {
        assert_eq!(site.get("/", &[("Authorization", &value)]).status, 200, "{value:?}");
        assert_eq!(site.origin.take_one(SOON).header("authorization"), None);
    }
}
