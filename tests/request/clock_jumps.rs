//! A wall clock that is set, by an hour and by a day, forth and back: what counts time goes on as
//! it was, and what is dated is judged by what the clock says now.

use std::{fmt::Write as _, thread, time::Duration};

use limiter_tests::{
    http::{self, Response},
    process::WallClock,
    tokens::Signer,
    wait::{eventually, eventually_some},
};
use limiter_user::events::moment;
use serde_json::{Value, json};

use crate::{
    support::{SOON, Site},
    webhooks::{SECRET, now, post, signed, write_secret},
};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// To each of them from the one before; the last is this machine's again.
const JUMPS: [i64; 6] = [HOUR, DAY, -HOUR, DAY, -DAY, 0];

fn site(route: &str, sections: &str) -> (Site, WallClock) {
    let mut site = Site::prepare("", route, sections);
    let clock = WallClock::of(&mut site.limiter);
    (site, clock)
}

/// What the limiter's clock says when it is so far ahead.
fn there(ahead: i64) -> u64 {
    now().strict_add_signed(ahead)
}

fn number(answer: &Response, name: &str) -> u64 {
    answer.header(name).unwrap_or_else(|| panic!("no {name}: {answer:?}")).parse().unwrap()
}

/// Nobody's budget is refilled, nobody is locked out, and what answers say of it stays sane.
#[test]
fn limits_count_time_that_passes() {
    let names = ["token_bucket", "leaky_bucket", "sliding_window", "fixed_window"];
    let (mut routes, mut limits) = (String::new(), String::new());
    for name in names {
        let route = "auth = \"none\"\nlimits = ";
        writeln!(routes, "path = \"/{name}\"\n{route}[\"{name}\"]\n[[http.route]]").unwrap();
        writeln!(limits, "[limits.{name}]\nalgorithm = \"{name}\"\nrate = \"3/24h\"").unwrap();
    }
    let route = format!("{routes}auth = \"none\"\nlimits = \"none\"");
    let sections = format!("{limits}[escalation]\nmode = \"monitor\"\n");
    let (mut site, clock) = site(&route, &sections);
    site.limiter.restart();
    let get = |source: &str, name: &str| {
        site.send_from(source, &http::request("GET", &format!("/{name}"), &[], b""))
    };
    for name in names {
        let statuses = [(); 4].map(|()| get("127.0.0.1", name).status);
        assert_eq!(statuses, [200, 200, 200, 429], "{name}");
    }
    for (turn, ahead) in JUMPS.into_iter().enumerate() {
        clock.set(ahead);
        for name in names {
            let context = format!("{name}, {ahead} s ahead");
            let refused = get("127.0.0.1", name);
            assert_eq!(refused.status, 429, "{context}");
            assert!(number(&refused, "retry-after") <= 25 * 3600, "{context}");
            let fresh = format!("127.0.1.{}", turn + 1);
            for remaining in [2, 1, 0] {
                let answer = get(&fresh, name);
                assert_eq!(answer.status, 200, "{context}");
                assert_eq!(number(&answer, "x-ratelimit-remaining"), remaining, "{context}");
                let reset = number(&answer, "x-ratelimit-reset");
                let sane = there(ahead)..=there(ahead) + 25 * 3600;
                assert!(sane.contains(&reset), "{context}: {reset}, not in {sane:?}");
            }
            assert_eq!(get(&fresh, name).status, 429, "{context}");
        }
    }
}

/// A token and a key open while they are good by the clock as it is set, and no longer.
#[test]
fn credentials_are_judged_by_the_clock_as_it_is() {
    let signer = Signer::ed25519();
    let (mut site, clock) = site(
        "auth = [\"login\", \"keys\"]\nlimits = \"none\"",
        "[auth.login]\nkind = \"jwt\"\nissuer = \"https://id.test\"\naudience = \"api\"\n\
         public_key = \"id.pem\"\n[auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n\
         [escalation]\nenabled = false\n",
    );
    site.limiter.scratch().write("id.pem", signer.pem());
    let brief = ["keys", "new", "--name", "brief", "--expires", "2h"];
    let key = site.limiter.with_file(&brief).succeeded().stdout.trim().to_owned();
    site.limiter.restart();
    let claims = |from: u64| {
        json!({
            "iss": "https://id.test", "aud": "api", "sub": "alice", "nbf": from,
            "exp": from + 1200
        })
    };
    let bearer = format!("Bearer {}", signer.token("x", &claims(now())));
    let mut kept = site.connect();
    let mut ask = |field: (&str, &str)| {
        kept.exchange(&http::request("GET", "/", &[field], b"")).unwrap().status
    };
    let mut both = || [ask(("Authorization", &bearer)), ask(("X-API-Key", &key))];
    assert_eq!(both(), [200, 200]);
    for (ahead, expected) in [
        (HOUR, [401, 200]),
        (DAY, [401, 401]),
        (600, [200, 200]),
        (-HOUR, [401, 200]),
        (0, [200, 200]),
    ] {
        clock.set(ahead);
        assert_eq!(both(), expected, "{ahead} s ahead");
        // One that is issued there and then.
        let fresh = format!("Bearer {}", signer.token("x", &claims(there(ahead))));
        assert_eq!(site.get("/", &[("Authorization", &fresh)]).status, 200, "{ahead} s ahead");
    }
    site.refused("invalid_credential", 0);
}

