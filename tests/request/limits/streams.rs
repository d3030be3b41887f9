//! Limits over HTTP/2: many streams of one connection at once, and streams that are taken back.

use std::time::Duration;

use limiter_tests::{origin::Behaviour, wait::eventually};

use crate::{
    edge::Edge,
    support::{SOON, Site},
};

#[track_caller]
fn scene(site: &Site, name: &str) {
    let said = Edge::python_peer(&site.namespace, &site.limiter, "h2_limits.py", &[name]);
    let said = said.succeeded().stdout;
    assert!(said.ends_with("as it should\n"), "{said}");
}

fn site(limit: &str) -> Site {
    let route = "path = \"/free\"\nauth = \"none\"\nlimits = \"none\"\n\
                 [[http.route]]\nauth = \"none\"\nlimits = [\"a\"]";
    Site::start("", route, &format!("[limits.a]\n{limit}\n[escalation]\nmode = \"monitor\"\n"))
}

#[test]
fn streams_of_one_connection_are_counted_exactly() {
    for algorithm in ["token_bucket", "leaky_bucket", "sliding_window", "fixed_window"] {
        let site = site(&format!("algorithm = \"{algorithm}\"\nrate = \"10/24h\""));
        scene(&site, "counted");
        assert_eq!(site.origin.count(), 15, "{algorithm}");
        eventually(SOON, "30 and 3 refusals", || {
            let refused = site.limiter.status().refused;
            let labels = ["rate_limited", "rate_limited_far"];
            labels.iter().filter_map(|label| refused.get(*label)).sum::<u64>() == 33
        });
    }
}

#[test]
fn a_stream_that_is_taken_back_gives_its_place_back() {
    let site = site("concurrent = 2");
    site.origin.on("/stall", Behaviour::Stall);
    site.origin.on("/echo", Behaviour::Echo);
    let parts = vec![vec![b'x'; 10]; 200];
    site.origin.on("/slowly", Behaviour::Chunked(parts, Duration::from_millis(100)));
    scene(&site, "places");
    // Its connection ended with two under way.
    eventually(SOON, "there is room again", || site.get("/", &[]).status == 200);
}
