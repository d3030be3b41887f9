//! Bodies stream both ways, connections are kept, and framing is kept apart.

use std::time::Duration;

use limiter_tests::{
    http::{self, chunked},
    origin::Behaviour,
    wait::Deadline,
};

use crate::support::{OPEN, SOON, Site};

#[test]
fn a_body_passes_chunk_by_chunk_in_both_directions() {
    let site = Site::start("", OPEN, "");
    site.origin.by_default(Behaviour::EchoStreamed);
    let mut connection = site.connect();
    let fields = [("Transfer-Encoding", "chunked")];
    connection.send(&http::request("POST", "/", &fields, b"")).unwrap();
    connection.send(b"5\r\nfirst\r\n").unwrap();
    // The answer to the first chunk is here before the second is sent.
    let head = connection.read_through(b"first\r\n").unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", head.escape_ascii());
    connection.send(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
    let rest = connection.read_through(b"0\r\n\r\n").unwrap();
    assert_eq!(rest.escape_ascii().to_string(), "6\\r\\nsecond\\r\\n0\\r\\n\\r\\n");
    let seen = site.origin.take_one(SOON);
    assert_eq!((seen.body.as_slice(), seen.complete), (&b"firstsecond"[..], true));
    // The connection goes on.
    site.origin.by_default(Behaviour::Echo);
    let answer = connection.exchange(&http::request("POST", "/", &[], b"third")).unwrap();
    assert_eq!(answer.text(), "third");
}

#[test]
fn a_slow_answer_arrives_as_it_is_made() {
    let site = Site::start("", OPEN, "");
    let chunks = vec![b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
    site.origin.by_default(Behaviour::Chunked(chunks, Duration::from_millis(300)));
    let mut connection = site.connect();
    let since = Deadline::after(Duration::ZERO);
    connection.send(&http::request("GET", "/", &[], b"")).unwrap();
    let mut times = Vec::new();
    for part in [&b"one\r\n"[..], b"two\r\n", b"three\r\n"] {
        connection.read_through(part).unwrap();
        times.push(since.elapsed());
    }
    let gap = Duration::from_millis(200);
    assert!(times[1] > times[0] + gap && times[2] > times[1] + gap, "{times:?}");
}

#[test]
fn connections_are_kept_on_both_sides_and_requests_may_be_pipelined() {
    let site = Site::start("", OPEN, "");
    let mut connection = site.connect();
    let bytes = http::request("GET", "/", &[], b"");
    for _ in 0..20 {
        assert_eq!(connection.exchange(&bytes).unwrap().status, 200);
    }
    assert!(site.origin.connections() <= 2, "{}", site.origin.connections());
    site.origin.by_default(Behaviour::Echo);
    let posts: Vec<u8> =
        (0..5).flat_map(|n| http::request("POST", "/", &[], format!("n{n}").as_bytes())).collect();
    connection.send(&posts).unwrap();
    for number in 0..5 {
        assert_eq!(connection.response().unwrap().text(), format!("n{number}"));
    }
    let last =
        connection.exchange(&http::request("GET", "/", &[("Connection", "close")], b"")).unwrap();
    assert_eq!(last.status, 200);
    assert!(connection.is_closed_within(Duration::from_secs(2)));
    // A HEAD has the length and no body; the next answer is found behind it.
    let mut connection = site.connect();
    site.origin.by_default(Behaviour::ok("four"));
    connection.send(&http::request("HEAD", "/", &[], b"")).unwrap();
    let head = connection.response_without_body().unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("4")));
    assert_eq!(connection.exchange(&bytes).unwrap().text(), "four");
}

#[test]
fn a_large_body_is_not_gathered_and_a_too_large_one_is_cut_off() {
    let site = Site::start("max_body = \"8MB\"", OPEN, "");
    site.origin.by_default(Behaviour::Echo);
    let body: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let answer = site.send(&http::request("POST", "/", &[], &body));
    assert_eq!((answer.status, answer.body.len(), answer.body == body), (200, body.len(), true));
    site.origin.take();
    let announced = http::request("POST", "/", &[("Content-Length", "8000001")], b"");
    assert_eq!(site.send(&announced).status, 413);
    assert_eq!(site.origin.count(), 0);
    // One that does not announce it ends at the bound; the origin never sees it whole.
    let part = vec![b'x'; 1_000_000];
    let parts: Vec<&[u8]> = (0..9).map(|_| part.as_slice()).collect();
    let mut bytes = http::request("POST", "/", &[("Transfer-Encoding", "chunked")], b"");
    bytes.extend(chunked(&parts));
    match site.try_send(&bytes) {
        Ok(answer) => assert_eq!(answer.status, 413, "{answer:?}"),
        Err(failure) => assert!(matches!(failure, http::Failure::Reset), "{failure}"),
    }
    site.refused("body_too_large", 2);
    assert!(site.origin.requests().iter().all(|request| !request.complete));
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let site = Site::start("", OPEN, "");
    site.origin.by_default(Behaviour::Echo);
    let mut connection = site.connect();
    let fields = [("Expect", "100-continue"), ("Content-Length", "4")];
    connection.send(&http::request("POST", "/", &fields, b"")).unwrap();
    assert_eq!(connection.response().unwrap().status, 100);
    connection.send(b"body").unwrap();
    let answer = connection.response().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
}
