//! `kind = "forward"`: another server says who a request speaks for.

mod flood;

use limiter_tests::{
    http,
    origin::{Behaviour, Origin},
};

use crate::support::{SOON, Site};

const ROUTE: &str = "auth = [\"other\"]\nlimits = \"none\"";

/// A site, and the server that is asked.
fn start(route: &str, more: &str) -> (Site, Origin) {
    let mut site = Site::prepare("", route, "");
    let other = Origin::start(&site.namespace);
    let section = format!(
        "[auth.other]\nkind = \"forward\"\nurl = \"{}/verify?by=limiter\"\n{more}",
        other.url()
    );
    site.limiter.configure(&crate::support::configuration(&site.origin, "", route, &section));
    site.limiter.restart();
    (site, other)
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Behaviour {
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Behaviour::Answer(status, headers, body.as_bytes().to_vec())
}

#[test]
fn whom_the_other_server_names_is_let_in() {
    let (site, other) = start(ROUTE, "copy_headers = [\"Remote-Groups\"]\n");
    let named = [("X-Auth-Subject", "carol"), ("X-Auth-Tier", "gold"), ("Remote-Groups", "a,b")];
    other.by_default(answer(200, &named, ""));
    let forged = [
        ("Cookie", "session=1"),
        ("X-Auth-Subject", "root"),
        ("Remote-Groups", "admin"),
        ("X-Forwarded-Uri", "/public"),
    ];
    let request = http::request("POST", "/orders?id=1", &forged, b"body");
    assert_eq!(site.send(&request).status, 200);

    let asked = other.take_one(SOON);
    assert_eq!(asked.line(), "GET /verify?by=limiter HTTP/1.1");
    assert_eq!(asked.header("x-forwarded-method").as_deref(), Some("POST"));
    assert_eq!(asked.header("x-forwarded-uri").as_deref(), Some("/orders?id=1"));
    assert_eq!(asked.header("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(asked.header("cookie").as_deref(), Some("session=1"));
    assert_eq!(asked.header("x-auth-subject"), None, "what a client says of itself");
    assert_eq!(asked.header("remote-groups"), None);
    assert_eq!(asked.header("content-length"), None);
    assert!(asked.body.is_empty());

    let upstream = site.origin.take_one(SOON);
    assert_eq!(upstream.body, b"body");
    assert_eq!(upstream.header("x-auth-subject").as_deref(), Some("carol"));
    assert_eq!(upstream.header("x-auth-tier").as_deref(), Some("gold"));
    assert_eq!(upstream.header("x-auth-scheme").as_deref(), Some("other"));
    assert_eq!(upstream.header("remote-groups").as_deref(), Some("a,b"));
    assert_eq!(upstream.header("x-request-id"), asked.header("x-request-id"));

    // Nobody is asked about a request that was not sent.
    let explain = ["explain", "--source", "127.0.0.1", "--request", "GET /orders"];
    let told = site.limiter.cli(&explain).succeeded().stdout;
    assert!(told.starts_with("127.0.0.1: depends (server)"), "{told}");
    assert_eq!(other.count(), 0);
}

#[test]
fn what_it_says_else_is_the_clients_answer() {
    let (site, other) = start(ROUTE, "");
    let login =
        [("Location", "https://id.test/login"), ("Set-Cookie", "state=1"), ("X-Inside", "y")];
    for (behaviour, status, label) in [
        (answer(302, &login, "go"), 302, "unauthorized"),
        (answer(401, &[("WWW-Authenticate", "Negotiate")], "who?"), 401, "unauthorized"),
        (answer(403, &[], "no"), 403, "forbidden_scope"),
        (answer(500, &[], "secret trace"), 502, "upstream_failed"),
        (Behaviour::CloseBeforeAnswer, 502, "upstream_failed"),
        (answer(200, &[("X-Auth-Subject", "")], ""), 502, "upstream_failed"),
        (answer(401, &[], &"x".repeat(100_000)), 502, "upstream_failed"),
    ] {
        let before = site.limiter.status().refused.get(label).copied().unwrap_or(0);
        other.by_default(behaviour);
        let response = site.get("/", &[]);
        assert_eq!(response.status, status, "{response:?}");
        site.refused(label, before + 1);
        match status {
            302 => {
                assert_eq!(response.header("location"), Some("https://id.test/login"));
                assert_eq!(response.header("set-cookie"), Some("state=1"));
                assert_eq!(response.header("x-inside"), None);
                assert_eq!(response.body, b"go");
            }
            401 => assert_eq!(response.header("www-authenticate"), Some("Negotiate")),
            502 => assert!(response.text().contains("\"status\":502"), "{response:?}"),
            _ => {}
        }
        assert!(response.header("x-request-id").is_some());
    }
    assert_eq!(site.origin.count(), 0, "nobody got through");
}

#[test]
fn scopes_are_those_of_the_answer() {
    let route = "auth = [\"other\"]\nscopes = [\"read\", \"write\"]\nlimits = \"none\"";
    let (site, other) = start(route, "");
    let status = |scopes: &str| {
        other.by_default(answer(204, &[("X-Auth-Subject", "dave"), ("X-Auth-Scopes", scopes)], ""));
        site.get("/", &[])
    };
    assert_eq!(status("write admin read").status, 200);
    let refused = status("read");
    assert_eq!(refused.status, 403);
    let challenge = refused.header("www-authenticate").unwrap_or_default();
    assert!(
        challenge.contains("error=\"insufficient_scope\", scope=\"read write\""),
        "{challenge}"
    );
    other.by_default(answer(204, &[], ""));
    assert_eq!(site.get("/", &[]).status, 403, "nobody in particular may nothing");
    assert_eq!(site.origin.count(), 1);
    let upstream = site.origin.take_one(SOON);
    assert_eq!(upstream.header("x-auth-scopes").as_deref(), Some("write admin read"));
}

/// A server that stalls holds nobody else up, and its question is not asked twice.
#[test]
fn a_server_that_does_not_answer_lets_nobody_in() {
    let route = "auth = [\"other\"]\nlimits = \"none\"";
    let mut site = Site::prepare("timeouts = { upstream = \"1s\" }", route, "");
    let other = Origin::start(&site.namespace);
    let section = format!("[auth.other]\nkind = \"forward\"\nurl = \"{}/\"\n", other.url());
    let http = "timeouts = { upstream = \"1s\" }";
    site.limiter.configure(&crate::support::configuration(&site.origin, http, route, &section));
    site.limiter.restart();
    other.by_default(Behaviour::Stall);
    assert_eq!(site.get("/", &[]).status, 504);
    assert_eq!((other.count(), site.origin.count()), (1, 0));
}

fn write_secret(site: &Site, name: &str, secret: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = site.limiter.scratch().write(name, secret);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// What is hidden from the upstream, or replaced for it, is what the other server decides by.
#[test]
fn what_nobody_here_knows_is_shown_to_it() {
    let route = "auth = [\"tokens\", \"other\"]\nlimits = \"none\"";
    let mut site = Site::prepare("", route, "");
    write_secret(&site, "secret", "a-secret-of-thirty-two-bytes-or-more");
    let other = Origin::start(&site.namespace);
    let section = format!(
        "[auth.tokens]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\n\
         secret = {{ file = \"secret\" }}\nhide_credentials = true\n\
         [auth.other]\nkind = \"forward\"\nurl = \"{}/\"\n\
         copy_headers = [\"Authorization\", \"Remote-Groups\"]\n",
        other.url()
    );
    site.limiter.configure(&crate::support::configuration(&site.origin, "", route, &section));
    site.limiter.restart();
    let named = [("X-Auth-Subject", "carol"), ("Authorization", "Basic aW5zaWRl")];
    other.by_default(answer(200, &named, ""));
    let sent = [
        ("Authorization", "Bearer opaque"),
        ("Remote_Groups", "admin"),
        ("Remote-Groups", "admin"),
        ("Accept-Encoding", "gzip"),
    ];
    assert_eq!(site.get("/", &sent).status, 200);
    let asked = other.take_one(SOON);
    assert_eq!(asked.header("authorization").as_deref(), Some("Bearer opaque"));
    assert_eq!(asked.header("accept-encoding"), None, "its words may be the client's answer");
    let upstream = site.origin.take_one(SOON);
    assert_eq!(upstream.header("authorization").as_deref(), Some("Basic aW5zaWRl"));
    for request in [&asked, &upstream] {
        assert_eq!(request.header("remote-groups"), None);
        assert_eq!(request.header("remote_groups"), None, "however it is spelled");
    }
    assert_eq!(upstream.header("accept-encoding").as_deref(), Some("gzip"));

    let own = [("Authorization", "Bearer lk_of-ours")];
    site.get("/", &own);
    assert_eq!(other.take_one(SOON).header("authorization"), None, "a key of ours is not");

    other.by_default(answer(429, &[("Retry-After", "7")], "later"));
    let refused = site.get("/", &sent);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("7")));
}

#[test]
fn whom_it_names_is_nobody_that_is_known_here_by_that_name() {
    let route = "auth = [\"token\", \"other\"]\nlimits = [\"once\"]";
    let mut site = Site::prepare("", "", "");
    write_secret(&site, "token", "a-token-that-many-share");
    let other = Origin::start(&site.namespace);
    let section = format!(
        "[auth.token]\nkind = \"api_key\"\ntoken = {{ file = \"token\" }}\n\
         [auth.other]\nkind = \"forward\"\nurl = \"{}/\"\n\
         [limits.once]\nrate = \"1/365d\"\nkey = [\"principal\"]\n\
         [escalation]\nenabled = false\n",
        other.url()
    );
    site.limiter.configure(&crate::support::configuration(&site.origin, "", route, &section));
    site.limiter.restart();
    other.by_default(answer(200, &[("X-Auth-Subject", "shared-token")], ""));
    assert_eq!(site.get("/", &[]).status, 200);
    assert_eq!(site.get("/", &[]).status, 429);
    assert_eq!(site.get("/", &[("X-API-Key", "a-token-that-many-share")]).status, 200);
}
