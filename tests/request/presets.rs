//! Each preset served from three lines, on real sockets.

use std::net::{IpAddr, SocketAddr};

use limiter_tests::{
    http::{self, Connection, Response},
    netns::Namespace,
    origin::{Behaviour, Origin},
    process::Limiter,
    world::SINKS,
};

const TOKEN: &str = "an-example-token-of-some-length";
const KEY: (&str, &str) = ("X-API-Key", TOKEN);
const ORIGIN: (&str, &str) = ("Origin", "https://app.example.com");

struct Served {
    limiter: Limiter,
    origin: Origin,
    namespace: Namespace,
}

impl Served {
    /// Three lines, and `more` behind them. The token is that of the environment.
    fn start(preset: &str, more: &str) -> Self {
        let namespace = Namespace::new("preset");
        namespace.batch("addr add 10.1.2.3/8 dev lo\naddr add 172.16.9.9/12 dev lo\n");
        let origin = Origin::start(&namespace);
        let lines = format!(
            "preset = \"{preset}\"\n\
             http.upstream = [{{ name = \"api\", servers = [\"{}\"] }}]\n\
             http.listener = [{{ address = \"0.0.0.0:8080\" }}]\n",
            origin.url()
        );
        let mut limiter = Limiter::prepare(&namespace, &format!("{lines}{SINKS}{more}"));
        if preset != "public" {
            limiter.environment("LIMITER_AUTH_TOKEN", TOKEN);
        }
        limiter.restart();
        Self { limiter, origin, namespace }
    }

    fn send(&self, bytes: &[u8]) -> Response {
        self.send_from("127.0.0.1", bytes)
    }

    /// From an address of this host to that same address.
    fn send_from(&self, source: &str, bytes: &[u8]) -> Response {
        let source: IpAddr = source.parse().unwrap();
        let to = SocketAddr::new(source, 8080);
        self.namespace.run(|| http::exchange_from(source, to, bytes).unwrap())
    }

    fn get(&self, headers: &[(&str, &str)]) -> Response {
        self.send(&http::request("GET", "/x", headers, b""))
    }

    /// Asks so often on one connection; how often each status was the answer, and the last one.
    fn ask_often(&self, count: usize, headers: &[(&str, &str)]) -> (usize, usize, Response) {
        let address: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let mut connection = self.namespace.run(|| Connection::open(address).unwrap());
        let request = http::request("GET", "/x", headers, b"");
        let mut answers = (0..count).map(|_| connection.exchange(&request).unwrap());
        let (mut served, mut limited, mut last) = (0, 0, answers.next().unwrap());
        loop {
            match last.status {
                200 => served += 1,
                429 => limited += 1,
                other => panic!("{other}: {}", last.text()),
            }
            match answers.next() {
                Some(answer) => last = answer,
                None => return (served, limited, last),
            }
        }
    }
}

#[test]
fn public_serves_everybody_a_hundred_times() {
    let served = Served::start("public", "");
    let (ok, limited, last) = served.ask_often(103, &[ORIGIN]);
    assert_eq!((ok, limited), (100, 3));
    assert_eq!(last.header("access-control-allow-origin"), Some("*"), "scripts learn of it");
    assert_eq!(last.header("access-control-allow-credentials"), None);
    assert_eq!(last.header("x-ratelimit-limit"), Some("100"));
    assert_eq!(last.header("x-ratelimit-remaining"), Some("0"));
    assert!(last.header("ratelimit-policy").unwrap().starts_with("\"public\";q=100;w=900"));
    let wait: u64 = last.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2 * 900 + 60).contains(&wait), "{wait}");
    assert_eq!(last.header("content-type"), Some("application/problem+json"));
    assert_eq!(served.origin.count(), 100);
    // Another client is not concerned.
    let other = served.send_from("10.1.2.3", &http::request("GET", "/x", &[], b""));
    assert_eq!(other.status, 200);
    let preflight = [ORIGIN, ("Access-Control-Request-Method", "PUT")];
    let answer = served.send(&http::request("OPTIONS", "/x", &preflight, b""));
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some("*")));
    assert!(answer.header("access-control-allow-methods").unwrap().contains("PUT"));
    served.limiter.event("Rate limit exceeded for IP: 127.0.0.1");
}

#[test]
fn private_asks_for_a_key_and_counts_a_thousand() {
    let served = Served::start("private", "");
    let refused = served.get(&[]);
    assert_eq!(refused.status, 401);
    assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer"));
    assert_eq!(served.get(&[("X-API-Key", "wrong")]).status, 401);
    let (ok, limited, last) = served.ask_often(1_002, &[KEY]);
    assert_eq!((ok, limited), (1_000, 2), "refusals before it are not counted");
    assert_eq!(last.header("x-ratelimit-limit"), Some("1000"));
    assert!(served.origin.take().iter().all(|seen| seen.header("x-api-key").is_none()));
}

#[test]
fn private_lets_the_pages_that_the_file_lists_in_with_credentials() {
    let served = Served::start("private", "[cors.app]\norigins = [\"https://app.example.com\"]\n");
    let answer = served.get(&[KEY, ORIGIN]);
    assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN.1));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    let answer = served.get(&[ORIGIN]);
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (401, Some(ORIGIN.1))
    );
    let answer = served.get(&[KEY, ("Origin", "https://evil.example")]);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
}

#[test]
fn internal_serves_private_networks_with_a_key_and_no_pages() {
    let served = Served::start("internal", "");
    let grants = vec![
        ("Access-Control-Allow-Origin".to_owned(), "*".to_owned()),
        ("Access-Control-Allow-Credentials".to_owned(), "true".to_owned()),
    ];
    served.origin.by_default(Behaviour::Answer(200, grants, b"origin".to_vec()));
    let ask = |source: &str, headers: &[(&str, &str)]| {
        served.send_from(source, &http::request("GET", "/x", headers, b""))
    };
    assert_eq!(ask("127.0.0.1", &[KEY]).status, 403, "not from here, whatever is presented");
    served.limiter.event("Forbidden address 127.0.0.1: GET /x");
    for source in ["10.1.2.3", "172.16.9.9"] {
        assert_eq!(ask(source, &[]).status, 401);
        let answer = ask(source, &[KEY, ORIGIN]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "origin"));
        assert_eq!(answer.header("access-control-allow-origin"), None, "no page reads it");
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    let preflight = [ORIGIN, ("Access-Control-Request-Method", "GET")];
    let answer = served.send_from("10.1.2.3", &http::request("OPTIONS", "/x", &preflight, b""));
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None));
    assert_eq!(served.origin.count(), 2);
}
