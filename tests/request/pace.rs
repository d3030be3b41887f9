//! Clients that take their time: bodies have a rate, and requests in flight a bound.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use limiter_tests::{http, origin::Behaviour, wait::Deadline};

use crate::support::{OPEN, SOON, Site};

const SLOW: &str = "timeouts = { body = \"1s\", idle = \"1s\" }\nmin_body_rate = \"1KB/s\"";

fn connect(site: &Site) -> TcpStream {
    let stream = site.namespace.run(|| TcpStream::connect(Site::address()).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

#[test]
fn a_body_that_trickles_is_given_up_and_one_at_the_rate_is_not() {
    let site = Site::start(SLOW, OPEN, "");
    let head = b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 6000\r\n\r\n";
    // Never still for as long as `body`, and far below the rate.
    let mut slow = connect(&site);
    let begin = Deadline::after(Duration::from_secs(8));
    slow.write_all(head).unwrap();
    let mut answer = Vec::new();
    while !begin.is_over() {
        if slow.write_all(b"aa").is_err() {
            break;
        }
        slow.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut bytes = [0; 1024];
        match slow.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&bytes[..count]),
            Err(_) => {}
        }
    }
    let lasted = begin.elapsed();
    assert!(lasted < Duration::from_secs(4), "{lasted:?}");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("\"status\":408,\"request_id\":\""), "{answer}");
    site.refused("timeout", 1);
    site.origin.take();
    // As long as it keeps the rate a body may take much longer than `body`.
    let mut steady = connect(&site);
    steady.write_all(head).unwrap();
    for _ in 0..15 {
        std::thread::sleep(Duration::from_millis(200));
        steady.write_all(&[b'a'; 400]).unwrap();
    }
    let mut answer = [0; 12];
    steady.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(site.origin.take_one(SOON).body.len(), 6_000);
    site.refused("timeout", 1);
}

#[test]
fn an_answer_that_is_taken_too_slowly_is_cut_off() {
    let site = Site::start(&SLOW.replace("1KB", "1MB"), OPEN, "");
    site.origin.by_default(Behaviour::Answer(200, Vec::new(), vec![b'a'; 64 << 20]));
    let mut slow = connect(&site);
    slow.write_all(&http::request("GET", "/large", &[], b"")).unwrap();
    let begin = Deadline::after(Duration::from_secs(20));
    let mut taken = 0;
    let mut bytes = vec![0; 64 << 10];
    // A little all the time, so that it is never still.
    while !begin.is_over() {
        match slow.read(&mut bytes) {
            Ok(0) | Err(_) => break,
            Ok(count) => taken += count,
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert!(taken < 32 << 20, "{taken}");
    site.refused("timeout", 1);
    // Whoever takes it as it comes gets all of it.
    let answer = site.get("/large", &[]);
    assert_eq!((answer.status, answer.body.len()), (200, 64 << 20));
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut site = Site::prepare("max_requests = 3", OPEN, "");
    // On several cores it is a little loose.
    site.limiter.environment("LIMITER_PROXY_THREADS", "1");
    site.limiter.restart();
    site.origin.by_default(Behaviour::Stall);
    let bytes = http::request("GET", "/", &[], b"");
    let mut waiting: Vec<_> = (0..3).map(|_| site.connect()).collect();
    for connection in &mut waiting {
        connection.send(&bytes).unwrap();
    }
    limiter_tests::wait::eventually(SOON, "three wait", || site.origin.count() == 3);
    let refused = site.send(&bytes);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    site.refused("overloaded", 1);
    site.origin.by_default(Behaviour::ok("origin"));
    drop(waiting);
    limiter_tests::wait::eventually(SOON, "there is room again", || {
        site.send(&bytes).status == 200
    });
}
