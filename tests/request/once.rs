//! A signed message goes upstream once, and only that uses it up: whoever was refused, or found
//! nobody there, may send the same again.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use limiter_tests::{
    http::{self, Connection, Response},
    origin::{Behaviour, Origin},
    wait::eventually,
};

use crate::{
    support::{SOON, Site, configuration_of},
    webhooks::{SECRET, now, signed, write_secret},
};

const SECTIONS: &str = "[auth.partner]\nkind = \"hmac\"\n\
     secrets = { partner = { file = \"partner\" } }\n";

/// Bans nobody, so that a test sees what is counted.
const NO_BANS: &str = "[escalation]\nenabled = false\n";

/// With these servers, and these lines of `[http]`, the upstream and the route.
fn start_of(servers: &[String], http: &str, upstream: &str, route: &str, more: &str) -> Site {
    let mut site = Site::prepare("", "auth = \"none\"\nlimits = \"none\"", "");
    let own = [site.origin.url()];
    let servers = if servers.is_empty() { &own } else { servers };
    let route = format!("auth = [\"partner\"]\n{route}");
    let sections = format!("{SECTIONS}{NO_BANS}{more}");
    site.limiter.configure(&configuration_of(servers, upstream, http, &route, &sections));
    write_secret(&site, "partner", SECRET);
    site.limiter.restart();
    site
}

fn start(http: &str, route: &str, more: &str) -> Site {
    start_of(&[], http, "", route, more)
}

/// A message like no other of this test.
fn message() -> Vec<u8> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let body = format!("{{\"n\":{}}}", COUNT.fetch_add(1, Ordering::Relaxed));
    request("/hook", body.as_bytes())
}

fn request(target: &str, body: &[u8]) -> Vec<u8> {
    http::request("POST", target, &[("X-Signature", &signed(now(), body))], body)
}

fn status(site: &Site, message: &[u8]) -> u16 {
    site.send(message).status
}

fn refused(site: &Site, label: &str) -> u64 {
    site.limiter.status().refused.get(label).copied().unwrap_or(0)
}

const BUCKET: &str = "[limits.tight]\nalgorithm = \"token_bucket\"\nkey = [\"principal\"]\n";

#[test]
fn what_a_limit_refuses_comes_again() {
    let limit = format!("{BUCKET}rate = \"1/s\"\nburst = 1\n");
    let site = start("", "limits = [\"tight\"]", &limit);
    assert_eq!(status(&site, &message()), 200);
    let late = message();
    assert_eq!(status(&site, &late), 429);
    eventually(SOON, "its turn", || status(&site, &late) == 200);
    assert_eq!(status(&site, &late), 401);
    assert_eq!(site.origin.count(), 2);
    site.refused("replayed", 1);
}

#[test]
fn what_the_caller_may_not_do_is_said_as_often_as_he_asks() {
    let site = start("", "scopes = [\"write\"]\nlimits = \"none\"", "");
    let message = message();
    for _ in 0..3 {
        assert_eq!(status(&site, &message), 403);
    }
    site.refused("forbidden_scope", 3);
    assert_eq!(refused(&site, "replayed"), 0);
}

/// The address of a server that is not there yet.
fn nobody_there() -> String {
    "127.0.0.1:3999".to_owned()
}

#[test]
fn what_found_no_server_comes_again_and_counts_for_nothing() {
    let limit = format!("{BUCKET}rate = \"3/h\"\nburst = 3\n");
    let site = start_of(
        &[format!("http://{}", nobody_there())],
        "",
        "breaker = { failures = 3, window = \"10s\", open = \"1s\" }",
        "limits = [\"tight\"]",
        &limit,
    );
    let message = message();
    // Refused by the server's host, then by the breaker.
    for _ in 0..8 {
        assert_eq!(status(&site, &message), 502);
    }
    assert_eq!(refused(&site, "replayed"), 0);
    let origin = Origin::start_at(&site.namespace, nobody_there().parse().unwrap());
    eventually(SOON, "the server is there", || status(&site, &message) == 200);
    assert_eq!(status(&site, &message), 401);
    let rest: Vec<u16> = (0..3).map(|_| status(&site, &self::message())).collect();
    assert_eq!(rest, [200, 200, 429], "neither those nor the repetition were counted");
    assert_eq!(origin.count(), 3);
}

