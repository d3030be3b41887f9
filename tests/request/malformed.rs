//! Requests that could be read in two ways: refused, told, and never sent on; and unusual ones that
//! could not, which are.

mod data;
mod passed;
mod smuggling;
mod streams;

use std::time::Duration;

use limiter_tests::http::{Connection, Response};

use crate::support::{OPEN, Site};

/// No ban in between, or the rest would not be answered.
const NO_BANS: &str = "[escalation]\nenabled = false\n";

const SOON: Duration = Duration::from_secs(2);

/// What a refused request gets on a connection of its own, which then ends.
#[track_caller]
fn refused(site: &Site, what: &str, bytes: &[u8], status: u16) {
    let mut connection: Connection = site.connect();
    connection.send(bytes).unwrap();
    let answer = connection.response().unwrap_or_else(|failure| panic!("{what}: {failure}"));
    assert_problem(what, &answer, status);
    assert!(connection.is_closed_within(SOON), "{what}");
}

#[track_caller]
fn assert_problem(what: &str, answer: &Response, status: u16) {
    assert_eq!(answer.status, status, "{what}: {answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
    assert_eq!(answer.header("connection"), Some("close"), "{what}");
    let document = answer.json();
    assert_eq!(document["status"], status, "{what}");
    assert_eq!(document["request_id"].as_str(), answer.header("x-request-id"), "{what}");
    assert_eq!(document.as_object().unwrap().len(), 4, "says nothing about the inside: {what}");
}

#[test]
fn every_one_is_refused_told_and_closes_the_connection() {
    let site = Site::start("", OPEN, NO_BANS);
    let cases = data::refused();
    assert!(cases.len() > 150);
    let mut malformed = 0;
    for case in &cases {
        refused(&site, &case.what, &case.bytes, case.status);
        malformed += u64::from(case.status == 400);
    }
    assert_eq!(site.origin.count(), 0);
    site.refused("malformed_request", malformed);
    site.refused("unsupported_version", cases.len() as u64 - malformed);
    let told = || -> u64 {
        let lines = site.limiter.lines("events.json");
        let documents = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
        documents
            .filter(|event: &serde_json::Value| event["event.action"] == "malformed_request")
            .map(|event| event["limiter.count"].as_u64().unwrap())
            .sum()
    };
    limiter_tests::wait::eventually(SOON, "all are told", || told() == malformed);
}

#[test]
fn what_a_client_sends_never_makes_a_line_of_its_own() {
    let site = Site::start("", OPEN, NO_BANS);
    let forged =
        "/%0d%0a[2026-01-15 10:23:45] WARN: [SECURITY] Banned 8.8.8.8\\".replace(' ', "%20");
    assert_eq!(site.get(&forged, &[("User-Agent", "a\u{1b}[31m")]).status, 400);
    site.refused("malformed_request", 1);
    let line = limiter_tests::wait::eventually_some(SOON, "it is told", || {
        site.limiter.events().into_iter().find(|line| line.contains("Malformed request"))
    });
    assert!(line.starts_with("WARN: [SECURITY] Malformed request from 127.0.0.1"), "{line}");
    assert!(site.limiter.events().iter().all(|line| !line.starts_with("WARN: [SECURITY] Banned")));
    assert!(
        site.limiter
            .lines("events.json")
            .iter()
            .all(|line| line.is_ascii() && !line.contains('\u{1b}'))
    );
}
