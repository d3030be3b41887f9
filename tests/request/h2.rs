//! HTTP/2 as other people's clients speak it, with and without TLS.

use std::{net::TcpStream, thread, time::Duration};

use limiter_tests::{
    origin::{Behaviour, Recorded},
    wait::eventually,
};
use nix::sys::signal::Signal;

use crate::{edge::Edge, support::SOON};

const PLAIN: &str = "[[http.listener]]\naddress = \"127.0.0.1:8080\"";

/// A scene of the Python library's.
#[track_caller]
fn scene(edge: &Edge, name: &str) {
    let said = edge.python("h2_peer.py", &[name]).succeeded().stdout;
    assert!(said.ends_with("as it should\n"), "{said}");
}

#[test]
fn many_requests_share_a_connection() {
    let edge = Edge::start("", PLAIN);
    edge.origin.on("/echo", Behaviour::Echo);
    scene(&edge, "many");
    assert_eq!(edge.origin.count(), 41);
    let seen = &edge.origin.take()[0];
    assert_eq!(seen.header("host").as_deref(), Some("a.test"));
    assert!(seen.line().ends_with(" HTTP/1.1"));
    eventually(SOON, "41 requests", || edge.limiter.status().requests == 41);
}

#[test]
fn what_is_malformed_ends_its_stream_only() {
    let edge = Edge::start("", PLAIN);
    scene(&edge, "refused");
    edge.limiter.event("Malformed request from 127.0.0.1: GET /");
    assert_eq!(edge.origin.count(), 1);
    // Also those that the library refused by itself.
    eventually(SOON, "10 malformed requests", || {
        edge.limiter.status().refused.get("malformed_request") == Some(&10)
    });
}

#[test]
fn bounds_are_announced_and_hold() {
    let edge = Edge::start("", PLAIN);
    scene(&edge, "bounds");
    assert_eq!(edge.origin.count(), 0);
    edge.refused("head_too_large", 3);
}

#[test]
fn rapid_resets_end_the_connection_and_are_told() {
    let edge = Edge::start("", PLAIN);
    edge.origin.on("/stall", Behaviour::Stall);
    scene(&edge, "resets");
    edge.limiter.event("Malformed request from 127.0.0.1");
}

#[test]
fn who_says_nothing_is_ended() {
    let edge = Edge::start("timeouts = { header = \"1s\", idle = \"1500ms\" }", PLAIN);
    scene(&edge, "silent");
    edge.limiter.event("Request timed out from 127.0.0.1");
}

#[test]
fn frames_that_say_nothing_end_the_connection() {
    let edge = Edge::start("", PLAIN);
    scene(&edge, "floods");
    edge.limiter.event("Malformed request from 127.0.0.1");
}

#[test]
fn a_later_head_has_a_deadline_too() {
    let edge = Edge::start("timeouts = { header = \"1s\" }", PLAIN);
    edge.origin.on("/stall", Behaviour::Stall);
    scene(&edge, "dribble");
    edge.refused("timeout", 2);
    edge.limiter.event("Request timed out from 127.0.0.1");
}

#[test]
fn trailers_are_bounded_and_only_fields() {
    let edge = Edge::start("", PLAIN);
    scene(&edge, "trailers");
    for seen in edge.origin.take() {
        let body = String::from_utf8_lossy(&seen.raw_body).into_owned();
        assert!(!body.contains("/other") && !body.contains("path"), "{body}");
        assert!(!seen.complete || body.len() < 9_000, "{}", body.len());
    }
    edge.refused("head_too_large", 1);
}

#[test]
fn a_fragment_is_no_part_of_a_request() {
    let edge = Edge::start("", PLAIN);
    scene(&edge, "fragment");
    let targets: Vec<String> = edge.origin.take().iter().map(Recorded::target).collect();
    assert_eq!(targets, ["/a", "/a?c"]);
}

