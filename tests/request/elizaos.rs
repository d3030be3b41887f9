//! The `elizaos` preset in front of a server that answers as ElizaOS does, mistakes included.

mod cases;
mod chain;

use std::net::SocketAddr;

use limiter_tests::{
    http::{self, Connection, Response},
    netns::Namespace,
    origin::{Behaviour, Origin},
    process::Limiter,
    world::SINKS,
};
use serde_json::{Value, json};

use crate::support::SOON;

const TOKEN: &str = "an-example-token-of-some-length";
const KEY: (&str, &str) = ("X-API-KEY", TOKEN);
const JSON: (&str, &str) = ("Content-Type", "application/json");
/// Where that server is: `SERVER_PORT`.
const SERVER: &str = "127.0.0.1:3000";

struct Eliza {
    limiter: Limiter,
    origin: Origin,
    namespace: Namespace,
}

impl Eliza {
    /// With a token and these variables, and these lines behind the preset.
    fn start(variables: &[(&str, &str)], more: &str) -> Self {
        let namespace = Namespace::new("eliza");
        let origin = Origin::start_at(&namespace, SERVER.parse().unwrap());
        let reflects = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = vec![
            reflects("X-Powered-By", "Express"),
            reflects("Access-Control-Allow-Origin", "https://evil.example"),
            reflects("Access-Control-Allow-Credentials", "true"),
            reflects("Content-Type", "application/json; charset=utf-8"),
        ];
        let agents = b"{\"success\":true,\"data\":{\"agents\":[]}}";
        origin.by_default(Behaviour::Answer(200, headers, agents.to_vec()));
        let file = format!("preset = \"elizaos\"\n{SINKS}{more}");
        let mut limiter = Limiter::prepare(&namespace, &file);
        limiter.environment("ELIZA_SERVER_AUTH_TOKEN", TOKEN);
        for (name, value) in variables {
            limiter.environment(name, value);
        }
        limiter.restart();
        Self { limiter, origin, namespace }
    }

    fn address() -> SocketAddr {
        "127.0.0.1:8080".parse().unwrap()
    }

    fn send(&self, bytes: &[u8]) -> Response {
        self.namespace.run(|| http::exchange(Self::address(), bytes).unwrap())
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send(&http::request("GET", path, headers, b""))
    }

    /// Sends the same so often on one connection.
    fn send_often(&self, count: usize, request: &[u8]) -> Vec<Response> {
        let mut connection = self.namespace.run(|| Connection::open(Self::address()).unwrap());
        (0..count).map(|_| connection.exchange(request).unwrap()).collect()
    }
}

fn statuses(answers: &[Response]) -> (usize, usize) {
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    (count(200), count(429))
}

fn error(code: &str, message: &str) -> Value {
    json!({"success": false, "error": {"code": code, "message": message}})
}

#[test]
fn answers_are_those_of_that_server_or_better() {
    let eliza = Eliza::start(&[("CORS_ORIGIN", "https://app.example.com")], "");
    for case in cases::CASES {
        case.check(|bytes| eliza.send(bytes));
    }
    eliza.limiter.event("Unauthorized access attempt from 127.0.0.1");
}

#[test]
fn the_key_goes_on_to_the_server_which_asks_for_it_too() {
    let eliza = Eliza::start(&[], "");
    assert_eq!(eliza.get("/api/agents", &[KEY]).status, 200);
    let seen = eliza.origin.take_one(SOON);
    assert_eq!(seen.header("x-api-key").as_deref(), Some(TOKEN));
    assert_eq!(seen.header("x-auth-subject").as_deref(), Some("shared-token"));
}

