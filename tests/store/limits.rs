//! Limits that hosts share hold exactly, in one question for each request.

use std::{fs, thread, time::Duration};

use limiter_tests::{origin::Behaviour, wait::eventually};

use crate::support::{Cluster, Host, SOON};

const LIMITED: &str = "auth = \"none\"\nlimits = [\"all\"]";

/// As many as asked for at once, on every host, by several connections.
fn flood(cluster: &Cluster, connections: u32, requests: u32) -> u32 {
    thread::scope(|scope| {
        let each = cluster.hosts.iter().flat_map(|host| (0..connections).map(move |_| host));
        let workers: Vec<_> =
            each.map(|host: &Host| scope.spawn(move || host.admitted(requests, 429))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    })
}

#[test]
fn two_hosts_hold_one_limit_exactly() {
    let mut cluster = Cluster::new();
    for algorithm in ["token_bucket", "sliding_window", "fixed_window", "leaky_bucket"] {
        cluster.clear();
        let limit = format!("[limits.all]\nalgorithm = \"{algorithm}\"\nrate = \"100/24h\"\n");
        for _ in 0..2 {
            cluster.add("", LIMITED, "timeout = \"5s\"", &limit);
        }
        cluster.wait_up();
        let asked = cluster.redis.calls("mget");
        assert_eq!(flood(&cluster, 3, 50), 100, "{algorithm}");
        // One question for each request at most: who was refused is not asked about again at once.
        let questions = cluster.redis.calls("mget") - asked;
        // The status is a second behind.
        thread::sleep(Duration::from_millis(1100));
        let sum = |result| cluster.hosts.iter().map(|host| host.requests(result)).sum::<u64>();
        assert_eq!((sum("failed"), sum("absent")), (0, 0), "{algorithm}");
        assert_eq!(
            (sum("answered"), sum("remembered")),
            (questions, 300 - questions),
            "{algorithm}"
        );
        assert!((100..=300).contains(&questions), "{algorithm}: {questions}");
        let keys = cluster.redis.ask(&["KEYS", "limiter:limit:*"]);
        assert!(keys.starts_with("limiter:limit:all:") && !keys.contains("127.0.0"), "{keys}");
        assert_eq!(keys.lines().count(), 1);
        let left = cluster.redis.ask(&["PTTL", keys.trim()]).trim().parse::<u64>().unwrap();
        assert!((1..=2 * 86_400_000).contains(&left), "{left}");
    }
}

#[test]
fn tiers_are_shared_each_by_itself() {
    let route = "auth = [\"keys\"]\nlimits = [\"tier\"]";
    let mut cluster = Cluster::new();
    for algorithm in ["token_bucket", "sliding_window", "fixed_window", "leaky_bucket"] {
        cluster.clear();
        let sections = format!(
            "[auth.keys]\nkind = \"api_key\"\nkeys_file = \"keys.toml\"\n\
             [limits.tier]\nalgorithm = \"{algorithm}\"\nkey = [\"principal\"]\n\
             tiers = {{ authenticated = \"20/24h\", premium = \"30/24h\" }}\n"
        );
        for _ in 0..2 {
            cluster.add("", route, "timeout = \"5s\"", &sections);
        }
        let [one, two] = cluster.hosts.as_slice() else { panic!() };
        let make = |name: &str, tier: &[&str]| {
            let arguments = [&["keys", "new", "--name", name], tier].concat();
            one.limiter.with_file(&arguments).succeeded().stdout.trim().to_owned()
        };
        let keys = [
            (make("alice", &["--tier", "premium"]), 30),
            (make("bob", &[]), 20),
            (make("carol", &[]), 20),
        ];
        let file = |host: &Host| host.limiter.directory().join("keys.toml");
        fs::copy(file(one), file(two)).unwrap();
        for host in [one, two] {
            host.limiter.cli(&["reload"]).succeeded();
        }
        cluster.wait_up();
        for (key, most) in &keys {
            let admitted = |host: &Host| {
                let answers = (0..30).map(|_| host.get(&[("X-API-Key", key)]).status);
                answers.filter(|status| *status == 200).count()
            };
            let all: usize = thread::scope(|scope| {
                let hosts = [one, one, two, two];
                let workers = hosts.map(|host| scope.spawn(move || admitted(host)));
                workers.into_iter().map(|worker| worker.join().unwrap()).sum()
            });
            assert_eq!(all, *most, "{algorithm}");
        }
    }
}

#[test]
fn where_a_request_stands_is_the_same_on_every_host() {
    let limits = "[limits.all]\nalgorithm = \"token_bucket\"\nrate = \"10/24h\"\n\
                  [limits.few]\nalgorithm = \"fixed_window\"\nrate = \"6/24h\"\n";
    let route = "auth = \"none\"\nlimits = [\"all\", \"few\"]";
    let cluster = Cluster::of(2, route, "timeout = \"5s\"", limits);
    for (step, host) in cluster.hosts.iter().cycle().take(6).enumerate() {
        let answer = host.get(&[]);
        assert_eq!(answer.status, 200);
        let remaining = (5 - step).to_string();
        assert_eq!(answer.header("x-ratelimit-limit"), Some("6"));
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(remaining.as_str()));
        let fields = answer.header("ratelimit").unwrap();
        assert!(fields.contains(&format!("\"all\";r={}", 9 - step)), "{fields}");
    }
    for host in cluster.hosts.iter().cycle().take(8) {
        let answer = host.get(&[]);
        assert_eq!(answer.status, 429);
        assert!(answer.header("retry-after").is_some());
        // What one limit refuses is counted against none.
        let fields = answer.header("ratelimit").unwrap();
        assert!(fields.contains("\"all\";r=4"), "{fields}");
    }
    // A limit that changes applies at once, and refills nobody.
    let more = limits.replace("\"6/24h\"", "\"8/24h\"");
    for host in &cluster.hosts {
        host.reload(route, &more);
    }
    assert_eq!(cluster.hosts[0].admitted(4, 429), 2);
    assert_eq!(cluster.hosts[1].admitted(4, 429), 0);
}

