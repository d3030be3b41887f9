//! Webhooks: bodies signed with a shared secret, with a timestamp and without.

use std::{thread, time::Duration};

use aws_lc_rs::hmac;
use limiter_tests::{http, wait::eventually};
use limiter_user::clock;

use crate::support::{SOON, Site};

const ROUTE: &str = "auth = [\"partner\"]\nlimits = \"none\"";
const SECTIONS: &str = "[auth.partner]\nkind = \"hmac\"\ntier = \"gold\"\n\
     secrets = { partner = { file = \"partner\" }, other = { file = \"other\" } }\n\
     [escalation]\nenabled = false\n";
pub(crate) const SECRET: &str = "a-secret-that-partners-share";

pub(crate) fn now() -> u64 {
    clock::unix_ns() / 1_000_000_000
}

pub(crate) fn write_secret(site: &Site, name: &str, secret: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = site.limiter.scratch().write(name, secret);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn what_was_accepted_is_known_to_the_next_proxy() {
    let mut site = start("", SECTIONS);
    let value = signed(now(), b"{}");
    assert_eq!(post(&site, "X-Signature", &value, b"{}"), 200);
    site.limiter.kill_proxy();
    eventually(SOON, "another proxy serves", || {
        let request = http::request("GET", "/hook", &[], b"");
        site.try_send(&request).is_ok_and(|answer| answer.status == 401)
    });
    assert_eq!(post(&site, "X-Signature", &value, b"{}"), 401);
    site.refused("replayed", 1);
    assert_eq!(post(&site, "X-Signature", &signed(now(), b"{ }"), b"{ }"), 200);
    let shown = site.limiter.status().signed_messages;
    assert!(shown["capacity"] > 2_000_000, "{shown:?}");
}

fn start(http: &str, sections: &str) -> Site {
    let mut site = Site::prepare(http, ROUTE, sections);
    write_secret(&site, "partner", &format!("{SECRET}\n"));
    write_secret(&site, "other", "another-secret-of-somebody");
    site.limiter.restart();
    site
}

fn tag(secret: &str, parts: &[&[u8]]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, &parts.concat());
    tag.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

pub(crate) fn signed(time: u64, body: &[u8]) -> String {
    let time = time.to_string();
    format!("t={time},v1={}", tag(SECRET, &[time.as_bytes(), b".", body]))
}

pub(crate) fn post(site: &Site, header: &str, value: &str, body: &[u8]) -> u16 {
    site.send(&http::request("POST", "/hook", &[(header, value)], body)).status
}

#[test]
fn a_signed_body_goes_upstream_once() {
    let site = start("", SECTIONS);
    let value = signed(now(), b"{\"a\":1}");
    assert_eq!(post(&site, "X-Signature", &value, b"{\"a\":1}"), 200);
    let seen = site.origin.take_one(SOON);
    assert_eq!(seen.body, b"{\"a\":1}");
    assert_eq!(seen.header("x-auth-subject").as_deref(), Some("partner"));
    assert_eq!(seen.header("x-auth-tier").as_deref(), Some("gold"));
    assert_eq!(seen.header("x-auth-scheme").as_deref(), Some("partner"));
    assert_eq!(seen.header("x-signature").as_deref(), Some(&*value), "it may check it too");

    let again =
        site.send(&http::request("POST", "/hook", &[("X-Signature", &value)], b"{\"a\":1}"));
    assert_eq!(again.status, 401);
    site.refused("replayed", 1);
    site.limiter.event("Repeated message from 127.0.0.1: POST /hook");
    // A reload forgets nothing.
    site.reload("", ROUTE, &SECTIONS.replace("gold", "silver"));
    assert_eq!(post(&site, "X-Signature", &value, b"{\"a\":1}"), 401);
    site.refused("replayed", 2);

    for (value, body) in [
        (signed(now(), b"{}"), &b"{} "[..]),
        (signed(now(), b"{}"), b""),
        (signed(now(), b"{}").replace("t=1", "t=1,v1=1"), b"{}"),
        ("t=1".to_owned(), b"{}"),
        (format!("sha256={}", tag(SECRET, &[b"{}"])), b"{}"),
        (String::new(), b"{}"),
    ] {
        assert_eq!(post(&site, "X-Signature", &value, body), 401, "{value}");
    }
    site.refused("invalid_credential", 6);
    // Too old, or from the future: no attempt on anything.
    for time in [now() - 302, now() + 40] {
        assert_eq!(post(&site, "X-Signature", &signed(time, b"{}"), b"{}"), 401);
    }
    assert_eq!(site.get("/hook", &[]).status, 401);
    site.refused("unauthorized", 3);
    let twice = [("X-Signature", value.as_str()), ("X-Signature", value.as_str())];
    assert_eq!(site.send(&http::request("POST", "/hook", &twice, b"{}")).status, 400);
    assert_eq!(site.origin.count(), 0);
    for line in site.limiter.lines("events.json").iter().chain(&site.limiter.events()) {
        assert!(!line.contains(SECRET) && !line.contains(&value), "{line}");
    }
    let shown = site.limiter.with_file(&["check"]).stdout;
    assert!(shown.contains("webhooks signed in x-signature by other, partner"), "{shown}");
    assert!(!shown.contains(SECRET));
}

#[test]
fn nothing_goes_upstream_before_the_whole_body_is_checked() {
    let site = start("max_inspected_body = \"1KB\"", SECTIONS);
    let body = vec![b'x'; 1000];
    let request = http::request("POST", "/hook", &[("X-Signature", &signed(now(), &body))], &body);
    let mut connection = site.connect();
    let (first, last) = request.split_at(request.len() - 1);
    connection.send(first).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(site.origin.open_connections(), 0);
    connection.send(last).unwrap();
    assert_eq!(connection.response().unwrap().status, 200);
    assert_eq!(site.origin.take_one(SOON).body, body);

    // In chunks, which have no length before they end.
    let value = signed(now(), b"abcd");
    let fields = [("X-Signature", value.as_str()), ("Transfer-Encoding", "chunked")];
    let mut chunks = http::request("POST", "/hook", &fields, b"");
    chunks.extend(http::chunked(&[b"ab", b"cd"]));
    assert_eq!(site.send(&chunks).status, 200);
    assert_eq!(site.origin.take_one(SOON).body, b"abcd");
    let body = vec![b'x'; 1001];
    assert_eq!(post(&site, "X-Signature", &signed(now(), &body), &body), 413);
    assert_eq!(site.origin.count(), 0);
}

#[test]
fn a_signature_without_a_time_has_a_header_of_its_own() {
    let hub = SECTIONS.replace("tier", "header = \"X-Hub-Signature-256\"\ntier");
    let site = start("", &hub);
    let value = format!("sha256={}", tag(SECRET, &[b"{}"]));
    for _ in 0..2 {
        assert_eq!(post(&site, "X-Hub-Signature-256", &value, b"{}"), 200);
    }
    site.origin.take();
    assert_eq!(post(&site, "X-Hub-Signature-256", &value, b"{}x"), 401);
    // The signature of a message with its time is none of the time and message as a body.
    let timed = signed(now(), b"{}");
    let (time, tag) = timed.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let both = format!("{time}.{{}}");
    assert_eq!(post(&site, "X-Hub-Signature-256", &format!("t={time},v1={tag}"), b"{}"), 401);
    assert_eq!(
        post(&site, "X-Hub-Signature-256", &format!("sha256={tag}"), both.as_bytes()),
        200,
        "the same bytes signed with the same secret: two schemes should not share one"
    );
    let said = site.limiter.with_file(&["check"]).stdout;
    assert!(said.contains("has no timestamp"), "{said}");
}

#[test]
fn attempts_on_a_secret_are_bounded_and_keep_nobody_else_out() {
    let site = start("", SECTIONS);
    let wrong = |source: &str, n: usize| {
        let value = signed(now(), format!("{n}").as_bytes());
        let request = http::request("POST", "/hook", &[("X-Signature", &value)], b"other");
        site.send_from(source, &request).status
    };
    let right = |source: &str, body: &str| {
        let value = signed(now(), body.as_bytes());
        let request = http::request("POST", "/hook", &[("X-Signature", &value)], body.as_bytes());
        site.send_from(source, &request).status
    };
    assert_eq!(right("127.0.0.2", "first"), 200);
    let statuses: Vec<u16> = (0..60).map(|n| wrong("127.0.0.2", n)).collect();
    assert_eq!(statuses[0], 401);
    assert_eq!(statuses[59], 429);
    assert_eq!(right("127.0.0.2", "second"), 200, "it is known at this address");
    assert_eq!(right("127.0.0.3", "third"), 200);
}

/// While secrets change, a sender signs with both: each of the two tags is used up with the other.
#[test]
fn a_message_with_two_tags_is_one_message() {
    let site = start("", SECTIONS);
    let time = now().to_string();
    let [one, two] = [SECRET, "another-secret-of-somebody"]
        .map(|secret| tag(secret, &[time.as_bytes(), b".", b"{}"]));
    let both = format!("t={time},v1={one},v1={two}");
    assert_eq!(post(&site, "X-Signature", &both, b"{}"), 200);
    for value in [format!("t={time},v1={two}"), format!("t={time},v1={one}"), both] {
        assert_eq!(post(&site, "X-Signature", &value, b"{}"), 401, "{value}");
    }
    site.refused("replayed", 3);
}

#[test]
fn what_the_scheme_grants_is_what_senders_may() {
    let route = "auth = [\"partner\"]\nscopes = [\"write\"]\nlimits = [\"tiers\"]";
    let granted = SECTIONS.replace("tier =", "scopes = [\"read\", \"write\"]\ntier =")
        + "[limits.tiers]\nkey = [\"principal\"]\n\
           tiers = { gold = \"2/h\", authenticated = \"1/h\" }\n";
    let mut site = Site::prepare("", route, &granted);
    write_secret(&site, "partner", SECRET);
    write_secret(&site, "other", "another-secret-of-somebody");
    site.limiter.restart();
    let next = |n: usize| {
        let body = format!("{n}");
        post(&site, "X-Signature", &signed(now(), body.as_bytes()), body.as_bytes())
    };
    assert_eq!([next(1), next(2), next(3)], [200, 200, 429], "as the tier says");
    site.reload("", route, &granted.replace(", \"write\"]", "]"));
    assert_eq!(next(4), 403);
    site.refused("forbidden_scope", 1);
}

/// Whoever asks what would happen has no body to show.
#[test]
fn what_a_body_decides_is_not_explained_away() {
    let site = start("", SECTIONS);
    let explain = |header: &str| {
        let asked = ["explain", "--source", "127.0.0.1", "--request", "POST /hook", "-H", header];
        site.limiter.cli(&asked).succeeded().stdout
    };
    let told = explain(&format!("X-Signature: {}", signed(now(), b"{}")));
    assert!(told.starts_with("127.0.0.1: depends (body)"), "{told}");
    assert!(told.contains("partner looks at the signature in x-signature: if it is not"), "{told}");
    assert!(told.contains("goes to upstream api as /hook"), "{told}");
    for (header, expected) in [
        ("X-Signature: sha256=00".to_owned(), "refuse (invalid_credential)"),
        (format!("X-Signature: {}", signed(1, b"{}")), "refuse (unauthorized)"),
        ("X-Other: 1".to_owned(), "refuse (unauthorized)"),
    ] {
        let told = explain(&header);
        assert!(told.starts_with(&format!("127.0.0.1: {expected}")), "{told}");
    }
}
