//! Connections that rest between requests: their memory is given back, and nothing else changes.

use std::{thread, time::Duration};

use limiter_tests::{http, origin::Behaviour};

use crate::support::{OPEN, SOON, Site};

/// Longer than a connection without requests keeps its buffers.
const REST: Duration = Duration::from_millis(1500);

#[test]
fn requests_after_a_rest_are_served_as_before_it() {
    let site = Site::start("", OPEN, "");
    let mut connection = site.connect();
    let request = http::request("GET", "/", &[], b"");
    for round in 0..3 {
        assert_eq!(connection.exchange(&request).unwrap().status, 200, "{round}");
        thread::sleep(REST);
    }
    // In pieces, with a body, and two at once.
    let post = http::request("POST", "/", &[], b"body");
    for byte in post.chunks(7) {
        connection.send(byte).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(connection.response().unwrap().status, 200);
    thread::sleep(REST);
    connection.send(&[&request[..], &request].concat()).unwrap();
    assert_eq!(connection.response().unwrap().status, 200);
    assert_eq!(connection.response().unwrap().status, 200);
    assert_eq!(site.origin.count(), 6);
    thread::sleep(REST);
    connection.send(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n").unwrap();
    assert_eq!(connection.response().unwrap().status, 400);
}

#[test]
fn what_a_slow_client_has_not_taken_yet_is_not_lost() {
    let site = Site::start("", OPEN, "");
    // More than socket buffers hold.
    let body = vec![b'x'; 12 << 20];
    site.origin.on("/large", Behaviour::Answer(200, Vec::new(), body.clone()));
    let mut connection = site.connect();
    connection.send(&http::request("GET", "/large", &[], b"")).unwrap();
    site.origin.take_one(SOON);
    thread::sleep(REST * 2);
    assert!(connection.response().unwrap().body == body);
    assert_eq!(connection.exchange(&http::request("GET", "/", &[], b"")).unwrap().status, 200);
}

#[test]
fn a_resting_connection_still_ends_when_it_must() {
    let mut site = Site::start("timeouts = { idle = \"3s\" }", OPEN, "");
    let request = http::request("GET", "/", &[], b"");
    let mut idle = site.connect();
    assert_eq!(idle.exchange(&request).unwrap().status, 200);
    assert!(idle.is_closed_within(SOON), "idle for too long");
    let mut halves = site.connect();
    assert_eq!(halves.exchange(&request).unwrap().status, 200);
    thread::sleep(REST);
    halves.finish();
    assert!(halves.is_closed_within(SOON), "the client has closed it");
    let mut drained = site.connect();
    assert_eq!(drained.exchange(&request).unwrap().status, 200);
    thread::sleep(REST);
    site.limiter.terminate(SOON);
    assert!(drained.is_closed_within(SOON));
}