#[test]
fn what_does_not_count_is_given_back() {
    let limits = "[limits.all]\nalgorithm = \"fixed_window\"\nrate = \"3/24h\"\n\
                  count = \"failures\"\n";
    let cluster = Cluster::of(2, LIMITED, "timeout = \"5s\"", limits);
    let counted = || {
        let key = cluster.redis.ask(&["KEYS", "limiter:limit:all:*"]);
        let value = cluster.redis.ask(&["GET", key.trim()]);
        value.trim().rsplit(' ').next().unwrap_or_default().to_owned()
    };
    for host in cluster.hosts.iter().cycle().take(10) {
        eventually(SOON, "what was charged is given back", || {
            ["", "0"].contains(&counted().as_str())
        });
        assert_eq!(host.get(&[]).status, 200);
    }
    for host in &cluster.hosts {
        host.origin.by_default(Behaviour::status(401));
    }
    for host in cluster.hosts.iter().cycle().take(3) {
        assert_eq!(host.get(&[]).status, 401);
    }
    for host in &cluster.hosts {
        assert_eq!(host.get(&[]).status, 429);
    }
    assert_eq!(counted(), "3");
}

#[test]
fn what_is_given_back_goes_along_with_the_next_question() {
    const CONNECTIONS: u32 = 16;
    const REQUESTS: u32 = 1_600;
    let limits = "[limits.all]\nalgorithm = \"token_bucket\"\nrate = \"1000/24h\"\n\
                  count = \"failures\"\n";
    let cluster = Cluster::of(1, LIMITED, "timeout = \"5s\"", limits);
    let asked = cluster.redis.calls("evalsha");
    assert_eq!(flood(&cluster, CONNECTIONS, REQUESTS / CONNECTIONS), REQUESTS);
    let calls = cluster.redis.calls("evalsha") - asked;
    // Where answers are far between, as on a machine that does much else, it takes two.
    assert!(calls < u64::from(REQUESTS) * 7 / 4, "{calls} calls");
    // Refusals are remembered, for a moment.
    cluster.hosts[0].origin.by_default(Behaviour::status(500));
    let refused = cluster.hosts[0].statuses(1_300, 429);
    // What leaked while requests were under way is given back to none of them.
    assert!((300..=303).contains(&refused), "{refused}");
    eventually(SOON, "it is counted", || cluster.hosts[0].requests("remembered") > 0);
}