#[test]
fn what_no_server_took_in_time_comes_again() {
    let far = "http://192.0.2.7:80".to_owned();
    let site = start_of(&[far], "timeouts = { connect = \"200ms\" }", "", "limits = \"none\"", "");
    // An interface behind which nobody answers.
    for arguments in [
        &["link", "add", "nobody", "type", "veth", "peer", "name", "nothing"][..],
        &["address", "add", "192.0.2.1/24", "dev", "nobody"],
        &["link", "set", "nothing", "up"],
        &["link", "set", "nobody", "up"],
    ] {
        let mut command = site.namespace.command("ip");
        assert!(command.args(arguments).status().unwrap().success());
    }
    let message = message();
    for _ in 0..3 {
        assert_eq!(status(&site, &message), 504);
    }
    site.refused("upstream_timeout", 3);
    assert_eq!(refused(&site, "replayed"), 0);
}

#[test]
fn what_may_have_reached_a_server_is_used_up_whatever_came_of_it() {
    let site = start("timeouts = { upstream = \"500ms\" }", "limits = \"none\"", "");
    for (behaviour, expected) in [
        (Behaviour::status(200), 200),
        (Behaviour::status(500), 500),
        (Behaviour::status(503), 503),
        (Behaviour::CloseBeforeAnswer, 502),
        (Behaviour::Reset, 502),
        (Behaviour::AnswerBeforeBody(413), 413),
        (Behaviour::Stall, 504),
    ] {
        site.origin.take();
        site.origin.next(behaviour.clone());
        let message = message();
        assert_eq!(status(&site, &message), expected, "{behaviour:?}");
        assert_eq!(status(&site, &message), 401, "{behaviour:?}");
        assert_eq!(site.origin.count(), 1, "{behaviour:?}");
    }
    site.refused("replayed", 7);
}

#[test]
fn another_try_of_ours_is_no_repetition() {
    let site = start("", "limits = \"none\"", "");
    for _ in 0..5 {
        assert_eq!(status(&site, &message()), 200);
        // Kept connections end, some while a message is on its way to them.
        site.origin.close_connections();
    }
    assert_eq!(site.origin.take().len(), 5);
    // A request that may be sent twice is, and is one message all the same.
    let value = signed(now(), b"");
    let get = http::request("GET", "/hook", &[("X-Signature", &value)], b"");
    site.origin.next(Behaviour::CloseBeforeAnswer);
    assert_eq!(status(&site, &get), 200);
    assert_eq!(site.origin.take().len(), 2);
    assert_eq!(status(&site, &get), 401);
    assert_eq!(site.origin.count(), 0);
}

#[test]
fn of_copies_at_once_exactly_one_goes_on() {
    let site = start("", "limits = \"none\"", "");
    site.origin
        .by_default(Behaviour::Delayed(Duration::from_millis(20), Box::new(Behaviour::Echo)));
    for round in 0..25 {
        let message = message();
        let answers: Vec<u16> = thread::scope(|scope| {
            let copies: Vec<_> = (0..8).map(|_| scope.spawn(|| status(&site, &message))).collect();
            copies.into_iter().map(|copy| copy.join().unwrap()).collect()
        });
        let good = answers.iter().filter(|status| **status == 200).count();
        let known = answers.iter().filter(|status| [401, 503].contains(*status)).count();
        // Perhaps none of them, and then the next one.
        let again = status(&site, &message);
        assert_eq!((good + usize::from(again == 200), good + known), (1, 8), "{answers:?} {again}");
        assert_eq!(site.origin.take().len(), 1, "round {round}: {answers:?}");
    }
}

