//! From evidence in requests to a ban in the kernel, and who is spared.

use std::{net::SocketAddr, time::Duration};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    http::{self, Connection},
    origin::Origin,
    process::Limiter,
    raw::Port,
    wait::{Deadline, eventually, holds_for},
    world::{CLIENTS, SERVER, World},
};

use crate::support::{ALLOWED, BANNED, SOON, arrive, verdict};

const WRONG: [(&str, &str); 1] = [("X-API-Key", "lk_wrong")];

/// A protected route, a host, and a key that opens it.
struct Scene {
    world: World,
    origin: Origin,
    limiter: Limiter,
    key: String,
}

impl Scene {
    /// `kernel` lines and further sections.
    fn start(kernel: &str, http: &str, sections: &str) -> Self {
        let world = World::new();
        let origin = Origin::start(&world.server);
        let text = World::kernel(kernel)
            + &World::http(&origin)
                .replace("[http]\n", &format!("[http]\n{http}\n"))
                .replace("auth = \"none\"", "auth = [\"keys\"]")
            + "[auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n"
            + sections;
        let mut limiter = Limiter::prepare(&world.server, &text);
        let made = limiter.with_file(&["keys", "new", "--name", "alice"]).succeeded();
        limiter.restart();
        Self { world, origin, limiter, key: made.stdout.trim().to_owned() }
    }

    fn get(&self, source: &str, headers: &[(&str, &str)]) -> u16 {
        self.world.get(source, headers).status
    }

    fn good(&self) -> [(&str, &str); 1] {
        [("X-API-Key", &self.key)]
    }

    fn bans(&self) -> Vec<serde_json::Value> {
        let response = self.limiter.control("GET", "/v1/bans", b"");
        response.json().as_array().expect("a list").clone()
    }

    /// Presents a wrong key so often, on one connection.
    #[track_caller]
    fn guess(&self, source: &str, times: usize) -> Connection {
        let mut connection = self.world.connect(source);
        let bytes = http::request("GET", "/", &WRONG, b"");
        for attempt in 0..times {
            let response = connection.exchange(&bytes);
            let status = response.map(|response| response.status);
            assert!(matches!(status, Ok(401 | 429)), "attempt {attempt}: {status:?}");
        }
        connection
    }
}

const SHORT: &str =
    "[escalation]\nban = { first = \"2s\", factor = 3, max = \"1m\", decay = \"1h\" }\n";

#[test]
fn wrong_keys_end_in_a_kernel_ban_that_ends_by_itself() {
    let mut scene = Scene::start("", "", SHORT);
    let source = CLIENTS[0];
    let mut idle = scene.world.connect(source);
    let missing = http::request("GET", "/", &[], b"");
    assert_eq!(idle.exchange(&missing).unwrap().status, 401);
    drop(scene.guess(source, 9));
    assert!(holds_for(Duration::from_millis(100), || scene.bans().is_empty()), "45 of 50 points");
    verdict(&scene.world, &scene.limiter, source, ALLOWED);

    // The tenth: dropped in the kernel within a tenth of a second.
    let port = Port::open(&scene.world.veth.client);
    let mut watch = Port::open(&scene.world.veth.server);
    let probe = scene.world.datagram(source);
    let mut last = scene.guess(source, 1);
    let since = Deadline::after(Duration::ZERO);
    loop {
        port.send(&probe);
        let wait = Duration::from_millis(5);
        if watch.receive_matching(wait, |frame| frame == probe).is_none() {
            break;
        }
    }
    assert!(since.elapsed() < Duration::from_millis(100), "{:?}", since.elapsed());
    verdict(&scene.world, &scene.limiter, source, BANNED);
    // Its connections end, the one that asked and the one that is idle.
    assert!(idle.is_closed_within(SOON) && last.is_closed_within(SOON));
    eventually(SOON, "none is left", || scene.limiter.status().connections_open == 0);
    assert_eq!(
        scene.limiter.event("(invalid_credential 10)"),
        "WARN: [SECURITY] Banned 10.9.0.2 for 2s: score 50 of 50 in 60s (invalid_credential 10)"
    );
    assert_eq!(scene.get(CLIENTS[1], &scene.good()), 200);

    // It ends on time, also without the agent.
    scene.limiter.kill_agent();
    eventually(SOON, "the ban ends", || arrive(&scene.world, source, 1) == 1);
    let took = since.elapsed();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(3)).contains(&took), "{took:?}");
    assert_eq!(scene.get(source, &scene.good()), 200);
}

