//! Limits through real sockets: by whom, how much, what counts in the end, who waits, and what
//! answers say of it.

mod streams;

use std::{thread, time::Duration};

use limiter_tests::{
    http::{self, Response},
    origin::Behaviour,
    wait::{Deadline, eventually},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::support::{SOON, Site};

const PUBLIC: &str = "auth = \"none\"\nlimits = [\"a\"]";

/// A site of one public route with this limit.
fn site(limit: &str) -> Site {
    Site::start("", PUBLIC, &format!("[limits.a]\n{limit}\n[escalation]\nmode = \"monitor\"\n"))
}

fn statuses(site: &Site, count: usize) -> Vec<u16> {
    (0..count).map(|_| site.get("/", &[]).status).collect()
}

fn number(answer: &Response, name: &str) -> u64 {
    answer.header(name).unwrap_or_else(|| panic!("no {name}: {answer:?}")).parse().unwrap()
}

fn standing(answer: &Response) -> (&str, &str) {
    (answer.header("ratelimit-policy").unwrap(), answer.header("ratelimit").unwrap())
}

#[test]
fn every_algorithm_admits_what_it_says_and_tells_so() {
    for algorithm in ["token_bucket", "leaky_bucket", "sliding_window", "fixed_window"] {
        let site = site(&format!("algorithm = \"{algorithm}\"\nrate = \"3/2h\""));
        for remaining in [2, 1, 0] {
            let answer = site.get("/", &[]);
            assert_eq!(answer.status, 200);
            assert_eq!(number(&answer, "x-ratelimit-limit"), 3);
            assert_eq!(number(&answer, "x-ratelimit-remaining"), remaining);
            let (policy, standing) = standing(&answer);
            assert_eq!(policy, "\"a\";q=3;w=7200");
            assert!(standing.starts_with(&format!("\"a\";r={remaining};t=")), "{standing}");
        }
        let refused = site.get("/", &[]);
        assert_eq!(refused.status, 429, "{algorithm}");
        let wait: u64 = standing(&refused).1.split("t=").nth(1).unwrap().parse().unwrap();
        let retry = number(&refused, "retry-after");
        assert!((wait..=wait + 60).contains(&retry), "{algorithm}: {retry} after {wait}");
        let problem = refused.json();
        assert_eq!(
            problem["type"],
            "https://iana.org/assignments/http-problem-types#quota-exceeded"
        );
        assert_eq!(problem["violated-policies"], serde_json::json!(["a"]));
        assert_eq!(site.origin.count(), 3);
    }
}

#[test]
fn a_changed_limit_holds_at_once_and_refills_nobody() {
    let limit = |text: &str| format!("[limits.a]\n{text}\n[escalation]\nmode = \"monitor\"\n");
    let site = site("algorithm = \"sliding_window\"\nrate = \"3/2h\"");
    assert_eq!(statuses(&site, 4), [200, 200, 200, 429]);
    for (text, more) in [
        ("algorithm = \"sliding_window\"\nrate = \"5/2h\"", 2),
        ("algorithm = \"sliding_window\"\nrate = \"2/2h\"", 0),
        ("algorithm = \"sliding_window\"\nrate = \"6/2h\"", 1),
        ("algorithm = \"token_bucket\"\nrate = \"4/24h\"\nburst = 8", 2),
        ("algorithm = \"fixed_window\"\nrate = \"9/365d\"", 1),
    ] {
        site.reload("", PUBLIC, &limit(text));
        let expected: Vec<u16> = (0..=more).map(|n| if n < more { 200 } else { 429 }).collect();
        assert_eq!(statuses(&site, more + 1), expected, "{text}");
    }
    let other = site.send_from("127.0.0.9", &http::request("GET", "/", &[], b""));
    assert_eq!((other.status, number(&other, "x-ratelimit-remaining")), (200, 8));
}

#[test]
fn counts_are_there_again_after_a_restart() {
    let mut site = site("algorithm = \"sliding_window\"\nrate = \"3/2h\"");
    assert_eq!(statuses(&site, 1), [200]);
    for expected in [[200, 200], [429, 429]] {
        site.limiter.terminate(SOON);
        site.limiter.restart();
        assert_eq!(statuses(&site, 2), expected);
    }
}

#[test]
fn principals_have_the_budgets_of_their_tiers() {
    let mut site = Site::prepare(
        "",
        "auth = [\"keys\"]\nlimits = [\"tier\"]\n[[http.route]]\npath = \"/open\"\n\
         auth = \"none\"\nlimits = [\"tier\"]\n[[http.route]]\npath = \"/either\"\n\
         auth = [\"keys\", \"none\"]\nlimits = [\"tier\"]",
        "[auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n\
         [limits.tier]\nalgorithm = \"fixed_window\"\nkey = [\"principal\"]\n\
         tiers = { anonymous = \"1/365d\", authenticated = \"2/365d\", premium = \"4/365d\" }\n",
    );
    let make = |name: &str, tier: &[&str]| {
        let arguments = [&["keys", "new", "--name", name], tier].concat();
        site.limiter.with_file(&arguments).succeeded().stdout.trim().to_owned()
    };
    let keys = [
        (make("alice", &["--tier", "premium"]), 4),
        (make("bob", &[]), 2),
        (make("carol", &["--tier", "unheard-of"]), 2),
    ];
    let dave = make("dave", &[]);
    site.limiter.restart();
    for (key, most) in &keys {
        let send = || site.get("/", &[("X-API-Key", key)]);
        for remaining in (0..*most).rev() {
            let answer = send();
            assert_eq!((answer.status, number(&answer, "x-ratelimit-remaining")), (200, remaining));
            assert_eq!(number(&answer, "x-ratelimit-limit"), *most);
        }
        assert_eq!(send().status, 429);
    }
    assert_eq!(site.get("/open", &[]).status, 200, "anonymous, by address");
    assert_eq!(site.get("/open", &[]).status, 429);
    // Where a key may be shown, who shows one has its budget, and nobody else's.
    site.origin.take();
    assert_eq!(site.get("/either", &[]).status, 429);
    assert_eq!(site.get("/either", &[("X-API-Key", "lk_wrong")]).status, 401);
    let answer = site.get("/either", &[("X-API-Key", &dave)]);
    assert_eq!((answer.status, number(&answer, "x-ratelimit-limit")), (200, 2));
    let upstream = site.origin.take_one(SOON);
    assert_eq!(upstream.header("x-auth-subject").as_deref(), Some("dave"));
    assert_eq!(upstream.header("x-api-key"), None);
}

#[test]
fn keys_of_several_parts_count_what_they_are_together() {
    let site = site(
        "algorithm = \"fixed_window\"\nkey = [\"client\", \"header:X-Tenant\"]\nrate = \"2/365d\"",
    );
    let send = |source: &str, tenant: Option<&str>| {
        let headers: Vec<_> = tenant.iter().map(|tenant| ("x-tenant", *tenant)).collect();
        site.send_from(source, &http::request("GET", "/", &headers, b"")).status
    };
    for source in ["127.0.0.2", "127.0.0.3"] {
        for tenant in [Some("one"), Some("two"), Some(""), None] {
            let answers = [send(source, tenant), send(source, tenant), send(source, tenant)];
            assert_eq!(answers, [200, 200, 429], "{source} {tenant:?}");
        }
    }
}

#[test]
fn a_limit_by_route_counts_everybody_together() {
    let site = Site::start(
        "",
        "path = \"/dear\"\ncost = 4\nauth = \"none\"\nlimits = [\"a\"]\n\
         [[http.route]]\npath = \"/cheap\"\nauth = \"none\"\nlimits = [\"a\"]",
        "[limits.a]\nkey = [\"route\"]\nrate = \"10/24h\"\ncost = 3\n",
    );
    let send = |source: &str, path: &str| {
        let answer = site.send_from(source, &http::request("GET", path, &[], b""));
        (answer.status, number(&answer, "x-ratelimit-remaining"))
    };
    assert_eq!(send("127.0.0.2", "/dear"), (200, 6));
    assert_eq!(send("127.0.0.3", "/dear"), (200, 2));
    assert_eq!(send("127.0.0.4", "/dear"), (429, 2), "it weighs 4");
    assert_eq!(send("127.0.0.5", "/cheap"), (200, 7), "it weighs what the limit says");
}

#[test]
fn what_is_not_to_count_is_given_back_with_the_answer() {
    for (count, counted, free) in [("failures", 401, 200), ("successes", 204, 500)] {
        for algorithm in ["token_bucket", "sliding_window", "fixed_window"] {
            let site = site(&format!(
                "algorithm = \"{algorithm}\"\nrate = \"3/24h\"\ncount = \"{count}\""
            ));
            site.origin.on("/counted", Behaviour::status(counted));
            site.origin.on("/free", Behaviour::status(free));
            let left = |path: &str| {
                let answer = site.get(path, &[]);
                (answer.status, number(&answer, "x-ratelimit-remaining"))
            };
            for _ in 0..6 {
                assert_eq!(left("/free"), (free, 3), "{algorithm}");
            }
            assert_eq!(left("/counted"), (counted, 2), "{algorithm}");
            assert_eq!(left("/free"), (free, 2), "{algorithm}");
            assert_eq!(left("/counted"), (counted, 1));
            assert_eq!(left("/counted"), (counted, 0));
            assert_eq!(left("/free").0, 429);
            assert_eq!(left("/counted").0, 429);
        }
    }
}

#[test]
fn failed_credentials_count_where_failures_do() {
    let site = Site::start(
        "",
        "auth = [\"keys\"]\nlimits = [\"login\"]",
        "[auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n\
         [limits.login]\nalgorithm = \"fixed_window\"\nrate = \"3/365d\"\ncount = \"failures\"\n\
         [escalation]\nmode = \"monitor\"\n",
    );
    let wrong = || site.get("/", &[("X-API-Key", "lk_wrong")]).status;
    assert_eq!([wrong(), wrong(), wrong(), wrong()], [401, 401, 401, 429]);
    site.refused("rate_limited", 1);
    site.refused("invalid_credential", 3);
}

#[test]
fn only_so_many_requests_of_one_client_are_under_way() {
    let site = site("concurrent = 2");
    let slow = Behaviour::Delayed(Duration::from_secs(1), Box::new(Behaviour::ok("late")));
    site.origin.on("/slow", slow);
    let mut first = site.connect();
    let mut second = site.connect();
    for connection in [&mut first, &mut second] {
        connection.send(&http::request("GET", "/slow", &[], b"")).unwrap();
    }
    eventually(SOON, "both are under way", || site.origin.count() == 2);
    let refused = site.get("/", &[]);
    assert_eq!(refused.status, 429);
    assert_eq!(standing(&refused), ("\"a\";q=2;qu=\"concurrent-requests\"", "\"a\";r=0"));
    assert_eq!(refused.json()["violated-policies"], serde_json::json!(["a"]));
    assert!((1..=2).contains(&number(&refused, "retry-after")));
    site.refused("concurrency_limited", 1);
    let other = site.send_from("127.0.0.9", &http::request("GET", "/", &[], b""));
    assert_eq!(other.status, 200, "another client");
    let answers = [first.response().unwrap(), second.response().unwrap()];
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(answers.iter().any(|answer| standing(answer).1 == "\"a\";r=0"), "as it was admitted");
    eventually(SOON, "there is room again", || site.get("/", &[]).status == 200);
    assert_eq!(statuses(&site, 20), [200; 20], "each one that ends gives its place back");
}

#[test]
fn a_leaky_bucket_lets_requests_out_one_by_one() {
    const EVERY: Duration = Duration::from_millis(100);
    let site =
        site("algorithm = \"leaky_bucket\"\nrate = \"10/s\"\nburst = 50\nmax_delay = \"450ms\"");
    let began = Deadline::after(Duration::ZERO);
    let mut taken: Vec<(u16, Duration)> = thread::scope(|scope| {
        let ask = || {
            let status = site.get("/", &[]).status;
            (status, began.elapsed())
        };
        let clients: Vec<_> = (0..9).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    taken.sort_by_key(|(status, took)| (*status, *took));
    let waited: Vec<Duration> =
        taken.iter().filter(|(status, _)| *status == 200).map(|(_, took)| *took).collect();
    // Five at once: the last of them waits 400 ms. While clients began, some may have leaked.
    assert!((5..=6).contains(&waited.len()), "{taken:?}");
    for (turn, took) in waited.iter().enumerate().skip(1) {
        let turn = u32::try_from(turn).unwrap();
        assert!(*took + EVERY / 10 >= EVERY * turn, "{taken:?}");
    }
    assert!(waited[4] < Duration::from_secs(2), "{taken:?}");
}

#[test]
fn what_the_upstream_says_of_its_own_limits_stays() {
    let site = site("algorithm = \"fixed_window\"\nrate = \"100/365d\"");
    let says = |limit: &str, remaining: &str| {
        let headers = [
            ("X-RateLimit-Limit", limit),
            ("X-RateLimit-Remaining", remaining),
            ("X-RateLimit-Reset", "77"),
            ("RateLimit-Policy", "\"theirs\";q=9;w=60"),
            ("RateLimit", "\"theirs\";r=1;t=9"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        site.origin.by_default(Behaviour::Answer(200, headers, Vec::new()));
        site.get("/", &[])
    };
    let tighter = says("10", "1");
    assert_eq!(number(&tighter, "x-ratelimit-remaining"), 1);
    assert_eq!(number(&tighter, "x-ratelimit-reset"), 77);
    let policies = tighter.header_values("ratelimit-policy");
    assert_eq!(policies, ["\"theirs\";q=9;w=60", "\"a\";q=100;w=31536000"]);
    assert_eq!(tighter.header_values("ratelimit")[0], "\"theirs\";r=1;t=9");
    let looser = says("10", "10");
    assert_eq!(number(&looser, "x-ratelimit-limit"), 100);
    assert_eq!(number(&looser, "x-ratelimit-remaining"), 98);
    assert_eq!(looser.header_values("x-ratelimit-reset").len(), 1);
    assert_eq!(looser.header_values("ratelimit").len(), 2);
    // A dictionary, as draft 07 has it, becomes an item of the list that ours are in.
    let older = [("RateLimit-Policy", "9;w=60"), ("RateLimit", "limit=9, remaining=1, reset=9")];
    let older = older.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    site.origin.by_default(Behaviour::Answer(200, older, Vec::new()));
    let answer = site.get("/", &[]);
    assert_eq!(answer.header_values("ratelimit-policy")[0], "\"server\";q=9;w=60");
    assert_eq!(answer.header_values("ratelimit")[0], "\"server\";r=1;t=9");
}

#[test]
fn a_request_that_one_limit_refuses_counts_against_none() {
    let site = Site::start(
        "",
        "auth = \"none\"\nlimits = [\"wide\", \"narrow\", \"few\", \"watched\"]",
        "[limits.wide]\nalgorithm = \"fixed_window\"\nrate = \"5/365d\"\n\
         [limits.narrow]\nalgorithm = \"sliding_window\"\nkey = [\"client\", \"route\"]\n\
         rate = \"2/365d\"\n\
         [limits.few]\nconcurrent = 1\n\
         [limits.watched]\nrate = \"1/365d\"\nmode = \"monitor\"\n\
         [escalation]\nmode = \"monitor\"\n",
    );
    assert_eq!(statuses(&site, 5), [200, 200, 429, 429, 429]);
    let refused = site.get("/", &[]);
    let fields = refused.header_values("ratelimit").join(", ");
    assert!(fields.contains("\"wide\";r=3;t="), "{fields}");
    assert!(fields.contains("\"narrow\";r=0;t="), "{fields}");
    assert!(fields.contains("\"few\";r=1"), "{fields}");
    assert_eq!(refused.json()["violated-policies"], serde_json::json!(["narrow"]));
    assert_eq!(
        number(&refused, "x-ratelimit-limit"),
        2,
        "the first of two of which nothing is left"
    );
}

#[test]
fn a_limit_that_is_only_watched_tells_clients_nothing() {
    let limits = |mode: &str| {
        format!(
            "[limits.watched]\nrate = \"1/365d\"\nconcurrent = 1\nmode = \"monitor\"\n\
             [limits.other]\nrate = \"5/365d\"\n{mode}\n"
        )
    };
    let route = "auth = \"none\"\nlimits = [\"watched\", \"other\"]";
    let site = Site::start("", route, &limits(""));
    for remaining in [4, 3, 2] {
        let answer = site.get("/", &[]);
        assert_eq!((answer.status, number(&answer, "x-ratelimit-limit")), (200, 5));
        assert_eq!(number(&answer, "x-ratelimit-remaining"), remaining);
        let (policy, standing) = standing(&answer);
        assert!(policy.starts_with("\"other\";") && !policy.contains("watched"), "{policy}");
        assert!(standing.starts_with("\"other\";") && !standing.contains("watched"), "{standing}");
        assert_eq!(answer.header_values("ratelimit-policy").len(), 1);
    }
    site.reload("", route, &limits("mode = \"monitor\""));
    for _ in 0..4 {
        let answer = site.get("/", &[]);
        assert_eq!(answer.status, 200);
        for name in ["ratelimit", "ratelimit-policy", "x-ratelimit-limit", "retry-after"] {
            assert_eq!(answer.header(name), None);
        }
    }
}

#[test]
fn a_connection_that_goes_on_in_another_protocol_is_under_way_until_it_ends() {
    let site = site("concurrent = 1");
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                     Upgrade: websocket\r\n\r\n";
    site.origin.on("/chat", Behaviour::Tunnel(switching.as_bytes().to_vec()));
    let mut chat = site.connect();
    let fields = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    chat.send(&http::request("GET", "/chat", &fields, b"")).unwrap();
    chat.read_through(b"\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(site.get("/", &[]).status, 429);
    chat.send(b"bye").unwrap();
    chat.read_through(b"bye").unwrap();
    drop(chat);
    eventually(SOON, "there is room again", || site.get("/", &[]).status == 200);
}

#[test]
fn a_change_while_the_proxy_dies_refills_nobody() {
    let limit = |rate: &str| {
        format!(
            "[limits.a]\nalgorithm = \"sliding_window\"\nrate = \"{rate}\"\n\
             [escalation]\nmode = \"monitor\"\n"
        )
    };
    let mut site = site("algorithm = \"sliding_window\"\nrate = \"3/2h\"");
    assert_eq!(statuses(&site, 4), [200, 200, 200, 429]);
    for (rate, more) in [("5/2h", 2), ("6/4h", 1), ("8/2h", 2)] {
        let before = site.limiter.proxy_pid();
        let proxy = i32::try_from(before.unwrap()).unwrap();
        kill(Pid::from_raw(proxy), Signal::SIGKILL).unwrap();
        site.reload("", PUBLIC, &limit(rate));
        eventually(SOON, "the next proxy is known", || {
            site.limiter.proxy_pid().is_some_and(|pid| Some(pid) != before)
        });
        let expected: Vec<u16> = (0..=more).map(|n| if n < more { 200 } else { 429 }).collect();
        assert_eq!(statuses(&site, more + 1), expected, "{rate}");
    }
}
