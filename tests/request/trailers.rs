//! What is taken off a client's head is taken off its trailers too, however it is spelled: some
//! servers read both as one.

use limiter_tests::{
    http,
    origin::{Behaviour, Origin},
};

use crate::support::{SOON, Site};

const TOKEN: &str = "an-example-token-of-some-length";

/// What is not the client's to say on the route, each in a spelling.
const NOT_THEIRS: [(&str, &str); 13] = [
    ("X-Api-Key", TOKEN),
    ("x_api_key", TOKEN),
    ("Remote-Groups", "forged"),
    ("remote_groups", "forged"),
    ("X-Edge", "forged"),
    ("x_edge", "forged"),
    ("X-Internal", "forged"),
    ("x_internal", "forged"),
    ("X-Auth-Subject", "forged"),
    ("x_auth-tier", "forged"),
    ("X-Auth-Scopes", "forged"),
    ("x_forwarded_for", "forged"),
    ("x_signature", "forged"),
];

fn start() -> Site {
    let mut site = Site::prepare("", "auth = \"none\"\nlimits = \"none\"", "");
    let other = Origin::start(&site.namespace);
    let named = vec![("X-Auth-Subject".to_owned(), "carol".to_owned())];
    other.by_default(Behaviour::Answer(200, named, Vec::new()));
    let route = "auth = [\"keys\", \"partner\", \"other\"]\nlimits = \"none\"\n\
                 request_headers = { remove = [\"x-internal\"], set = { x-edge = \"limiter\" } }";
    let sections = format!(
        "[auth.keys]\nkind = \"api_key\"\ntoken = {{ env = \"TEST_TOKEN\" }}\n\
         [auth.partner]\nkind = \"hmac\"\nsecrets = {{ partner = {{ env = \"TEST_TOKEN\" }} }}\n\
         [auth.other]\nkind = \"forward\"\nurl = \"{}/\"\ncopy_headers = [\"Remote-Groups\"]\n\
         [escalation]\nenabled = false\n",
        other.url()
    );
    site.limiter.configure(&crate::support::configuration(&site.origin, "", route, &sections));
    site.limiter.environment("TEST_TOKEN", TOKEN);
    site.limiter.restart();
    site
}

#[test]
fn trailers_are_rid_of_what_the_head_is_rid_of() {
    let site = start();
    let names: Vec<&str> = NOT_THEIRS.iter().map(|(name, _)| *name).collect();
    let announced = format!("{}, X-Checksum, x_other", names.join(", "));
    let fields = [("X-API-Key", TOKEN), ("Transfer-Encoding", "chunked"), ("Trailer", &*announced)];
    let mut request = http::request("POST", "/", &fields, b"");
    request.extend(b"2\r\nhi\r\n0\r\n");
    for (name, value) in NOT_THEIRS.iter().chain(&[("X-Checksum", "1"), ("x_other", "2")]) {
        request.extend(format!("{name}: {value}\r\n").as_bytes());
    }
    request.extend(b"\r\n");
    assert_eq!(site.send(&request).status, 200);
    let seen = site.origin.take_one(SOON);
    let body = seen.raw_body.escape_ascii().to_string();
    assert!(body.contains("x-checksum: 1") && body.contains("x_other: 2"), "{body}");
    assert!(!body.contains("forged") && !body.contains(TOKEN), "{body}");
    assert_eq!(seen.body, b"hi");
}

#[test]
fn the_head_is_rid_of_it_in_any_spelling() {
    let site = start();
    let fields = NOT_THEIRS.map(|(name, value)| match name {
        // Looked at, and judged.
        "X-Api-Key" => ("X-Api-Key", TOKEN),
        // The upstream may check it too.
        "x_signature" => ("x_other", "2"),
        _ => (name, value),
    });
    assert_eq!(site.get("/", &fields).status, 200);
    let seen = site.origin.take_one(SOON);
    let head = seen.head.escape_ascii().to_string();
    assert!(!head.contains("forged") && !head.contains(TOKEN), "{head}");
    assert_eq!(seen.header("x-edge").as_deref(), Some("limiter"));
    assert_eq!(seen.header("x-auth-subject").as_deref(), Some("shared-token"));
    assert!(head.contains("x_other: 2"), "{head}");
}
