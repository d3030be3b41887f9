//! The scripts on a real server against the arithmetic that counts locally.

mod failing;
mod found;
mod server;

use std::{collections::HashMap, sync::Arc, time::Duration};

use redis::{Cmd, Value, aio::MultiplexedConnection};

use self::server::Server;
use super::{
    Health, Line, StoreError, Target,
    charge::{Ask, Charged, GiveBack, SharedLimit, charge, keys},
    connection::CHARGE,
    script::{Script, ask},
};
use crate::{
    limits::{Meter, algorithm::TICKS_PER_NS},
    policy::{Rate, store::StorePolicy},
};

/// A small generator: the same sequence on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A server whose clock stands where a test puts it.
struct Bench {
    /// Ends with the test.
    _server: Server,
    target: Arc<Target>,
    redis: MultiplexedConnection,
    script: Script,
    now_us: u64,
}

impl Bench {
    async fn new() -> Self {
        let server = Server::start();
        let target = Arc::new(Target::new(&server.policy()).unwrap());
        let redis = target.open().await.unwrap();
        let (handle, _) = redis.handle();
        // Kept by the driver's task, which ends with the test.
        std::mem::forget(redis);
        let text = include_str!("charge.lua")
            .replace("redis.call('TIME')", "redis.call('LRANGE', 'clock', 0, 1)")
            // Keys expire by the real clock.
            .replace("'PX', ", "'PX', 3600000 + ");
        let script = Script::new(Box::leak(text.into_boxed_str()));
        let mut bench = Self { _server: server, target, redis: handle, script, now_us: 0 };
        bench.set_clock(1_000_000_000).await;
        bench
    }

    async fn set_clock(&mut self, now_us: u64) {
        self.now_us = now_us;
        self.command(&["DEL", "clock"]).await;
        let (seconds, rest) = (now_us / 1_000_000, now_us % 1_000_000);
        self.command(&["RPUSH", "clock", &seconds.to_string(), &rest.to_string()]).await;
    }

    async fn command(&mut self, words: &[&str]) -> Value {
        let mut command = Cmd::new();
        for word in words {
            command.arg(*word);
        }
        ask(&mut self.redis, &command).await.unwrap()
    }

