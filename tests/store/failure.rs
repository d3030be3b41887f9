//! The store killed, stopped and started again while requests come, and what holds meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use limiter_tests::wait::{Deadline, eventually};

use crate::support::{Cluster, Host, SOON};

const LIMITED: &str = "auth = \"none\"\nlimits = [\"all\"]";
const TEN: &str = "[limits.all]\nalgorithm = \"fixed_window\"\nrate = \"10/24h\"\n";
const MANY: &str = "[limits.all]\nalgorithm = \"token_bucket\"\nrate = \"1000000/s\"\n";

#[test]
fn without_the_store_each_host_counts_for_itself() {
    let mut cluster = Cluster::of(2, LIMITED, "", TEN);
    assert_eq!(cluster.hosts[0].admitted(4, 429), 4);
    cluster.redis.kill();
    for host in &cluster.hosts {
        eventually(SOON, "the loss is told", || host.store_is("lost"));
        host.limiter.event("each host counts for itself");
        assert_eq!(host.limiter.status().state, "degraded");
    }
    // The first goes on from what it saw itself.
    assert_eq!(cluster.hosts[0].admitted(12, 429), 6);
    assert_eq!(cluster.hosts[1].admitted(12, 429), 10);
    for host in &cluster.hosts {
        eventually(SOON, "it is counted", || host.requests("absent") > 0);
    }
    cluster.redis.launch();
    cluster.wait_up();
    // It comes back empty, and counts for all.
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    assert_eq!(one.admitted(6, 429) + two.admitted(6, 429), 10);
    // Bans have a connection of their own.
    eventually(SOON, "all is well", || one.limiter.status().degraded.is_empty());
    assert!(one.requests("absent") > 0 && one.limiter.status().store.unwrap().connected >= 2);
}

#[test]
fn what_the_status_says_of_the_store_is_one_story() {
    let mut cluster = Cluster::of(1, LIMITED, "", TEN);
    for _ in 0..3 {
        for lost in [true, false] {
            if lost {
                cluster.redis.kill();
            } else {
                cluster.redis.launch();
            }
            let host = &cluster.hosts[0];
            let until = if lost { "lost" } else { "up" };
            eventually(SOON, "it is told", || {
                let status = host.limiter.status();
                let state = status.store.unwrap().state;
                let is_told = status.degraded.iter().any(|it| it.starts_with("the store"));
                assert_eq!(state == "lost", is_told, "{state} and {:?}", status.degraded);
                state == until
            });
            // The proxy counts once a second, and tells this at once.
            for _ in 0..20 {
                assert!(host.store_is(until));
            }
        }
    }
}

#[test]
fn without_the_store_nothing_is_limited_or_nobody_is_served() {
    let mut cluster = Cluster::new();
    cluster.add("", LIMITED, "on_failure = \"open\"", TEN);
    cluster.add("", LIMITED, "on_failure = \"closed\"", TEN);
    cluster.wait_up();
    assert_eq!(cluster.hosts[0].admitted(12, 429), 10);
    assert_eq!(cluster.hosts[1].admitted(2, 429), 0);
    cluster.redis.kill();
    let [open, closed] = cluster.hosts.as_slice() else { panic!() };
    for (host, said) in [(open, "nothing is limited"), (closed, "what is limited is refused")] {
        eventually(SOON, "the loss is told", || host.store_is("lost"));
        host.limiter.event(said);
    }
    assert_eq!(open.admitted(30, 200), 30);
    assert_eq!(open.get(&[]).header("x-ratelimit-limit"), None, "nobody knows");
    let refused = closed.get(&[]);
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(closed.admitted(5, 503), 0);
    cluster.redis.launch();
    cluster.wait_up();
    assert_eq!(cluster.hosts[0].admitted(12, 429), 10);
    assert_eq!(cluster.hosts[1].admitted(12, 429), 0);
}

#[test]
fn a_store_that_stands_still_holds_nobody_up() {
    let cluster = Cluster::of(1, LIMITED, "timeout = \"100ms\"", MANY);
    let host = &cluster.hosts[0];
    assert_eq!(host.get(&[]).status, 200);
    cluster.redis.pause();
    let mut slowest = Duration::ZERO;
    let mut slow = 0;
    for _ in 0..60 {
        let since = Deadline::after(SOON);
        assert_eq!(host.get(&[]).status, 200);
        slowest = slowest.max(since.elapsed());
        slow += u32::from(since.elapsed() > Duration::from_millis(90));
    }
    assert!(slowest < Duration::from_millis(600), "{slowest:?}");
    // One for each core waits; all others are not asked to.
    assert!((1..=8).contains(&slow), "{slow}");
    eventually(SOON, "the loss is told", || host.store_is("lost"));
    assert!(host.requests("failed") <= 8, "{}", host.requests("failed"));
    cluster.redis.resume();
    cluster.wait_up();
    let before = cluster.redis.calls("mget");
    assert_eq!(host.get(&[]).status, 200);
    assert_eq!(cluster.redis.calls("mget"), before + 1, "it is asked again");
}

