//! An origin on a thread, and the policy before it.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::support::Client;
use crate::policy::{
    HttpPolicy, Mode, Rate,
    http::{
        ApiKeyPolicy, AuthKind, AuthPolicy, ClientAddressSource, CorsOrigins, CorsPolicy,
        ErrorShape, GuardPolicy, HeadersPolicy, HttpBounds, HttpTimeouts, KeyRecord, LimitPolicy,
        OriginPattern, PathPattern, RouteAuth, RoutePolicy, UpstreamPolicy,
    },
    limits::Algorithm,
    listener::{ListenAddress, ListenerPolicy},
    upstream::{Balance, Scheme, ServerPolicy},
};

/// The good key of the test policy.
pub(super) const KEY: &str = "lk_good";

/// An origin that echoes each request's head and body as its response's body. `/sleep` answers
/// after a second, `/close` closes without answering, `/last` closes after answering the next
/// request's first line, `/chunked` answers in chunks, `/stall` stops in the middle.
pub(super) struct Origin {
    pub(super) port: u16,
    pub(super) connections: Arc<Mutex<usize>>,
}

impl Origin {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::<Mutex<usize>>::default();
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                *count.lock().unwrap() += 1;
                std::thread::spawn(move || answer(socket.unwrap()));
            }
        });
        Self { port, connections }
    }
}

fn answer(socket: TcpStream) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut client = Client(BufReader::new(socket));
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if client.0.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let lower = head.to_lowercase();
        let body = if lower.contains("transfer-encoding: chunked") {
            client.read_chunks()
        } else if let Some((_, rest)) = lower.split_once("content-length: ") {
            let length = rest.lines().next()?.parse().ok()?;
            let mut body = vec![0; length];
            client.0.read_exact(&mut body).ok()?;
            String::from_utf8_lossy(&body).into_owned()
        } else {
            String::new()
        };
        let echo = format!("{head}{body}");
        let path = head.split(' ').nth(1)?;
        match path {
            "/close" => return None,
            "/sleep" => std::thread::sleep(Duration::from_secs(1)),
            _ => {}
        }
        let response = if path == "/chunked" {
            let mut chunks = String::new();
            for chunk in echo.as_bytes().chunks(100) {
                let text = String::from_utf8_lossy(chunk);
                write!(chunks, "{:x}\r\n{text}\r\n", chunk.len()).unwrap();
            }
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
        } else {
            format!(
                "HTTP/1.1 200 OK\r\nServer: origin\r\nKeep-Alive: x\r\nX-Frame-Options: upstream\r\n\
                 Access-Control-Allow-Origin: https://upstream.test\r\nContent-Length: {}\r\n\r\n{echo}",
                echo.len()
            )
        };
        if path == "/stall" {
            client.0.get_mut().write_all(&response.as_bytes()[..response.len() - 1]).ok()?;
            client.0.read_line(&mut String::new()).ok()?;
            return None;
        }
        client.0.get_mut().write_all(response.as_bytes()).ok()?;
        if path == "/last" {
            client.0.read_line(&mut String::new()).ok()?;
            return None;
        }
    }
}

const BOUNDS: HttpBounds = HttpBounds {
    max_body_bytes: 1000,
    max_inspected_body_bytes: 500,
    max_headers: 100,
    max_header_bytes: 16384,
    max_connections: 1000,
    max_connections_per_client: 500,
    max_requests: 400,
    min_body_rate: Rate { count: 100, period: Duration::from_secs(1) },
};

fn upstream(origin: &Origin) -> UpstreamPolicy {
    let host = "127.0.0.1".into();
    UpstreamPolicy {
        name: "origin".into(),
        servers: vec![ServerPolicy { scheme: Scheme::Http, host, port: origin.port }],
        balance: Balance::default(),
        health: None,
        breaker: None,
        retries: 0,
        roots: Vec::new(),
    }
}

/// A policy with one public route `/`, and `/api` with everything that a route can have.
pub(super) fn policy(origin: &Origin) -> HttpPolicy {
    let second = Duration::from_secs(1);
    let route = |path: &str, auth| RoutePolicy {
        name: path.into(),
        path: PathPattern::Prefix(path.into()),
        auth,
        ..RoutePolicy::open(0)
    };
    HttpPolicy {
        listeners: vec![ListenerPolicy::plain(ListenAddress::Tcp("127.0.0.1:0".parse().unwrap()))],
        client_address: ClientAddressSource::Peer,
        trusted_proxies: Vec::new(),
        trusted: Vec::new(),
        bounds: BOUNDS,
        access_log: None,
        timeouts: HttpTimeouts {
            handshake: Duration::from_secs(5),
            header: 5 * second,
            body: 5 * second,
            idle: 10 * second,
            connect: second,
            upstream: 5 * second,
            drain: 3 * second,
        },
        guard: GuardPolicy {
            failures: Rate { count: 5, period: 600 * second },
            by_window: false,
            mode: Mode::Enforce,
        },
        upstreams: vec![upstream(origin)],
        routes: vec![
            RoutePolicy {
                methods: vec!["GET".into(), "POST".into()],
                limits: vec![0],
                cost: None,
                cors: Some(0),
                headers: Some(0),
                ..route("/api", RouteAuth::AnyOf(vec![0]))
            },
            route("/", RouteAuth::Public),
        ],
        auth: vec![AuthPolicy {
            name: "keys".into(),
            kind: AuthKind::ApiKey(ApiKeyPolicy {
                header: "x-api-key".into(),
                keys: vec![
                    key("alice", KEY, None),
                    key("bob", "lk_other", None),
                    key("old", "lk_expired", Some(1)),
                ],
                file: None,
            }),
            hide_credentials: true,
            mode: Mode::Enforce,
        }],
        limits: vec![LimitPolicy::by_client(
            "tight",
            Algorithm::FixedWindow,
            Rate { count: 100, period: 3600 * second },
        )],
        store: None,
        cors: vec![CorsPolicy {
            name: "app".into(),
            origins: CorsOrigins::List(vec![OriginPattern {
                scheme: "https".into(),
                host: "app.test".into(),
                port: None,
                subdomains: false,
            }]),
            methods: vec!["PUT".into()],
            headers: vec!["x-api-key".into()],
            expose: vec!["X-RateLimit-Remaining".into()],
            credentials: true,
            max_age: 60 * second,
            mode: Mode::Enforce,
        }],
        headers: vec![headers()],
        error_shape: ErrorShape::Problem,
        ignore_path_case: false,
    }
}

fn headers() -> HeadersPolicy {
    HeadersPolicy {
        name: "api".into(),
        set: vec![("x-frame-options".into(), "DENY".into())],
        remove: vec!["server".into()],
    }
}

fn key(name: &str, secret: &str, expires_unix_seconds: Option<u64>) -> KeyRecord {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes());
    KeyRecord {
        name: name.into(),
        tier: Some("gold".into()),
        scopes: Vec::new(),
        digest: digest.as_ref().try_into().unwrap(),
        expires_unix_seconds,
    }
}
