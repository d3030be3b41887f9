//! Clients that leave before their answer: their place among the requests under way comes back as
//! soon as it is known, and whoever only has nothing more to say gets the answer.

use std::time::Duration;

use limiter_tests::{
    http::{self, Connection},
    origin::Behaviour,
    wait::{Deadline, eventually},
};

use crate::support::{SOON, Site};

const PUBLIC: &str = "auth = \"none\"\nlimits = [\"few\"]";
const FEW: &str = "[limits.few]\nconcurrent = 1\n";

/// The origin takes longer than any test waits for a place.
const SLOW: Duration = Duration::from_secs(20);

/// A look at the socket every 100 ms, and slow machines.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);

fn site(delay: Duration) -> Site {
    let site = Site::start("", PUBLIC, FEW);
    site.origin.on("/slow", Behaviour::Delayed(delay, Box::new(Behaviour::ok("late"))));
    site
}

/// Sends this, and waits until a request of it is under way.
fn under_way(site: &Site, bytes: &[u8]) -> Connection {
    let before = site.origin.count();
    let mut connection = site.connect();
    connection.send(bytes).unwrap();
    eventually(SOON, "it is under way", || site.origin.count() > before);
    assert_eq!(site.get("/", &[]).status, 429);
    connection
}

fn slow() -> Vec<u8> {
    http::request("GET", "/slow", &[], b"")
}

#[test]
fn who_leaves_gives_the_place_back_at_once() {
    let site = site(SLOW);
    let two = [slow(), http::request("GET", "/next", &[], b"")].concat();
    // More than is read before the first is answered.
    let many =
        [slow(), http::request("POST", "/next", &[], &"x".repeat(40_000).into_bytes())].concat();
    for (what, bytes) in [("closes", slow()), ("pipelines and closes", two), ("sends more", many)] {
        let connection = under_way(&site, &bytes);
        let since = Deadline::after(SOON);
        drop(connection);
        eventually(SOON, "there is room again", || site.get("/", &[]).status == 200);
        assert!(since.elapsed() < KNOWN_WITHIN, "who {what}: {:?}", since.elapsed());
    }
    assert!(site.origin.requests().iter().all(|request| request.target() != "/next"));
}

#[test]
fn who_has_said_everything_gets_the_answer() {
    let site = site(Duration::from_secs(2));
    let mut connection = under_way(&site, &slow());
    connection.finish();
    assert_eq!(site.get("/", &[]).status, 429, "it keeps its place");
    let said = String::from_utf8(connection.read_to_end().unwrap()).unwrap();
    let interim = "HTTP/1.1 100 Continue\r\n\r\n";
    assert!(said.starts_with(&format!("{interim}HTTP/1.1 200 ")), "{said}");
    assert_eq!(said.matches(interim).count(), 1);
    assert!(said.ends_with("late"));

    // Two of them, one after the other.
    let two = [slow(), http::request("GET", "/next", &[], b"")].concat();
    let mut connection = under_way(&site, &two);
    connection.finish();
    let said = String::from_utf8(connection.read_to_end().unwrap()).unwrap();
    assert_eq!(said.matches("HTTP/1.1 200 ").count(), 2, "{said}");

    // Clients of HTTP/1.0 know no interim answers.
    let mut connection = under_way(&site, b"GET /slow HTTP/1.0\r\nHost: x\r\n\r\n");
    connection.finish();
    let said = String::from_utf8(connection.read_to_end().unwrap()).unwrap();
    assert!(said.starts_with("HTTP/1.0 200 ") && said.ends_with("late"), "{said}");
}
