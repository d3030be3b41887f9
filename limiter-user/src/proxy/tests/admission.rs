//! The stages in their order, and what each answers.

use std::time::Duration;

use super::{
    origin::{KEY, Origin, policy},
    support::Proxy,
};
use crate::{
    link::{HttpBan, ObservedOutcome, ToProxy},
    policy::{
        HttpPolicy, Mode, Rate,
        http::{ClientAddressSource, LimitPolicy, RouteAuth},
        limits::Algorithm,
    },
    refusal::Refusal,
};

fn ban(prefix: &str) -> ToProxy {
    let prefix = prefix.parse().unwrap();
    ToProxy::AddHttpBans(vec![HttpBan { prefix, expires_ns: u64::MAX }])
}

/// The document of a refusal names it by status only; the observation says which it was.
fn label(proxy: &mut Proxy, request: &str) -> (u16, Option<Refusal>) {
    proxy.agent.observations.clear();
    let status = proxy.get(request).status;
    if status == 200 || status == 204 {
        return (status, None);
    }
    let refusal = proxy.agent.until(|agent, _, _| {
        agent.observations.iter().find_map(|observation| match observation.outcome {
            ObservedOutcome::Refused(refusal) => Some(refusal),
            _ => None,
        })
    });
    (status, Some(refusal))
}

fn hourly(name: &str, algorithm: Algorithm, count: u64) -> LimitPolicy {
    LimitPolicy::by_client(name, algorithm, Rate { count, period: Duration::from_hours(1) })
}

#[test]
fn the_first_stage_that_objects_refuses() {
    let origin = Origin::start();
    let mut policy = policy(&origin);
    policy.client_address = ClientAddressSource::XForwardedFor;
    policy.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    policy.routes[0].allow = Some(vec!["192.0.2.0/24".parse().unwrap()]);
    policy.routes.truncate(1);
    policy.limits[0] = hourly("tight", Algorithm::FixedWindow, 1);
    policy.guard.failures.count = 1;
    policy.bounds.max_body_bytes = 10;
    let mut proxy = Proxy::start(&policy);
    proxy.agent.send(&ban("198.51.100.66/32"), &[]);
    std::thread::sleep(Duration::from_millis(50));
    // Each request breaks every rule that comes after the one that refuses it.
    let from = |address: &str| format!("X-Forwarded-For: {address}\nContent-Length: 11\n");
    let (banned, foreign, member) =
        (from("198.51.100.66"), from("198.51.100.7"), from("192.0.2.7"));
    let bad_key = "X-API-KEY: wrong\n";
    let preflight = "Origin: https://evil.test\nAccess-Control-Request-Method: GET\n";
    for (request, refusal) in [
        (format!("DELETE /x/../y\n{banned}{bad_key}"), Refusal::MalformedRequest),
        (format!("DELETE /nowhere\n{banned}{bad_key}"), Refusal::Banned),
        (format!("DELETE /nowhere\n{foreign}{bad_key}"), Refusal::NotFound),
        (format!("DELETE /api\n{foreign}{bad_key}"), Refusal::MethodNotAllowed),
        (format!("OPTIONS /api\n{foreign}{bad_key}{preflight}"), Refusal::ForbiddenAddress),
        (format!("OPTIONS /api\n{member}{bad_key}{preflight}"), Refusal::CorsRefused),
        (format!("POST /api\n{member}"), Refusal::Unauthorized),
        (format!("POST /api\n{member}{bad_key}"), Refusal::InvalidCredential),
        (format!("POST /api\n{member}{bad_key}"), Refusal::Guarded),
        (format!("POST /api\n{member}X-API-KEY: {KEY}\n"), Refusal::BodyTooLarge),
        (format!("POST /api\n{member}X-API-KEY: {KEY}\n"), Refusal::RateLimited),
        (format!("POST /api\n{member}X-API-KEY: {KEY}\n"), Refusal::RateLimited),
    ] {
        let expected = (refusal.status(), Some(refusal));
        assert_eq!(label(&mut proxy, &request), expected, "{request}");
    }
    let counters = proxy.drain();
    assert_eq!(counters.forwarded, 0);
    assert_eq!(counters.refused.iter().sum::<u64>(), 12);
}

