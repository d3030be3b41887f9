//! Lists changed while the agent runs: what is added holds at once, for as long as it was asked
//! to; what wins over what; many entries; no packet between two lists.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    process::Limiter,
    wait::{Deadline, eventually},
    world::{CLIENTS, SERVER, World},
};
use limiter_user::admin::view::{Failure, ListsView};

use crate::support::{ALLOWED, BANNED, DENIED, SOON, arrive, verdict};

const TRUSTED: (Action, Reason) = (Action::Pass, Reason::Trusted);
const NOT_ALLOWED: (Action, Reason) = (Action::Drop, Reason::NotAllowed);

/// A fifth of what is promised: this is an unoptimised program on a busy machine. The release
/// build's numbers for a million are in docs/ARCHITECTURE.md.
const MANY: u32 = 200_000;

/// Addresses and networks of both families that nobody here has, a line each.
fn lines(first: u32, count: u32) -> String {
    (first..first + count).fold(String::new(), |mut lines, number| {
        let (high, low) = (number >> 16, number & 0xffff);
        let prefix = match number % 4 {
            0 | 1 => format!("{}", Ipv4Addr::from_bits(0x3000_0000 + number)),
            2 => format!("{}/28", Ipv4Addr::from_bits(0x5000_0000 + (number << 4))),
            _ if number % 8 == 3 => format!("2001:db8:{high:x}:{low:x}::/64"),
            _ => format!("2001:db8:ffff:{high:x}::{low:x}"),
        };
        writeln!(lines, "{{\"list\":\"deny\",\"prefix\":\"{prefix}\"}}").unwrap();
        lines
    })
}

fn entry(prefix: &str) -> String {
    format!("{{\"list\":\"deny\",\"prefix\":\"{prefix}\"}}\n")
}

#[track_caller]
fn post(limiter: &Limiter, target: &str, lines: &str) -> ListsView {
    let response = limiter.control("POST", target, lines.as_bytes());
    let text = String::from_utf8_lossy(&response.body).into_owned();
    assert_eq!(response.status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn refused(limiter: &Limiter, target: &str, lines: &str, status: u16) -> String {
    let response = limiter.control("POST", target, lines.as_bytes());
    assert_eq!(response.status, status);
    serde_json::from_slice::<Failure>(&response.body).unwrap().message
}

#[test]
fn what_is_added_holds_at_once_and_survives_reload_and_restart() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.6\"]"));
    limiter.cli(&["ban", CLIENTS[1]]).succeeded();
    let done = limiter.cli(&["deny", "add", CLIENTS[0], "198.51.100.0/24"]).succeeded();
    assert_eq!(done.stdout, "added: 2\n");
    limiter.cli(&["deny", "add", "--runtime", CLIENTS[2]]).succeeded();
    limiter.cli(&["trust", "add", CLIENTS[1]]).succeeded();
    let again = limiter.cli(&["deny", "add", CLIENTS[0]]).succeeded();
    assert_eq!(again.stdout, "added: 0 (1 there already)\n");
    let holds = |limiter: &Limiter, volatile| {
        verdict(&world, limiter, CLIENTS[0], DENIED);
        verdict(&world, limiter, CLIENTS[1], TRUSTED);
        verdict(&world, limiter, CLIENTS[2], volatile);
        verdict(&world, limiter, CLIENTS[3], ALLOWED);
        verdict(&world, limiter, CLIENTS[4], DENIED);
    };
    holds(&limiter, DENIED);
    let listed = limiter.cli(&["deny", "list"]).succeeded().stdout;
    for line in
        ["10.9.0.2       saved ", "10.9.0.6       configuration ", "10.9.0.4       runtime "]
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_there =
            listed.lines().any(|line| line.split_whitespace().take(2).eq(words.iter().copied()));
        assert!(is_there, "{line}: {listed}");
    }
    // A reload knows nothing of them and keeps them.
    limiter.configure(&World::kernel("deny = [\"10.9.0.6\", \"10.9.0.77\"]"));
    limiter.cli(&["reload"]).succeeded();
    holds(&limiter, DENIED);
    let file = limiter.directory().join("state/lists.txt");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    limiter.kill_agent();
    limiter.restart();
    holds(&limiter, ALLOWED);
    let listed = limiter.json(&["deny", "list", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 4, "{listed}");
    let removed = limiter.cli(&["deny", "remove", CLIENTS[0]]).succeeded();
    assert_eq!(removed.stdout, "removed: 1\n");
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
    let kept = limiter.cli(&["deny", "remove", CLIENTS[4]]).ended_with(1);
    assert!(kept.stdout.contains("in the configuration"), "{kept:?}");
    limiter.cli(&["trust", "remove", CLIENTS[1]]).succeeded();
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    limiter.cli(&["ban", CLIENTS[1]]).succeeded();
    verdict(&world, &limiter, CLIENTS[1], BANNED);
}

#[test]
fn one_host_inside_an_allowed_network_is_denied_and_deny_wins_a_tie() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("default = \"deny\""));
    verdict(&world, &limiter, CLIENTS[0], NOT_ALLOWED);
    limiter.cli(&["allow", "add", "10.0.0.0/8"]).succeeded();
    limiter.cli(&["deny", "add", CLIENTS[0]]).succeeded();
    verdict(&world, &limiter, CLIENTS[0], DENIED);
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    limiter.cli(&["deny", "add", "10.9.0.0/24", "--force"]).succeeded();
    limiter.cli(&["allow", "add", "10.9.0.0/24", CLIENTS[2]]).succeeded();
    verdict(&world, &limiter, CLIENTS[1], DENIED);
    verdict(&world, &limiter, CLIENTS[2], ALLOWED);
}