/// A bucket through which one request goes in two seconds, and the next ones wait.
const QUEUE: &str = "[limits.queue]\nalgorithm = \"leaky_bucket\"\nkey = [\"principal\"]\n\
     rate = \"30/m\"\nburst = 5\nmax_delay = \"10s\"\n";

/// Sends a message that has to wait for its turn.
fn wait(site: &Site, message: &[u8]) -> Connection {
    let mut connection = site.connect();
    connection.send(message).unwrap();
    // Long enough to be read, and not its turn yet.
    thread::sleep(Duration::from_millis(300));
    connection
}

#[test]
fn a_copy_of_what_waits_is_to_come_later() {
    let site = start("max_requests = 4", "limits = [\"queue\"]", QUEUE);
    assert_eq!(status(&site, &message()), 200);
    let waits = message();
    let mut waiting = wait(&site, &waits);
    let copy = site.send(&waits);
    assert_eq!((copy.status, copy.header("retry-after")), (503, Some("1")));
    // Nobody else may wait: refused, and not used up.
    let other = message();
    assert_eq!(status(&site, &other), 503);
    assert_eq!(waiting.response().unwrap().status, 200);
    assert_eq!(status(&site, &waits), 401);
    eventually(SOON, "its turn", || status(&site, &other) == 200);
    site.refused("replayed", 1);
    assert_eq!(site.origin.count(), 3);

    // Whoever is gone before his turn takes his message with him.
    let left = message();
    let leaving = wait(&site, &left);
    assert_eq!(status(&site, &left), 503);
    leaving.reset();
    eventually(SOON, "its turn", || status(&site, &left) == 200);
    assert_eq!(site.origin.count(), 4);
}

#[test]
fn what_a_killed_proxy_held_goes_nowhere() {
    let mut site = start("", "limits = [\"queue\"]", QUEUE);
    assert_eq!(status(&site, &message()), 200);
    let waits = message();
    let _waiting = wait(&site, &waits);
    site.limiter.kill_proxy();
    let mut copy = None;
    eventually(SOON, "another proxy serves", || {
        copy = site.try_send(&waits).ok();
        copy.is_some()
    });
    assert_eq!(copy.map(|copy: Response| copy.status), Some(503));
    site.refused("overloaded", 1);
    site.refused("replayed", 0);
    assert_eq!(site.origin.count(), 1);
}

#[test]
fn repetitions_use_up_nobody_s_limits() {
    let limit = format!("{BUCKET}rate = \"4/h\"\nburst = 4\n");
    let site = start("", "limits = [\"tight\"]", &limit);
    let first = message();
    assert_eq!(status(&site, &first), 200);
    for _ in 0..10 {
        assert_eq!(site.send_from("127.0.0.66", &first).status, 401);
    }
    let rest: Vec<u16> = (0..4).map(|_| status(&site, &message())).collect();
    assert_eq!(rest, [200, 200, 200, 429]);
}

/// Two repetitions ban. An honest sender's are none.
#[test]
fn an_honest_sender_is_not_banned_for_trying_again() {
    let limit = format!("{BUCKET}rate = \"1/s\"\nburst = 1\n");
    let route = "auth = [\"partner\"]\nlimits = [\"tight\"]";
    let mut site = Site::prepare("", route, &format!("{SECTIONS}{limit}"));
    write_secret(&site, "partner", SECRET);
    site.limiter.restart();
    let send = |message: &[u8]| site.send_from("127.0.0.5", message).status;
    assert_eq!(send(&message()), 200);
    let late = message();
    let mut answers = Vec::new();
    eventually(SOON, "its turn", || {
        answers.push(send(&late));
        // Not far over the limit, which counts too.
        thread::sleep(Duration::from_millis(150));
        answers.last() == Some(&200)
    });
    assert!(answers.len() > 2 && answers.iter().all(|one| [200, 429].contains(one)), "{answers:?}");
    site.refused("rate_limited", answers.len() as u64 - 1);
    site.refused("replayed", 0);
}