/// No message is accepted a second time, whatever the clock says meanwhile.
#[test]
fn signed_messages_are_accepted_once() {
    let (mut site, clock) = site(
        "auth = [\"partner\"]\nlimits = \"none\"",
        "[auth.partner]\nkind = \"hmac\"\nsecrets = { partner = { file = \"partner\" } }\n\
         [escalation]\nenabled = false\n",
    );
    write_secret(&site, "partner", SECRET);
    site.limiter.restart();
    let mut accepted: Vec<(String, String)> = Vec::new();
    let mut number = 0;
    for ahead in [0, -20, 20, 0, 200, 400, 0, HOUR, 0, DAY, HOUR, -HOUR, DAY, 0] {
        clock.set(ahead);
        for (value, body) in &accepted {
            let status = post(&site, "X-Signature", value, body.as_bytes());
            assert_eq!(status, 401, "{ahead} s ahead: {body}");
        }
        number += 1;
        let body = format!("message {number}, made {ahead} s ahead");
        let value = signed(there(ahead), body.as_bytes());
        match post(&site, "X-Signature", &value, body.as_bytes()) {
            200 => accepted.push((value, body)),
            // Made when nothing was remembered yet: it may not be known that it is new.
            401 => assert!(ahead < 0, "{body}"),
            other => panic!("{other}: {body}"),
        }
    }
    assert!(accepted.len() >= 11, "{accepted:?}");
    site.refused("invalid_credential", 0);
}

/// What may have been accepted before the clock was set back is not accepted, whatever it was; who
/// starts again with the right clock remembers from there on.
#[test]
fn a_clock_that_was_ahead_at_the_start_is_put_right_by_another_start() {
    let (mut site, clock) = site(
        "auth = [\"partner\"]\nlimits = \"none\"",
        "[auth.partner]\nkind = \"hmac\"\nsecrets = { partner = { file = \"partner\" } }\n\
         [escalation]\nenabled = false\n",
    );
    write_secret(&site, "partner", SECRET);
    clock.set(DAY);
    site.limiter.restart();
    let send = |site: &Site, ahead: i64, body: &str| {
        post(site, "X-Signature", &signed(there(ahead), body.as_bytes()), body.as_bytes())
    };
    thread::sleep(Duration::from_millis(1100));
    let early = signed(there(DAY), b"early");
    assert_eq!(post(&site, "X-Signature", &early, b"early"), 200);
    clock.set(0);
    assert_eq!(send(&site, 0, "right"), 401);
    site.refused("invalid_credential", 0);
    assert!(site.limiter.terminate(SOON).success());
    site.limiter.restart();
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(send(&site, 0, "right"), 200);
    assert_eq!(send(&site, 0, "again"), 200);
    clock.set(DAY);
    assert_eq!(post(&site, "X-Signature", &early, b"early"), 401, "it was accepted");
    site.refused("invalid_credential", 0);
}

/// Bans last as long as they were meant to, in force and on disk.
#[test]
fn bans_keep_their_length() {
    let (mut site, clock) = site("auth = \"none\"\nlimits = \"none\"", "");
    site.limiter.restart();
    site.limiter
        .cli(&["ban", "127.0.0.7", "--for", "1h", "--scope", "http", "--force"])
        .succeeded();
    let is_banned = |site: &Site, source: &str| {
        site.send_from(source, &http::request("GET", "/", &[], b"")).status == 403
    };
    eventually(SOON, "she is banned", || is_banned(&site, "127.0.0.7"));
    let left = |site: &Site| {
        let bans = site.limiter.json(&["bans", "--json"]);
        let ban = bans.as_array().unwrap().iter().find(|ban| ban["prefix"] == "127.0.0.7/32");
        ban.unwrap_or_else(|| panic!("{bans}"))["seconds_left"].as_u64().unwrap()
    };
    for ahead in [DAY, -DAY, HOUR, 0] {
        clock.set(ahead);
        assert!(is_banned(&site, "127.0.0.7"), "{ahead} s ahead");
        let seconds = left(&site);
        assert!((3500..=3600).contains(&seconds), "{ahead} s ahead: {seconds}");
        if ahead.abs() != DAY {
            continue;
        }
        // The journal follows; who starts again reads it.
        thread::sleep(Duration::from_millis(2500));
        assert!(site.limiter.terminate(SOON).success());
        site.limiter.restart();
        let seconds = left(&site);
        assert!((3400..=3600).contains(&seconds), "{ahead} s ahead: {seconds} at the start");
        assert!(is_banned(&site, "127.0.0.7"), "{ahead} s ahead");
    }
    site.limiter
        .cli(&["ban", "127.0.0.8", "--for", "2s", "--scope", "http", "--force"])
        .succeeded();
    eventually(SOON, "he is banned", || is_banned(&site, "127.0.0.8"));
    clock.set(-DAY);
    eventually(SOON, "a brief ban ends", || !is_banned(&site, "127.0.0.8"));
}

/// Events say when they came about by the clock as it was then.
#[test]
fn events_tell_the_time_as_it_is() {
    let (mut site, clock) = site("auth = \"none\"\nlimits = \"none\"", "");
    site.limiter.restart();
    for (turn, ahead) in JUMPS.into_iter().enumerate() {
        clock.set(ahead);
        let path = format!("/malformed-{turn}");
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
        assert_eq!(site.send(request.as_bytes()).status, 400);
        let prefix = format!("192.0.2.{}", turn + 1);
        site.limiter.cli(&["ban", &prefix, "--scope", "http", "--force"]).succeeded();
        for (what, part) in [("of the proxy", path), ("of the agent", prefix)] {
            let event = eventually_some(SOON, what, || {
                site.limiter.lines("events.json").into_iter().rfind(|line| line.contains(&part))
            });
            let event: Value = serde_json::from_str(&event).unwrap();
            let told = moment::parse(event["@timestamp"].as_str().unwrap(), 0).unwrap();
            let off = (told / 1_000_000_000).abs_diff(there(ahead));
            assert!(off <= 5, "{what}, {ahead} s ahead: {off} s off in {event}");
        }
    }
}