#[test]
fn under_load_no_request_fails_and_nobody_rushes_back() {
    let mut cluster = Cluster::of(2, LIMITED, "", MANY);
    let stop = AtomicBool::new(false);
    let [one, two] = cluster.hosts.as_slice() else { panic!() };
    let work = |host: &Host| {
        let mut served = 0;
        while !stop.load(Ordering::Relaxed) {
            served += u64::from(host.admitted(20, 200));
        }
        served
    };
    thread::scope(|scope| {
        let workers: Vec<_> =
            [one, one, two, two].into_iter().map(|host| scope.spawn(|| work(host))).collect();
        for _ in 0..3 {
            cluster.redis.kill();
            thread::sleep(Duration::from_millis(300));
            cluster.redis.launch();
            thread::sleep(Duration::from_millis(700));
            cluster.redis.pause();
            thread::sleep(Duration::from_millis(300));
            cluster.redis.resume();
            thread::sleep(Duration::from_millis(300));
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().unwrap() > 100);
        }
    });
    cluster.wait_up();
    for host in &cluster.hosts {
        eventually(SOON, "both are counted", || {
            host.requests("answered") > 0 && host.requests("absent") > 0
        });
        assert!(host.limiter.status().degraded.is_empty());
    }
    // Connections since it last started: of two hosts, with a core or two each and an agent.
    let stats = cluster.redis.ask(&["INFO", "stats"]);
    let made = stats.lines().find_map(|it| it.strip_prefix("total_connections_received:")).unwrap();
    let made: u64 = made.trim().parse().unwrap();
    assert!(made < 100, "{made} connections");
}

#[test]
fn a_password_and_tls_are_used_and_never_shown() {
    const PASSWORD: &str = "a-password-of-the-store";
    let certified = rcgen::generate_simple_self_signed(vec!["10.8.0.1".to_owned()]).unwrap();
    let mut cluster = Cluster::new();
    let directory = cluster.redis.scratch();
    let certificate = directory.write("store.pem", certified.cert.pem());
    let key = directory.write("store.key", certified.signing_key.serialize_pem());
    let arguments = [
        "--tls-port",
        "6380",
        "--tls-cert-file",
        certificate.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-auth-clients",
        "no",
    ];
    cluster.redis.kill();
    cluster.redis.set_arguments(&arguments, Some(PASSWORD));
    cluster.redis.launch();
    let store =
        format!("password = {{ env = \"STORE_PASSWORD\" }}\nca = \"{}\"\n", certificate.display());
    let variable = ("STORE_PASSWORD", PASSWORD);
    let host = cluster.add_at("rediss://10.8.0.1:6380", &[variable], "", LIMITED, &store, TEN);
    eventually(SOON, "the store is used", || host.store_is("up"));
    assert_eq!(host.admitted(12, 429), 10);
    host.limiter.cli(&["ban", "192.0.2.1", "--scope", "http"]).succeeded();
    eventually(SOON, "it is said", || host.bans("said") == 1);
    let status = host.limiter.control("GET", "/v1/status", b"");
    for shown in
        [host.limiter.stderr(), format!("{status:?}"), format!("{:?}", host.limiter.events())]
    {
        assert!(!shown.contains(PASSWORD));
    }
    // A wrong one is told, and the limit holds here.
    cluster.redis.ask(&["CONFIG", "SET", "requirepass", "another"]);
    cluster.redis.set_arguments(&arguments, Some("another"));
    cluster.redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]);
    let host = &cluster.hosts[0];
    eventually(SOON, "the store is lost", || host.store_is("lost"));
    let degraded = host.limiter.status().degraded.join("\n");
    assert!(degraded.contains("WRONGPASS") || degraded.contains("closed"), "{degraded}");
    assert!(!degraded.contains(PASSWORD) && !degraded.contains("another"));
    assert_eq!(host.admitted(12, 429), 0);
}
