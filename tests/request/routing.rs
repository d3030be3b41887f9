//! Which route a request takes, and what a route changes of it.

use limiter_tests::{http, origin::Behaviour};

use crate::support::{OPEN, SOON, Site};

/// A further route that marks what it lets through.
fn marked(mark: &str, more: &str) -> String {
    format!(
        "[[http.route]]\nauth = \"none\"\nlimits = \"none\"\n{more}\n\
         request_headers = {{ set = {{ x-route = \"{mark}\" }} }}\n"
    )
}

#[test]
fn the_most_specific_route_decides_and_explain_agrees() {
    let sections = [
        marked("any-api", "path = \"/api\""),
        marked("exact", "exact = \"/api/x\""),
        marked("glob", "glob = \"/api/*/items\""),
        marked("deep", "glob = \"/**/*.pdf\""),
        marked("wild", "host = \"*.example.com\"\npath = \"/api\""),
        marked("host", "host = \"a.example.com\"\npath = \"/api/v1\""),
        marked("posts", "path = \"/form\"\nmethods = [\"POST\", \"GET\"]"),
        marked("heads", "path = \"/form\"\nmethods = [\"HEAD\"]"),
    ]
    .concat();
    let site = Site::start("", OPEN, &sections);
    for (method, host, target, expected) in [
        ("GET", "test", "/", ""),
        ("GET", "test", "/apix", ""),
        ("GET", "test", "/api", "any-api"),
        ("GET", "test", "/api/x", "exact"),
        ("GET", "test", "/api/x/", "any-api"),
        ("GET", "test", "/api/1/items?q=1", "glob"),
        ("GET", "test", "/%61pi/1/items", "glob"),
        ("GET", "test", "/other/a.pdf", "deep"),
        ("GET", "test", "/api/a.pdf", "any-api"),
        ("GET", "b.EXAMPLE.com:80", "/api/x", "wild"),
        ("GET", "b.a.example.com.", "/api/x", "wild"),
        ("GET", "example.com", "/api/x", "exact"),
        ("GET", "a.example.com", "/api/v1/x", "host"),
        ("GET", "a.example.com", "/api/v2", "wild"),
        ("GET", "a.example.com", "/", ""),
        ("POST", "test", "/form", "posts"),
        ("HEAD", "test", "/form", "heads"),
    ] {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let mut connection = site.connect();
        connection.send(bytes.as_bytes()).unwrap();
        let seen = site.origin.take_one(SOON);
        assert_eq!(seen.header("x-route").unwrap_or_default(), expected, "{host} {target}");
        let request = format!("{method} {target}");
        let header = format!("Host: {host}");
        let explain = ["explain", "--source", "127.0.0.1", "--request", &request, "-H", &header];
        let told = site.limiter.cli(&explain).succeeded().stdout;
        if !expected.is_empty() {
            let line = told.lines().find(|line| line.contains("route ")).unwrap_or_default();
            let name = match expected {
                "any-api" => "/api",
                "exact" => "/api/x",
                "glob" => "/api/*/items",
                "deep" => "/**/*.pdf",
                "wild" => "*.example.com/api",
                "host" => "a.example.com/api/v1",
                _ => "/form",
            };
            assert!(line.trim_end().ends_with(&format!("route {name}")), "{told}");
        }
    }
    let put = site.send(&http::request("PUT", "/form", &[], b""));
    assert_eq!((put.status, put.header("allow")), (405, Some("GET, HEAD, POST")));
    // What a lenient upstream would read as another route's path is refused.
    for target in ["/api%2fx", "/api;a/x", "/x;/y.pdf;z"] {
        assert_eq!(site.get(target, &[]).status, 400, "{target}");
    }
}

#[test]
fn a_request_that_no_route_wants_is_not_found() {
    let site = Site::start("", &format!("{OPEN}\nhost = \"*.example.com\""), "");
    let ask =
        |host: &str| site.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).status;
    assert_eq!(ask("a.example.com"), 200);
    for host in ["example.com", "aexample.com", "example.com.evil.test"] {
        assert_eq!(ask(host), 404, "{host}");
    }
    site.refused("not_found", 3);
    assert_eq!(ask(".example.com"), 400, "is no name");
}

#[test]
fn a_route_edits_headers_and_takes_its_prefix_off() {
    let route = format!(
        "{OPEN}\npath = \"/api\"\nstrip_prefix = \"/api\"\n\
         request_headers = {{ remove = [\"X-Internal\", \"Cookie\"], set = {{ X-Edge = \"limiter\", Accept = \"text/plain\" }} }}\n\
         response_headers = {{ remove = [\"Server\"], set = {{ Cache-Control = \"no-cache\" }} }}"
    );
    let site = Site::start("", &route, "");
    let fields = [("Server", "x"), ("Cache-Control", "public"), ("X-Own", "kept")];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    site.origin.by_default(Behaviour::Answer(200, fields, b"x".to_vec()));
    for (sent, expected) in [
        ("/api", "/"),
        ("/api?x=/api", "/?x=/api"),
        ("/api/", "/"),
        ("/api/a/b?c", "/a/b?c"),
        ("/api//a", "/a"),
        ("/api/api", "/api"),
    ] {
        let headers =
            [("X-Internal", "1"), ("Cookie", "a=b"), ("Accept", "*/*"), ("X-Edge", "forged")];
        let answer = site.get(sent, &headers);
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(answer.header("server"), None);
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
        assert_eq!(answer.header("x-own"), Some("kept"));
        let seen = site.origin.take_one(SOON);
        assert_eq!(seen.target(), expected, "{sent}");
        assert_eq!((seen.header("x-internal"), seen.header("cookie")), (None, None));
        assert_eq!(seen.header("x-edge").as_deref(), Some("limiter"));
        assert_eq!(seen.header("accept").as_deref(), Some("text/plain"));
    }
    assert_eq!(site.get("/apix", &[]).status, 404);
}

#[test]
fn well_formed_traces_are_passed_on() {
    let site = Site::start("", OPEN, "");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let state = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7";
    let seen = |fields: &[(&str, &str)]| {
        assert_eq!(site.get("/", fields).status, 200);
        let seen = site.origin.take_one(SOON);
        (seen.header("traceparent"), seen.header("tracestate"))
    };
    let (kept, kept_state) = (Some(parent.to_owned()), Some(state.to_owned()));
    assert_eq!(seen(&[("traceparent", parent), ("tracestate", state)]), (kept.clone(), kept_state));
    assert_eq!(seen(&[("traceparent", parent), ("tracestate", "=")]), (kept, None));
    assert_eq!(seen(&[("traceparent", "00-x"), ("tracestate", state)]), (None, None));
    assert_eq!(seen(&[("traceparent", parent), ("traceparent", parent)]), (None, None));
}
