//! Sockets of every kind: Unix, passed by systemd, IPv6.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    time::Duration,
};

use limiter_tests::{
    http::{self, Connection},
    process::binary,
};

use crate::{edge::Edge, support::SOON};

#[test]
fn a_unix_socket_serves_who_may_open_it() {
    let mut edge = Edge::start("", "[[http.listener]]\naddress = \"unix:http.sock\"");
    let path = edge.limiter.directory().join("http.sock");
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!(metadata.gid(), nobody.gid.as_raw(), "the proxy's group");
    for _ in 0..2 {
        let mut connection = Connection::open_unix(&path, SOON).unwrap();
        let answer = connection.exchange(&http::request("GET", "/", &[], b"")).unwrap();
        assert_eq!(answer.status, 200);
        let said =
            edge.curl(&["--http2-prior-knowledge", "--unix-socket", "http.sock", "http://a/"]);
        assert_eq!(said.succeeded().stdout, "origin");
        for seen in edge.origin.take() {
            assert_eq!(seen.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
        }
        // The one that the agent before left is replaced.
        edge.limiter.terminate(SOON);
        edge.limiter.restart();
    }
    assert_eq!(edge.limiter.status().listeners, [format!("unix:{}", path.display())]);
}

#[test]
fn a_socket_that_somebody_listens_on_is_left_to_him() {
    let mut edge = Edge::prepare("", "[[http.listener]]\naddress = \"unix:http.sock\"");
    let path = edge.limiter.directory().join("http.sock");
    let taken = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let ended = edge.limiter.run_to_end();
    assert_ne!(ended.code, Some(0));
    assert!(ended.stderr.contains("another program listens there"), "{}", ended.stderr);
    drop(taken);
    edge.limiter.restart();
}

#[test]
fn both_families_side_by_side() {
    let listeners = "[[http.listener]]\naddress = \"0.0.0.0:8080\"\n\
                     [[http.listener]]\naddress = \"[::]:8080\"";
    let edge = Edge::start("", listeners);
    for (address, client) in [("127.0.0.1:8080", "127.0.0.1"), ("[::1]:8080", "::1")] {
        let bytes = http::request("GET", "/", &[], b"");
        let address = address.parse().unwrap();
        let answer = edge.namespace.run(|| http::exchange(address, &bytes).unwrap());
        assert_eq!(answer.status, 200);
        let seen = edge.origin.take_one(SOON);
        assert_eq!(seen.header("x-forwarded-for").as_deref(), Some(client));
    }
}

/// Passes a listening socket as systemd does: as descriptor 3, with a name, for this very process.
const ACTIVATE: &str = r#"#!/usr/bin/python3
import os, socket, sys
if sys.argv[1] == "run":
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 8080))
    listener.listen()
    os.dup2(os.dup(listener.fileno()), 3, inheritable=True)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="http.socket")
os.execv("BINARY", ["limiter", *sys.argv[1:]])
"#;

#[test]
fn a_socket_of_systemd_is_taken_over() {
    let mut edge = Edge::prepare("", "[[http.listener]]\naddress = \"systemd:http.socket\"");
    let ended = edge.limiter.run_to_end();
    assert_ne!(ended.code, Some(0));
    let said = &ended.stderr;
    assert!(said.contains("systemd passed no socket named http.socket"), "{said}");

    let script = ACTIVATE.replace("BINARY", &binary().display().to_string());
    let script = edge.limiter.scratch().write("activated", script);
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    edge.limiter.set_program(script);
    edge.limiter.restart();
    let bytes = http::request("GET", "/", &[], b"");
    let address = "127.0.0.1:8080".parse().unwrap();
    let answer = edge.namespace.run(|| http::exchange(address, &bytes).unwrap());
    assert_eq!(answer.status, 200);
    assert_eq!(edge.limiter.status().listeners, ["systemd:http.socket"]);
}

#[test]
fn who_is_one_too_many_reads_why() {
    let listener = "[[http.listener]]\naddress = \"127.0.0.1:8080\"";
    let edge = Edge::start("max_connections_per_client = 1", listener);
    let address = "127.0.0.1:8080".parse().unwrap();
    edge.namespace.run(|| {
        let mut first = Connection::open(address).unwrap();
        let get = http::request("GET", "/", &[], b"");
        assert_eq!(first.exchange(&get).unwrap().status, 200);
        for _ in 0..50 {
            // More than an answer may leave unread without a reset.
            let mut second = Connection::open(address).unwrap();
            let long = "x".repeat(20_000);
            second.send(&http::request("GET", "/", &[("X-Long", &long)], b"")).ok();
            std::thread::sleep(Duration::from_millis(5));
            let answer = second.response().unwrap();
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        }
        assert_eq!(first.exchange(&get).unwrap().status, 200);
    });
    edge.refused("overloaded", 50);
}
