//! The order of the stages: what is wrong first is what is answered, whatever else is wrong.

use limiter_tests::http;

use crate::support::Site;

const ROUTE: &str = "path = \"/api\"\nmethods = [\"POST\", \"OPTIONS\"]\nauth = [\"keys\"]\n\
                     limits = [\"tight\"]\nallow = [\"127.0.0.2\"]\ncors = \"app\"";
const SECTIONS: &str = "[auth.keys]\nkind = \"api_key\"\ntoken = { env = \"TEST_TOKEN\" }\n\
                        [cors.app]\norigins = [\"https://app.test\"]\nmethods = [\"POST\"]\n\
                        [limits.tight]\nalgorithm = \"fixed_window\"\nrate = \"1/365d\"\napplies_to = \"all\"\n";
const TOKEN: &str = "an-example-token-of-some-length";

#[test]
fn the_first_stage_that_finds_something_answers() {
    let mut site = Site::prepare("max_body = \"10B\"", ROUTE, SECTIONS);
    site.limiter.environment("TEST_TOKEN", TOKEN);
    site.limiter.restart();
    site.limiter.cli(&["ban", "127.0.0.1", "--scope", "http", "--force"]).succeeded();
    let body = b"eleven byte";
    let wrong = [("X-API-Key", "wrong"), ("Origin", "https://evil.test")];
    let right = [("X-API-Key", TOKEN), ("Origin", "https://evil.test")];
    let ask = |source: &str, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]| {
        site.send_from(source, &http::request(method, target, headers, body))
    };
    // Uses up the limit, and is the only request that may reach the origin before the end.
    let first = ask("127.0.0.2", "POST", "/api", &right, b"ten bytes.");
    assert_eq!(first.status, 200);

    // Everything is wrong.
    let answer = ask("127.0.0.1", "PUT", "/else/%2e%2e/x", &wrong, body);
    assert_eq!(answer.status, 400);
    site.refused("malformed_request", 1);
    // The target is right; the client is banned.
    let answer = ask("127.0.0.1", "PUT", "/else", &wrong, body);
    assert_eq!(answer.status, 403);
    site.refused("banned", 1);
    site.limiter.cli(&["unban", "127.0.0.1"]).succeeded();
    // No route.
    limiter_tests::wait::eventually(crate::support::SOON, "the ban is lifted", || {
        ask("127.0.0.1", "GET", "/else", &[], b"").status == 404
    });
    let answer = ask("127.0.0.1", "PUT", "/else", &wrong, body);
    assert_eq!(answer.status, 404);
    // A route, not for this method.
    let answer = ask("127.0.0.1", "PUT", "/api", &wrong, body);
    assert_eq!((answer.status, answer.header("allow")), (405, Some("OPTIONS, POST")));
    site.refused("method_not_allowed", 1);
    // Not for this client.
    let answer = ask("127.0.0.1", "POST", "/api", &wrong, body);
    assert_eq!(answer.status, 403);
    site.refused("forbidden_address", 1);
    // A preflight of a foreign origin is refused before any credential is looked at.
    let preflight = [wrong[0], wrong[1], ("Access-Control-Request-Method", "POST")];
    let answer = ask("127.0.0.2", "OPTIONS", "/api", &preflight, b"");
    assert_eq!(answer.status, 403);
    site.refused("cors_refused", 1);
    // No key, then a wrong one; both before the limit and the body.
    let answer = ask("127.0.0.2", "POST", "/api", &[], body);
    assert_eq!(answer.status, 401);
    site.refused("unauthorized", 1);
    let answer = ask("127.0.0.2", "POST", "/api", &wrong, body);
    assert_eq!(answer.status, 401);
    site.refused("invalid_credential", 1);
    // The key is right, the limit used up.
    let answer = ask("127.0.0.2", "POST", "/api", &right, body);
    assert_eq!(answer.status, 429);
    site.refused("rate_limited", 1);
    // With room in the limit it is the body.
    site.reload("max_body = \"10B\"", ROUTE, &SECTIONS.replace("1/365d", "100/365d"));
    let answer = ask("127.0.0.2", "POST", "/api", &right, body);
    assert_eq!(answer.status, 413);
    site.refused("body_too_large", 1);
    // Nothing is wrong any more.
    let answer = ask("127.0.0.2", "POST", "/api", &right, b"ten bytes.");
    assert_eq!((answer.status, answer.text().as_str()), (200, "origin"));
    let seen = site.origin.take();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().all(|request| request.body == b"ten bytes."));
    // Each of them once in the stream of events too, as it was refused.
    for (label, status) in [
        ("method_not_allowed", 405),
        ("forbidden_address", 403),
        ("cors_refused", 403),
        ("rate_limited", 429),
        ("body_too_large", 413),
    ] {
        let documents = || -> Vec<serde_json::Value> {
            let lines = site.limiter.lines("events.json");
            lines
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok())
                .filter(|event: &serde_json::Value| event["event.action"] == label)
                .collect()
        };
        limiter_tests::wait::eventually(crate::support::SOON, label, || documents().len() == 1);
        let event = &documents()[0];
        assert_eq!(event["http.response.status_code"], status, "{event}");
        assert_eq!(
            (&event["url.path"], &event["event.outcome"]),
            (&"/api".into(), &"failure".into()),
            "{event}"
        );
    }
}
