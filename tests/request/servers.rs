//! Several servers behind one route: who gets a request, who gets none, who gets it next.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use limiter_tests::{
    http,
    netns::Namespace,
    origin::{Behaviour, Origin},
    process::Limiter,
    wait::eventually,
};

use crate::support::{OPEN, SOON, Site, configuration_of};

/// Origins, and the limiter in front of all of them.
struct Farm {
    limiter: Limiter,
    origins: Vec<Origin>,
    namespace: Namespace,
}

impl Farm {
    /// With these lines in `[[http.upstream]]`; each origin answers with its number.
    fn start(count: usize, upstream: &str) -> Self {
        let namespace = Namespace::new("farm");
        let origins: Vec<Origin> = (0..count).map(|_| Origin::start(&namespace)).collect();
        for (number, origin) in origins.iter().enumerate() {
            origin.by_default(Behaviour::ok(&number.to_string()));
        }
        let urls: Vec<String> = origins.iter().map(Origin::url).collect();
        let http = "timeouts = { upstream = \"1s\", connect = \"1s\" }";
        let configuration = configuration_of(&urls, upstream, http, OPEN, "");
        let limiter = Limiter::start(&namespace, &configuration);
        Self { limiter, origins, namespace }
    }

    fn send(&self, bytes: &[u8]) -> http::Response {
        self.namespace.run(|| http::exchange(Site::address(), bytes).unwrap())
    }

    fn get(&self) -> http::Response {
        self.send(&http::request("GET", "/", &[], b""))
    }

    fn counts(&self) -> Vec<usize> {
        self.origins.iter().map(Origin::count).collect()
    }

    /// `state` of each server, as `limiter status` has it.
    fn states(&self) -> Vec<String> {
        self.limiter.status().servers.into_iter().map(|one| one.state).collect()
    }
}

/// Ends an origin and leaves its address to nobody.
fn stop(origin: Origin) -> SocketAddr {
    let address = origin.address();
    drop(origin);
    address
}

#[test]
fn requests_go_round_and_past_a_server_that_is_not_there() {
    let mut farm = Farm::start(3, "");
    for _ in 0..30 {
        assert_eq!(farm.get().status, 200);
    }
    let counts = farm.counts();
    // Two cores, each with a round of its own.
    assert!(counts.iter().all(|count| (8..=12).contains(count)), "{counts:?}");
    let gone = stop(farm.origins.remove(1));
    // Nothing was sent to it: a request with a body goes on to the next as well.
    for _ in 0..20 {
        assert_eq!(farm.send(&http::request("POST", "/", &[], b"x")).status, 200);
    }
    let status = farm.limiter.status();
    assert_eq!(status.refused.get("upstream_failed"), None, "{:?}", status.refused);
    farm.origins.push(Origin::start_at(&farm.namespace, gone));
    eventually(SOON, "the server to be used again", || {
        assert_eq!(farm.get().status, 200);
        farm.origins[2].count() > 0
    });
    let text = farm.limiter.cli(&["status"]).succeeded().stdout;
    assert!(text.contains("UPSTREAM  SERVER"), "{text}");
}

#[test]
fn a_client_stays_with_its_server_until_that_is_gone() {
    let mut farm = Farm::start(4, "balance = \"consistent_hash\"");
    let served_by = |farm: &Farm, client: u8| {
        let source = Ipv4Addr::new(127, 0, 1, client).into();
        let bytes = http::request("GET", "/", &[], b"");
        let exchange = || http::exchange_from(source, Site::address(), &bytes).unwrap();
        let answer = farm.namespace.run(exchange);
        assert_eq!(answer.status, 200);
        answer.text()
    };
    let before: Vec<String> = (1..40).map(|client| served_by(&farm, client)).collect();
    let distinct: BTreeSet<_> = before.iter().collect();
    assert!(distinct.len() >= 3, "{distinct:?}");
    for (client, server) in (1..40).zip(&before) {
        assert_eq!(served_by(&farm, client), *server);
    }
    stop(farm.origins.remove(2));
    for (client, server) in (1..40).zip(&before) {
        let now = served_by(&farm, client);
        assert!(server == "2" || now == *server, "client {client}: {server} -> {now}");
    }
}

#[test]
fn the_server_with_fewer_requests_in_flight_gets_more() {
    let farm = Farm::start(2, "balance = \"least_requests\"");
    let pause = Duration::from_millis(400);
    farm.origins[0].by_default(Behaviour::Delayed(pause, Box::new(Behaviour::ok("slow"))));
    let bytes = http::request("GET", "/", &[], b"");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..6 {
                    assert_eq!(farm.send(&bytes).status, 200);
                }
            });
        }
    });
    let counts = farm.counts();
    assert!(counts[1] > 2 * counts[0], "{counts:?}");
}