#[test]
fn each_ban_is_longer_than_the_last() {
    let scene = Scene::start("", "", &SHORT.replace("2s", "1s"));
    drop(scene.guess(CLIENTS[0], 10));
    scene.limiter.event("for 1s: score 50 of 50 in 60s (invalid_credential 10)");
    eventually(SOON, "the ban ends", || arrive(&scene.world, CLIENTS[0], 1) == 1);
    drop(scene.guess(CLIENTS[0], 10));
    scene.limiter.event("for 3s: score 50 of 50 in 60s (invalid_credential 10)");
    scene.limiter.cli(&["unban", CLIENTS[0]]).succeeded();
    drop(scene.guess(CLIENTS[0], 10));
    scene.limiter.event("for 9s: score 50 of 50 in 60s (invalid_credential 10)");
    verdict(&scene.world, &scene.limiter, CLIENTS[1], ALLOWED);
}

#[test]
fn requests_without_any_key_score_nothing() {
    let scene = Scene::start("", "", SHORT);
    let mut connection = scene.world.connect(CLIENTS[0]);
    let bytes = http::request("GET", "/", &[], b"");
    for _ in 0..500 {
        assert_eq!(connection.exchange(&bytes).unwrap().status, 401);
    }
    let why = scene.limiter.json(&["why", CLIENTS[0], "--json"]);
    assert_eq!((&why["score"], &why["verdict"]), (&0.into(), &"pass".into()));
    assert!(scene.bans().is_empty());
    assert_eq!(scene.origin.count(), 0);
    eventually(SOON, "every refusal is counted", || {
        scene.limiter.status().refused.get("unauthorized") == Some(&500)
    });
    // And told: a few as they are, the rest summed.
    let told = || -> u64 {
        let lines = scene.limiter.lines("events.json");
        let documents = lines.iter().map(|line| serde_json::from_str(line).unwrap());
        documents
            .filter(|event: &serde_json::Value| event["event.action"] == "unauthorized")
            .map(|event| event["limiter.count"].as_u64().unwrap())
            .sum()
    };
    eventually(SOON, "every refusal is told", || told() == 500);
}

#[test]
fn going_on_far_beyond_a_limit_ends_in_a_ban() {
    let limits =
        "[limits.tight]\nalgorithm = \"fixed_window\"\nrate = \"4/365d\"\napplies_to = \"all\"\n";
    let scene = Scene::start("", "", &format!("{limits}{SHORT}"));
    let text = std::fs::read_to_string(scene.limiter.configuration()).unwrap();
    let open = text
        .replace("limits = \"none\"", "limits = [\"tight\"]")
        .replace("auth = [\"keys\"]", "auth = \"none\"");
    scene.limiter.configure_exactly(&open);
    scene.limiter.cli(&["reload"]).succeeded();
    let mut connection = scene.world.connect(CLIENTS[0]);
    let bytes = http::request("GET", "/", &[], b"");
    let mut statuses = Vec::new();
    // 4 pass, 100 are refused, from the 105th on it is far beyond; ten of those make a ban.
    for _ in 0..114 {
        match connection.exchange(&bytes) {
            Ok(response) => statuses.push(response.status),
            Err(_) => break,
        }
    }
    assert_eq!(statuses[..4], [200; 4]);
    assert!(statuses[4..].iter().all(|status| *status == 429), "{statuses:?}");
    assert!(statuses.len() >= 113, "{statuses:?}");
    let told = scene.limiter.event("(rate_limited_far 10)");
    assert_eq!(
        told,
        "WARN: [SECURITY] Banned 10.9.0.2 for 2s: score 50 of 50 in 60s (rate_limited_far 10)"
    );
    verdict(&scene.world, &scene.limiter, CLIENTS[0], BANNED);
    verdict(&scene.world, &scene.limiter, CLIENTS[1], ALLOWED);
}

