//! HTTP/1.1 as it must be spoken to clients and upstreams.

use std::{io::Write, time::Duration};

use super::{
    origin::{Origin, policy},
    support::Proxy,
};
use crate::{clock, refusal::Refusal};

#[test]
fn keep_alive_on_both_sides_and_headers_for_the_upstream() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(&origin));
    let mut client = proxy.connect();
    for _ in 0..3 {
        let reply = client.send(
            "GET /x//y?q=1\nX-Request-Id: request-1\nX-Forwarded-For: 1.2.3.4\nForwarded: for=1.2.3.4\n\
             X-Auth-Subject: root\nConnection: X-Hop\nX-Hop: 1\nHop: 2\nTE: trailers\nUpgrade: h2c\n",
        );
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("x-request-id"), Some("request-1"));
        assert_eq!(reply.header("keep-alive"), None);
        let head = reply.body.to_lowercase();
        assert!(head.starts_with("get /x/y?q=1 http/1.1\r\n"), "{head}");
        for line in [
            "host: a.test\r\n",
            "x-forwarded-for: 127.0.0.1\r\n",
            "x-forwarded-proto: http\r\n",
            "x-forwarded-host: a.test\r\n",
            "forwarded: for=127.0.0.1;proto=http\r\n",
            "x-request-id: request-1\r\n",
        ] {
            assert!(head.contains(line), "{line} in {head}");
        }
        for absent in ["1.2.3.4", "root", "upgrade", "te: "] {
            assert!(!head.contains(absent), "{absent} in {head}");
        }
    }
    assert_eq!(*origin.connections.lock().unwrap(), 1, "one upstream connection is kept");
    drop(client);
    let counters = proxy.drain();
    assert_eq!((counters.requests, counters.forwarded), (3, 3));
    assert_eq!(counters.responses, [0, 3, 0, 0, 0]);
    assert_eq!((counters.connections, counters.connections_open), (1, 0));
}

#[test]
fn bodies_are_streamed_both_ways() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(&origin));
    let mut client = proxy.connect();
    client.write(
        "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    );
    std::thread::sleep(Duration::from_millis(50));
    client.write("6\r\n world\r\n0\r\nX-Trailer: no\r\n\r\n");
    let reply = client.read();
    assert_eq!(reply.header("transfer-encoding"), Some("chunked"));
    assert!(reply.body.ends_with("hello world"), "{}", reply.body);
    client.write("PUT /y HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.read().status, 100);
    client.write("abcd");
    let reply = client.read();
    assert!(reply.body.ends_with("abcd") && !reply.body.to_lowercase().contains("expect"));
    assert_eq!(client.send("GET /z").status, 200);
    drop(client);
    proxy.drain();
}

#[test]
fn bodies_are_bounded_whether_announced_or_not() {
    let origin = Origin::start();
    let mut proxy = Proxy::start(&policy(&origin));
    let mut client = proxy.connect();
    client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n");
    assert_eq!(client.read().status, 413);
    let mut client = proxy.connect();
    client.write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..11 {
        client.write(&format!("64\r\n{}\r\n", "x".repeat(100)));
    }
    assert_eq!(client.read().status, 413);
    proxy.agent.refused(Refusal::BodyTooLarge);
    assert_eq!(proxy.get("GET /").status, 200);
    proxy.drain();
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_observed() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(&origin));
    let mut refused = 0;
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        "GET /%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /api%2Fx HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +4\r\n\r\nabcd",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut client = proxy.connect();
        client.write(head);
        let status = client.try_read().map(|reply| reply.status);
        assert_eq!(status, Some(400), "{head:?}");
        assert!(client.is_closed(), "{head:?}");
        refused += 1;
    }
    let counters = proxy.drain();
    let index = Refusal::ALL.iter().position(|r| *r == Refusal::MalformedRequest).unwrap();
    assert_eq!(counters.refused[index], refused);
    // Only the one whose body broke off reached the upstream.
    assert!(counters.forwarded <= 1);
}

#[test]
fn heads_are_bounded_in_size_and_time() {
    let origin = Origin::start();
    let mut policy = policy(&origin);
    policy.timeouts.header = Duration::from_millis(300);
    policy.timeouts.idle = Duration::from_millis(600);
    let mut proxy = Proxy::start(&policy);
    let mut client = proxy.connect();
    client.write(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(20_000)));
    assert_eq!(client.read().status, 431);
    proxy.agent.refused(Refusal::HeadTooLarge);
    let mut client = proxy.connect();
    client.write("GET / HTTP/1.1\r\nHost: a\r\n");
    assert_eq!(client.read().status, 408);
    assert!(client.is_closed());
    proxy.agent.refused(Refusal::Timeout);
    let mut silent = proxy.connect();
    assert!(silent.is_closed(), "a connection without a first byte ends");
    let mut idle = proxy.connect();
    assert_eq!(idle.send("GET /").status, 200);
    assert!(idle.is_closed(), "an idle connection ends");
    proxy.drain();
}

