//! Servers that stall, break off, lie and talk too much, at every point of an answer.

use std::time::Duration;

use limiter_tests::{
    http::{self, Failure},
    origin::Behaviour,
    wait::Deadline,
};

use crate::support::{OPEN, SOON, Site};

const TIMEOUTS: &str = "timeouts = { upstream = \"1s\", connect = \"1s\" }";

fn raw(text: &str) -> Behaviour {
    Behaviour::Raw(text.as_bytes().to_vec())
}

/// A site whose origin answers `/` well.
fn site() -> Site {
    Site::start(TIMEOUTS, OPEN, "")
}

#[test]
fn what_is_no_answer_is_502_and_its_connection_ends() {
    let site = site();
    let many_fields = "X: y\r\n".repeat(200);
    let long_field = "y".repeat(80_000);
    let cases = [
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".into(),
        ),
        ("no number", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n".into()),
        ("a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".into()),
        ("folded fields", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n".into()),
        ("space before the colon", "HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 0\r\n\r\n".into()),
        ("a control character", "HTTP/1.1 200 OK\r\nA: \x01\r\nContent-Length: 0\r\n\r\n".into()),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n\r\n".into()),
        ("another version", "HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n".into()),
        ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n".into()),
        ("a status that is none", "HTTP/1.1 700 X\r\nContent-Length: 0\r\n\r\n".into()),
        ("101 unasked", "HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".into()),
        ("too many fields", format!("HTTP/1.1 200 OK\r\n{many_fields}Content-Length: 0\r\n\r\n")),
        (
            "a length beside chunks",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n\
             5\r\nhello\r\n0\r\n\r\n"
                .into(),
        ),
        (
            "another coding",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: x\r\n\r\nx".into()),
        (
            "a huge field",
            format!("HTTP/1.1 200 OK\r\nA: {long_field}\r\nContent-Length: 0\r\n\r\n"),
        ),
    ];
    let count = cases.len() as u64;
    for (name, answer) in cases {
        site.origin.take();
        site.origin.next(raw(&answer));
        // Not repeatable: what comes back is about this one answer.
        let answer = site.send(&http::request("POST", "/", &[], b""));
        assert_eq!(answer.status, 502, "{name}: {answer:?}");
        assert_eq!(site.send(&http::request("POST", "/", &[], b"")).status, 200, "after {name}");
        let seen = site.origin.take();
        assert_ne!(seen[0].connection, seen[1].connection, "{name}: another connection");
    }
    site.refused("upstream_failed", count);
}

#[test]
fn chunks_that_are_none_are_no_answer_while_none_of_it_is_sent() {
    let site = site();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for first in ["zz\r\n", "-1\r\nx\r\n", "ffffffffffffffffff\r\nx"] {
        site.origin.next(raw(&format!("{chunked}{first}")));
        let answer = site.send(&http::request("GET", "/", &[], b""));
        assert_eq!(answer.status, 502, "{first:?}: {answer:?}");
    }
    site.refused("upstream_failed", 3);
    // What is good before them is sent, and never looks whole.
    site.origin.next(raw(&format!("{chunked}5\r\nhello\r\nzz\r\n")));
    let mut connection = site.connect();
    connection.send(&http::request("GET", "/", &[], b"")).unwrap();
    let begun = connection.read_through(b"hello\r\n").unwrap();
    assert!(begun.starts_with(b"HTTP/1.1 200"), "{}", begun.escape_ascii());
    assert!(connection.is_closed_within(SOON));
    site.refused("upstream_failed", 4);
    // Good chunks behind the head in one piece arrive as they are.
    site.origin.next(raw(&format!("{chunked}5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n")));
    assert_eq!(site.get("/", &[]).text(), "hello");
    site.origin.next(raw(&format!("{chunked}0\r\n\r\n")));
    assert_eq!(site.get("/", &[]).text(), "");
    assert_eq!(site.get("/", &[]).text(), "origin");
}

#[test]
fn bytes_behind_an_answer_are_nobodys() {
    let site = site();
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for answer in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{poison}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{poison}"),
        format!("HTTP/1.1 304 Not Modified\r\n\r\n{poison}"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{poison}"
        ),
    ] {
        site.origin.next(raw(&answer));
        let mut connection = site.connect();
        let get = http::request("GET", "/", &[], b"");
        let first = connection.exchange(&get).unwrap();
        assert!(matches!(first.status, 200 | 204 | 304), "{answer:?}: {first:?}");
        assert_eq!(connection.exchange(&get).unwrap().text(), "origin", "{answer:?}");
        assert_eq!(site.get("/", &[]).text(), "origin", "{answer:?}");
    }
    // The body of an answer to HEAD does not exist.
    site.origin.next(raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"));
    let mut connection = site.connect();
    connection.send(&http::request("HEAD", "/", &[], b"")).unwrap();
    assert_eq!(connection.response_without_body().unwrap().status, 200);
    assert_eq!(connection.exchange(&http::request("GET", "/", &[], b"")).unwrap().text(), "origin");
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_whole() {
    let site = site();
    let closing = [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
    ];
    for answer in closing {
        site.origin.next(Behaviour::RawThenClose(answer.as_bytes().to_vec()));
        let failure = site.try_send(&http::request("GET", "/", &[], b"")).unwrap_err();
        assert!(matches!(failure, Failure::Closed(_) | Failure::Reset), "{answer:?}: {failure}");
        assert_eq!(site.get("/", &[]).status, 200);
    }
    site.refused("upstream_failed", closing.len() as u64);
    // In the middle of a head nothing was passed on yet.
    for head in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nA: b\r\n"] {
        site.origin.next(Behaviour::RawThenClose(head.as_bytes().to_vec()));
        assert_eq!(site.send(&http::request("POST", "/", &[], b"")).status, 502, "{head:?}");
    }
}

#[test]
fn a_server_that_stalls_is_given_up_wherever_it_does() {
    let site = site();
    let within = |since: &Deadline, what: &str| {
        let elapsed = since.elapsed();
        assert!((500..3000).contains(&elapsed.as_millis()), "{what}: {elapsed:?}");
    };
    for start in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
        site.origin.next(raw(start));
        let since = Deadline::after(Duration::ZERO);
        assert_eq!(site.send(&http::request("POST", "/", &[], b"")).status, 504, "{start:?}");
        within(&since, start);
    }
    for start in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
    ] {
        site.origin.next(raw(start));
        let since = Deadline::after(Duration::ZERO);
        site.try_send(&http::request("GET", "/", &[], b"")).unwrap_err();
        within(&since, start);
    }
    assert_eq!(site.get("/", &[]).status, 200);
}

