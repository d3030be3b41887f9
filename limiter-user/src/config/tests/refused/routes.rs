//! Routes, what they name, and `[http]`: every way to be wrong.

use super::{super::API, check};

/// Documents that end in what is wrong with them, after a route `/` with `auth = "none"` to which the first lines still belong.
const AFTER_ROUTE: &[(&str, &str)] = &[
    ("upstream = \"apj\"", "http.route[0].upstream: there is no upstream named \"apj\""),
    ("upstream = \"apj\"", "did you mean \"api\"?"),
    ("limits = [\"x\"]", "http.route[0].limits[0]: there is no [limits.x]"),
    ("cors = \"x\"", "define [cors.x]"),
    ("headers = \"x\"", "http.route[0].headers: there is no [headers.x]"),
    ("scopes = [\"read\"]", "lets in who presents nothing, and has no scopes"),
    ("glob = \"/a**\"", "`**` stands for whole segments"),
    ("glob = \"/**/a/**\"", "once in a pattern"),
    ("glob = \"a*\"", "expected a path such as"),
    ("path = \"/a*\"", "`glob` has wildcards"),
    ("path = \"/a\"\nglob = \"/b*\"", "either `path` or `exact` or `glob`"),
    (
        "methods = [\"GET\"]\n[[http.route]]\nglob = \"/**\"\nmethods = [\"GET\", \"PUT\"]\nauth = \"none\"",
        "another route matches some of the same requests",
    ),
    ("validate = \"x\"", "http.route[0].validate: not supported"),
    ("detect = \"default\"", "\"default\" is not supported by this version (supported: \"off\")"),
    ("request_headers = { set = { host = \"a\", Host = \"b\" } }", "host is set twice"),
    ("request_headers = { remove = [\"host\"] }", "not complete without its Host"),
    ("request_headers = { remove = [\"Connection\"] }", "says how a message is framed"),
    ("request_headers = { set = { X-Auth-Subject = \"a\" } }", "written by the proxy itself"),
    ("response_headers = { set = { X-A = \"a\\nb\" } }", "printable ASCII"),
    ("response_headers = { remove = [\"x request\"] }", "is not a header name"),
    ("response_headers = { add = [] }", "unknown key `add`"),
    ("strip_prefix = \"/a\"", "not every path of the route begins with /a"),
    ("path = \"/ab\"\nstrip_prefix = \"/a\"", "not every path"),
    ("glob = \"/a/b*\"\nstrip_prefix = \"/a/b\"", "not every path"),
    ("path = \"/a\"\nstrip_prefix = \"/\"", "takes nothing off"),
    ("deprecated = { gone = true }", "http.route[0].deprecated: not supported"),
    ("host = \"*.10.0.0.1\"", "for all below"),
    ("host = \"a.*.com\"", "for all below"),
    ("host = \"a:80\"", "without port"),
    ("path = \"api\"", "expected a path such as"),
    ("path = \"/a/../b\"", "no empty, `.` or `..`"),
    ("path = \"/a\"\nexact = \"/a\"", "either `path` or `exact` or `glob`"),
    ("methods = [\"get\"]", "written in upper case"),
    ("methods = []", "admits no method"),
    ("allow = [\"10.0.0.1/8\"]", "http.route[0].allow[0]"),
    ("[[http.route]]\npath = \"/a\"", "http.route[1]: the route does not say who may call"),
    ("[[http.route]]\npath = \"/a\"\nauth = [\"keys\"]", "define [auth.keys]"),
    ("[[http.route]]\npath = \"/a\"\nauth = []", "names no scheme"),
    ("[[http.route]]\npath = \"/a\"\nauth = [\"none\", \"x\"]", "define [auth.x]"),
    (
        "[[http.route]]\npath = \"/a\"\nauth = [\"x\", \"none\"]\n\
         [auth.x]\nkind = \"forward\"\nurl = \"http://127.0.0.1:1/\"",
        "\"none\" cannot stand beside \"x\": its server says who is let in",
    ),
    (
        "[[http.upstream]]\nname = \"api\"\nservers = [\"http://b\"]",
        "two upstreams are named \"api\"",
    ),
    ("[[http.upstream]]\nname = \"b\"\nservers = []", "names no server"),
    (
        "[[http.upstream]]\nname = \"b\"\nservers = [\"http://a\", \"http://A:80/\"]",
        "http://a:80 is named twice",
    ),
    ("[[http.upstream]]\nname = \"b\"\nservers = [\"unix:///a\"]", "unix:// is not supported"),
    ("[[http.upstream]]\nname = \"b\"\nservers = [\"ftp://a\"]", "https:// or h2c://"),
    (
        "[[http.upstream]]\nname = \"b\"\nservers = [\"http://a\"]\nca = \"a.pem\"",
        "no server of this upstream is https://",
    ),
    (
        "[[http.upstream]]\nname = \"b\"\nservers = [\"https://a\"]\nca = \"/dev/null\"",
        "holds no certificate of an authority",
    ),
    ("[[http.upstream]]\nname = \"b\"\nservers = [\"http://a/x\"]", "has no path"),
    (
        "[[http.upstream]]\nname = \"b\"\nservers = [\"http://a\"]\nhealth = { path = \"x\" }",
        "expected a path",
    ),
    (
        "[[http.upstream]]\nname = \"b\"\nservers = [\"http://a\"]\nbreaker = { failures = 0 }",
        "0 is not between 1 and 1000000",
    ),
    (
        "[[http.upstream]]\nname = \"b\"\nservers = [\"http://a\"]\nretries = 11",
        "11 is not between 0 and 10",
    ),
    ("[[http.listener]]\naddress = \"unix:\"", "has 1 to 96 bytes"),
    ("[[http.listener]]\naddress = \"systemd:a b\"", "expected the socket's FileDescriptorName="),
    ("[[http.listener]]\naddress = \"8080\"", "expected ADDRESS:PORT"),
    (
        "[[http.listener]]\naddress = \"127.0.0.1:1\"\ntls = {}",
        "http.listener[0].tls: TLS needs a certificate",
    ),
    (
        "[[http.listener]]\naddress = \"127.0.0.1:1\"\nproxy_protocol = true",
        "http.listener[0].proxy_protocol: what its header says would be used for nothing",
    ),
    (
        "[[http.listener]]\naddress = \"127.0.0.1:1\"\nredirect_https = true",
        "there is nothing to redirect to",
    ),
    (
        "[[http.listener]]\naddress = \"127.0.0.1:1\"\n[[http.listener]]\naddress = \"127.0.0.1:1\"",
        "http.listener[1].address: 127.0.0.1:1 is named twice",
    ),
    ("[limits.a]", "`rate` is missing"),
    ("[limits.a]\nrate = \"1/s\"\nalgorithm = \"gcra\"", "\"gcra\""),
    ("[limits.a]\nburst = 5\nconcurrent = 5", "there is no `rate`"),
    ("[limits.a]\ncost = 5\nconcurrent = 5", "limits.a.cost: there is no `rate`"),
    ("[limits.a]\ncount = \"failures\"\nconcurrent = 5", "limits.a.count: there is no `rate`"),
    ("[limits.a]\nconcurrent = 0", "limits.a.concurrent"),
    (
        "limits = [\"a\", \"a\"]\n[limits.a]\nrate = \"1/s\"",
        "http.route[0].limits[1]: is there twice",
    ),
    ("limits = [\"none\", \"a\"]\n[limits.a]\nrate = \"1/s\"", "\"none\" stands alone"),
    ("[limits.a]\nrate = \"1/s\"\ntiers = { a = \"1/s\" }", "either `rate` or `tiers`"),
    ("[limits.a]\nburst = 5\ntiers = {}", "either `burst` or `tiers`"),
    ("[limits.a]\ntiers = { premium = \"fast\" }", "limits.a.tiers.premium"),
    ("[limits.a]\ntiers = { \"a b\" = \"1/s\" }", "a name has 1 to 64"),
    (
        "[limits.a]\nalgorithm = \"fixed_window\"\ntiers = { internal = \"2000000/h\" }",
        "at most 1000000",
    ),
    ("[limits.a]\ntiers = { premium = \"5/h\" }\ncost = 6", "never passes a limit of 5"),
    ("[limits.a]\nrate = \"1/s\"\nkey = [\"colour\"]", "expected \"client\", \"principal\""),
    ("[limits.a]\nrate = \"1/s\"\nkey = [\"header:a b\"]", "is not a header name"),
    ("[limits.a]\nrate = \"1/s\"\nkey = []", "counts by nothing"),
    ("[limits.a]\nrate = \"1/s\"\nkey = [\"client\", \"route\", \"client\"]", "is there twice"),
    (
        "[limits.a]\nrate = \"1/s\"\n\
         key = [\"client\", \"route\", \"principal\", \"header:a\", \"header:b\"]",
        "at most 4 parts",
    ),
    ("[limits.a]\nrate = \"1/s\"\ncount = \"errors\"", "\"errors\""),
    ("[limits.a]\nrate = \"1/s\"\ncost = 2", "never passes a limit of 1"),
    (
        "[limits.a]\nrate = \"3/s\"\nburst = 10\ncost = 5\nalgorithm = \"leaky_bucket\"\n\
         max_delay = \"1s\"",
        "`max_delay` is too short",
    ),
    ("[limits.a]\nrate = \"1/s\"\ncost = 0", "limits.a.cost"),
    ("[limits.a]\nrate = \"1/s\"\nmax_delay = \"1s\"", "only in a leaky_bucket"),
    (
        "[limits.a]\nrate = \"1/s\"\nalgorithm = \"leaky_bucket\"\nmax_delay = \"61s\"",
        "waits at most 60s",
    ),
    (
        "[limits.a]\nrate = \"1/s\"\nalgorithm = \"leaky_bucket\"\nmax_delay = \"1s\"\n\
         count = \"failures\"",
        "count = \"all\"",
    ),
    ("limits = \"a\"\ncost = 3\n[limits.a]\nrate = \"2/s\"", "never passes a limit of 2"),
    ("cost = 3", "the route has no limits"),
    ("[[http.route]]\npath = \"/a\"\nauth = [\"keys\", \"keys\"]", "\"keys\" is there twice"),
    ("[agent]\nuser = \"root\"", "never runs as root"),
    ("[limits.a]\nrate = \"2000000/s\"\nalgorithm = \"sliding_window\"", "at most 1000000"),
    (
        "[limits.a]\nrate = \"10/s\"\nalgorithm = \"fixed_window\"\nburst = 20",
        "only a bucket has a burst",
    ),
    ("[limits.a]\nrate = \"1/365d\"\nburst = 2", "within 365 days"),
    ("[limits.none]\nrate = \"1/s\"", "choose another name"),
    ("[auth.a]\nheader = \"x\"", "`kind` is missing"),
    ("[auth.a]\nkind = \"magic\"", "\"magic\" is not one of \"api_key\""),
    ("[auth.a]\nkind = \"jwt\"", "auth.a: `issuer` is missing"),
    ("[auth.a]\nkind = \"jwt\"\nissuer = \"\"\naudience = \"a\"", "auth.a.issuer: no token"),
    ("[auth.a]\nkind = \"jwt\"\nissuer = \"i\"", "auth.a: `audience` is missing"),
    ("[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = []", "auth.a: `audience` is missing"),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"",
        "exactly one of `jwks_url`, `jwks_file`, `public_key` and `secret` is needed",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\npublic_key = \"k\"\njwks_file = \"f\"",
        "exactly one of",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\njwks_url = \"http://id.test/\"",
        "http:// is for this host only",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\nsecret = \"s\"",
        "a secret is never written here",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\npublic_key = \"k\"\nalgorithms = [\"HS256\"]",
        "with public keys it is one of RS256,",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\nsecret = { env = \"S\" }\nalgorithms = [\"RS256\"]",
        "with a shared secret it is one of HS256, HS384, HS512",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\npublic_key = \"k\"\nalgorithms = [\"none\"]",
        "\"none\" cannot be used",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\npublic_key = \"k\"\nalgorithms = []",
        "an empty list accepts no token",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\npublic_key = \"k\"\ntolerance = \"1h\"",
        "at most 5m",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\npublic_key = \"missing.pem\"",
        "missing.pem",
    ),
    (
        "[auth.a]\nkind = \"jwt\"\nissuer = \"i\"\naudience = \"a\"\npublic_key = \"k\"\nca = \"ca.pem\"",
        "`ca` is for `jwks_url`",
    ),
    ("[auth.a]\nkind = \"jwt\"\nkeys_file = \"k\"", "`keys_file` belongs to kind \"api_key\""),
    ("[auth.a]\nkind = \"forward\"", "auth.a: `url` is missing"),
    (
        "[auth.a]\nkind = \"forward\"\nurl = \"http://user:secret@127.0.0.1/\"",
        "auth.a.url: a URL holds no user or password",
    ),
    (
        "[auth.a]\nkind = \"forward\"\nurl = \"http://127.0.0.1/\"\ncopy_headers = [\"Host\"]",
        "this header means something else",
    ),
    (
        "[auth.a]\nkind = \"forward\"\nurl = \"http://127.0.0.1/\"\ncopy_headers = [\"X-Auth-Tier\"]",
        "gets this header of every principal anyway",
    ),
    (
        "[auth.a]\nkind = \"api_key\"\njwks_url = \"x\"",
        "`jwks_url` belongs to kind \"jwt\", not \"api_key\"",
    ),
    ("[auth.a]\nkind = \"api_key\"", "neither `keys_file` nor `token`"),
    (
        "[auth.a]\nkind = \"api_key\"\nheader = \"Authorization\"\ntoken = { env = \"T\" }",
        "is read anyway",
    ),
    (
        "[auth.a]\nkind = \"api_key\"\nheader = \"X-Auth-Token\"\ntoken = { env = \"T\" }",
        "says who a request speaks for",
    ),
    (
        "[auth.a]\nkind = \"api_key\"\nheader = \"Content-Type\"\ntoken = { env = \"T\" }",
        "this header means something else",
    ),
    (
        "[auth.a]\nkind = \"forward\"\nurl = \"http://127.0.0.1/\"\nsubject_header = \"Content-Type\"",
        "this header means something else",
    ),
    ("[auth.a]\nkind = \"api_key\"\ntoken = { env = \"T\" }", "\"T\" is not set"),
    ("[auth.a]\nkind = \"api_key\"\ntoken = { env = \"T\", file = \"t\" }", "exactly one source"),
    ("[auth.a]\nkind = \"api_key\"\ntoken = { file = \"missing\" }", "cannot open"),
    ("[cors.a]\ncredentials = true", "`origins` is missing"),
    ("[cors.a]\norigins = [\"*\"]\ncredentials = true", "\"*\" with credentials"),
    ("[cors.a]\norigins = [\"*\", \"https://a.b\"]", "\"*\" stands alone"),
    ("[cors.a]\norigins = [\"a.b\"]", "expected an origin"),
    ("[cors.a]\norigins = [\"null\"]", "expected an origin"),
    ("[headers.a]\ncsp_report_path = \"/x\"", "headers.a.csp_report_path: not supported"),
    ("[headers.a]\npreset = \"x\"", "\"x\" is not one of \"json-api\", \"web-app\""),
    ("[headers.a]\ncsp = \"a\\nb\"", "printable ASCII"),
    ("[headers.a]\nmode = \"monitor\"", "\"monitor\" is not supported"),
];