#[test]
fn headers_are_those_of_the_api_and_of_the_rest() {
    let eliza = Eliza::start(&[], "");
    let api = eliza.get("/api/agents", &[KEY]);
    let app = eliza.get("/healthz", &[]);
    for answer in [&api, &app] {
        for (name, value) in cases::HEADERS {
            assert_eq!(answer.header(name), Some(*value), "{name}");
        }
        assert_eq!(answer.header("x-powered-by"), None);
        assert_eq!(answer.header("access-control-allow-origin"), None, "nobody is listed");
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
    assert_eq!(api.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(api.header("x-xss-protection"), Some("1; mode=block"));
    let transport = "max-age=31536000; includeSubDomains";
    assert_eq!(api.header("strict-transport-security"), Some(transport));
    assert_eq!(app.header("referrer-policy"), Some("no-referrer-when-downgrade"));
    assert_eq!(app.header("strict-transport-security"), None);
}

#[test]
fn origins_are_a_list_of_their_own_for_the_api() {
    let list = "https://app.example.com, https://admin.example.com";
    let eliza = Eliza::start(&[("CORS_ORIGIN", list)], "");
    let granted = |path: &str, origin: &str| {
        let answer = eliza.get(path, &[KEY, ("Origin", origin)]);
        assert!(answer.header_values("vary").iter().any(|v| v.eq_ignore_ascii_case("origin")));
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    for path in ["/api/agents", "/health", "/socket.io/?EIO=4"] {
        for origin in ["https://app.example.com", "https://admin.example.com"] {
            assert_eq!(granted(path, origin).as_deref(), Some(origin), "{path}");
        }
        assert_eq!(granted(path, "https://evil.example"), None, "{path}");
        assert_eq!(granted(path, list), None, "{path}");
    }
    drop(eliza);
    let api = [("API_CORS_ORIGIN", "https://api-only.example")];
    let eliza = Eliza::start(&api, "");
    let granted = |path: &str| {
        let answer = eliza.get(path, &[KEY, ("Origin", api[0].1)]);
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(granted("/api/agents").as_deref(), Some(api[0].1));
    assert_eq!(granted("/health"), None);
}

#[test]
fn calls_are_counted_by_address() {
    let eliza = Eliza::start(&[], "");
    let answers = eliza.send_often(1_003, &http::request("GET", "/api/agents", &[KEY], b""));
    assert_eq!(statuses(&answers), (1_000, 3));
    let last = answers.last().unwrap();
    let expected = error("RATE_LIMIT_EXCEEDED", "Too many requests. Please try again later.");
    assert_eq!(last.json(), expected);
    assert_eq!(last.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(last.header("x-ratelimit-limit"), Some("1000"));
    assert!(last.header("ratelimit-policy").unwrap().starts_with("\"api\";q=1000;w=900"));
    assert!(last.header("ratelimit").unwrap().starts_with("\"api\";r=0;t="));
    assert!(last.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    let reset: u64 = last.header("x-ratelimit-reset").unwrap().parse().unwrap();
    assert!(reset > 1_700_000_000, "a time, as the documentation says");
    // Beside the API nothing is counted, and health is for everybody.
    assert_eq!(eliza.get("/healthz", &[]).status, 200);
    // In capitals it is the same API.
    assert_eq!(eliza.get("/API/agents", &[KEY]).status, 429);
    eliza.limiter.event("Rate limit exceeded for IP: 127.0.0.1");
}

#[test]
fn limits_are_told_as_there_and_as_today() {
    let eliza = Eliza::start(&[], "");
    let answer = eliza.get("/api/agents", &[KEY]);
    assert_eq!(answer.header("ratelimit-limit"), Some("1000"));
    assert_eq!(answer.header("ratelimit-remaining"), Some("999"));
    let seconds: u64 = answer.header("ratelimit-reset").unwrap().parse().unwrap();
    assert!((1..=1_800).contains(&seconds), "{seconds}");
    // What the server itself says is tighter.
    let own = [
        ("RateLimit-Policy", "1000;w=900"),
        ("RateLimit-Limit", "1000"),
        ("RateLimit-Remaining", "7"),
        ("RateLimit-Reset", "42"),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
    eliza.origin.next(Behaviour::Answer(200, own.to_vec(), Vec::new()));
    let answer = eliza.get("/api/agents", &[KEY]);
    assert_eq!(answer.header("ratelimit-remaining"), Some("7"));
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("7"));
    let policies = answer.header_values("ratelimit-policy").join(", ");
    assert_eq!(policies, "\"server\";q=1000;w=900, \"api\";q=1000;w=900");
    assert!(
        answer.header_values("ratelimit").join(", ").starts_with("\"server\";r=7;t=42, \"api\"")
    );
}

#[test]
fn uploads_and_files_have_limits_of_their_own() {
    let eliza = Eliza::start(&[], "");
    let agent = "/api/media/agents/11111111-1111-4111-8111-111111111111/upload-media";
    let channel = "/api/messaging/channels/11111111-1111-4111-8111-111111111111/upload-media";
    let form = ("Content-Type", "multipart/form-data; boundary=x");
    let answers = eliza.send_often(30, &http::request("POST", agent, &[KEY, form], b"--x--"));
    assert_eq!(statuses(&answers), (30, 0));
    let answers = eliza.send_often(22, &http::request("POST", channel, &[KEY, form], b"--x--"));
    assert_eq!(statuses(&answers), (20, 2), "fifty in all");
    let expected =
        error("UPLOAD_RATE_LIMIT_EXCEEDED", "Too many upload attempts. Please try again later.");
    assert_eq!(answers.last().unwrap().json(), expected);
    assert_eq!(eliza.get("/api/agents", &[KEY]).status, 200, "the rest goes on");
    let line = format!("Upload rate limit exceeded for IP: 127.0.0.1, endpoint: {channel}");
    eliza.limiter.event(&line);
    drop(eliza);

    let more = "[limits.upload]\nalgorithm = \"sliding_window\"\nrate = \"1000/15m\"\napplies_to = \"all\"\n";
    let eliza = Eliza::start(&[], more);
    let speech = "/api/audio/11111111-1111-4111-8111-111111111111/speech/generate";
    let answers = eliza.send_often(102, &http::request("POST", speech, &[KEY, JSON], b"{}"));
    assert_eq!(statuses(&answers), (100, 2));
    let expected =
        error("FILE_RATE_LIMIT_EXCEEDED", "Too many file operations. Please try again later.");
    assert_eq!(answers.last().unwrap().json(), expected);
    let line = format!("File system rate limit exceeded for IP: 127.0.0.1, endpoint: {speech}");
    eliza.limiter.event(&line);
}

#[test]
fn keys_cannot_be_guessed_ten_times() {
    let eliza = Eliza::start(&[], "");
    let wrong = http::request("GET", "/api/agents", &[("X-API-KEY", "wrong")], b"");
    let answers = eliza.send_often(13, &wrong);
    let refused: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(refused[..10], [401; 10]);
    assert_eq!(refused[10..], [429; 3]);
    let expected = error(
        "AUTH_RATE_LIMIT_EXCEEDED",
        "Too many authentication attempts. Please try again later.",
    );
    let last = answers.last().unwrap();
    assert_eq!(last.json(), expected);
    assert!(last.header("retry-after").is_some());
    // Who has the key goes on, and so does who has none.
    assert_eq!(eliza.get("/api/agents", &[KEY]).status, 200);
    assert_eq!(eliza.get("/api/agents", &[]).status, 401);
}

#[test]
fn who_goes_on_guessing_is_banned() {
    let eliza = Eliza::start(&[], "");
    let wrong = http::request("GET", "/api/agents", &[("X-API-KEY", "wrong")], b"");
    eliza.send_often(20, &wrong);
    let banned = eliza.limiter.event("(invalid_credential 10, guarded 10)");
    assert!(banned.contains("[SECURITY] Banned 127.0.0.1 for 10m"), "{banned}");
}

#[test]
fn logins_that_fail_and_channels_that_are_guessed_are_counted() {
    let eliza = Eliza::start(&[], "");
    eliza.origin.on("/api/auth/login", Behaviour::status(401));
    let login = http::request("POST", "/api/auth/login", &[KEY, JSON], b"{}");
    let tried = eliza.send_often(12, &login);
    assert_eq!(tried.iter().filter(|answer| answer.status == 401).count(), 10);
    let expected = error(
        "AUTH_RATE_LIMIT_EXCEEDED",
        "Too many authentication attempts. Please try again later.",
    );
    assert_eq!(tried.last().unwrap().json(), expected);
    eliza.limiter.event("Auth rate limit exceeded for IP: 127.0.0.1, endpoint: /api/auth/login");

    let good = http::request("GET", "/api/messaging/channels/good/messages", &[KEY], b"");
    assert_eq!(statuses(&eliza.send_often(210, &good)), (210, 0));
    let guess = "/api/messaging/channels/guess/messages";
    eliza.origin.on(guess, Behaviour::status(400));
    let guessed = eliza.send_often(202, &http::request("GET", guess, &[KEY], b""));
    assert_eq!(guessed.iter().filter(|answer| answer.status == 400).count(), 200);
    let code = &guessed.last().unwrap().json()["error"]["code"];
    assert_eq!(code, "CHANNEL_VALIDATION_RATE_LIMIT_EXCEEDED");
    let line = "Channel validation rate limit exceeded for IP: 127.0.0.1, attempted channel: guess";
    eliza.limiter.event(line);
}

#[test]
fn bodies_are_bounded_and_of_a_known_kind() {
    let eliza = Eliza::start(&[("EXPRESS_MAX_PAYLOAD", "1kb")], "");
    let post = |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let mut all = vec![KEY];
        all.extend_from_slice(headers);
        eliza.send(&http::request("POST", path, &all, body))
    };
    assert_eq!(post("/api/agents", &[JSON], &[b' '; 1024]).status, 200);
    let large = post("/api/agents", &[JSON], &[b' '; 1025]);
    assert_eq!((large.status, &large.json()["success"]), (413, &json!(false)));
    assert_eq!(large.json()["error"]["message"], "request entity too large");
    let chunked = [JSON, ("Transfer-Encoding", "chunked")];
    let body = http::chunked(&[&[b' '; 1025]]);
    assert_eq!(post("/api/agents", &chunked, &body).status, 413);
    // Files are larger.
    let form = [("Content-Type", "multipart/form-data; boundary=x")];
    let media = "/api/media/agents/11111111-1111-4111-8111-111111111111/upload-media";
    assert_eq!(post(media, &form, &vec![b' '; 100_000]).status, 200);
    // Without a length, too.
    let body = http::chunked(&[b"x"]);
    let plain = [("Content-Type", "text/plain"), ("Transfer-Encoding", "chunked")];
    let refused = post("/api/agents", &plain, &body);
    let expected = error("INVALID_CONTENT_TYPE", "Invalid or missing Content-Type header");
    assert_eq!((refused.status, refused.json()), (400, expected));
    let twice = [JSON, ("Content-Type", "text/plain")];
    assert_eq!(post("/api/agents", &twice, b"x").status, 400);
    let disguised = [("Content-Type", "text/plain; x=application/json")];
    assert_eq!(post("/api/agents", &disguised, b"x").status, 400);
    assert_eq!(post("/api/agents", &[], b"").status, 200, "no body is of any kind");
}

#[test]
fn without_pages_only_the_api_health_and_sockets_are_served() {
    let eliza = Eliza::start(&[("NODE_ENV", "production")], "");
    for path in ["/", "/index.html", "/media/uploads/agents/x/y.png", "/healthz/x", "/apix"] {
        let answer = eliza.get(path, &[KEY]);
        assert_eq!((answer.status, answer.text().as_str()), (403, "Forbidden"), "{path}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    assert_eq!(eliza.origin.count(), 0);
    for path in ["/api/agents", "/health", "/healthz", "/socket.io/?EIO=4&transport=polling"] {
        assert_eq!(eliza.get(path, &[KEY]).status, 200, "{path}");
    }
    let csp = eliza.get("/health", &[]).header("content-security-policy").map(str::to_owned);
    assert!(csp.unwrap().ends_with("upgrade-insecure-requests"));
    drop(eliza);
    let eliza = Eliza::start(&[("NODE_ENV", "production"), ("ELIZA_UI_ENABLE", "true")], "");
    assert_eq!(eliza.get("/index.html", &[]).status, 200);
}

#[test]
fn sockets_are_opened_without_a_key() {
    let eliza = Eliza::start(&[], "");
    let switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                      Upgrade: websocket\r\n\r\n";
    eliza.origin.on("/socket.io/", Behaviour::Tunnel(switching.to_vec()));
    let mut connection = eliza.namespace.run(|| Connection::open(Eliza::address()).unwrap());
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    let target = "/socket.io/?EIO=4&transport=websocket";
    connection.send(&http::request("GET", target, &upgrade, b"")).unwrap();
    assert_eq!(connection.response_without_body().unwrap().status, 101);
    connection.send(b"ping").unwrap();
    connection.read_through(b"ping").unwrap();
}

#[test]
fn without_a_token_it_serves_this_host_only() {
    let mut eliza = Eliza::start(&[("ELIZA_SERVER_AUTH_TOKEN", "")], "");
    assert_eq!(eliza.get("/api/agents", &[]).status, 200);
    eliza.limiter.terminate(SOON);
    eliza.limiter.environment("LIMITER_LISTEN", "0.0.0.0:8080");
    let refused = eliza.limiter.run_to_end();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("ELIZA_SERVER_AUTH_TOKEN"), "{refused:?}");
}
