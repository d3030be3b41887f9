//! What one address can cost the server that is asked, and who goes on being served beside it.

use limiter_tests::{
    http::{self, Connection, Response},
    origin::{Behaviour, Origin},
    wait::eventually,
};

use super::{ROUTE, answer};
use crate::{
    support::{SOON, Site, configuration},
    webhooks::now,
};

const NO_BANS: &str = "[escalation]\nenabled = false\n";

/// A site whose failures ban nobody, unless `sections` say so, and the server that is asked.
fn start(http: &str, more: &str, sections: &str) -> (Site, Origin) {
    let mut site = Site::prepare(http, ROUTE, "");
    let other = Origin::start(&site.namespace);
    let section = section(&other, more, sections);
    site.limiter.configure(&configuration(&site.origin, http, ROUTE, &section));
    site.limiter.restart();
    (site, other)
}

fn section(other: &Origin, more: &str, sections: &str) -> String {
    format!("[auth.other]\nkind = \"forward\"\nurl = \"{}/\"\n{more}\n{sections}", other.url())
}

fn from(site: &Site, source: &str, headers: &[(&str, &str)]) -> Response {
    site.send_from(source, &http::request("GET", "/", headers, b""))
}

fn bearer(token: &str) -> [(&'static str, String); 1] {
    [("Authorization", format!("Bearer {token}"))]
}

fn guess(site: &Site, source: &str, number: usize) -> Response {
    let [(name, value)] = bearer(&format!("guess-{number}"));
    from(site, source, &[(name, &value)])
}

/// The statuses of so many requests over one connection, one after the other.
fn often(site: &Site, source: &str, count: usize, headers: &[(&str, &str)]) -> Vec<u16> {
    let request = http::request("GET", "/", headers, b"");
    let source = Some(source.parse().unwrap());
    // A thousand requests on a busy machine: one of them may wait for its turn.
    let open = || Connection::open_from(source, Site::address(), SOON * 6).unwrap();
    let mut connection = site.namespace.run(open);
    (0..count).map(|_| connection.exchange(&request).unwrap().status).collect()
}

fn named(name: &str) -> Behaviour {
    answer(200, &[("X-Auth-Subject", name)], "")
}

#[test]
fn guesses_are_throttled_before_the_server_is_asked() {
    let (site, other) = start("", "", NO_BANS);
    // From elsewhere: the address that is throttled has never been honest.
    other.by_default(named("carol"));
    let session = [("Cookie", "session=carol")];
    let good = [("Authorization", "Bearer good")];
    assert_eq!(from(&site, "127.0.0.3", &good).status, 200);
    assert_eq!(from(&site, "127.0.0.3", &session).status, 200);
    other.take();

    other.by_default(Behaviour::status(401));
    let statuses: Vec<u16> = (0..60).map(|n| guess(&site, "127.0.0.2", n).status).collect();
    assert_eq!(statuses[..30], [401; 30], "{statuses:?}");
    let asked = other.take().len();
    assert!((30..40).contains(&asked), "{asked} of 60 guesses reached the server");
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), asked);
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 60 - asked);
    site.refused("invalid_credential", asked as u64);
    site.refused("guarded", 60 - asked as u64);

    // Whoever the server accepted lately is asked about there, too; nobody else is.
    other.by_default(named("carol"));
    for headers in [&good, &session] {
        for _ in 0..3 {
            assert_eq!(from(&site, "127.0.0.2", headers).status, 200);
        }
    }
    assert_eq!(other.take().len(), 6, "it is asked about every request");
    other.by_default(Behaviour::status(401));
    assert_eq!(from(&site, "127.0.0.9", &good).status, 401, "its word counts, no other's");
}

/// Strangers that show something, or nothing: the address of an honest client is known, and its
/// failures keep nobody out who shows something else.
#[test]
fn a_throttled_address_says_when_to_come_again() {
    let (site, other) = start("", "", NO_BANS);
    other.by_default(Behaviour::status(401));
    let stale = |n: usize| {
        let cookie = format!("session={n}");
        from(&site, "127.0.0.4", &[("Cookie", &cookie)]).status
    };
    let statuses: Vec<u16> = (0..40).map(stale).collect();
    assert_eq!((statuses[29], statuses[39]), (401, 429), "{statuses:?}");
    assert_eq!(site.limiter.status().refused.get("invalid_credential"), None);
    let before = other.count();
    let refused = from(&site, "127.0.0.4", &[]);
    assert_eq!(refused.status, 429);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(refused.text().contains("\"status\":429"), "{refused:?}");
    assert_eq!(other.count(), before);
    assert_eq!(from(&site, "127.0.0.5", &[]).status, 401, "another address is another's");
    // One that is let in makes the address known, whatever others there did.
    other.by_default(named("dave"));
    eventually(SOON, "a moment later somebody is asked about", || {
        from(&site, "127.0.0.4", &[("Cookie", "session=dave")]).status == 200
    });
    assert_eq!(from(&site, "127.0.0.4", &[("Cookie", "session=eve")]).status, 200);
}

#[test]
fn requests_that_show_nothing_are_bounded_too() {
    let (site, other) = start("", "", NO_BANS);
    other.by_default(named("carol"));
    let good = [("Authorization", "Bearer good")];
    assert_eq!(from(&site, "127.0.0.6", &good).status, 200);
    other.take();
    for (behaviour, status) in [(Behaviour::status(401), 401), (answer(302, &[], ""), 302)] {
        other.by_default(behaviour);
        let source = format!("127.0.1.{}", status % 250);
        let begun = now();
        let statuses = often(&site, &source, 1_500, &[]);
        let most = 1_000 + 50 * (now() - begun + 2);
        let asked = other.take().len() as u64;
        assert_eq!(statuses[..1_000], [status; 1_000]);
        assert!((1_000..=most).contains(&asked), "{asked} of at most {most}");
        assert_eq!(*statuses.last().unwrap(), 429);
        // Not a failed attempt, and so nobody is known to guess there; but there is too much work.
        other.by_default(named("carol"));
        assert_eq!(from(&site, &source, &good).status, 200);
    }
    let why = site.limiter.json(&["why", "127.0.1.151", "--json"]);
    assert_eq!(why["score"], 0, "{why}");
}

