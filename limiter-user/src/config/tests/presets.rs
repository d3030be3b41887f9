//! Presets: each serves from three lines, and gives way to what the file says.

use std::time::Duration;

use super::*;
use crate::policy::{
    Rate,
    http::{CorsOrigins, HttpPolicy, LimitPolicy, RouteAuth},
    limits::Algorithm,
};

/// Three lines.
fn small(preset: &str) -> String {
    format!(
        "preset = \"{preset}\"\nhttp.upstream = [{{ name = \"api\", servers = \
         [\"http://127.0.0.1:3000\"] }}]\nhttp.listener = [{{ address = \"0.0.0.0:8080\" }}]\n"
    )
}

fn with_token(text: &str) -> HttpPolicy {
    let token = [("LIMITER_AUTH_TOKEN", "correct-horse-battery")];
    let loaded = load_with(text, &token).unwrap_or_else(|error| panic!("{error}"));
    loaded.policy.http.unwrap()
}

#[test]
fn public() {
    let loaded = accepted(&small("public"));
    let http = loaded.policy.http.unwrap();
    let route = &http.routes[0];
    assert_eq!(route.auth, RouteAuth::Public);
    let limit = &http.limits[route.limits[0]];
    assert_eq!(*limit, quarter_hourly("public", 100));
    let cors = &http.cors[route.cors.unwrap()];
    assert_eq!((&cors.origins, cors.credentials), (&CorsOrigins::Any, false));
    assert!(loaded.risks.iter().any(|risk| risk.sentence.contains("open to everybody")));
    // An explicit token is meant to be needed.
    assert_eq!(with_token(&small("public")).routes[0].auth, RouteAuth::AnyOf(vec![0]));
}

fn quarter_hourly(name: &str, count: u64) -> LimitPolicy {
    let rate = Rate { count, period: Duration::from_mins(15) };
    LimitPolicy::by_client(name, Algorithm::SlidingWindow, rate)
}

#[test]
fn private() {
    let http = with_token(&small("private"));
    let route = &http.routes[0];
    assert_eq!(route.auth, RouteAuth::AnyOf(vec![0]));
    let limit = &http.limits[route.limits[0]];
    assert_eq!(*limit, quarter_hourly("private", 1_000));
    assert_eq!((route.cors, &route.allow), (None, &None));
    // Without any key it serves nobody, and says so.
    let loaded = accepted(&small("private"));
    assert_eq!(loaded.policy.http.unwrap().routes[0].auth, RouteAuth::AnyOf(vec![0]));
    assert!(loaded.risks.iter().any(|risk| risk.sentence.contains("limiter keys new")));
    // The origins that the file lists, with credentials.
    let http =
        with_token(&format!("{}[cors.app]\norigins = [\"https://a.example\"]\n", small("private")));
    let cors = &http.cors[http.routes[0].cors.unwrap()];
    assert!(
        cors.credentials && matches!(&cors.origins, CorsOrigins::List(list) if list.len() == 1)
    );
}

#[test]
fn internal() {
    let http = with_token(&small("internal"));
    let route = &http.routes[0];
    assert_eq!(route.auth, RouteAuth::AnyOf(vec![0]));
    let allow: Vec<_> = route.allow.as_ref().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(allow, ["10.0.0.0/8", "172.16.0.0/12"]);
    assert_eq!(route.limits.len(), 0);
    // No web page reads anything, whatever the upstream would grant.
    let cors = &http.cors[route.cors.unwrap()];
    assert_eq!(cors.origins, CorsOrigins::List(Vec::new()));
}

#[test]
fn all_set_the_headers_of_a_json_api() {
    for preset in ["public", "private", "internal"] {
        let http = with_token(&small(preset));
        let headers = &http.headers[http.routes[0].headers.unwrap()];
        let value = |name: &str| {
            headers.set.iter().find(|(set, _)| set == name).map(|(_, value)| value.as_str())
        };
        assert_eq!(value("x-content-type-options"), Some("nosniff"));
        assert_eq!(
            value("content-security-policy"),
            Some("default-src 'none'; frame-ancestors 'none'")
        );
        assert_eq!(value("referrer-policy"), Some("no-referrer"));
        assert_eq!(value("strict-transport-security"), None);
        assert_eq!(headers.remove, ["server", "x-powered-by"]);
    }
}

#[test]
fn the_file_beats_the_preset_and_the_option_beats_the_file() {
    let text = format!(
        "{}[limits.mine]\nrate = \"5/s\"\n[kernel]\n[kernel.limits]\npackets = \"7/s\"\n",
        small("private").replace(
            "http.listener",
            "http.route = [{ auth = \"none\", limits = \"mine\", headers = \"none\" }]\nhttp.listener"
        )
    );
    let loaded = accepted(&text);
    let http = loaded.policy.http.as_ref().unwrap();
    assert_eq!(http.routes[0].auth, RouteAuth::Public);
    assert_eq!(http.limits[http.routes[0].limits[0]].name, "mine");
    assert_eq!(http.routes[0].headers, None);
    let limits = loaded.policy.kernel.unwrap().limits;
    assert_eq!(limits.packets.unwrap().rate.count, 7);
    assert_eq!(limits.new_connections.unwrap().rate.count, 200, "filled by the preset");
    assert_eq!(limits.bytes.unwrap().burst_bytes, 100_000_000, "filled by the preset");
    assert_eq!(limits.concurrent_connections, Some(1_000), "filled by the preset");

    let scratch = Scratch::new();
    let file = scratch.write("limiter.toml", &small("private"), 0o600);
    let nothing = lookup(&[]);
    let sources =
        Sources { file: Some(file), preset: Some("public".to_owned()), ..Sources::new(&nothing) };
    let http = load(&sources).unwrap().policy.http.unwrap();
    assert_eq!(http.routes[0].auth, RouteAuth::Public);
    let sources = Sources { preset: Some("publik".to_owned()), ..sources };
    let error = load(&sources).unwrap_err().to_string();
    assert!(error.contains("--preset") && error.contains("\"elizaos\""), "{error}");
}
