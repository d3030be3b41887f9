//! What clients are answered: security headers, CORS, limits, request ids, problem documents.

use limiter_tests::{http, origin::Behaviour};

use crate::support::{OPEN, SOON, Site};

#[test]
fn responses_carry_the_security_headers_and_a_request_id() {
    let site = Site::start(
        "",
        &format!("{OPEN}\nheaders = \"api\""),
        "[headers.api]\npreset = \"json-api\"\n",
    );
    let from_origin = [
        ("Server", "nginx"),
        ("X-Powered-By", "php"),
        ("X-Own", "kept"),
        ("Cache-Control", "public"),
    ];
    let headers = from_origin.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    site.origin.by_default(Behaviour::Answer(200, headers, b"x".to_vec()));
    let answers = [site.get("/", &[]), site.get("/%zz", &[])];
    for answer in &answers[..1] {
        for (name, value) in [
            ("cache-control", "no-store"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
        assert_eq!((answer.header("server"), answer.header("x-powered-by")), (None, None));
        assert_eq!(answer.header("strict-transport-security"), None);
        assert_eq!(answer.header("x-own"), Some("kept"));
    }
    let ids: Vec<&str> =
        answers.iter().map(|answer| answer.header("x-request-id").unwrap()).collect();
    assert_eq!(site.origin.take_one(SOON).header("x-request-id").as_deref(), Some(ids[0]));
    assert_eq!((ids[0].len(), ids[0].as_bytes()[14]), (36, b'7'), "a UUIDv7: {ids:?}");
    assert_ne!(ids[0], ids[1]);
    let problem = answers[1].json();
    assert_eq!((&problem["status"], &problem["request_id"]), (&400.into(), &ids[1].into()));
    assert_eq!(answers[1].header("content-type"), Some("application/problem+json"));
    // A well-formed id is kept, another is replaced.
    let kept = site.get("/", &[("X-Request-Id", "client-id.42_x")]);
    assert_eq!(kept.header("x-request-id"), Some("client-id.42_x"));
    let replaced = site.get("/", &[("X-Request-Id", "a b\"c")]);
    assert_eq!(replaced.header("x-request-id").unwrap().len(), 36);
}

#[test]
fn preflights_are_answered_and_refusals_can_be_read_by_the_page() {
    let route = "auth = [\"keys\"]\nlimits = \"none\"\ncors = \"app\"";
    let sections = "[auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n\
                    [cors.app]\norigins = [\"https://app.test\", \"https://*.apps.test\"]\n\
                    methods = [\"GET\", \"PUT\"]\nheaders = [\"Content-Type\", \"X-API-Key\"]\n\
                    credentials = true\nmax_age = \"1h\"\n";
    let site = Site::start("", route, sections);
    let preflight = |origin: &str, method: &str, headers: &str| {
        let fields = [
            ("Origin", origin),
            ("Access-Control-Request-Method", method),
            ("Access-Control-Request-Headers", headers),
        ];
        site.send(&http::request("OPTIONS", "/x", &fields, b""))
    };
    for origin in ["https://app.test", "https://a.b.apps.test"] {
        let answer = preflight(origin, "PUT", "content-type,x-api-key");
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        for (name, value) in [
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "GET, HEAD, POST, PUT"),
            ("access-control-max-age", "3600"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}: {answer:?}");
        }
        let allowed = answer.header("access-control-allow-headers").unwrap().to_lowercase();
        assert!(allowed.contains("x-api-key"), "{allowed}");
        assert!(answer.header_values("vary").join(",").to_lowercase().contains("origin"));
    }
    for (origin, method, headers) in [
        ("https://app.test.evil.test", "PUT", "content-type"),
        ("https://apps.test", "PUT", "content-type"),
        ("http://app.test", "PUT", "content-type"),
        ("null", "PUT", "content-type"),
        ("https://app.test", "DELETE", "content-type"),
        ("https://app.test", "PUT", "x-other"),
    ] {
        let answer = preflight(origin, method, headers);
        assert_eq!(answer.status, 403, "{origin} {method} {headers}");
        assert_eq!(answer.header("access-control-allow-methods"), None);
    }
    site.refused("cors_refused", 6);
    assert_eq!(site.origin.count(), 0, "a preflight never goes upstream");

    // An actual request: the refusal too can be read by the page.
    let refused = site.get("/", &[("Origin", "https://app.test")]);
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://app.test"));
    assert_eq!(refused.header("access-control-allow-credentials"), Some("true"));
    assert!(
        refused
            .header("access-control-expose-headers")
            .unwrap()
            .to_lowercase()
            .contains("x-request-id")
    );
    // What the origin says about origins does not count.
    let theirs = ("Access-Control-Allow-Origin".to_owned(), "*".to_owned());
    site.origin.by_default(Behaviour::Answer(200, vec![theirs], Vec::new()));
    let key = site.limiter.with_file(&["keys", "new", "--name", "page"]).succeeded();
    let key = key.stdout.trim().to_owned();
    let ask = |origin: &str| site.get("/", &[("Origin", origin), ("X-API-Key", &key)]);
    limiter_tests::wait::eventually(SOON, "the key opens", || {
        ask("https://app.test").status == 200
    });
    assert_eq!(
        ask("https://app.test").header("access-control-allow-origin"),
        Some("https://app.test")
    );
    let foreign = ask("https://evil.test");
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (200, None));
}