#[test]
fn a_server_that_never_comes_to_its_answer_is_given_up() {
    let site = site();
    let flood = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(50_000);
    site.origin.next(raw(&flood));
    assert_eq!(site.send(&http::request("POST", "/", &[], b"")).status, 504);
    assert_eq!(site.get("/", &[]).status, 200);
    site.origin.next(raw(&format!(
        "{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(3)
    )));
    assert_eq!(site.send(&http::request("POST", "/", &[], b"")).text(), "ok");
}

#[test]
fn a_server_that_takes_nothing_is_given_up() {
    let site = Site::start(&format!("{TIMEOUTS}\nmax_body = \"64MB\""), OPEN, "");
    site.origin.next(Behaviour::Deaf);
    let since = Deadline::after(Duration::ZERO);
    let body = vec![b'x'; 32_000_000];
    match site.try_send(&http::request("POST", "/", &[], &body)) {
        Ok(answer) => assert_eq!(answer.status, 504, "{answer:?}"),
        Err(failure) => assert!(matches!(failure, Failure::Reset), "{failure}"),
    }
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    site.refused("upstream_timeout", 1);
}

#[test]
fn an_upload_whose_answer_is_over_ends_with_it() {
    let site = site();
    // The whole answer comes before the body, and the connection stays open.
    site.origin
        .next(Behaviour::Early(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno".to_vec()));
    let mut connection = site.connect();
    let fields = [("Content-Length", "1000000")];
    connection.send(&http::request("POST", "/", &fields, b"")).unwrap();
    connection.send(&[b'x'; 1000]).unwrap();
    let answer = connection.response().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
    // Its connection is not kept for others.
    for _ in 0..3 {
        assert_eq!(site.get("/", &[]).text(), "origin");
    }
    let closed = || site.origin.open_connections() <= 2;
    limiter_tests::wait::eventually(SOON, "the upload to end", closed);
}

#[test]
fn chunked_answers_do_not_cost_their_connection() {
    let site = site();
    site.origin.by_default(Behaviour::Chunked(vec![b"a".to_vec(), b"b".to_vec()], Duration::ZERO));
    let mut connection = site.connect();
    for _ in 0..20 {
        assert_eq!(connection.exchange(&http::request("GET", "/", &[], b"")).unwrap().text(), "ab");
    }
    assert!(site.origin.connections() <= 2, "{}", site.origin.connections());
}

#[test]
fn trailers_pass_both_ways_without_what_is_not_theirs() {
    let site = site();
    site.origin.next(raw(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Auth-Subject\r\n\r\n\
         2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
    ));
    let mut connection = site.connect();
    let fields = [
        ("TE", "trailers"),
        ("Transfer-Encoding", "chunked"),
        ("Trailer", "X-Digest, X-Auth-Subject, X-Forwarded-For"),
    ];
    connection.send(&http::request("POST", "/", &fields, b"")).unwrap();
    connection
        .send(b"2\r\nhi\r\n0\r\nX-Digest: 42\r\nX-Auth-Subject: root\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n")
        .unwrap();
    let answer = connection.read_through(b"\r\n0\r\nx-sum: 7\r\n\r\n").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
    let seen = site.origin.take_one(SOON);
    let body = seen.raw_body.escape_ascii().to_string();
    assert!(body.contains("x-digest: 42"), "{body}");
    assert!(!body.contains("root") && !body.contains("9.9.9.9"), "{body}");
    assert_eq!(seen.body, b"hi");
}