#[test]
fn guessing_is_banned_and_a_session_that_ended_is_not() {
    let (site, other) = start("", "", "");
    other.by_default(Behaviour::status(401));
    for number in 0..10 {
        drop(guess(&site, "127.0.0.7", number));
    }
    let banned = site.limiter.event("(invalid_credential 10)");
    assert!(banned.contains("[SECURITY] Banned 127.0.0.7 for 10m"), "{banned}");
    eventually(SOON, "the ban is in force", || guess(&site, "127.0.0.7", 13).status == 403);

    // Browsers send their cookies whatever became of the session.
    for _ in 0..20 {
        assert_eq!(from(&site, "127.0.0.8", &[("Cookie", "session=old")]).status, 401);
    }
    // A token that the server accepted a moment ago.
    let good = [("Authorization", "Bearer good")];
    other.by_default(named("erin"));
    assert_eq!(from(&site, "127.0.0.9", &good).status, 200);
    other.by_default(Behaviour::status(401));
    for _ in 0..40 {
        assert_eq!(from(&site, "127.0.0.9", &good).status, 401);
    }
    // To others it is unknown from now on, and no right to do so is no guess.
    other.by_default(Behaviour::status(403));
    for _ in 0..12 {
        assert_eq!(guess(&site, "127.0.0.10", 1).status, 403);
    }
    for source in ["127.0.0.8", "127.0.0.9", "127.0.0.10"] {
        let why = site.limiter.json(&["why", source, "--json"]);
        assert_eq!(why["score"], 0, "{why}");
    }
    site.refused("unauthorized", 60);
    assert_eq!(site.origin.count(), 1);
}

#[test]
fn a_server_that_is_down_costs_the_client_nothing() {
    let (site, other) = start("", "", NO_BANS);
    for behaviour in [Behaviour::status(503), Behaviour::CloseBeforeAnswer] {
        other.by_default(behaviour);
        let statuses = often(&site, "127.0.0.2", 1_100, &[("Authorization", "Bearer good")]);
        assert!(statuses.iter().all(|status| *status == 502), "{statuses:?}");
    }
    other.by_default(named("carol"));
    assert_eq!(from(&site, "127.0.0.2", &[("Authorization", "Bearer good")]).status, 200);
}

/// Whoever has an account shows something good with anything beside it, to a server that says no
/// to what he asks for.
#[test]
fn one_credential_that_is_refused_again_and_again_is_bounded() {
    let (site, other) = start("", "", NO_BANS);
    other.by_default(named("mallory"));
    let own = [("Authorization", "Bearer mallory")];
    assert_eq!(from(&site, "127.0.0.2", &own).status, 200);
    other.take();
    other.by_default(Behaviour::status(403));
    let begun = now();
    let statuses = often(&site, "127.0.0.2", 1_300, &own);
    let most = 1_000 + 50 * (now() - begun + 2);
    let asked = other.take().len() as u64;
    assert!((1_000..=most).contains(&asked), "{asked} of at most {most}");
    assert_eq!((statuses[0], *statuses.last().unwrap()), (403, 429));
    // Others there are asked about: it was counted against what was shown.
    other.by_default(named("carol"));
    assert_eq!(from(&site, "127.0.0.2", &[("Authorization", "Bearer carol")]).status, 200);
}

#[test]
fn in_monitor_mode_nobody_is_refused_and_no_budget_is_used() {
    let (site, other) = start("", "mode = \"monitor\"", NO_BANS);
    other.by_default(Behaviour::status(401));
    for number in 0..40 {
        assert_eq!(guess(&site, "127.0.0.2", number).status, 200);
    }
    assert_eq!((other.count(), site.origin.count()), (40, 40));
    let monitored = || site.limiter.status().monitored.get("invalid_credential").copied();
    eventually(SOON, "what would have been refused", || monitored() == Some(40));
    site.reload("", ROUTE, &section(&other, "", NO_BANS));
    assert_eq!(guess(&site, "127.0.0.2", 41).status, 401);
}

/// A server that does not answer is waited for by so many, not by everybody.
#[test]
fn questions_under_way_are_bounded() {
    let http = "max_requests = 8\ntimeouts = { upstream = \"20s\" }";
    let (site, other) = start(http, "", NO_BANS);
    other.by_default(Behaviour::Stall);
    let ask = |source: &str| {
        let source = Some(source.parse().unwrap());
        let open = || Connection::open_from(source, Site::address(), SOON).unwrap();
        let mut connection = site.namespace.run(open);
        connection.send(&http::request("GET", "/", &[], b"")).unwrap();
        connection
    };
    let first = ask("127.0.0.2");
    eventually(SOON, "the first is asked about", || other.count() == 1);
    let refused = from(&site, "127.0.0.2", &[]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    let second = ask("127.0.0.3");
    eventually(SOON, "the second is asked about", || other.count() == 2);
    assert_eq!(from(&site, "127.0.0.4", &[]).status, 503);
    site.refused("overloaded", 2);
    // An end makes room, also a bad one.
    other.by_default(named("carol"));
    other.close_connections();
    for mut waiting in [first, second] {
        assert!([200, 502].contains(&waiting.response().unwrap().status));
    }
    assert_eq!(from(&site, "127.0.0.4", &[]).status, 200);
}