#[test]
fn an_address_that_just_authenticated_is_throttled_not_banned() {
    let scene = Scene::start("", "", SHORT);
    assert_eq!(scene.get(CLIENTS[0], &scene.good()), 200);
    scene.limiter.cli(&["status"]).succeeded();
    let mut connection = scene.guess(CLIENTS[0], 40);
    let guarded = connection.exchange(&http::request("GET", "/", &WRONG, b"")).unwrap();
    assert_eq!(guarded.status, 429, "{guarded:?}");
    scene.limiter.event("WARN: [SECURITY] Too many failed attempts from 10.9.0.2");
    // The valid key behind the same address goes on being served.
    assert_eq!(scene.get(CLIENTS[0], &scene.good()), 200);
    assert!(scene.bans().is_empty());
    assert_eq!(arrive(&scene.world, CLIENTS[0], 3), 3);
    let why = scene.limiter.cli(&["why", CLIENTS[0]]).succeeded();
    assert!(why.stdout.contains("it authenticated lately, so it is throttled before it is banned"));
}

#[test]
fn behind_a_trusted_proxy_the_client_is_banned_and_not_the_proxy() {
    let http = "client_address = \"x-forwarded-for\"\ntrusted_proxies = [\"10.9.0.2\"]";
    let scene = Scene::start("", http, SHORT);
    let through = |client: &str, key: &str| {
        let headers = [("X-Forwarded-For", client), ("X-API-Key", key)];
        scene.get(CLIENTS[0], &headers)
    };
    for _ in 0..10 {
        assert_eq!(through("203.0.113.5", "lk_wrong"), 401);
    }
    let told = scene.limiter.event("(invalid_credential 10)");
    assert!(told.starts_with("WARN: [SECURITY] Banned 203.0.113.5 for 2s"), "{told}");
    let bans = scene.bans();
    assert_eq!((&bans[0]["prefix"], &bans[0]["scope"]), (&"203.0.113.5/32".into(), &"http".into()));
    eventually(SOON, "the client is refused", || through("203.0.113.5", &scene.key) == 403);
    assert_eq!(through("203.0.113.6", &scene.key), 200);
    assert_eq!(through("203.0.113.5", &scene.key), 403);
    verdict(&scene.world, &scene.limiter, CLIENTS[0], ALLOWED);
    assert_eq!(Counters::of(&scene.limiter).total(Action::Drop), 0);
    scene.limiter.event("WARN: [SECURITY] Request refused from banned 203.0.113.5 via 10.9.0.2");
    eventually(SOON, "the ban ends", || through("203.0.113.5", &scene.key) == 200);
    // What somebody else writes into that header counts for nothing.
    for _ in 0..10 {
        let forged = [("X-Forwarded-For", "203.0.113.6"), ("X-API-Key", "lk_wrong")];
        assert_eq!(scene.get(CLIENTS[1], &forged), 401);
    }
    scene.limiter.event("Banned 10.9.0.3 for 2s: score 50 of 50 in 60s (invalid_credential 10)");
    assert_eq!(through("203.0.113.6", &scene.key), 200);
    verdict(&scene.world, &scene.limiter, CLIENTS[1], BANNED);
}

