//! The access log: one line for each request, in both forms, through rotation and SIGHUP.

use std::{fs, path::PathBuf};

use limiter_tests::{http, origin::Behaviour, wait::eventually};
use nix::sys::signal::Signal;

use crate::support::{OPEN, SOON, Site};

fn path(site: &Site, name: &str) -> PathBuf {
    site.limiter.directory().join(name)
}

fn lines(site: &Site, name: &str) -> Vec<String> {
    let text = fs::read_to_string(path(site, name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn every_request_is_one_line_of_json_and_nothing_secret() {
    let log = "access_log = { format = \"json\", path = \"access.log\" }\nmax_body = \"10B\"";
    let site = Site::start(log, OPEN, "");
    site.origin.by_default(Behaviour::Answer(200, Vec::new(), b"hello".to_vec()));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let fields = [
        ("User-Agent", "agent\"\\ \u{e9}"),
        ("Referer", "https://x.test/page?token=hidden"),
        ("traceparent", parent),
        ("X-Request-Id", "request-one"),
    ];
    assert_eq!(site.get("/a/b?token=hidden", &fields).status, 200);
    assert_eq!(site.send(&http::request("POST", "/x", &[], b"eleven byte")).status, 413);
    // What cannot be read is an event only.
    assert_eq!(site.get("/%zz", &[]).status, 400);
    // The client goes before it is answered.
    site.origin.by_default(Behaviour::Stall);
    let mut gone = site.connect();
    gone.send(&http::request("GET", "/gone", &[], b"")).unwrap();
    eventually(SOON, "it is at the origin", || site.origin.count() == 2);
    drop(gone);
    // That shows late: it could have said everything.
    eventually(SOON * 3, "three lines", || lines(&site, "access.log").len() == 3);
    let documents: Vec<serde_json::Value> = lines(&site, "access.log")
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let of = |path: &str| documents.iter().find(|one| one["url.path"] == path).unwrap();
    let first = of("/a/b");
    for (name, value) in [
        ("client.ip", "127.0.0.1"),
        ("source.ip", "127.0.0.1"),
        ("http.request.method", "GET"),
        ("url.domain", "test"),
        ("http.version", "1.1"),
        ("http.request.id", "request-one"),
        ("http.request.referrer", "https://x.test/page"),
        ("user_agent.original", "agent\"\\ \u{c3}\u{a9}"),
        ("limiter.route", "/"),
        ("trace.id", "0af7651916cd43dd8448eb211c80319c"),
    ] {
        assert_eq!(first[name], value, "{first}");
    }
    assert_eq!(first["http.response.status_code"], 200);
    assert_eq!(first["http.response.body.bytes"], 5);
    assert!(first["event.duration"].as_u64().unwrap() > 0);
    assert_eq!(of("/x")["limiter.refusal"], "body_too_large");
    assert!(of("/gone").get("http.response.status_code").is_none());
    assert!(!lines(&site, "access.log").concat().contains("hidden"));
    // How long requests took is a metric too.
    let line = "limiter_request_duration_seconds_count{route=\"/\"} 3";
    eventually(SOON, "durations", || {
        let metrics = site.limiter.control("GET", "/metrics", b"").text();
        metrics.lines().any(|found| found == line)
    });
}

#[test]
fn a_log_is_switched_rotated_and_reopened_without_losing_a_line() {
    let log = |format: &str, rotate: &str| {
        format!("access_log = {{ format = \"{format}\", path = \"access.log\"{rotate} }}")
    };
    let site = Site::start("", OPEN, "");
    assert_eq!(site.get("/before", &[]).status, 200);
    site.reload(&log("combined", ""), OPEN, "");
    assert_eq!(site.get("/first?x", &[("User-Agent", "curl\"")]).status, 200);
    eventually(SOON, "a line", || lines(&site, "access.log").len() == 1);
    let line = lines(&site, "access.log").remove(0);
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.ends_with(" +0000] \"GET /first HTTP/1.1\" 200 6 \"-\" \"curl\\x22\""), "{line}");
    // logrotate: moved away, then a signal.
    fs::rename(path(&site, "access.log"), path(&site, "access.old")).unwrap();
    site.limiter.signal(Signal::SIGHUP);
    eventually(SOON, "it is there again", || path(&site, "access.log").exists());
    assert_eq!(site.get("/second", &[]).status, 200);
    eventually(SOON, "a line", || {
        lines(&site, "access.old").len() + lines(&site, "access.log").len() == 2
    });
    // By size; whatever file a line is in, it is there once.
    site.reload(&log("combined", ", rotate = { size = \"4096B\", keep = 50 }"), OPEN, "");
    let mut connection = site.connect();
    let bytes = http::request("GET", "/many", &[], b"");
    for round in 0..5 {
        for _ in 0..100 {
            assert_eq!(connection.exchange(&bytes).unwrap().status, 200);
        }
        let name = format!("access.log.{}", round + 1);
        eventually(SOON, &name, || path(&site, &name).exists());
    }
    let many = || -> usize {
        (0..60)
            .flat_map(|number| match number {
                0 => lines(&site, "access.log"),
                _ => lines(&site, &format!("access.log.{number}")),
            })
            .filter(|line| line.contains("GET /many HTTP/1.1\" 200 6 "))
            .count()
    };
    eventually(SOON, "every line", || many() == 500);
    assert_eq!(site.limiter.status().events_lost.get("access_log"), Some(&0));
    // Off again.
    site.reload("", OPEN, "");
    assert_eq!(site.get("/many", &[]).status, 200);
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(many(), 500);
}

#[test]
fn a_log_that_cannot_be_written_is_told_and_found_again() {
    let log = "access_log = { format = \"combined\", path = \"in/the/way/access.log\" }";
    let mut site = Site::prepare(log, OPEN, "");
    fs::write(path(&site, "in"), "a file").unwrap();
    site.limiter.restart();
    assert_eq!(site.get("/", &[]).status, 200, "requests are served all the same");
    eventually(SOON, "it is told", || {
        let status = site.limiter.status();
        status.degraded.iter().any(|line| line.contains("access log"))
            && status.events_lost.get("access_log") == Some(&1)
    });
    fs::remove_file(path(&site, "in")).unwrap();
    eventually(SOON, "it is over", || site.limiter.status().degraded.is_empty());
    assert_eq!(site.get("/", &[]).status, 200);
    eventually(SOON, "a line", || lines(&site, "in/the/way/access.log").len() == 1);
}
