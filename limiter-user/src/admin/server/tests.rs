//! Server and client together over a real socket, in front of a fake agent.

use std::{
    io::{Read, Write},
    os::unix::{fs::MetadataExt, net::UnixStream as StdStream, process::CommandExt},
    process::Command,
    thread,
};

use http::Method;

use super::{fake::Running, *};
use crate::{
    admin::{
        client::{Client, ClientError, Target},
        view::{BanView, BansView, StatusView, UnbanView},
    },
    events::{Event, Lifecycle, stream::FOLLOWER_EVENTS},
    policy::BanScope,
};

impl Running {
    /// One request on a connection of its own; the whole answer.
    fn raw(&self, request: &str, body: &str) -> String {
        let mut stream = StdStream::connect(&self.socket).unwrap();
        let length = body.len();
        let version = if request.contains("HTTP/1.1") { "" } else { " HTTP/1.1" };
        write!(
            stream,
            "{request}{version}\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn refusal(&self, method: Method, target: &Target) -> Failure {
        match self.client().ask::<serde_json::Value>(method, target, Vec::new()) {
            Err(ClientError::Refused(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn documents_and_failures_come_through() {
    let agent = Running::start("documents");
    assert_eq!(fs::metadata(&agent.socket).unwrap().mode() & 0o777, 0o600);
    let status = agent.client().ask::<StatusView>(Method::GET, &Target::new("/v1/status"), vec![]);
    assert_eq!(status.unwrap().view.version, "1");
    let sources = Target::new("/v1/sources").with("sort", "dropped").with("limit", "7");
    assert_eq!(agent.refusal(Method::GET, &sources), Failure::internal("dropped 7"));
    let why = Target::new("/v1/why").with("source", "::ffff:192.0.2.1");
    assert_eq!(agent.refusal(Method::GET, &why), Failure::full("192.0.2.1"));
    let reload = agent.refusal(Method::POST, &Target::new("/v1/reload"));
    assert_eq!(ClientError::Refused(reload).exit_code(), 2);
    assert!(agent.raw("POST /v1/detach", "").contains(r#"{"interfaces":["eth0"]}"#));
    assert!(agent.raw("GET /healthz", "").starts_with("HTTP/1.1 200"));
    assert!(agent.raw("GET /readyz", "").starts_with("HTTP/1.1 503"));
}

#[test]
fn mistakes_are_named() {
    let agent = Running::start("mistakes");
    for (request, status, words) in [
        ("GET /", 404, "no such path"),
        ("GET /v1/bans?x=1", 400, "unknown query parameter `x`"),
        ("GET /v1/sources?sort=size", 400, "packets, bytes, connections, dropped"),
        ("GET /v1/sources?limit=-1", 400, "expected a number"),
        ("GET /v1/why", 400, "`source` is missing"),
        ("GET /v1/why?source=host", 400, "an IP address"),
        ("GET /v1/events?format=xml", 400, "json, text or sse"),
        ("GET /v1/events?since=yesterday", 400, "or how long ago"),
        ("GET /v1/events?kind=baned", 400, "unbanned"),
        ("GET /v1/events?source=300.0.0.0/8", 400, "an address or a prefix"),
        ("DELETE /v1/bans", 400, "either `prefix=` or `all=true`"),
        ("POST /v1/bans", 400, "not a ban"),
    ] {
        let answer = agent.raw(request, "");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let failure: Failure = serde_json::from_str(body).unwrap();
        assert!(failure.message.contains(words), "{request}: {}", failure.message);
    }
    let answer = agent.raw("PUT /v1/bans", "");
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.contains("allow: GET, POST, DELETE\r\n"), "{answer}");
    let answer = agent.raw("POST /v1/bans", &"x".repeat((1 << 20) + 1));
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[test]
fn bans_one_by_one_and_by_the_line() {
    let agent = Running::start("bans");
    let answer = agent.raw("POST /v1/bans", "{\n \"prefix\": \"203.0.113.7\"\n}\n");
    assert!(answer.contains(r#"{"prefix":"203.0.113.7/32","scope":"kernel","seconds_left":600"#));
    let lines = "{\"prefix\":\"2001:db8::/64\",\"seconds\":60,\"scope\":\"http\"}\n\
                 {\"prefix\":\"0.0.0.0/0\"}\n\nnonsense\n";
    let answer = agent.raw("POST /v1/bans", lines);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 207 "), "{head}");
    let view: BansView = serde_json::from_str(body).unwrap();
    assert_eq!((view.accepted, view.refused), (1, 2));
    let named: Vec<_> = view.refusals.iter().map(|line| (line.line, line.status)).collect();
    assert_eq!(named, [(2, 409), (4, 400)]);
    let client = agent.client();
    let bans = Target::new("/v1/bans");
    let listed = client.ask::<Vec<BanView>>(Method::GET, &bans, vec![]).unwrap().view;
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[1].scope, BanScope::Http);
    let lift = |target: Target| {
        client.ask::<UnbanView>(Method::DELETE, &target, vec![]).unwrap().view.lifted
    };
    assert_eq!(lift(bans.clone().with("prefix", "203.0.113.7")), 1);
    assert_eq!(lift(bans.with("all", "true")), 1);
}

#[test]
fn many_bans_are_streamed_and_bad_lines_named() {
    use std::fmt::Write as _;

    let agent = Running::start("many");
    let mut lines = String::new();
    for number in 0..30_000_u32 {
        let address = std::net::Ipv4Addr::from_bits(number);
        writeln!(lines, "{{\"prefix\":\"{address}\",\"reason\":\"{}\"}}", "x".repeat(60)).unwrap();
    }
    assert!(lines.len() > 2 << 20, "longer than one object may be");
    let post = |body: &str| {
        let answer =
            agent.raw("POST /v1/bans HTTP/1.1\r\ncontent-type: application/x-ndjson", body);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str::<BansView>(body).unwrap())
    };
    let all = BansView { accepted: 30_000, ..BansView::default() };
    assert_eq!(post(&lines), (200, all));
    let long = "x".repeat(100_000);
    let (status, view) =
        post(&format!("{{\"prefix\":\"192.0.2.1\"}}\n{long}\n\n{{\"prefix\":\"192.0.2.2\"}}"));
    assert_eq!((status, view.accepted, view.refused), (207, 2, 1));
    assert_eq!((view.refusals[0].line, view.refusals[0].status), (2, 413));
    let (status, view) = post(&"{\"prefix\":\"::/0\"}\n".repeat(100));
    assert_eq!((status, view.accepted, view.refused, view.refusals.len()), (409, 0, 100, 20));
    assert_eq!(post(""), (200, BansView::default()));
}

#[test]
fn events_are_followed_filtered_and_losses_told() {
    let agent = Running::start("events");
    let publish = |lifecycle| agent.events.publish(Event::lifecycle(0, lifecycle, ""));
    publish(Lifecycle::Attached);
    let recent = Target::new("/v1/events").with("follow", "false").with("format", "text");
    let mut text = Vec::new();
    let collect = |bytes: &[u8]| text.write_all(bytes);
    agent.client().stream(&recent, collect).unwrap();
    assert_eq!(text, b"[1970-01-01 00:00:00] INFO: [SECURITY] XDP attached\n");

    let mut stream = StdStream::connect(&agent.socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /v1/events?kind=ban* HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut read = String::new();
    let mut until = |words: &str| {
        let mut buffer = [0; 4096];
        while !read.contains(words) {
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "{read}");
            read.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        std::mem::take(&mut read)
    };
    until("\r\n\r\n");
    publish(Lifecycle::Attached);
    publish(Lifecycle::Banned);
    let first = until("\"limiter.sequence\":2}");
    assert!(!first.contains("attached"), "{first}");
    // Far more than ring, channel and socket buffers hold.
    for _ in 0..FOLLOWER_EVENTS * 3 {
        publish(Lifecycle::Banned);
    }
    until("\"event.action\":\"events_lost\"");
    publish(Lifecycle::Banned);
}

#[test]
fn past_events_come_before_new_ones_and_none_is_missing() {
    let agent = Running::start("since");
    for second in 1..=3 {
        agent.events.publish(Event::lifecycle(second * 1_000_000_000, Lifecycle::Attached, ""));
    }
    let answer =
        agent.raw("GET /v1/events?follow=false&format=text&since=1970-01-01T00:00:02Z", "");
    assert_eq!(answer.matches("XDP attached").count(), 2, "{answer}");
    let answer = agent.raw("GET /v1/events?follow=false&format=text&since=1h", "");
    assert_eq!(answer.matches("XDP attached").count(), 0, "{answer}");

    let follow = |fields: &str| {
        let mut stream = StdStream::connect(&agent.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = format!("GET /v1/events HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let until = |stream: &mut StdStream, words: &str| {
        let (mut read, mut buffer) = (String::new(), [0; 4096]);
        while !read.contains(words) {
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "{read}");
            read.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        read
    };
    let run = agent.events.run();
    let fields = format!("accept: text/event-stream\r\nlast-event-id: {run}/1\r\n");
    let mut stream = follow(&fields);
    let read = until(&mut stream, &format!("id: {run}/3\n"));
    assert!(read.contains("content-type: text/event-stream\r\n"), "{read}");
    assert!(read.contains(&format!("id: {run}/2\nevent: attached\ndata: {{")), "{read}");
    assert!(!read.contains(&format!("id: {run}/1\n")), "{read}");
    agent.events.publish(Event::lifecycle(4_000_000_000, Lifecycle::Banned, ""));
    until(&mut stream, &format!("id: {run}/4\nevent: banned\n"));
    // An id of an earlier run: everything that this one knows.
    let mut stream = follow("accept: text/event-stream\r\nlast-event-id: x/9\r\n");
    until(&mut stream, &format!("id: {run}/1\n"));
}

#[test]
fn metrics_are_served_in_the_form_that_is_asked_for() {
    let agent = Running::start("metrics");
    let answer = agent.raw("GET /metrics", "");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(answer.ends_with("# EOF\n"), "{answer}");
    let answer = agent.raw("GET /metrics HTTP/1.1\r\naccept: text/plain;version=0.0.4\r\nx:", "");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(!answer.contains("# EOF"), "{answer}");
    assert!(agent.raw("POST /metrics", "").starts_with("HTTP/1.1 405"));
}

#[test]
fn a_reader_that_leaves_gives_its_place_back() {
    let agent = Running::start("places");
    let request = b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n";
    for _ in 0..MAX_FOLLOWERS * 3 {
        let mut stream = StdStream::connect(&agent.socket).unwrap();
        let mut answer = [0; 12];
        // The agent may notice the earlier ones a moment later.
        for attempt in 0.. {
            stream.write_all(request).unwrap();
            stream.read_exact(&mut answer).unwrap();
            if &answer == b"HTTP/1.1 200" {
                break;
            }
            assert!(attempt < 100, "places are not given back");
            thread::sleep(Duration::from_millis(20));
            stream = StdStream::connect(&agent.socket).unwrap();
        }
    }
}

#[test]
fn a_missing_agent_is_named() {
    let client = Client::new(Path::new("/nonexistent/control.sock"));
    let error =
        client.ask::<StatusView>(Method::GET, &Target::new("/v1/status"), vec![]).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    assert!(text.contains("/nonexistent/control.sock") && text.contains("limiter run"), "{text}");
}

#[test]
fn only_root_and_the_agents_user_may_ask() {
    assert!(may_ask(Some(0), 1000) && may_ask(Some(1000), 1000));
    assert!(!may_ask(Some(1001), 1000) && !may_ask(None, 0));
}

/// A child under another uid (this binary, the test below) asks through a socket that its mode
/// would let it use.
#[test]
fn another_user_is_refused_whatever_the_mode() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let agent = Running::start("peer");
    fs::set_permissions(&agent.socket, Permissions::from_mode(0o666)).unwrap();
    // A copy where the other user can reach it.
    let copy = agent.directory.join("asks");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let output = Command::new(&copy)
        .args(["--exact", "admin::server::tests::asks_as_another_user", "--nocapture"])
        .env("LIMITER_TEST_SOCKET", &agent.socket)
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("answer: only root or uid 0 may ask this agent"), "{output:?}");
}

#[test]
fn asks_as_another_user() {
    if let Some(socket) = std::env::var_os("LIMITER_TEST_SOCKET") {
        let client = Client::new(Path::new(&socket));
        let status = Target::new("/v1/status");
        let answer = client.ask::<StatusView>(Method::GET, &status, vec![]);
        println!("answer: {}", answer.unwrap_err());
    }
}
