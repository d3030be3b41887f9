//! The one stream: exact lines in every sink, and losses that are counted and slow nobody.

use std::{
    fs::{self, File},
    process::{Child, Stdio},
    time::Duration,
};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    origin::Origin,
    process::Limiter,
    raw::Port,
    wait::eventually,
    world::{CLIENTS, World},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::support::SOON;

/// `limiter events -f` with its output in a file of the test's directory.
struct Follower {
    child: Child,
    name: &'static str,
}

impl Follower {
    fn start(limiter: &Limiter, name: &'static str, arguments: &[&str]) -> Self {
        let output = File::create(limiter.directory().join(name)).unwrap();
        let mut command = limiter.cli_command(&[&["events", "-f"], arguments].concat());
        let child = command.stdin(Stdio::null()).stdout(output).spawn().unwrap();
        Self { child, name }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Follows once it has seen an event that is made for it.
    fn is_following(&self, limiter: &Limiter) {
        eventually(SOON, "the follower reads", || {
            limiter.cli(&["ban", "192.0.2.99"]).succeeded();
            limiter.lines(self.name).iter().any(|line| line.contains("192.0.2.99"))
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn documents(limiter: &Limiter, name: &str) -> Vec<Value> {
    let lines = limiter.lines(name);
    lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn packets_told(limiter: &Limiter, reason: &str) -> u64 {
    documents(limiter, "events.json")
        .iter()
        .filter(|event| event["event.reason"] == reason)
        .map(|event| event["limiter.packets"].as_u64().unwrap())
        .sum()
}

/// Datagrams from so many sources below 198.18.0.0/15, one each.
fn from_many(world: &World, count: u32) -> Vec<Vec<u8>> {
    let source = |number: u32| {
        let address = std::net::Ipv4Addr::from(0xc612_0000 + number);
        world.datagram(&address.to_string())
    };
    (0..count).map(source).collect()
}

#[test]
fn every_sink_tells_the_same_and_in_its_form() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.3\"]"));
    limiter
        .cli(&["ban", CLIENTS[0], "--for", "10m", "--reason", "score \u{1b}[31m\nx"])
        .succeeded();
    limiter.cli(&["unban", CLIENTS[0]]).succeeded();
    world.send(CLIENTS[1], 4);
    eventually(SOON, "the drops are told", || packets_told(&limiter, "denied") == 4);
    let text = limiter.events();
    assert_eq!(
        text[..3],
        [
            "INFO: [SECURITY] XDP attached: server0 (native)",
            "WARN: [SECURITY] Banned 10.9.0.2 for 10m: score [31mx",
            "INFO: [SECURITY] Unbanned 10.9.0.2",
        ]
    );
    assert!(
        text[3..].iter().all(|line| {
            line.starts_with("WARN: [SECURITY] Dropped ")
                && line.ends_with(" packets from 10.9.0.3 in 1s: denied")
        }),
        "{text:#?}"
    );
    // Standard error has the same lines, among what else is said there.
    let mut written = Vec::new();
    eventually(SOON, "the lines are on stderr", || {
        let stderr = limiter.stderr();
        let said: Vec<&str> = stderr.lines().filter(|line| line.contains("[SECURITY]")).collect();
        written = limiter.lines("events.log");
        said == written
    });
    let documents = documents(&limiter, "events.json");
    assert_eq!(documents.len(), written.len());
    for (number, (document, line)) in documents.iter().zip(&text).enumerate() {
        assert_eq!(document["limiter.sequence"], number + 1);
        assert_eq!(document["limiter.run"], documents[0]["limiter.run"]);
        let (level, message) = line.split_once(": [SECURITY] ").unwrap();
        assert_eq!(document["log.level"], level.to_lowercase());
        assert_eq!(document["message"], message);
        let time = document["@timestamp"].as_str().unwrap();
        assert_eq!(time.replace('T', " ")[..19], written[number][1..20]);
    }
    let actions: Vec<_> = documents.iter().map(|event| &event["event.action"]).collect();
    assert_eq!(actions[..4], ["attached", "banned", "unbanned", "packets_dropped"]);
    let drop = &documents[3];
    assert_eq!((&drop["source.ip"], &drop["event.reason"]), (&"10.9.0.3".into(), &"denied".into()));
    // What happened lately, as a command shows it.
    let shown = limiter.cli(&["events"]).succeeded();
    assert_eq!(shown.stdout.lines().collect::<Vec<_>>(), written);
    let shown = limiter.cli(&["events", "--kind", "*banned", "--source", "10.9.0.0/24"]);
    assert_eq!(shown.code, Some(2), "a star stands at the end: {shown:?}");
    let shown = limiter.cli(&["events", "--kind", "ban*", "--source", "10.9.0.0/24"]).succeeded();
    assert_eq!(shown.stdout.lines().count(), 1, "{shown:?}");
    let shown = limiter.cli(&["events", "--json", "--source", "10.9.0.3"]).succeeded();
    assert!(shown.stdout.lines().all(|line| line.contains("packets_dropped")), "{shown:?}");
}

#[test]
fn followers_see_what_they_asked_for_as_it_happens() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.3\"]"));
    let bans = Follower::start(&limiter, "bans.txt", &["--kind", "banned"]);
    let json = Follower::start(&limiter, "all.txt", &["--json"]);
    bans.is_following(&limiter);
    json.is_following(&limiter);
    world.send(CLIENTS[1], 1);
    limiter.cli(&["ban", CLIENTS[0], "--for", "90s"]).succeeded();
    limiter.cli(&["unban", CLIENTS[0]]).succeeded();
    eventually(SOON, "the follower sees it", || {
        limiter.lines("bans.txt").last().is_some_and(|line| {
            line.ends_with("] WARN: [SECURITY] Banned 10.9.0.2 for 90s: by hand")
        })
    });
    eventually(SOON, "the other one sees all", || {
        let last: Vec<Value> = documents(&limiter, "all.txt");
        let actions: Vec<_> =
            last.iter().rev().take(3).map(|one| one["event.action"].clone()).collect();
        ["unbanned", "banned"].iter().all(|action| actions.contains(&Value::from(*action)))
    });
    assert!(limiter.lines("bans.txt").iter().all(|line| line.contains(" Banned ")));
}