#[test]
fn upstreams_that_fail() {
    let origin = Origin::start();
    let mut policy = policy(&origin);
    policy.timeouts.upstream = Duration::from_millis(300);
    policy.timeouts.body = Duration::from_millis(300);
    let mut proxy = Proxy::start(&policy);
    assert_eq!(proxy.get("GET /sleep").status, 504);
    proxy.agent.refused(Refusal::UpstreamTimeout);
    let mut client = proxy.connect();
    assert_eq!(client.send("GET /").status, 200);
    assert_eq!(client.send("GET /close").status, 502);
    proxy.agent.refused(Refusal::UpstreamFailed);
    assert_eq!(client.send("GET /").status, 200, "the client's connection is kept");
    client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    assert_eq!(client.read().status, 408, "a body that does not come is the client's");
    policy.upstreams[0].servers[0].port = 1;
    proxy.agent.apply(2, &policy);
    assert_eq!(proxy.get("GET /").status, 502);
    proxy.drain();
}

#[test]
fn a_kept_connection_that_died_is_replaced_where_that_is_safe() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(&origin));
    let mut client = proxy.connect();
    assert_eq!(client.send("GET /last").status, 200);
    assert_eq!(client.send("GET /x").status, 200, "sent once more");
    assert_eq!(client.send("GET /last").status, 200);
    client.write("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(client.read().status, 502, "may have had an effect");
    let counters = proxy.drain();
    assert_eq!((counters.requests, counters.forwarded), (4, 4));
}

#[test]
fn mutated_requests_do_no_harm() {
    const SEED: &[u8] = b"POST /api/%41?q=1 HTTP/1.1\r\nHost: a.test\r\nX-API-KEY: lk_good\r\n\
        Origin: https://app.test\r\nForwarded: for=\"[::1]:80\"\r\nTransfer-Encoding: chunked\r\n\
        Connection: x, close\r\n\r\n4\r\nabcd\r\n0\r\n\r\n";
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(&origin));
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(bound).unwrap()).unwrap()
    };
    for _ in 0..2000 {
        let mut bytes = SEED.to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => bytes.truncate(at.max(1)),
                2 => bytes.insert(at, b"\r\n\0:;,%/.\"\xff"[random(11)]),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(b'x');
            }
        }
        let mut client = proxy.connect();
        let socket = client.0.get_mut();
        // The proxy may refuse and close before everything is written.
        drop(socket.write_all(&bytes));
        drop(socket.shutdown(std::net::Shutdown::Write));
        while !client.is_closed() {}
    }
    assert_eq!(proxy.get("GET /").status, 200);
    let counters = proxy.drain();
    assert_eq!(counters.connections_open, 0);
}

#[test]
fn a_head_may_come_byte_by_byte_and_pipelined() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(&origin));
    let mut client = proxy.connect();
    for byte in b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n" {
        client.0.get_mut().write_all(&[*byte]).unwrap();
    }
    assert!(client.read().body.starts_with("GET /a "));
    client.write("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.read().body.starts_with("GET /1 "));
    assert!(client.read().body.starts_with("GET /2 "));
    client.write("HEAD /h HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    drop(client);
    proxy.drain();
}

#[test]
fn an_upstream_that_stalls_in_mid_body_is_given_up() {
    let origin = Origin::start();
    let mut policy = policy(&origin);
    policy.timeouts.upstream = Duration::from_millis(300);
    let proxy = Proxy::start(&policy);
    let begun = clock::monotonic_ns();
    let mut client = proxy.connect();
    client.write("GET /stall HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.try_read().is_none(), "the answer is cut off");
    let waited_ns = clock::monotonic_ns() - begun;
    assert!((250_000_000..3_000_000_000).contains(&waited_ns), "{waited_ns}");
    drop(client);
    proxy.drain();
}

#[test]
fn a_pipelined_body_of_two_lengths_is_refused() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(&origin));
    let mut client = proxy.connect();
    client.write(
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n\
         POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    assert_eq!(client.read().status, 200);
    assert_eq!(client.read().status, 400);
    proxy.drain();
}