#[test]
fn routes_and_what_they_name() {
    let mut failures = String::new();
    for (text, expected) in AFTER_ROUTE {
        check(&format!("{API}{text}\n"), expected, &mut failures);
    }
    for (key, expected) in [
        ("access_log = \"xml\"", "\"xml\" is not one of \"off\", \"json\", \"combined\""),
        ("access_log = { path = \"x\" }", "`format` is missing"),
        ("access_log = { format = \"json\", rotate = { size = \"1B\" } }", "at least 4096 bytes"),
        ("access_log = { kind = \"json\" }", "unknown key `kind`"),
        ("access_log = true", "\"off\", \"json\", \"combined\", or {"),
        ("client_address = \"proxy\"", "no listener expects the PROXY protocol"),
        ("client_address = \"x-forwarded-for\"", "`trusted_proxies` is empty"),
        ("max_inspected_body = \"1GB\"", "between 1B and 16MiB"),
        ("min_body_rate = \"256/s\"", "expected a rate of bytes"),
        ("max_requests = 0", "0 is not between 1 and 1000000"),
        ("max_body = 2000", "expected a string"),
        ("max_header_bytes = \"1GB\"", "between 1KiB and 1MiB"),
        ("max_headers = 0", "0 is not between 1 and 1000"),
        ("timeouts = { header = \"0s\" }", "must be longer than 0"),
        ("timeouts = { handshake = \"0s\" }", "must be longer than 0"),
    ] {
        check(&format!("[http]\n{key}\n{API}"), expected, &mut failures);
    }
    assert!(failures.is_empty(), "{failures}");
}