#[test]
fn a_stopped_reader_and_a_full_disk_lose_events_and_slow_nobody() {
    let world = World::new();
    let origin = Origin::start(&world.server);
    let text = World::kernel("deny = [\"198.18.0.0/15\"]")
        + "[[events.sink]]\nkind = \"file\"\npath = \"/dev/full\"\n"
        + &World::http(&origin);
    let limiter = Limiter::start(&world.server, &text);
    let mut follower = Follower::start(&limiter, "follower.txt", &[]);
    follower.is_following(&limiter);
    follower.signal(Signal::SIGSTOP);
    let frames = from_many(&world, 3_500);
    let port = Port::open(&world.veth.client);
    let mut sent = 0;
    for _ in 0..5 {
        for frame in &frames {
            port.send(frame);
            sent += 1;
            if sent % 100 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        assert_eq!(world.get(CLIENTS[0], &[]).status, 200);
    }
    // The file sink tells every packet, one way or another.
    let wait = Duration::from_secs(8);
    eventually(wait, "every packet is told", || packets_told(&limiter, "denied") == sent);
    let lost = limiter.status().events_lost;
    assert!(lost["sink /dev/full"] > 0, "{lost:?}");
    follower.signal(Signal::SIGCONT);
    eventually(wait, "the follower learns of its loss", || {
        limiter.lines("follower.txt").iter().any(|line| line.contains("Lost "))
    });
    let lost = limiter.status().events_lost;
    assert!(lost["followers"] > 0, "{lost:?}");
    assert_eq!(lost[&format!("sink {}", limiter.directory().join("events.json").display())], 0);
    follower.is_following(&limiter);
    // What it saw and what it lost is all there was since it began.
    let numbers = |line: &String| -> u64 {
        let (_, rest) = line.split_once("Lost ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let all = || limiter.events();
    let seen = || limiter.lines("follower.txt");
    eventually(wait, "seen and lost add up", || {
        let (lines, all) = (seen(), all());
        let (gaps, whole): (Vec<_>, Vec<_>) =
            lines.iter().partition(|line| line.contains(" Lost "));
        let first = whole.first().map(|line| line[22..].to_owned()).unwrap_or_default();
        let begin = all.iter().position(|line| *line == first).unwrap_or(0);
        let lost: u64 = gaps.iter().map(|line| numbers(line)).sum();
        // Several bans may have been made before it followed; it began with one of them.
        let since = (all.len() - begin) as u64;
        let accounted = whole.len() as u64 + lost;
        accounted <= since && since - accounted < 20
    });
    follower.signal(Signal::SIGKILL);
    follower.child.wait().unwrap();
}

#[test]
fn a_full_ring_loses_records_not_verdicts_and_totals_add_up() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("deny = [\"198.18.0.0/15\"]"));
    let mut watch = Port::open(&world.veth.server);
    limiter.signal(Signal::SIGSTOP);
    let port = Port::open(&world.veth.client);
    let frames = from_many(&world, 10_000);
    for frame in frames.iter().chain(&frames) {
        port.send(frame);
    }
    let through = watch
        .count_matching(Duration::from_millis(200), |frame| frame.get(12..14) == Some(&[8, 0]));
    assert_eq!(through, 0);
    limiter.signal(Signal::SIGCONT);
    eventually(SOON, "every packet is counted", || {
        Counters::of(&limiter).get(Action::Drop, Reason::Denied) == 20_000
    });
    let lost = limiter.status().events_lost["kernel"];
    assert!(lost > 5_000, "the ring holds fewer than 5,000: {lost}");
    eventually(SOON, "told, among them as `other`, and gathering add up", || {
        packets_told(&limiter, "denied") == 20_000
    });
    limiter.event("packets from other in 1s: denied");
    // No more is told later.
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(packets_told(&limiter, "denied"), 20_000);
}

#[test]
fn totals_add_up_however_long_a_source_goes_on() {
    let world = World::new();
    let limiter =
        Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.3\", \"10.9.0.4\"]"));
    let port = Port::open(&world.veth.client);
    let frames = [world.datagram(CLIENTS[1]), world.datagram(CLIENTS[2])];
    let mut sent = 0;
    for round in 0..350_u32 {
        for frame in &frames {
            port.send_many(frame, 1 + round % 7, 1_000_000);
            sent += u64::from(1 + round % 7);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eventually(SOON, "every packet is told", || packets_told(&limiter, "denied") == sent);
    std::thread::sleep(Duration::from_millis(2_100));
    assert_eq!(packets_told(&limiter, "denied"), sent);
    assert_eq!(Counters::of(&limiter).get(Action::Drop, Reason::Denied), sent);
}

#[test]
fn sighup_opens_renamed_files_anew() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    limiter.event("XDP attached: server0 (native)");
    let (log, old) =
        (limiter.directory().join("events.log"), limiter.directory().join("events.log.1"));
    fs::rename(&log, &old).unwrap();
    limiter.cli(&["ban", CLIENTS[0]]).succeeded();
    eventually(SOON, "the renamed file is still written", || {
        limiter.lines("events.log.1").len() == 2
    });
    limiter.signal(Signal::SIGHUP);
    limiter.event("INFO: [SECURITY] Configuration reloaded: generation 2");
    limiter.cli(&["unban", CLIENTS[0]]).succeeded();
    limiter.event("INFO: [SECURITY] Unbanned 10.9.0.2");
    assert_eq!(limiter.lines("events.log.1").len(), 2);
    assert_eq!(limiter.lines("events.log").len(), 2);
}