#[test]
fn a_trusted_source_is_never_banned() {
    let scene = Scene::start("trusted = [\"10.9.0.2\"]", "", SHORT);
    drop(scene.guess(CLIENTS[0], 60));
    assert!(holds_for(Duration::from_millis(200), || scene.bans().is_empty()));
    verdict(&scene.world, &scene.limiter, CLIENTS[0], (Action::Pass, Reason::Trusted));
}

#[test]
fn the_hosts_own_address_is_not_banned_in_the_kernel() {
    let scene = Scene::start("", "", SHORT);
    let address: SocketAddr = scene.world.address();
    let own = |headers: &[(&str, &str)]| {
        let bytes = http::request("GET", "/", headers, b"");
        scene
            .world
            .server
            .run(|| http::exchange_from(SERVER.parse().unwrap(), address, &bytes).unwrap().status)
    };
    for _ in 0..10 {
        assert_eq!(own(&WRONG), 401);
    }
    eventually(SOON, "a ban", || !scene.bans().is_empty());
    let bans = scene.bans();
    assert_eq!((&bans[0]["prefix"], &bans[0]["scope"]), (&"10.9.0.1/32".into(), &"http".into()));
    eventually(SOON, "it is refused", || own(&scene.good()) == 403);
    assert_eq!(scene.limiter.status().maps["bans"].entries, 0);
}

#[test]
fn monitoring_bans_nobody_and_says_whom_it_would() {
    let scene = Scene::start(
        "",
        "",
        &SHORT.replace("[escalation]\n", "[escalation]\nmode = \"monitor\"\n"),
    );
    drop(scene.guess(CLIENTS[0], 10));
    assert_eq!(
        scene.limiter.event("(monitor)"),
        "WARN: [SECURITY] Banned 10.9.0.2 for 2s: score 50 of 50 in 60s (invalid_credential 10) (monitor)"
    );
    assert!(scene.bans().is_empty());
    verdict(&scene.world, &scene.limiter, CLIENTS[0], ALLOWED);
}

#[test]
fn malformed_requests_are_evidence_of_their_peer() {
    let scene = Scene::start("", "", SHORT);
    for _ in 0..2 {
        let smuggled = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        assert_eq!(scene.world.request(CLIENTS[0], smuggled).unwrap().status, 400);
    }
    scene.limiter.event("Banned 10.9.0.2 for 2s: score 50 of 50 in 60s (malformed_request 2)");
    verdict(&scene.world, &scene.limiter, CLIENTS[0], BANNED);
}

#[test]
fn what_is_under_way_when_the_ban_comes_does_not_lengthen_it() {
    let scene = Scene::start("", "", SHORT);
    let smuggled = b"GET / HTTP/1.1\r\nHost : test\r\n\r\n";
    let mut connections: Vec<_> = (0..12).map(|_| scene.world.connect(CLIENTS[0])).collect();
    for connection in &mut connections {
        connection.send(smuggled).unwrap();
    }
    scene.limiter.event("Banned 10.9.0.2 for 2s: score 50 of 50 in 60s (malformed_request 2)");
    assert!(holds_for(Duration::from_millis(500), || {
        scene.limiter.events().iter().filter(|line| line.contains("Banned 10.9.0.2")).count() == 1
    }));
}

#[test]
fn a_full_ban_table_is_counted_and_told() {
    let scene = Scene::start("max_bans = 1", "", SHORT);
    scene.limiter.cli(&["ban", "198.51.100.1", "--for", "1h"]).succeeded();
    drop(scene.guess(CLIENTS[0], 10));
    let told = scene.limiter.event("the ban table is full (1 bans): raise kernel.max_bans");
    assert!(told.starts_with("ERROR: [SECURITY] Degraded: bans cannot be made: "), "{told}");
    verdict(&scene.world, &scene.limiter, CLIENTS[0], ALLOWED);
    let bans: Vec<_> = scene.bans().iter().map(|ban| ban["prefix"].clone()).collect();
    assert_eq!(bans, ["198.51.100.1/32"], "what is not in force is not listed");
}