    async fn charge(&mut self, asks: &[Ask<'_>]) -> Charged {
        self.charge_after(&[], asks).await
    }

    /// Gives back, then charges.
    async fn charge_after(&mut self, given: &[GiveBack], asks: &[Ask<'_>]) -> Charged {
        let keys = keys(&self.target, asks);
        let charged = charge(&self.script, &mut self.redis, given, &keys, asks).await.unwrap();
        assert_eq!(charged.now_us, self.now_us);
        charged
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(test);
}

fn bucket(count: u64, period: Duration, burst: u64) -> Meter {
    Meter::bucket(Rate { count, period }, burst)
}

fn fixed(count: u64, period: Duration) -> Meter {
    Meter::fixed_window(Rate { count, period })
}

fn sliding(count: u64, period: Duration) -> Meter {
    Meter::sliding_window(Rate { count, period })
}

#[test]
fn the_store_decides_exactly_as_the_local_arithmetic() {
    run(async {
        let mut bench = Bench::new().await;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let second = Duration::from_secs(1);
        let meters = [
            (bucket(7, second, 5), true),
            (bucket(1000, Duration::from_mins(15), 40), true),
            (bucket(3, Duration::from_millis(7), 1), false),
            (sliding(9, second), true),
            (sliding(50, Duration::from_mins(1)), false),
            (fixed(10, Duration::from_secs(2)), true),
            (fixed(4, Duration::from_millis(333)), false),
        ];
        let limits: Vec<(SharedLimit, Meter, bool)> = meters
            .iter()
            .enumerate()
            .map(|(place, (meter, enforced))| {
                (
                    SharedLimit::new(&format!("limit-{place}"), *meter, *enforced, false),
                    *meter,
                    *enforced,
                )
            })
            .collect();
        let mut words: HashMap<(usize, u8), u64> = HashMap::new();
        let (mut refusals, mut admissions) = (0, 0);
        for step in 0..15_000 {
            let gap_us = match random.below(50) {
                0 => random.below(5_000_000),
                1..6 => random.below(400_000),
                _ => random.below(4_000),
            };
            bench.set_clock(bench.now_us + gap_us).await;
            let who = u8::try_from(random.below(3)).unwrap();
            let first = usize::try_from(random.below(7)).unwrap();
            let count = usize::try_from(random.below(4)).unwrap() + 1;
            let cost = if random.below(4) == 0 { 1 + random.below(6) } else { 1 };
            let chosen: Vec<usize> = (0..count).map(|offset| (first + offset) % 7).collect();
            let key = [who];
            let asks: Vec<Ask<'_>> = chosen
                .iter()
                .map(|place| Ask { limit: &limits[*place].0, key: &key, cost })
                .collect();
            let charged = bench.charge(&asks).await;

            let now_ns = bench.now_us * 1000;
            let expected: Vec<_> = chosen
                .iter()
                .map(|place| {
                    let word = words.get(&(*place, who)).copied().unwrap_or(0);
                    limits[*place].1.charge(word, cost, now_ns)
                })
                .collect();
            let refused =
                chosen.iter().zip(&expected).any(|(place, it)| limits[*place].2 && !it.0.allowed);
            let decisions: Vec<_> = chosen
                .iter()
                .zip(&expected)
                .map(|(place, (decision, _))| {
                    if !refused || !decision.allowed {
                        return *decision;
                    }
                    let word = words.get(&(*place, who)).copied().unwrap_or(0);
                    limits[*place].1.charge(word, 0, now_ns).0
                })
                .collect();
            assert_eq!(charged.decisions, decisions, "step {step} at {now_ns} ns");
            assert_eq!(charged.refused, refused, "step {step}");
            if refused {
                refusals += 1;
            } else {
                admissions += 1;
                for (place, (_, next)) in chosen.iter().zip(expected) {
                    words.insert((*place, who), next);
                }
            }
        }
        assert!(refusals > 1000 && admissions > 1000, "{refusals} and {admissions}");
    });
}

#[test]
fn large_windows_are_weighed_without_rounding() {
    run(async {
        let mut bench = Bench::new().await;
        let mut random = Random(7);
        for _ in 0..2_000 {
            let days = 1 + random.below(365);
            let period = Duration::from_hours(24 * days);
            let period_us = days * 86_400_000_000;
            let most = 1 + random.below((1 << 20) - 1);
            let (previous, current) = (random.below(most + 1), random.below(most + 1));
            let now_us = 1_700_000_000_000_000 + random.below(period_us);
            bench.set_clock(now_us).await;
            let limit = SharedLimit::new("large", sliding(most, period), true, false);
            let start = now_us - now_us % period_us;
            let key = String::from_utf8(limit.key(&bench.target, b"x")).unwrap();
            let value = format!("s {start} {period_us} {previous} {current}");
            let cost = 1 + random.below(9);
            bench.command(&["SET", &key, &value]).await;
            let charged = bench.charge(&[Ask { limit: &limit, key: b"x", cost }]).await;
            let expected =
                sliding(most, period).charge_windows([previous, current], cost, now_us * 1000);
            assert_eq!(charged.decisions, [expected]);
            assert_eq!(charged.refused, !expected.allowed, "{value} at {now_us}");
        }
    });
}

#[test]
fn a_clock_that_is_set_back_fills_nothing() {
    run(async {
        let mut bench = Bench::new().await;
        let minute = Duration::from_mins(1);
        for meter in [bucket(3, minute, 3), sliding(3, minute), fixed(3, minute)] {
            let limit = SharedLimit::new("back", meter, true, false);
            bench.command(&["FLUSHALL"]).await;
            bench.set_clock(10_000_000_000).await;
            let ask = [Ask { limit: &limit, key: b"x", cost: 1 }];
            for _ in 0..3 {
                assert!(!bench.charge(&ask).await.refused);
            }
            for back_us in [1, 1_000_000, 3_600_000_000] {
                bench.set_clock(10_000_000_000 - back_us).await;
                assert!(bench.charge(&ask).await.refused, "{meter:?} {back_us}");
            }
        }
    });
}

#[test]
fn a_changed_limit_has_used_as_much_as_before() {
    run(async {
        let mut bench = Bench::new().await;
        let hour = Duration::from_hours(1);
        let meters = |count| [bucket(count, hour, count), sliding(count, hour), fixed(count, hour)];
        for before in meters(100) {
            for after in meters(1000) {
                bench.command(&["FLUSHALL"]).await;
                bench.set_clock(3_600_000_000 * 50).await;
                let limit = SharedLimit::new("changed", before, true, false);
                for _ in 0..40 {
                    bench.charge(&[Ask { limit: &limit, key: b"x", cost: 1 }]).await;
                }
                let limit = SharedLimit::new("changed", after, true, false);
                let charged = bench.charge(&[Ask { limit: &limit, key: b"x", cost: 1 }]).await;
                let left = charged.decisions[0].remaining;
                assert_eq!(left, 959, "{before:?} to {after:?}");
            }
        }
    });
}

#[test]
fn what_is_given_back_can_be_used_again() {
    run(async {
        let mut bench = Bench::new().await;
        let minute = Duration::from_mins(1);
        for meter in [bucket(4, minute, 4), sliding(4, minute), fixed(4, minute)] {
            let limit = Arc::new(SharedLimit::new("back", meter, true, true));
            let key = limit.key(&bench.target, b"x");
            let given = |at| GiveBack {
                limit: Arc::clone(&limit),
                key: key.clone(),
                cost: 1,
                charged_us: at,
            };
            bench.command(&["FLUSHALL"]).await;
            let start_us = 60_000_000 * 20;
            bench.set_clock(start_us).await;
            let ask = [Ask { limit: &limit, key: b"x", cost: 1 }];
            for _ in 0..4 {
                assert!(!bench.charge(&ask).await.refused);
            }
            bench.set_clock(start_us + 1_000_000).await;
            // In one question, with it or without one.
            assert!(!bench.charge_after(&[given(start_us)], &ask).await.refused, "{meter:?}");
            assert!(bench.charge(&ask).await.refused, "{meter:?}");
            let two = [given(start_us + 1_000_000), given(start_us + 1_000_000)];
            assert_eq!(bench.charge_after(&two, &[]).await.decisions, []);
            for refused in [false, false, true] {
                assert_eq!(bench.charge(&ask).await.refused, refused, "{meter:?}");
            }
            // What no longer weighs is not given back.
            bench.set_clock(start_us + 100_000_000).await;
            let before = bench.charge(&ask).await.decisions[0].remaining;
            let long_ago: Vec<_> = (0..9).map(|_| given(start_us - 120_000_000)).collect();
            let after = bench.charge_after(&long_ago, &ask).await.decisions[0].remaining;
            assert_eq!(after + 1, before, "{meter:?}");
        }
    });
}

#[test]
fn keys_hold_no_names_and_expire() {
    run(async {
        let mut bench = Bench::new().await;
        let limits = [
            SharedLimit::new("a", bucket(10, Duration::from_secs(1), 10), true, false),
            SharedLimit::new("b", sliding(10, Duration::from_millis(300)), true, false),
            SharedLimit::new("c", fixed(10, Duration::from_millis(300)), true, false),
        ];
        let asks = limits.each_ref().map(|limit| Ask { limit, key: b"alice@example.com", cost: 1 });
        charge(&CHARGE, &mut bench.redis, &[], &keys(&bench.target, &asks), &asks).await.unwrap();
        let Value::Array(keys) = bench.command(&["KEYS", "limiter:limit:*"]).await else {
            panic!()
        };
        assert_eq!(keys.len(), 3);
        for key in keys {
            let Value::BulkString(key) = key else { panic!() };
            let key = String::from_utf8(key).unwrap();
            assert!(!key.contains("alice"), "{key}");
            let Value::Int(left) = bench.command(&["PTTL", &key]).await else { panic!() };
            assert!((0..=601).contains(&left), "{left}");
        }
        tokio::time::sleep(Duration::from_millis(650)).await;
        let Value::Array(keys) = bench.command(&["KEYS", "limiter:limit:*"]).await else {
            panic!()
        };
        assert!(keys.is_empty());
    });
}

#[test]
fn a_server_that_forgot_the_script_is_sent_it() {
    run(async {
        let mut bench = Bench::new().await;
        let limit = SharedLimit::new("a", fixed(3, Duration::from_hours(1)), true, false);
        for flush in [false, true, true] {
            if flush {
                bench.command(&["SCRIPT", "FLUSH"]).await;
            }
            let ask = [Ask { limit: &limit, key: b"x", cost: 1 }];
            assert!(
                !charge(&CHARGE, &mut bench.redis, &[], &keys(&bench.target, &ask), &ask)
                    .await
                    .unwrap()
                    .refused
            );
        }
        let ask = [Ask { limit: &limit, key: b"x", cost: 1 }];
        assert!(
            charge(&CHARGE, &mut bench.redis, &[], &keys(&bench.target, &ask), &ask)
                .await
                .unwrap()
                .refused
        );
    });
}

#[test]
fn the_first_requests_wait_for_the_first_connection() {
    let limit = SharedLimit::new("a", bucket(1, Duration::from_hours(1), 1), true, false);
    let start = |policy: &StorePolicy| {
        let (notices, _) = tokio::sync::mpsc::channel(4);
        let target = Arc::new(Target::new(policy).unwrap());
        Line::start(target, Arc::new(Health::new(notices)), 0, 1)
    };
    run(async {
        let server = Server::start();
        for is_allowed in [true, false] {
            let line = start(&server.policy());
            let charged = line.charge(&[Ask { limit: &limit, key: b"k", cost: 1 }]).await.unwrap();
            assert_eq!(charged.decisions[0].allowed, is_allowed);
        }
        // Nobody listens: it does not wait for longer than it takes to know that.
        let policy =
            StorePolicy { timeout: Duration::from_mins(1), ..StorePolicy::plain("127.0.0.1", 1) };
        let line = start(&policy);
        let asks = [Ask { limit: &limit, key: b"k", cost: 1 }];
        let charged = tokio::time::timeout(Duration::from_secs(5), line.charge(&asks)).await;
        assert_eq!(charged.unwrap().unwrap_err(), StoreError::Absent);
    });
}

#[test]
fn a_wrong_password_is_told_without_it() {
    run(async {
        let server = Server::start_with(&["--requirepass", "correct-horse"]);
        let mut policy: StorePolicy = server.policy();
        let open = |policy: &StorePolicy| {
            let target = Target::new(policy).unwrap();
            async move { target.open().await.map(drop) }
        };
        let why = open(&policy).await.unwrap_err().to_string();
        assert!(why.contains("NOAUTH"), "{why}");
        policy.password =
            Some(crate::policy::listener::SecretBytes::new(b"battery-staple".to_vec()));
        let why = open(&policy).await.unwrap_err().to_string();
        assert!(!why.contains("battery"), "{why}");
        policy.password =
            Some(crate::policy::listener::SecretBytes::new(b"correct-horse".to_vec()));
        open(&policy).await.unwrap();
    });
}

#[test]
fn the_script_is_the_one_that_is_tested() {
    let ticks = format!("local TICKS = {}\n", 1000 * TICKS_PER_NS);
    assert!(include_str!("charge.lua").contains(&ticks));
    assert!(format!("{:?}", *CHARGE).contains("redis.call('TIME')"));
}
