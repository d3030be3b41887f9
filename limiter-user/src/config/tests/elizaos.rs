//! The `elizaos` preset: that server's environment in, routes and what each requires out.

use std::{slice, time::Duration};

use super::*;
use crate::policy::{
    http::{CorsOrigins, CorsPolicy, ErrorShape, HttpPolicy, RouteAuth, RoutePolicy},
    limits::Counting,
};

const TOKEN: (&str, &str) = ("ELIZA_SERVER_AUTH_TOKEN", "correct-horse-battery");

fn loaded(variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let all = [variables, &[("LIMITER_CONFIG", "")]].concat();
    let environment = lookup(&all);
    load(&Sources { preset: Some("elizaos".to_owned()), ..Sources::new(&environment) })
}

#[track_caller]
fn http(variables: &[(&str, &str)]) -> HttpPolicy {
    loaded(variables).unwrap_or_else(|error| panic!("{error}")).policy.http.unwrap()
}

#[track_caller]
fn refusal(variables: &[(&str, &str)]) -> String {
    match loaded(variables) {
        Ok(_) => panic!("accepted: {variables:?}"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn route<'a>(http: &'a HttpPolicy, name: &str) -> &'a RoutePolicy {
    http.routes.iter().find(|route| route.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn limits(http: &HttpPolicy, name: &str) -> Vec<(String, u64, u64)> {
    let indices = &route(http, name).limits;
    let limits = indices.iter().map(|at| &http.limits[*at]);
    limits
        .map(|limit| {
            let amount = limit.quota.as_ref().unwrap().amounts.each()[0].1;
            assert_eq!(amount.burst, amount.rate.count);
            (limit.name.clone(), amount.rate.count, amount.rate.period.as_secs())
        })
        .collect()
}

fn origins(cors: &CorsPolicy) -> Vec<String> {
    match &cors.origins {
        CorsOrigins::Any => vec!["*".to_owned()],
        CorsOrigins::List(list) => list.iter().map(|origin| origin.host.clone()).collect(),
    }
}

#[test]
fn nothing_but_a_token_is_enough() {
    let loaded = loaded(&[TOKEN, ("LIMITER_LISTEN", "0.0.0.0:8080")]).unwrap();
    let http = loaded.policy.http.unwrap();
    assert_eq!(http.upstreams[0].servers[0].to_string(), "http://127.0.0.1:3000");
    assert_eq!((http.error_shape, http.ignore_path_case), (ErrorShape::ElizaOs, true));
    assert_eq!(http.bounds.max_body_bytes, 2 << 20);
    assert_eq!(http.guard.failures.count, 10);
    assert_eq!(http.guard.failures.period, Duration::from_mins(15));
    let api = route(&http, "/api");
    assert_eq!(api.auth, RouteAuth::AnyOf(vec![0]));
    assert!(!http.auth[0].hide_credentials, "that server checks it too");
    assert_eq!(http.auth[0].api_keys().unwrap().header, "x-api-key");
    assert_eq!(
        http.auth[0].api_keys().unwrap().keys[0].digest,
        crate::keys::digest(TOKEN.1.as_bytes())
    );
    for open in ["/", "/health", "/healthz", "/socket.io"] {
        assert_eq!(route(&http, open).auth, RouteAuth::Public, "{open}");
        assert!(limits(&http, open).is_empty());
    }
    assert!(loaded.risks.iter().any(|risk| risk.sentence.contains("open to everybody")));
}

#[test]
fn limits_stand_where_that_server_has_them() {
    let http = http(&[TOKEN]);
    let named = |name: &str, count, seconds| (name.to_owned(), count, seconds);
    let api = named("api", 1_000, 900);
    let files = [named("upload", 50, 900), named("file-system", 100, 300)];
    let channel = named("channel-validation", 200, 600);
    let login = named("authentication", 10, 900);
    let general = slice::from_ref(&api);
    assert_eq!(limits(&http, "/api"), general);
    assert_eq!(limits(&http, "/api/auth"), [general, &[login]].concat());
    for path in ["/api/audio", "/api/media"] {
        assert_eq!(limits(&http, path), [general, &files].concat(), "{path}");
        assert!(route(&http, path).max_body_bytes.unwrap() > 50 << 20);
    }
    for path in ["/api/messaging/channels", "/api/messaging/central-channels"] {
        let of_channels = [general, slice::from_ref(&channel)].concat();
        assert_eq!(limits(&http, path), of_channels, "{path}");
        let upload = format!("{path}/*/upload-media");
        assert_eq!(limits(&http, &upload), [&*of_channels, &files].concat(), "{path}");
    }
    for limit in &http.limits {
        let of_failures = ["authentication", "channel-validation"].contains(&&*limit.name);
        assert_eq!(limit.count == Counting::Failures, of_failures, "{}", limit.name);
    }
}

#[test]
fn without_a_token_only_this_host_is_served() {
    let loaded = loaded(&[]).unwrap();
    assert!(loaded.risks.iter().any(|risk| risk.key == TOKEN.0), "{:?}", loaded.risks);
    assert_eq!(route(&loaded.policy.http.unwrap(), "/api").auth, RouteAuth::Public);
    let error = refusal(&[("LIMITER_LISTEN", "0.0.0.0:80")]);
    assert!(error.contains("only a loopback") && error.contains(TOKEN.0), "{error}");
    let http = http(&[("LIMITER_AUTH_TOKEN", TOKEN.1), ("LIMITER_LISTEN", "0.0.0.0:80")]);
    assert_eq!(route(&http, "/api").auth, RouteAuth::AnyOf(vec![0]));
}

#[test]
fn origins_are_lists_and_none_by_default() {
    let of = |variables: &[(&str, &str)]| {
        let http = http(variables);
        let of = |path| http.cors[route(&http, path).cors.unwrap()].clone();
        (of("/api"), of("/health"))
    };
    let (api, app) = of(&[]);
    assert!(origins(&api).is_empty() && origins(&app).is_empty(), "nobody, not everybody");
    let list = ("CORS_ORIGIN", "https://app.example.com, https://admin.example.com,");
    let (api, app) = of(&[list]);
    assert_eq!(origins(&app), ["app.example.com", "admin.example.com"]);
    assert_eq!(origins(&api), origins(&app));
    assert!(api.credentials && app.credentials);
    assert_eq!(api.methods, ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]);
    assert_eq!(api.headers, ["content-type", "authorization", "x-api-key"]);
    assert!(api.expose.iter().any(|name| name == "x-total-count"));
    assert_eq!(api.max_age, Duration::from_hours(24));
    let (api, app) = of(&[list, ("API_CORS_ORIGIN", "https://only.example")]);
    assert_eq!((origins(&api).join(" "), origins(&app).len()), ("only.example".to_owned(), 2));
    // Everybody, but then not as somebody.
    let (api, app) = of(&[("API_CORS_ORIGIN", "*")]);
    assert_eq!((origins(&api), api.credentials), (vec!["*".to_owned()], false));
    assert!(origins(&app).is_empty());
    let error = refusal(&[("CORS_ORIGIN", "https://a.example,true")]);
    assert!(error.contains("CORS_ORIGIN") && error.contains("\"true\""), "{error}");
}

#[test]
fn production_hides_the_pages_and_asks_for_https() {
    let value = |http: &HttpPolicy, path: &str, name: &str| {
        let headers = &http.headers[route(http, path).headers.unwrap()];
        headers.set.iter().find(|(set, _)| set == name).map(|(_, value)| value.clone())
    };
    let transport = "strict-transport-security";
    let csp = "content-security-policy";
    let development = http(&[]);
    assert!(value(&development, "/api", csp).unwrap().contains("script-src * 'unsafe-inline'"));
    assert_eq!(value(&development, "/", transport), None);
    assert_eq!(value(&development, "/", "referrer-policy").unwrap(), "no-referrer-when-downgrade");
    assert_eq!(value(&development, "/api", "referrer-policy").unwrap(), "no-referrer");
    let production = http(&[("NODE_ENV", "production")]);
    assert!(production.routes.iter().all(|route| route.name != "/"), "only the API");
    let said = value(&production, "/api", csp).unwrap();
    assert!(said.contains("upgrade-insecure-requests") && said.contains("frame-src 'none'"));
    assert!(said.contains("script-src 'self' 'unsafe-inline' 'unsafe-eval';"));
    assert!(value(&production, "/health", transport).unwrap().ends_with("; preload"));
    let shown = http(&[("NODE_ENV", "production"), ("ELIZA_UI_ENABLE", "TRUE")]);
    assert!(value(&shown, "/", csp).unwrap().contains("frame-src 'self';"));
    let hidden = http(&[("ELIZA_UI_ENABLE", "0")]);
    assert!(hidden.routes.iter().all(|route| route.name != "/"));
    assert!(refusal(&[("ELIZA_UI_ENABLE", "perhaps")]).contains("ELIZA_UI_ENABLE"));
}

#[test]
fn its_host_and_port_are_those_of_the_upstream() {
    let server = |variables: &[(&str, &str)]| {
        let http = http(variables);
        assert_eq!(http.listeners[0].address.to_string(), "127.0.0.1:8080");
        http.upstreams[0].servers[0].to_string()
    };
    let named = [("SERVER_HOST", "0.0.0.0"), ("SERVER_PORT", "3100")];
    assert_eq!(server(&named), "http://127.0.0.1:3100");
    assert_eq!(server(&[("SERVER_HOST", "eliza.internal")]), "http://eliza.internal:3000");
    let both = [named[1], ("LIMITER_UPSTREAM", "http://10.0.0.9:80")];
    assert_eq!(server(&both), "http://10.0.0.9:80");
    assert!(refusal(&[("SERVER_PORT", "http")]).contains("SERVER_PORT"));
    assert!(refusal(&[("SERVER_PORT", "8080")]).contains("itself"));
}

#[test]
fn the_payload_is_as_large_as_express_says() {
    let bounds = |variables: &[(&str, &str)]| http(variables).bounds.max_body_bytes;
    assert_eq!(bounds(&[("EXPRESS_MAX_PAYLOAD", "100kb")]), 102_400);
    assert!(refusal(&[("EXPRESS_MAX_PAYLOAD", "lots")]).contains("EXPRESS_MAX_PAYLOAD"));
    let http = http(&[("EXPRESS_MAX_PAYLOAD", "80mb")]);
    assert_eq!(route(&http, "/api/media").max_body_bytes, Some(80 << 20));
}

#[test]
fn tokens_are_asked_for_beside_the_key() {
    let isolation = ("ENABLE_DATA_ISOLATION", "true");
    let secret = ("JWT_SECRET", "a-secret-of-at-least-thirty-two-bytes");
    let both = http(&[TOKEN, isolation, secret]);
    let api = route(&both, "/api");
    assert_eq!((&api.auth, &api.second_auth), (&RouteAuth::AnyOf(vec![0]), &vec![1]));
    assert!(!both.auth[1].hide_credentials);
    assert_eq!(route(&both, "/api/media").second_auth, [1]);
    for path in ["/api/auth/login", "/api/system/version"] {
        let open = route(&both, path);
        assert_eq!((&open.auth, open.second_auth.len()), (&RouteAuth::AnyOf(vec![0]), 0), "{path}");
    }
    // Without a key it is the token that lets in, beyond this host too.
    let tokens = http(&[isolation, secret, ("LIMITER_LISTEN", "0.0.0.0:80")]);
    let api = route(&tokens, "/api");
    assert_eq!((&api.auth, api.second_auth.len()), (&RouteAuth::AnyOf(vec![0]), 0));
    assert_eq!(route(&tokens, "/api/auth/login").auth, RouteAuth::Public);
    // One scheme for each issuer.
    let listed = ("JWT_ISSUER_WHITELIST", "eliza-server, https://id.example.com");
    let two = http(&[TOKEN, isolation, secret, listed]);
    assert_eq!(route(&two, "/api").second_auth, [1, 2]);
    let published = ("JWT_JWKS_URI", "http://127.0.0.1:9/jwks.json");
    assert_eq!(route(&http(&[TOKEN, isolation, published]), "/api").second_auth, [1]);
    // Where nothing could be verified, nothing is served.
    for variables in [
        &[TOKEN, isolation][..],
        &[TOKEN, isolation, ("JWT_SECRET", "short")],
        &[TOKEN, isolation, ("JWT_ED25519_PUBLIC_KEY", "nonsense")],
        &[TOKEN, isolation, ("JWT_JWKS_URI", "nonsense")],
        &[TOKEN, ("ENABLE_DATA_ISOLATION", "yes")],
    ] {
        let error = refusal(variables);
        assert!(!error.contains("nonsense") || error.contains("URL"), "{error}");
    }
    assert!(http(&[TOKEN, secret]).auth.len() == 1, "not unless asked for");
}

#[test]
fn the_file_puts_its_own_in_place() {
    let text = "preset = \"elizaos\"\n[limits.api]\nrate = \"5000/15m\"\napplies_to = \"all\"\n\
                [[http.route]]\npath = \"/API/agents\"\nmethods = [\"DELETE\"]\nallow = [\"10.0.0.0/8\"]\n\
                [[http.route]]\npath = \"/socket.io\"\n[cors.app]\norigins = [\"https://x.example\"]\n";
    let http = load_with(text, &[TOKEN]).unwrap_or_else(|error| panic!("{error}"));
    let http = http.policy.http.unwrap();
    assert_eq!(limits(&http, "/api")[0].1, 5_000);
    let own = route(&http, "/API/agents");
    assert_eq!(own.path.text(), "/api/agents", "as requests are compared with it");
    assert_eq!((&own.auth, own.limits.len()), (&RouteAuth::AnyOf(vec![0]), 1));
    assert_eq!(own.cors, route(&http, "/api").cors);
    // The sockets need a key then, and there is one route for them.
    assert_eq!(route(&http, "/socket.io").auth, RouteAuth::AnyOf(vec![0]));
    assert_eq!(http.routes.iter().filter(|route| route.name == "/socket.io").count(), 1);
    assert_eq!(origins(&http.cors[route(&http, "/health").cors.unwrap()]), ["x.example"]);
    // Its own variables mean nothing to other presets.
    let http = load_with(
        "preset = \"public\"\n[[http.upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:1\"]",
        &[TOKEN, ("EXPRESS_MAX_PAYLOAD", "nonsense")],
    );
    assert_eq!(http.unwrap().policy.http.unwrap().routes[0].auth, RouteAuth::Public);
}