#[test]
fn keys_and_principals() {
    let origin = Origin::start();
    let mut policy = policy(&origin);
    policy.guard.failures.count = 100;
    let mut proxy = Proxy::start(&policy);
    let reply = proxy.get(&format!("GET /api\nX-API-KEY: {KEY}\nX-Auth-Tier: forged\n"));
    let head = reply.body.to_lowercase();
    assert!(head.contains("x-auth-subject: alice\r\n") && head.contains("x-auth-tier: gold\r\n"));
    assert!(head.contains("x-auth-scheme: keys\r\n"));
    assert!(!head.contains("x-api-key") && !head.contains("forged"), "{head}");
    let seen = proxy.agent.observe(ObservedOutcome::Authenticated);
    assert_eq!(seen.request.unwrap().principal.as_deref(), Some("alice"));
    let reply = proxy.get(&format!("GET /api\nAuthorization: bearer {KEY}\n"));
    assert!(reply.status == 200 && !reply.body.to_lowercase().contains("authorization"));
    let reply = proxy.get(&format!("GET /api\nX-API-KEY: {KEY}\nAuthorization: Basic eDp5\n"));
    assert!(reply.body.to_lowercase().contains("authorization: basic"), "the upstream's own");
    for (headers, status) in [
        ("", 401),
        ("X-API-KEY: lk_expired\n", 401),
        ("X-API-KEY:\n", 401),
        ("X-API-KEY: lk_goo\n", 401),
        ("X-API-KEY: lk_good\nAuthorization: Bearer lk_bad\n", 401),
        ("X-API-KEY: lk_bad\nAuthorization: Bearer lk_good\n", 401),
        ("X-API-KEY: lk_good\nX-API-KEY: lk_good\n", 400),
        ("X-API-KEY: lk_good\nAuthorization: Bearer lk_other\n", 400),
        ("X-API-KEY: lk_good\nAuthorization: Bearer lk_good\n", 200),
        ("Authorization: Bearer other\n", 401),
    ] {
        let reply = proxy.get(&format!("GET /api\n{headers}"));
        assert_eq!(reply.status, status, "{headers}");
        assert_eq!(status >= 400, reply.header("www-authenticate").is_some());
    }
    let refused = proxy.agent.refused(Refusal::InvalidCredential);
    let facts = refused.request.unwrap();
    assert_eq!((facts.path.as_str(), facts.route.as_str(), facts.status), ("/api", "/api", 401));
    proxy.drain();
}

#[test]
fn the_guard_refuses_guesses_and_serves_good_keys() {
    let origin = Origin::start();
    let mut proxy = Proxy::start(&policy(&origin));
    for attempt in 0..8 {
        let reply = proxy.get("GET /api\nX-API-KEY: lk_guess\n");
        assert_eq!(reply.status, if attempt < 5 { 401 } else { 429 });
        assert_eq!(reply.header("retry-after").is_some(), attempt >= 5);
    }
    proxy.agent.refused(Refusal::Guarded);
    assert_eq!(proxy.get(&format!("GET /api\nX-API-KEY: {KEY}\n")).status, 200);
    proxy.drain();
}

#[test]
fn limits_tell_where_the_client_stands() {
    let origin = Origin::start();
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::TokenBucket] {
        let mut policy = policy(&origin);
        policy.limits[0] = hourly("tight", algorithm, 2);
        policy.limits.push(hourly("wi\"de", algorithm, 1_000));
        policy.routes[0].limits = vec![1, 0];
        let proxy = Proxy::start(&policy);
        let mut client = proxy.connect();
        for (status, remaining, wide) in [(200, "1", 999), (200, "0", 998), (429, "0", 998)] {
            let reply = client.send(&format!("GET /api\nX-API-KEY: {KEY}\n"));
            assert_eq!(reply.status, status);
            assert_eq!(reply.header("x-ratelimit-limit"), Some("2"));
            assert_eq!(reply.header("x-ratelimit-remaining"), Some(remaining));
            let reset: u64 = reply.header("x-ratelimit-reset").unwrap().parse().unwrap();
            let now = crate::clock::unix_ns() / 1_000_000_000;
            assert!((now..=now + 3601).contains(&reset), "{reset}");
            assert_eq!(
                reply.header("ratelimit-policy"),
                Some("\"wi\\\"de\";q=1000;w=3600"),
                "{algorithm:?}"
            );
            // Structured fields (RFC 9651), written as their canonical form is.
            for name in ["ratelimit-policy", "ratelimit"] {
                let text = reply.header(name).unwrap();
                let list: sfv::List = sfv::Parser::new(text).parse().unwrap();
                let mut again = sfv::ListSerializer::new();
                again.members(&list);
                assert_eq!(again.finish().as_deref(), Some(text));
            }
            let standing = reply.header("ratelimit").unwrap();
            let wide_r = format!("\"wi\\\"de\";r={wide};t=");
            // A refused request is counted by no limit, so what is left of the other is told
            // as it would be after one more.
            let after = format!("\"wi\\\"de\";r={};t=", wide - 1);
            assert!(standing.starts_with(&wide_r) || standing.starts_with(&after), "{standing}");
            assert!(standing.contains(&format!(", \"tight\";r={remaining};t=")), "{standing}");
            let retry = reply.header("retry-after").map(|text| text.parse::<u64>().unwrap());
            assert_eq!(retry.is_some(), status == 429);
            assert!(retry.is_none_or(|seconds| (1..=7200).contains(&seconds)));
        }
        drop(client);
        proxy.drain();
    }
}