#[test]
fn limits_are_told_with_every_response_and_429_says_when() {
    let route = "auth = \"none\"\nlimits = [\"small\"]";
    let sections =
        "[limits.small]\nalgorithm = \"fixed_window\"\nrate = \"3/365d\"\napplies_to = \"all\"\n";
    let site = Site::start("", route, sections);
    let mut connection = site.connect();
    let bytes = http::request("GET", "/", &[], b"");
    for remaining in ["2", "1", "0"] {
        let answer = connection.exchange(&bytes).unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit"), Some("3"));
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(remaining));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"small\";q=3;w=31536000"));
        let standing = answer.header("ratelimit").unwrap();
        assert!(standing.starts_with(&format!("\"small\";r={remaining};t=")), "{standing}");
        assert_eq!(answer.header("retry-after"), None);
    }
    let refused = connection.exchange(&bytes).unwrap();
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=31_536_060).contains(&wait), "{wait}");
    let reset: u64 = refused.header("x-ratelimit-reset").unwrap().parse().unwrap();
    let now = limiter_user::clock::unix_ns() / 1_000_000_000;
    // Up to a minute later, at random.
    assert!((reset - 2..=reset + 62).contains(&(now + wait)), "{reset} {now} {wait}");
    assert_eq!(refused.json()["status"], 429);
    // The connection is kept, and others have limits of their own.
    assert_eq!(connection.exchange(&bytes).unwrap().status, 429);
    assert_eq!(site.send_from("127.0.0.9", &bytes).status, 200);
    assert_eq!(site.origin.count(), 4);
    site.limiter.event("WARN: [SECURITY] Rate limit exceeded for IP: 127.0.0.1");
    // What was counted survives a reload that raises the limit.
    site.reload("", route, &sections.replace("3/365d", "5/365d"));
    assert_eq!(connection.exchange(&bytes).unwrap().status, 200);
}

#[test]
fn bounds_on_the_head_hold() {
    let site = Site::start(
        "max_headers = 10\nmax_header_bytes = \"8KB\"\ntimeouts = { header = \"1s\" }",
        OPEN,
        "",
    );
    let long = "x".repeat(9_000);
    assert_eq!(site.get("/", &[("X-Long", &long)]).status, 431);
    let many: Vec<(String, String)> = (0..20).map(|n| (format!("X-{n}"), "v".to_owned())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(site.get("/", &many).status, 431);
    let mut slow = site.connect();
    slow.send(b"GET / HTTP/1.1\r\nHost: te").unwrap();
    assert_eq!(slow.response().unwrap().status, 408);
    site.refused("timeout", 1);
    site.refused("head_too_large", 2);
    assert_eq!(site.origin.count(), 0);
}