#[test]
fn what_may_be_repeated_is_and_only_within_the_budget() {
    let farm = Farm::start(2, "retries = 1");
    farm.origins[0].by_default(Behaviour::CloseBeforeAnswer);
    // One with a body is not, nor one that could change something.
    let post = http::request("POST", "/", &[], b"x");
    let statuses: BTreeSet<u16> = (0..3).map(|_| farm.send(&post).status).collect();
    assert!(statuses.contains(&502), "{statuses:?}");
    assert_eq!(farm.counts().iter().sum::<usize>(), 3);
    let get = http::request("GET", "/", &[], b"");
    for _ in 0..4 {
        assert_eq!(farm.send(&get).text(), "1");
    }
    // With every server failing, one request in ten is sent twice once the budget is spent.
    farm.origins[1].by_default(Behaviour::CloseBeforeAnswer);
    let before: usize = farm.counts().iter().sum();
    for _ in 0..300 {
        assert_eq!(farm.send(&get).status, 502);
    }
    let sent = farm.counts().iter().sum::<usize>() - before;
    assert!((310..=370).contains(&sent), "{sent} for 300");
    let metrics = farm.limiter.control("GET", "/metrics", b"").text();
    for name in ["requests_total", "failures_total", "retries_total", "up", "active_requests"] {
        let line = format!("limiter_upstream_{name}{{upstream=\"api\",server=\"http://127");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

#[test]
fn nothing_is_repeated_after_a_timeout() {
    let farm = Farm::start(2, "retries = 3");
    for origin in &farm.origins {
        origin.by_default(Behaviour::Stall);
    }
    assert_eq!(farm.get().status, 504);
    assert_eq!(farm.counts().iter().sum::<usize>(), 1);
}

#[test]
fn a_server_that_is_not_well_gets_nothing_until_it_is() {
    let health = "health = { path = \"/well?\", interval = \"100ms\" }";
    let farm = Farm::start(2, health);
    eventually(SOON, "both to be asked", || farm.origins.iter().all(|origin| origin.count() > 0));
    let asked = &farm.origins[0].requests()[0];
    assert_eq!(asked.line(), "GET /well? HTTP/1.1");
    assert_eq!(asked.header("host"), Some(farm.origins[0].address().to_string()));
    farm.origins[0].on("/well", Behaviour::status(503));
    farm.limiter.event(&format!(
        "ERROR: [SECURITY] Upstream server is down: api ({}): status 503",
        farm.origins[0].url()
    ));
    for _ in 0..10 {
        assert_eq!(farm.get().text(), "1");
    }
    farm.origins[1].on("/well", Behaviour::Stall);
    eventually(SOON, "both to be down", || farm.states() == ["down", "down"]);
    let answer = farm.get();
    assert_eq!((answer.status, answer.header("retry-after")), (502, Some("1")));
    farm.origins[0].on("/well", Behaviour::status(204));
    farm.limiter
        .event(&format!("INFO: [SECURITY] Upstream server is up: api ({})", farm.origins[0].url()));
    assert_eq!(farm.get().text(), "0");
}

#[test]
fn a_breaker_opens_tries_and_closes() {
    let farm =
        Farm::start(1, "retries = 0\nbreaker = { failures = 3, window = \"10s\", open = \"1s\" }");
    farm.origins[0].by_default(Behaviour::status(503));
    for _ in 0..3 {
        assert_eq!(farm.get().status, 503, "its own answers pass");
    }
    farm.limiter
        .event(&format!("ERROR: [SECURITY] Breaker opened: api ({})", farm.origins[0].url()));
    let sent = farm.origins[0].count();
    let answer = farm.get();
    assert_eq!((answer.status, answer.header("retry-after")), (502, Some("1")));
    assert_eq!(farm.origins[0].count(), sent, "nothing was sent");
    eventually(SOON, "the breaker to show", || farm.states() == ["open"]);
    // A try that fails leaves it open.
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(farm.get().status, 503);
    assert_eq!(farm.get().status, 502);
    farm.origins[0].by_default(Behaviour::ok("again"));
    std::thread::sleep(Duration::from_millis(1_100));
    assert_eq!(farm.get().text(), "again");
    assert_eq!(farm.get().text(), "again");
    farm.limiter
        .event(&format!("INFO: [SECURITY] Breaker closed: api ({})", farm.origins[0].url()));
}

#[test]
fn a_reload_keeps_what_is_known_of_servers_that_stay() {
    let farm =
        Farm::start(1, "retries = 0\nbreaker = { failures = 1, window = \"10s\", open = \"60s\" }");
    farm.origins[0].by_default(Behaviour::CloseBeforeAnswer);
    assert_eq!(farm.get().status, 502);
    farm.origins[0].by_default(Behaviour::ok("well"));
    let answer = farm.get();
    assert_eq!(answer.status, 502, "open");
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=60).contains(&after), "when it is tried again: {after}");
    let urls = vec![farm.origins[0].url()];
    let reload = |upstream: &str| {
        farm.limiter.configure(&configuration_of(&urls, upstream, "max_body = \"1MB\"", OPEN, ""));
        farm.limiter.cli(&["reload"]).succeeded();
    };
    reload("retries = 1\nbreaker = { failures = 1, window = \"10s\", open = \"60s\" }");
    assert_eq!(farm.get().status, 502, "still open");
    reload("");
    assert_eq!(farm.get().text(), "well");
}

#[test]
fn a_request_for_another_protocol_goes_past_a_server_that_is_not_there() {
    let mut farm = Farm::start(2, "retries = 0");
    stop(farm.origins.remove(0));
    let asking = [("Connection", "Upgrade"), ("Upgrade", "websocket")];
    for _ in 0..3 {
        let declined = farm.send(&http::request("GET", "/", &asking, b""));
        assert_eq!((declined.status, declined.text().as_str()), (200, "1"));
    }
    assert_eq!(farm.counts(), [3]);
}