#[test]
fn what_is_dangerous_needs_force_and_nothing_of_it_is_done() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("default = \"deny\""));
    let own = format!("{SERVER}/32");
    for (arguments, why) in [
        (["deny", "add", "10.9.0.0/24"], "an address of this host"),
        (["deny", "add", &own], "an address of this host"),
        (["deny", "add", "64.0.0.0/4"], "a large part of the internet"),
        (["trust", "add", "0.0.0.0/0"], "a large part of the internet"),
    ] {
        let refused = limiter.cli(&arguments).ended_with(1);
        assert!(refused.stderr.contains(why), "{arguments:?}: {refused:?}");
        assert!(refused.stderr.contains("--force"), "{refused:?}");
    }
    let session = |arguments: &[&str]| {
        let mut command = limiter.cli_command(arguments);
        command.env("SSH_CONNECTION", format!("{} 5 {SERVER} 22", CLIENTS[0]));
        command.output().unwrap()
    };
    let refused = session(&["deny", "add", "10.9.0.5", CLIENTS[0]]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("this SSH session"), "{refused:?}");
    limiter.cli(&["allow", "add", "10.0.0.0/8"]).succeeded();
    assert!(!session(&["allow", "remove", "10.0.0.0/8"]).status.success());
    let listed = limiter.json(&["deny", "list", "--json"]);
    assert!(listed.as_array().unwrap().is_empty(), "nothing half applied: {listed}");
    limiter.cli(&["trust", "add", "0.0.0.0/0", "--force"]).succeeded();
    verdict(&world, &limiter, CLIENTS[3], TRUSTED);
    // One line of many that is wrong undoes them all.
    let body = format!("{}{}", entry("192.0.2.1"), entry("192.0.2.300"));
    assert!(refused_lines(&limiter, &body).contains("line 2"), "which line");
    assert!(limiter.json(&["deny", "list", "--json"]).as_array().unwrap().is_empty());
}

fn refused_lines(limiter: &Limiter, body: &str) -> String {
    refused(limiter, "/v1/lists", body, 400)
}

#[test]
fn a_damaged_file_is_told_and_costs_only_what_is_damaged() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    limiter.cli(&["deny", "add", CLIENTS[0], CLIENTS[1]]).succeeded();
    limiter.kill_agent();
    let file = limiter.directory().join("state/lists.txt");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("deny 10.9.0.2/32", "deny 10.9.0.2/\u{0}2")).unwrap();
    limiter.restart();
    let [problem] = &limiter.status().degraded[..] else { panic!("{:?}", limiter.status()) };
    assert!(problem.contains("lists.txt.broken"), "{problem}");
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
    verdict(&world, &limiter, CLIENTS[1], DENIED);
}

#[test]
fn many_entries_deny_are_replaced_at_once_and_never_half() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    let since = Deadline::after(Duration::ZERO);
    let body = lines(0, MANY) + &entry(CLIENTS[0]) + &entry(CLIENTS[1]);
    assert_eq!(post(&limiter, "/v1/lists", &body).changed, MANY as usize + 2);
    println!("{MANY} entries in {:?}", since.elapsed());
    for source in ["48.0.0.0", "48.0.0.1", "80.0.0.47", CLIENTS[0], CLIENTS[1]] {
        verdict(&world, &limiter, source, DENIED);
    }
    verdict(&world, &limiter, "48.0.0.2", ALLOWED);
    // The first client is on both lists: not one of its packets passes while one replaces the
    // other, and the agent answers meanwhile.
    let before = Counters::of(&limiter);
    let is_done = AtomicBool::new(false);
    let other = lines(MANY, MANY) + &entry(CLIENTS[0]) + &entry(CLIENTS[2]);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                world.send(CLIENTS[0], 20);
            }
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                let since = Deadline::after(Duration::ZERO);
                assert_eq!(limiter.control("GET", "/healthz", b"").status, 200);
                let took = since.elapsed();
                // A tenth of it, in an optimised program.
                assert!(took < Duration::from_secs(3), "{took:?}");
            }
        });
        let view = post(&limiter, "/v1/lists?replace=deny", &other);
        assert_eq!((view.changed, view.unchanged), (2 * MANY as usize + 2, 1));
        is_done.store(true, Ordering::Relaxed);
    });
    eventually(SOON, "every packet is counted", || {
        let now = Counters::of(&limiter);
        now.get(Action::Drop, Reason::Denied) > before.get(Action::Drop, Reason::Denied)
    });
    let passed = |counters: &Counters| counters.get(Action::Pass, Reason::Allowed);
    assert_eq!(passed(&Counters::of(&limiter)), passed(&before), "no packet saw neither list");
    verdict(&world, &limiter, "48.0.0.0", ALLOWED);
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    verdict(&world, &limiter, CLIENTS[2], DENIED);
    // One more costs little.
    let since = Deadline::after(Duration::ZERO);
    limiter.cli(&["deny", "add", CLIENTS[3]]).succeeded();
    println!("one more in {:?}", since.elapsed());
    verdict(&world, &limiter, CLIENTS[3], DENIED);
    limiter.kill_agent();
    limiter.restart();
    verdict(&world, &limiter, CLIENTS[2], DENIED);
    assert_eq!(arrive(&world, CLIENTS[3], 3), 0);
}
