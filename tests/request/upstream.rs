//! An upstream that refuses, stalls, resets or lies: 502 or 504, and never a hang.

use std::time::Duration;

use limiter_tests::{http, origin::Behaviour, wait::Deadline};

use crate::support::{OPEN, Site};

const TIMEOUTS: &str = "timeouts = { upstream = \"1s\", connect = \"1s\" }";

#[test]
fn failures_before_the_answer_are_502_or_504() {
    let site = Site::start(TIMEOUTS, OPEN, "");
    let raw = |text: &str| Behaviour::RawThenClose(text.as_bytes().to_vec());
    let post = http::request("POST", "/", &[], b"x");
    let cases = [
        (Behaviour::CloseBeforeAnswer, 502),
        (Behaviour::Reset, 502),
        (raw("nonsense\r\n\r\n"), 502),
        (raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), 502),
        (raw("HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n"), 502),
        (Behaviour::Stall, 504),
    ];
    let count = cases.len();
    for (behaviour, expected) in cases {
        let shown = format!("{behaviour:?}");
        site.origin.next(behaviour);
        let since = Deadline::after(Duration::ZERO);
        let answer = site.send(&post);
        assert_eq!(answer.status, expected, "{shown}: {answer:?}");
        assert!(since.elapsed() < Duration::from_secs(3), "{shown}: {:?}", since.elapsed());
        assert_eq!(answer.json()["status"], expected, "{shown}");
        // The next request is not affected.
        assert_eq!(site.send(&post).status, 200, "after {shown}");
    }
    assert_eq!(site.origin.count(), 2 * count, "a request with a body is never sent twice");
    site.refused("upstream_failed", 5);
    site.refused("upstream_timeout", 1);
    site.limiter.event("ERROR: [SECURITY] Upstream failed for request from 127.0.0.1: POST /");
    site.limiter.event("ERROR: [SECURITY] Upstream timed out for request from 127.0.0.1: POST /");
}

#[test]
fn an_answer_cut_short_is_cut_short_for_the_client_too() {
    let site = Site::start(TIMEOUTS, OPEN, "");
    let cut = [
        Behaviour::CloseMidBody(100, b"only this".to_vec()),
        Behaviour::RawThenClose(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec(),
        ),
    ];
    for behaviour in cut {
        site.origin.next(behaviour);
        let failure = site.try_send(&http::request("GET", "/", &[], b"")).unwrap_err();
        assert!(
            matches!(failure, http::Failure::Closed(_) | http::Failure::Reset),
            "it is not taken for whole: {failure}"
        );
        assert_eq!(site.get("/", &[]).status, 200);
    }
}

#[test]
fn an_upstream_that_is_not_there_is_502_and_is_found_again() {
    let mut site = Site::start(TIMEOUTS, OPEN, "");
    let address = site.origin.address();
    let elsewhere = limiter_tests::origin::Origin::start(&site.namespace);
    drop(std::mem::replace(&mut site.origin, elsewhere));
    let since = Deadline::after(Duration::ZERO);
    for _ in 0..5 {
        let answer = site.get("/", &[]);
        assert_eq!((answer.status, answer.header("retry-after")), (502, Some("1")));
    }
    assert!(since.elapsed() < Duration::from_secs(2));
    let again = limiter_tests::origin::Origin::start_at(&site.namespace, address);
    assert_eq!(site.get("/", &[]).status, 200);
    // One that closed its idle connections loses no request.
    again.close_connections();
    for _ in 0..3 {
        assert_eq!(site.get("/", &[]).status, 200);
    }
}
