//! Servers that speak HTTP/2, and TLS: here the limiter itself, behind itself.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Stdio,
};

use limiter_tests::{
    http::{self, chunked},
    netns::Namespace,
    origin::{Behaviour, Origin},
    process::Limiter,
    world::SINKS,
};

use crate::support::{OPEN, SOON, Site, configuration_of};

/// `/h2c`, `/tls`, `/unknown` (an authority that signed nothing here) and `/misnamed` lead to the
/// limiter's own listeners, whose `/` leads to the origin.
struct Mirror {
    limiter: Limiter,
    origin: Origin,
    namespace: Namespace,
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

impl Mirror {
    fn start() -> Self {
        let namespace = Namespace::new("mirror");
        let origin = Origin::start(&namespace);
        let mut configuration = format!(
            "{SINKS}[http]\nmax_body = \"8MB\"\n[[http.listener]]\naddress = \"127.0.0.1:8080\"\n\
             [[http.listener]]\naddress = \"127.0.0.1:8443\"\n\
             tls = {{ certificates = [{{ certificate = \"s.pem\", key = \"s.key\" }}] }}\n\
             [[http.upstream]]\nname = \"origin\"\nservers = [\"{}\"]\n\
             [[http.route]]\nupstream = \"origin\"\n{OPEN}\n",
            origin.url()
        );
        let secure = "https://127.0.0.1:8443\"]\nca = \"";
        for (name, server) in [
            ("h2c", "h2c://127.0.0.1:8080\"]\nbalance = \"round_robin".to_owned()),
            ("tls", format!("{secure}s.pem")),
            ("unknown", format!("{secure}other.pem")),
            ("misnamed", "https://localhost:8443\"]\nca = \"s.pem".to_owned()),
        ] {
            let section = format!(
                "[[http.upstream]]\nname = \"{name}\"\nservers = [\"{server}\"\n\
                 [[http.route]]\npath = \"/{name}\"\nstrip_prefix = \"/{name}\"\n\
                 upstream = \"{name}\"\n{OPEN}\n"
            );
            configuration.push_str(&section);
        }
        let mut limiter = Limiter::prepare(&namespace, &configuration);
        let made = || rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let (own, other) = (made(), made());
        write(&limiter.directory().join("s.pem"), &own.cert.pem());
        write(&limiter.directory().join("s.key"), &own.signing_key.serialize_pem());
        write(&limiter.directory().join("other.pem"), &other.cert.pem());
        limiter.restart();
        Self { limiter, origin, namespace }
    }

    fn send(&self, bytes: &[u8]) -> http::Response {
        self.namespace.run(|| http::exchange(Site::address(), bytes).unwrap())
    }
}

#[test]
fn requests_and_answers_keep_their_meaning_over_http2_and_tls() {
    let mirror = Mirror::start();
    mirror.origin.by_default(Behaviour::Echo);
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for path in ["/h2c/a?b=c", "/tls/a?b=c"] {
        for (fields, sent) in [
            (&[][..], body.clone()),
            (&[("Transfer-Encoding", "chunked")][..], chunked(&[&body[..70_000], &body[70_000..]])),
        ] {
            let mut bytes = http::request("PUT", path, fields, b"");
            if fields.is_empty() {
                bytes = http::request("PUT", path, fields, &sent);
            } else {
                bytes.extend_from_slice(&sent);
            }
            let answer = mirror.send(&bytes);
            assert_eq!((answer.status, answer.body == body), (200, true), "{path}");
            let seen = mirror.origin.take_one(SOON);
            assert_eq!(seen.line(), "PUT /a?b=c HTTP/1.1");
            assert_eq!(seen.header("host").as_deref(), Some("test"), "{seen:?}");
        }
        let head = http::request("HEAD", path, &[], b"");
        let mut connection =
            mirror.namespace.run(|| http::Connection::open(Site::address()).unwrap());
        connection.send(&head).unwrap();
        assert_eq!(connection.response_without_body().unwrap().status, 200);
        mirror.origin.take();
    }
    // Many at a time share few connections.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let get = http::request("GET", "/h2c/x", &[], b"");
                    assert_eq!(mirror.send(&get).status, 200);
                }
            });
        }
    });
    let status = mirror.limiter.status();
    let h2c = status.servers.iter().find(|one| one.upstream == "h2c").unwrap();
    assert!(h2c.connections <= 4, "{h2c:?}");
}

#[test]
fn a_server_that_cannot_be_verified_gets_nothing() {
    let mirror = Mirror::start();
    for path in ["/unknown/", "/misnamed/"] {
        assert_eq!(mirror.send(&http::request("GET", path, &[], b"")).status, 502, "{path}");
    }
    assert_eq!(mirror.origin.count(), 0);
    assert_eq!(mirror.send(&http::request("GET", "/tls/", &[], b"")).status, 200);
}

#[test]
fn what_a_server_refused_without_a_look_is_sent_again() {
    let namespace = Namespace::new("refused");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/data/peers/h2_origin.py");
    let mut server = namespace.command("/usr/bin/python3");
    let mut server = server.arg(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "listening\n");
    let servers = ["h2c://127.0.0.1:3999".to_owned()];
    let configuration = configuration_of(&servers, "retries = 0", "", OPEN, "");
    let limiter = Limiter::start(&namespace, &configuration);
    let send = |method: &str, target: &str, body: &[u8]| {
        let bytes = http::request(method, target, &[], body);
        let answer = namespace.run(|| http::exchange(Site::address(), &bytes).unwrap());
        (answer.status, answer.text())
    };
    assert_eq!(send("GET", "/0", b""), (200, "GET 1".into()));
    assert_eq!(send("GET", "/2", b""), (200, "GET 3".into()));
    // Nothing was done with it, so it does not matter what it would have changed.
    assert_eq!(send("POST", "/2/post", b""), (200, "POST 3".into()));
    // Its body is gone, and there is no end of patience.
    assert_eq!(send("POST", "/1/body", b"x").0, 502);
    assert_eq!(send("GET", "/50", b"").0, 502);
    drop(limiter);
    server.kill().unwrap();
    server.wait().unwrap();
}