#[test]
fn a_request_on_its_way_while_it_leaves_is_answered() {
    let mut edge = Edge::start("", PLAIN);
    let late = Behaviour::Delayed(Duration::from_secs(1), Box::new(Behaviour::ok("late")));
    edge.origin.on("/later", late);
    thread::scope(|scope| {
        let edge = &mut edge;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/data/peers/h2_peer.py");
        let mut client = edge.namespace.command("/usr/bin/python3");
        client.args([script, "leaving"]);
        let client = scope.spawn(move || client.output().unwrap());
        edge.origin.take_one(SOON);
        edge.limiter.terminate(SOON * 2);
        let output = client.join().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}

#[test]
fn a_response_that_is_not_taken_ends_its_stream() {
    let edge = Edge::start("timeouts = { idle = \"1s\" }\nmin_body_rate = \"1B/s\"", PLAIN);
    edge.origin.on("/large", Behaviour::Answer(200, Vec::new(), vec![b'x'; 1 << 20]));
    scene(&edge, "slow");
}

#[test]
fn requests_in_flight_are_answered_at_the_end() {
    let mut edge = Edge::start("", PLAIN);
    let late = Behaviour::Delayed(Duration::from_secs(2), Box::new(Behaviour::ok("late")));
    edge.origin.on("/later", late);
    thread::scope(|scope| {
        let edge = &mut edge;
        let mut client = edge.namespace.command("nghttp");
        client.args(["--no-dep", "--verbose", "http://127.0.0.1:8080/later"]);
        let client = scope.spawn(move || client.output().unwrap());
        edge.origin.take_one(SOON);
        edge.limiter.terminate(SOON * 2);
        let said = String::from_utf8(client.join().unwrap().stdout).unwrap();
        assert!(said.contains("recv GOAWAY") && said.contains("error_code=NO_ERROR"), "{said}");
        assert!(said.contains(":status: 200") && said.contains("late"), "{said}");
    });
}

#[test]
fn who_connects_while_requests_are_finished_is_refused() {
    let mut edge = Edge::start("", PLAIN);
    let late = Behaviour::Delayed(Duration::from_secs(2), Box::new(Behaviour::ok("late")));
    edge.origin.on("/later", late);
    let connect = || edge.namespace.run(|| TcpStream::connect("127.0.0.1:8080").map(drop));
    thread::scope(|scope| {
        let client = scope.spawn(|| edge.curl(&["http://127.0.0.1:8080/later"]));
        edge.origin.take_one(SOON);
        connect().unwrap();
        edge.limiter.signal(Signal::SIGTERM);
        eventually(Duration::from_millis(1500), "a refusal", || connect().is_err());
        assert_eq!(client.join().unwrap().succeeded().stdout, "late");
    });
    assert!(edge.limiter.wait_end(SOON).success());
}

#[test]
fn an_interrupt_waits_for_no_request() {
    let mut edge = Edge::start("", PLAIN);
    edge.origin.on("/stall", Behaviour::Stall);
    thread::scope(|scope| {
        let client = scope.spawn(|| edge.curl(&["http://127.0.0.1:8080/stall"]));
        edge.origin.take_one(SOON);
        edge.limiter.signal(Signal::SIGINT);
        assert_ne!(client.join().unwrap().code, Some(0));
    });
    assert!(edge.limiter.wait_end(Duration::from_millis(1500)).success());
}

#[test]
fn other_clients_are_understood() {
    let edge = Edge::start("", PLAIN);
    let url = "http://127.0.0.1:8080/";
    let said = edge.curl(&["--http2-prior-knowledge", "-w", " %{http_version}", url]);
    assert_eq!(said.succeeded().stdout, "origin 2");
    let said = edge.run("nghttp", &["--no-dep", url]).succeeded().stdout;
    assert_eq!(said, "origin");
    let load = ["-n", "2000", "-c", "4", "-m", "50", url];
    let said = edge.run("h2load", &load).succeeded().stdout;
    assert!(said.contains("2000 succeeded, 0 failed"), "{said}");
    eventually(SOON, "2002 requests", || edge.limiter.status().requests == 2002);
}
