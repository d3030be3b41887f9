//! Without a file: the environment and options alone; and which beats which.

use super::*;
use crate::policy::{
    http::{HttpPolicy, RouteAuth},
    kernel::InterfaceSelection,
};

fn from_environment(variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    let all = [variables, &[("LIMITER_CONFIG", "")]].concat();
    let environment = lookup(&all);
    load(&Sources::new(&environment))
}

fn http(loaded: &Loaded) -> &HttpPolicy {
    loaded.policy.http.as_ref().unwrap()
}

const UPSTREAM: (&str, &str) = ("LIMITER_UPSTREAM", "http://127.0.0.1:3000");

#[test]
fn an_upstream_is_enough_on_loopback() {
    let loaded = from_environment(&[UPSTREAM]).unwrap();
    let http = http(&loaded);
    assert_eq!(http.listeners[0].address.to_string(), "127.0.0.1:8080");
    assert_eq!(http.upstreams[0].servers[0].to_string(), "http://127.0.0.1:3000");
    assert_eq!(http.routes.len(), 1);
    assert_eq!(http.routes[0].auth, RouteAuth::Public);
    assert!(loaded.policy.kernel.is_none() && loaded.file.is_none() && loaded.risks.is_empty());
}

#[test]
fn beyond_loopback_a_token_is_needed() {
    let open = [UPSTREAM, ("LIMITER_LISTEN", "0.0.0.0:80")];
    let error = from_environment(&open).unwrap_err().to_string();
    assert!(error.contains("without authentication only a loopback address"), "{error}");
    assert!(error.contains("LIMITER_AUTH_TOKEN"), "{error}");

    let token = ("LIMITER_AUTH_TOKEN", "correct-horse-battery");
    let loaded = from_environment(&[open[0], open[1], token]).unwrap();
    assert_eq!(http(&loaded).routes[0].auth, RouteAuth::AnyOf(vec![0]));
    let keys = http(&loaded).auth[0].api_keys().unwrap();
    assert_eq!(keys.header, "x-api-key");
    let keys = &keys.keys;
    assert_eq!(keys[0].name, "shared-token");
    assert_eq!(keys[0].digest, crate::keys::digest(b"correct-horse-battery"));

    let open = [open[0], open[1], ("LIMITER_CONFIG", "")];
    let environment = lookup(&open);
    let mut sources = Sources::new(&environment);
    sources.allow_unauthenticated = true;
    let loaded = load(&sources).unwrap();
    assert_eq!(http(&loaded).routes[0].auth, RouteAuth::Public);
    assert!(loaded.risks[0].sentence.contains("open to everybody"));
}

#[test]
fn an_interface_switches_the_kernel_half_on() {
    let loaded = from_environment(&[("LIMITER_INTERFACE", "eth0, eth1")]).unwrap();
    let kernel = loaded.policy.kernel.unwrap();
    let named = |name: &str| InterfaceSelection::Named(name.to_owned());
    assert_eq!(kernel.interfaces, [named("eth0"), named("eth1")]);
    assert!(loaded.policy.http.is_none());
}

#[test]
fn options_beat_the_environment_which_beats_the_file() {
    let scratch = Scratch::new();
    let file = scratch.write(
        "limiter.toml",
        &format!("[kernel]\nenabled = false\n[[http.listener]]\naddress = \"127.0.0.1:1\"\n{API}"),
        0o600,
    );
    let variables = [
        UPSTREAM,
        ("LIMITER_LISTEN", "127.0.0.1:2,[::1]:2"),
        ("LIMITER_INTERFACE", "eth0"),
        ("LIMITER_CONFIG", "/nowhere"),
    ];
    let nothing = lookup(&[]);
    let from_file = Sources { file: Some(file), ..Sources::new(&nothing) };
    let loaded = load(&from_file).unwrap();
    assert_eq!(http(&loaded).listeners[0].address.port(), Some(1));
    assert!(loaded.policy.kernel.is_none());

    let environment = lookup(&variables);
    let mut sources = Sources { environment: &environment, ..from_file };
    let loaded = load(&sources).unwrap();
    assert_eq!(http(&loaded).listeners.len(), 2);
    assert_eq!(http(&loaded).listeners[1].address.to_string(), "[::1]:2");
    assert!(loaded.policy.kernel.is_some());

    sources.listen = vec!["localhost:3".to_owned()];
    sources.upstream = Some("http://[::1]:9/".to_owned());
    sources.interfaces = vec!["lo".to_owned()];
    let loaded = load(&sources).unwrap();
    assert_eq!(http(&loaded).listeners[0].address.to_string(), "127.0.0.1:3");
    assert_eq!(http(&loaded).upstreams[0].servers[0].to_string(), "http://[::1]:9");
    let kernel = loaded.policy.kernel.unwrap();
    assert_eq!(kernel.interfaces, [InterfaceSelection::Named("lo".to_owned())]);
}

#[test]
fn what_is_wrong_outside_the_file_is_named_by_where_it_is() {
    for (variable, value, expected) in [
        ("LIMITER_UPSTREAM", "http://me:hunter2@host", "LIMITER_UPSTREAM: a URL holds no user"),
        ("LIMITER_UPSTREAM", "127.0.0.1:3000", "LIMITER_UPSTREAM: an upstream is http://"),
        ("LIMITER_LISTEN", "80", "LIMITER_LISTEN: \"80\" cannot be used"),
        ("LIMITER_INTERFACE", "a b", "LIMITER_INTERFACE: \"a b\" cannot be used"),
        ("LIMITER_AUTH_TOKEN", "two words", "LIMITER_AUTH_TOKEN: the token cannot be sent"),
    ] {
        let variables: Vec<_> = [UPSTREAM]
            .into_iter()
            .filter(|(name, _)| *name != variable)
            .chain([(variable, value)])
            .collect();
        let result = from_environment(&variables);
        let error = match result {
            Ok(_) => panic!("{variable}={value} was accepted"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("two words"), "{error}");
    }
}
