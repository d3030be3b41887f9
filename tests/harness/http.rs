//! Client and origin against each other: what one sends is what the other records.

use std::time::Duration;

use limiter_tests::{
    http::{Connection, Failure, chunked, exchange, request},
    netns::Namespace,
    origin::{Behaviour, Origin},
    wait::eventually,
};

const WAIT: Duration = Duration::from_secs(5);

fn start() -> (Namespace, Origin) {
    let namespace = Namespace::new("http");
    let origin = Origin::start(&namespace);
    (namespace, origin)
}

#[test]
fn an_exchange_is_recorded_byte_for_byte() {
    let (namespace, origin) = start();
    let bytes = request("POST", "/a?b=c", &[("X-Case", " kept ")], b"body");
    let sent = bytes.clone();
    let response = namespace.run(|| exchange(origin.address(), &bytes)).unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "origin"));
    assert_eq!(response.header("content-type"), Some("text/plain"));
    let recorded = origin.take_one(WAIT);
    assert_eq!([recorded.head.clone(), recorded.raw_body.clone()].concat(), sent);
    assert_eq!(recorded.line(), "POST /a?b=c HTTP/1.1");
    assert_eq!(recorded.target(), "/a?b=c");
    assert_eq!(recorded.header("x-case").as_deref(), Some("kept"));
    assert!(recorded.complete);
    assert_eq!(origin.count(), 0);
}

#[test]
fn one_connection_carries_many_requests_of_every_framing() {
    let (namespace, origin) = start();
    origin.by_default(Behaviour::Echo);
    origin.on("/chunks", Behaviour::Chunked(vec![b"ab".to_vec(), b"c".to_vec()], Duration::ZERO));
    origin.on("/stream", Behaviour::EchoStreamed);
    let mut connection = namespace.run(|| Connection::open(origin.address()).unwrap());
    for number in 0..50 {
        let body = vec![b'x'; number * 700];
        let response = connection.exchange(&request("PUT", "/", &[], &body)).unwrap();
        assert_eq!(response.body, body);
    }
    let response = connection.exchange(&request("GET", "/chunks", &[], b"")).unwrap();
    assert_eq!(response.body, b"abc");
    for path in ["/", "/stream"] {
        let body = chunked(&[b"first", b"", b"second"]);
        let headers = [("Transfer-Encoding", "chunked"), ("Content-Type", "a/b")];
        let response = connection.exchange(&request("POST", path, &headers, &body)).unwrap();
        assert_eq!(response.body, b"firstsecond");
        assert_eq!(response.header("content-type"), Some("a/b"));
        assert_eq!(origin.requests().last().unwrap().raw_body, body);
    }
    connection.send(&request("HEAD", "/head", &[], b"")).unwrap();
    origin.on("/head", Behaviour::ok("not sent"));
    let response = connection.response_without_body().unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(connection.exchange(&request("GET", "/", &[], b"")).unwrap().status, 200);

    let recorded = origin.take();
    assert_eq!(recorded.len(), 55);
    assert!(recorded.iter().all(|request| request.connection == 0));
    assert_eq!(recorded.last().unwrap().nth, 54);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn two_requests_sent_at_once_are_answered_in_order() {
    let (namespace, origin) = start();
    origin.next(Behaviour::ok("first"));
    origin.next(Behaviour::Delayed(Duration::from_millis(20), Box::new(Behaviour::ok("second"))));
    let mut connection = namespace.run(|| Connection::open(origin.address()).unwrap());
    let both = request("GET", "/", &[], b"").repeat(2);
    connection.send(&both).unwrap();
    assert_eq!(connection.response().unwrap().body, b"first");
    assert_eq!(connection.response().unwrap().body, b"second");
}

#[test]
fn an_origin_misbehaves_as_told() {
    let (namespace, origin) = start();
    let get = |behaviour| {
        origin.next(behaviour);
        namespace.run(|| exchange(origin.address(), &request("GET", "/", &[], b"")))
    };
    let cut = get(Behaviour::CloseMidBody(10, b"half".to_vec()));
    assert!(matches!(&cut, Err(Failure::Closed(before)) if before == b"half"), "{cut:?}");
    let closed = get(Behaviour::CloseBeforeAnswer);
    assert!(matches!(&closed, Err(Failure::Closed(before)) if before.is_empty()), "{closed:?}");
    let reset = get(Behaviour::Reset);
    assert!(matches!(reset, Err(Failure::Reset)), "{reset:?}");
    let garbage = get(Behaviour::RawThenClose(b"SSH-2.0-x\r\n\r\n".to_vec()));
    assert!(matches!(garbage, Err(Failure::Malformed(_))), "{garbage:?}");
    let raw = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end".to_vec();
    assert_eq!(get(Behaviour::RawThenClose(raw)).unwrap().body, b"until the end");
    assert_eq!(get(Behaviour::status(204)).unwrap().status, 204);

    origin.next(Behaviour::AnswerBeforeBody(413));
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    let early = namespace.run(|| exchange(origin.address(), head)).unwrap();
    assert_eq!(early.status, 413);
    assert!(!origin.take().last().unwrap().complete);
}

#[test]
fn a_stalled_origin_holds_a_client_until_its_timeout_and_ends_when_dropped() {
    let (namespace, origin) = start();
    origin.by_default(Behaviour::Stall);
    let mut connection = namespace.run(|| Connection::open(origin.address()).unwrap());
    connection.set_timeout(Duration::from_millis(50));
    let stalled = connection.exchange(&request("GET", "/", &[], b""));
    assert!(matches!(stalled, Err(Failure::Timeout)), "{stalled:?}");
    assert_eq!(origin.open_connections(), 1);
    drop(origin);
    assert!(connection.is_closed_within(WAIT));
}

#[test]
fn an_origin_can_drop_its_connections_and_go_on() {
    let (namespace, origin) = start();
    let mut connection = namespace.run(|| Connection::open(origin.address()).unwrap());
    connection.exchange(&request("GET", "/", &[], b"")).unwrap();
    origin.close_connections();
    assert!(connection.is_closed_within(WAIT));
    eventually(WAIT, "the origin forgets it", || origin.open_connections() == 0);
    let again = namespace.run(|| exchange(origin.address(), &request("GET", "/", &[], b"")));
    assert_eq!(again.unwrap().status, 200);
    assert_eq!(origin.connections(), 2);

    let body = request("POST", "/", &[("Expect", "100-continue")], b"x");
    let mut connection = namespace.run(|| Connection::open(origin.address()).unwrap());
    assert_eq!(connection.exchange(&body).unwrap().status, 100);
    assert_eq!(connection.response().unwrap().status, 200);
}