#[test]
fn cors_for_browsers() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(&origin));
    let (good, bad) = ("Origin: https://app.test\n", "Origin: https://evil.test\n");
    let announce =
        "Access-Control-Request-Method: PUT\nAccess-Control-Request-Headers: x-api-key\n";
    let reply = proxy.get(&format!("OPTIONS /api\n{good}{announce}"));
    assert_eq!(reply.status, 204);
    for (name, value) in [
        ("access-control-allow-origin", "https://app.test"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, HEAD, POST, PUT"),
        ("access-control-allow-headers", "x-api-key"),
        ("access-control-max-age", "60"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    for request in [
        format!("OPTIONS /api\n{bad}{announce}"),
        format!("OPTIONS /api\n{good}Access-Control-Request-Method: DELETE\n"),
        format!("OPTIONS /api\n{good}{announce}Access-Control-Request-Headers: x-other\n"),
    ] {
        let reply = proxy.get(&request);
        assert_eq!(reply.status, 403, "{request}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{request}");
    }
    let reply = proxy.get(&format!("OPTIONS /api\n{bad}{announce}"));
    assert_eq!(reply.header("access-control-allow-origin"), None);
    assert_eq!(proxy.get(&format!("OPTIONS /api\n{good}")).status, 405, "no true preflight");
    assert_eq!(proxy.get(&format!("OPTIONS /x\n{good}{announce}")).status, 200, "the upstream's");
    let reply = proxy.get(&format!("GET /api\n{good}"));
    assert_eq!(reply.status, 401, "readable by the page");
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.test"));
    assert_eq!(reply.header("access-control-expose-headers"), Some("X-RateLimit-Remaining"));
    assert_eq!(reply.header("vary"), Some("origin"));
    let reply = proxy.get(&format!("GET /api\n{bad}X-API-KEY: {KEY}\n"));
    assert_eq!(reply.status, 200, "the browser refuses to read it");
    assert_eq!(reply.header("access-control-allow-origin"), None);
    assert_eq!(reply.header("vary"), Some("origin"));
    let reply = proxy.get(&format!("GET /api\nX-API-KEY: {KEY}\n"));
    assert_eq!(reply.header("vary"), Some("origin"), "also without an origin");
    assert_eq!(reply.header("x-frame-options"), Some("DENY"));
    assert_eq!(reply.header("server"), None);
    proxy.drain();
}

#[test]
fn monitor_mode_notes_and_lets_pass() {
    let origin = Origin::start();
    let mut policy = policy(&origin);
    policy.auth[0].mode = Mode::Monitor;
    policy.cors[0].mode = Mode::Monitor;
    policy.guard.mode = Mode::Monitor;
    policy.guard.failures.count = 1;
    policy.limits[0] = hourly("tight", Algorithm::FixedWindow, 1);
    policy.limits[0].mode = Mode::Monitor;
    let mut proxy = Proxy::start(&policy);
    for _ in 0..2 {
        assert_eq!(proxy.get("GET /api\nX-API-KEY: wrong\n").status, 200);
    }
    let preflight = "Origin: https://evil.test\nAccess-Control-Request-Method: DELETE\n";
    let granted = "access-control-allow-origin";
    let reply = proxy.get(&format!("OPTIONS /api\n{preflight}"));
    assert_eq!((reply.status, reply.header(granted)), (204, None), "counted, not granted");
    let reply = proxy.get("GET /api\nOrigin: https://evil.test\n");
    assert_eq!(reply.header(granted), Some("https://upstream.test"), "as without the policy");
    assert_eq!(reply.header("access-control-allow-credentials"), None);
    for refusal in
        [Refusal::InvalidCredential, Refusal::Guarded, Refusal::RateLimited, Refusal::CorsRefused]
    {
        proxy.agent.observe(ObservedOutcome::Monitored(refusal));
    }
    let counters = proxy.drain();
    assert_eq!(counters.refused.iter().sum::<u64>(), 0);
    assert_eq!(counters.monitored.iter().sum::<u64>(), 7);
}

#[test]
fn refusals_are_problem_documents() {
    let origin = Origin::start();
    let mut policy: HttpPolicy = policy(&origin);
    policy.routes.truncate(1);
    policy.routes[0].auth = RouteAuth::Public;
    let proxy = Proxy::start(&policy);
    let reply = proxy.get("GET /nowhere");
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (404, Some("application/problem+json"))
    );
    let document: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(document["status"], 404);
    assert_eq!(document["request_id"].as_str(), reply.header("x-request-id"));
    let reply = proxy.get("DELETE /api");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD, POST")));
    proxy.drain();
}
