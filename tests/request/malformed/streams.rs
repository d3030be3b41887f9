//! What goes wrong later: behind good requests, in the middle of a body, by size.

use std::{thread, time::Duration};

use limiter_tests::{http, origin::Behaviour};

use super::{NO_BANS, assert_problem, refused};
use crate::support::{OPEN, Site};

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: test\r\n\r\n";

/// Two requests to some servers, one to others.
const DOUBTFUL: &str = "POST /doubtful HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
     0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: test\r\n\r\n";

#[test]
fn good_requests_before_a_bad_one_are_answered_first() {
    let site = Site::start("", OPEN, NO_BANS);
    let slow = Behaviour::Delayed(Duration::from_millis(300), Box::new(Behaviour::ok("slow")));
    site.origin.next(slow);
    let mut connection = site.connect();
    connection.send(format!("{GOOD}{GOOD}{DOUBTFUL}{GOOD}").as_bytes()).unwrap();
    assert_eq!(connection.response().unwrap().text(), "slow");
    assert_eq!(connection.response().unwrap().status, 200);
    assert_problem("the third", &connection.response().unwrap(), 400);
    assert!(connection.is_closed_within(super::SOON));
    let targets: Vec<String> =
        site.origin.take().iter().map(limiter_tests::origin::Recorded::target).collect();
    assert_eq!(targets, ["/good", "/good"]);
    site.refused("malformed_request", 1);
}

#[test]
fn a_body_that_goes_wrong_on_its_way_is_never_whole() {
    let site = Site::start("", OPEN, NO_BANS);
    let head = "POST /a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for (number, rest) in
        ["zz\r\n", "5 \r\nhello\r\n0\r\n\r\n", "0\r\nHost: x\r\n\r\n"].iter().enumerate()
    {
        let mut connection = site.connect();
        connection.send(head.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(100));
        connection.send(rest.as_bytes()).unwrap();
        assert_problem(rest, &connection.response().unwrap(), 400);
        assert!(connection.is_closed_within(super::SOON), "{rest}");
        site.refused("malformed_request", number as u64 + 1);
    }
    assert!(site.origin.take().iter().all(|seen| !seen.complete));
    // Also when the answer has begun: it is told, and the connection ends.
    site.origin.by_default(Behaviour::EchoStreamed);
    let mut connection = site.connect();
    connection.send(head.as_bytes()).unwrap();
    let begun = connection.read_through(b"hello\r\n").unwrap();
    assert!(begun.starts_with(b"HTTP/1.1 200"));
    connection.send(b"zz\r\n").unwrap();
    assert!(connection.is_closed_within(super::SOON));
    site.refused("malformed_request", 4);
}

#[test]
fn a_refused_body_is_told_once_whoever_answers() {
    // The answer to the head is there before the body goes wrong.
    let site = Site::start("", "auth = \"none\"\nlimits = \"none\"\npath = \"/x\"", NO_BANS);
    let mut connection = site.connect();
    let head = "POST /y HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.send(head.as_bytes()).unwrap();
    assert_eq!(connection.response().unwrap().status, 404);
    connection.send(b"zz\r\n").ok();
    assert!(connection.is_closed_within(super::SOON));
    assert_eq!(site.origin.count(), 0);
}

#[test]
fn heads_are_bounded_in_count_and_size_also_behind_others() {
    let site = Site::start("max_headers = 20\nmax_header_bytes = \"4KiB\"", OPEN, NO_BANS);
    let many = |count: usize| {
        let fields = "X: y\r\n".repeat(count);
        format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
    };
    let long = |bytes: usize| {
        let fixed = "GET / HTTP/1.1\r\nHost: test\r\nX: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: test\r\nX: {}\r\n\r\n", "y".repeat(bytes - fixed))
    };
    for good in
        [many(19), long(4096), format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "a".repeat(4000))]
    {
        assert_eq!(site.send(good.as_bytes()).status, 200);
    }
    site.origin.take();
    refused(&site, "fields", many(20).as_bytes(), 431);
    refused(&site, "bytes", long(4097).as_bytes(), 431);
    let target = format!("GET /{} HTTP/1.1\r\nHost: test\r\n\r\n", "a".repeat(5000));
    refused(&site, "target", target.as_bytes(), 431);
    refused(
        &site,
        "no end",
        "GET / HTTP/1.1\r\nX: "
            .to_owned()
            .as_bytes()
            .iter()
            .copied()
            .chain([b'y'; 5000])
            .collect::<Vec<u8>>()
            .as_slice(),
        431,
    );
    assert_eq!(site.origin.count(), 0);
    let mut connection = site.connect();
    connection.send(format!("{GOOD}{}", long(4097)).as_bytes()).unwrap();
    assert_eq!(connection.response().unwrap().status, 200);
    assert_problem("pipelined", &connection.response().unwrap(), 431);
    site.refused("head_too_large", 5);
    // Extensions and trailers have bounds of their own.
    let chunked = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let extension = format!("{chunked}1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(5000));
    refused(&site, "extension", extension.as_bytes(), 400);
    let trailer = format!("{chunked}0\r\nX: {}\r\n\r\n", "a".repeat(9000));
    let mut connection = site.connect();
    connection.send(trailer.as_bytes()).unwrap();
    assert_problem("trailer", &connection.response().unwrap(), 431);
}

#[test]
fn the_answer_to_a_refused_head_request_has_no_body() {
    let site = Site::start("", OPEN, NO_BANS);
    let mut connection = site.connect();
    connection.send(b"HEAD /x?secret HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
    let answer = connection.response_without_body().unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(connection.read_to_end().unwrap(), b"");
    let line = limiter_tests::wait::eventually_some(crate::support::SOON, "it is told", || {
        site.limiter.events().into_iter().find(|line| line.contains("Malformed request"))
    });
    assert!(line.ends_with("Malformed request from 127.0.0.1: HEAD /x"), "{line}");
    assert!(!site.limiter.lines("events.json").iter().any(|line| line.contains("secret")));
}

#[test]
fn early_hints_of_a_tunnel_are_not_requests() {
    let site = Site::start("", OPEN, NO_BANS);
    let upgrade = [("Connection", "upgrade"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABk")];
    let answer = site.send(&http::request("GET", "/", &upgrade, b""));
    assert_eq!(answer.status, 200, "never a change of protocol that nobody asked for");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n";
    refused(&site, "half a preface", preface, 400);
}

/// Behind what it may be asked whether it is still there.
fn final_answer(connection: &mut http::Connection) -> http::Response {
    loop {
        let answer = connection.response().unwrap();
        if answer.status != 100 {
            return answer;
        }
    }
}

#[test]
fn a_client_that_has_said_everything_is_answered_and_one_that_is_gone_is_given_up() {
    let site = Site::start("", OPEN, NO_BANS);
    let slow = |ms| Behaviour::Delayed(Duration::from_millis(ms), Box::new(Behaviour::ok("slow")));
    site.origin.by_default(slow(300));
    let mut connection = site.connect();
    connection.send(format!("{GOOD}{GOOD}").as_bytes()).unwrap();
    connection.finish();
    for _ in 0..2 {
        assert_eq!(final_answer(&mut connection).text(), "slow");
    }
    assert!(connection.is_closed_within(super::SOON));
    site.origin.by_default(slow(1_800));
    let mut connection = site.connect();
    connection.send(GOOD.as_bytes()).unwrap();
    connection.finish();
    assert_eq!(final_answer(&mut connection).text(), "slow");
    assert!(connection.is_closed_within(super::SOON));
    // It is waited for, not for ever.
    site.origin.by_default(slow(30_000));
    let mut connection = site.connect();
    connection.send(GOOD.as_bytes()).unwrap();
    connection.finish();
    assert!(connection.is_closed_within(Duration::from_secs(13)));
}

#[test]
fn options_for_the_server_are_answered_here() {
    let site = Site::start("", OPEN, NO_BANS);
    let mut connection = site.connect();
    let answer = connection.exchange(b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
    assert_eq!(connection.exchange(GOOD.as_bytes()).unwrap().status, 200);
    assert_eq!(site.origin.count(), 1);
}

#[test]
fn trace_is_for_routes_that_name_it() {
    let site = Site::start("", OPEN, NO_BANS);
    let trace = http::request("TRACE", "/", &[], b"");
    let answer = site.send(&trace);
    assert_eq!(answer.status, 405);
    let allow = answer.header("allow");
    assert_eq!(allow, Some("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"));
    assert_eq!(site.origin.count(), 0);
    site.reload("", &format!("methods = [\"TRACE\"]\n{OPEN}"), NO_BANS);
    assert_eq!(site.send(&trace).status, 200);
}
