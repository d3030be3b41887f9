//! Bans of networks: in the table, over on time, dangerous ones refused, trusted ones left out.

use std::{fmt::Write as _, process::Command, time::Duration};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    process::{Limiter, finish},
    wait::eventually,
    world::{CLIENTS, CLIENTS_V6, World},
};
use limiter_user::admin::view::BansView;

use crate::support::{ALLOWED, BANNED, SOON, verdict};

/// What `limiter why` says of a packet from this source.
#[track_caller]
fn why(limiter: &Limiter, source: &str) -> (String, String, Vec<String>) {
    let why = limiter.json(&["why", source, "--json"]);
    let text = |name: &str| why[name].as_str().unwrap().to_owned();
    let sentences = why["explanation"].as_array().unwrap().iter();
    let sentences = sentences.map(|sentence| sentence.as_str().unwrap().to_owned()).collect();
    (text("verdict"), text("reason"), sentences)
}

#[track_caller]
fn is_banned(limiter: &Limiter, source: &str) -> bool {
    let (verdict, reason, _) = why(limiter, source);
    verdict == "drop" && reason == "banned"
}

#[test]
fn a_network_is_banned_listed_explained_and_lifted() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    let said = limiter.cli(&["ban", "10.9.0.4/31", "--for", "1h", "--reason", "two"]).succeeded();
    assert_eq!(said.stdout, "banned 10.9.0.4/31 for 1h (kernel)\n");
    limiter.cli(&["ban", "fd00:a::/32", "--for", "1h"]).succeeded();
    assert_eq!(limiter.event("two"), "WARN: [SECURITY] Banned 10.9.0.4/31 for 1h: two");
    let check = |limiter: &Limiter| {
        assert!(is_banned(limiter, CLIENTS[2]) && is_banned(limiter, CLIENTS[3]));
        assert!(is_banned(limiter, CLIENTS_V6[0]) && is_banned(limiter, CLIENTS_V6[1]));
        assert!(!is_banned(limiter, CLIENTS[1]) && !is_banned(limiter, CLIENTS_V6[2]));
        let bans = limiter.json(&["bans", "--json"]);
        let prefixes: Vec<_> = bans.as_array().unwrap().iter().map(|ban| &ban["prefix"]).collect();
        assert_eq!(prefixes, ["10.9.0.4/31", "fd00:a::/32"]);
        let fill = &limiter.status().maps["prefix_bans"];
        assert_eq!((fill.entries, fill.capacity), (2, 1_024));
    };
    check(&limiter);
    let (.., sentences) = why(&limiter, CLIENTS[2]);
    assert_eq!(sentences[0], "it is banned as part of 10.9.0.4/31 (kernel): two");
    limiter.kill_agent();
    limiter.restart();
    check(&limiter);
    limiter.kill_agent();
    limiter.with_file(&["detach"]).succeeded();
    limiter.restart();
    check(&limiter);
    // Lifted by its own prefix or a larger one, not by a part of it.
    assert_eq!(limiter.cli(&["unban", CLIENTS[2]]).succeeded().stdout, "bans lifted: 0\n");
    assert_eq!(limiter.cli(&["unban", "10.9.0.0/24"]).succeeded().stdout, "bans lifted: 1\n");
    assert_eq!(limiter.cli(&["unban", "fd00:a::/32"]).succeeded().stdout, "bans lifted: 1\n");
    verdict(&world, &limiter, CLIENTS[2], ALLOWED);
    assert_eq!(limiter.status().maps["prefix_bans"].entries, 0);
}

#[test]
fn a_ban_of_a_network_ends_on_time_and_leaves_the_table() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    limiter.cli(&["ban", "10.9.0.4/31", "--for", "1s"]).succeeded();
    limiter.cli(&["ban", "10.9.0.4/30", "--for", "1h"]).succeeded();
    assert!(is_banned(&limiter, CLIENTS[2]));
    eventually(SOON, "it is swept", || limiter.status().maps["prefix_bans"].entries == 1);
    assert!(is_banned(&limiter, CLIENTS[2]), "the one around it holds");
}

#[test]
fn dangerous_networks_need_force() {
    let world = World::new();
    world.veth.server.route("default", CLIENTS[4].parse().unwrap());
    let limiter = Limiter::start(&world.server, &World::kernel("trusted = [\"10.9.0.2\"]"));
    for (prefix, why) in [
        ("0.0.0.0/0", "it contains `trusted` networks, which alone would be left out"),
        ("10.9.0.2/31", "it contains `trusted` networks, which alone would be left out"),
        ("10.9.0.0/31", "it is an address of this host"),
        ("10.9.0.6/31", "it is a gateway or name server of this host"),
        ("::/0", "it is an address of this host"),
        ("128.0.0.0/2", "it is a large part of the internet"),
    ] {
        let refused = limiter.cli(&["ban", prefix]).ended_with(1);
        let expected = format!("{prefix} is not banned: {why} (--force overrides)");
        assert!(refused.stderr.contains(&expected), "{refused:?}");
    }
    let scratch = limiter.scratch();
    for variable in ["SSH_CONNECTION", "SSH_CLIENT"] {
        let mut ban = limiter.cli_command(&["ban", "198.51.100.0/24"]);
        ban.env_remove("SSH_CONNECTION").env_remove("SSH_CLIENT");
        ban.env(variable, "198.51.100.9 50000 22");
        let refused = finish(&mut ban, scratch, SOON).ended_with(1);
        assert!(refused.stderr.contains("the peer of this SSH session"), "{refused:?}");
    }
    // `sudo` takes the variables away.
    let ban = format!("{:?}", limiter.cli_command(&["ban", "198.51.100.0/24"]));
    let mut sudo = Command::new("sh");
    sudo.args(["-c", &format!("env -u SSH_CONNECTION -u SSH_CLIENT {ban}; exit $?")]);
    sudo.env("SSH_CONNECTION", "198.51.100.9 50000 10.9.0.1 22");
    let refused = finish(&mut sudo, scratch, SOON).ended_with(1);
    assert!(refused.stderr.contains("the peer of this SSH session"), "{refused:?}");
    assert!(limiter.json(&["bans", "--json"]).as_array().unwrap().is_empty());
    limiter.cli(&["ban", "128.0.0.0/2", "--force"]).succeeded();
    assert!(is_banned(&limiter, "191.255.255.255") && !is_banned(&limiter, "192.0.0.1"));
}

#[test]
fn lifting_a_ban_inside_another_says_so() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    limiter.cli(&["ban", "198.51.100.0/24"]).succeeded();
    limiter.cli(&["ban", "198.51.100.9"]).succeeded();
    let lifted = limiter.cli(&["unban", "198.51.100.9"]).succeeded();
    assert_eq!(lifted.stdout, "bans lifted: 1\n");
    let told = "it is still banned as part of 198.51.100.0/24 (kernel): \
                `limiter unban 198.51.100.0/24`";
    assert!(lifted.stderr.contains(told), "{lifted:?}");
    let lifted = limiter.cli(&["unban", "198.51.100.0/24"]).succeeded();
    assert_eq!((lifted.stdout.as_str(), lifted.stderr.as_str()), ("bans lifted: 1\n", ""));
}

#[test]
fn trusted_networks_are_left_out_of_a_ban_around_them() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("trusted = [\"10.9.0.4\"]"));
    limiter.cli(&["ban", "10.9.0.4/30", "--force"]).succeeded();
    assert!(!is_banned(&limiter, CLIENTS[2]) && is_banned(&limiter, CLIENTS[3]));
    verdict(&world, &limiter, CLIENTS[2], (Action::Pass, Reason::Trusted));
    // All of a trusted network is never banned, and what is trusted changes.
    limiter.configure(&World::kernel("trusted = [\"10.9.0.5\"]"));
    limiter.cli(&["reload"]).succeeded();
    assert!(is_banned(&limiter, CLIENTS[2]) && !is_banned(&limiter, CLIENTS[3]));
    limiter.configure(&World::kernel("trusted = [\"10.9.0.0/24\"]"));
    limiter.cli(&["reload"]).succeeded();
    assert!(limiter.json(&["bans", "--json"]).as_array().unwrap().is_empty());
    let refused = limiter.cli(&["ban", "10.9.0.4/30", "--force"]).ended_with(1);
    assert!(refused.stderr.contains("it is on the `trusted` list"), "{refused:?}");
}

#[test]
fn a_full_table_of_networks_refuses_and_says_so() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let mut lines = String::new();
    for number in 0..1_030 {
        let (upper, lower) = (number / 256, number % 256);
        writeln!(lines, "{{\"prefix\":\"203.{upper}.{lower}.0/24\"}}").unwrap();
    }
    let response = limiter.control("POST", "/v1/bans", lines.as_bytes());
    let view: BansView = serde_json::from_slice(&response.body).unwrap();
    assert_eq!((response.status, view.accepted, view.refused), (207, 1_024, 6));
    assert!(view.refusals[0].message.contains("raise kernel.max_prefix_bans"), "{view:?}");
    assert_eq!(limiter.status().bans_refused["prefix_bans"], 6);
    limiter.cli(&["ban", "203.0.0.0/24", "--for", "2h"]).succeeded();
    assert_eq!(limiter.cli(&["unban", "203.0.0.0/16"]).succeeded().stdout, "bans lifted: 256\n");
}

#[test]
fn packets_from_a_banned_network_are_dropped() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    verdict(&world, &limiter, CLIENTS[2], ALLOWED);
    limiter.cli(&["ban", "10.9.0.4/31", "--for", "2s"]).succeeded();
    limiter.cli(&["ban", "fd00:a::/32"]).succeeded();
    verdict(&world, &limiter, CLIENTS[2], BANNED);
    verdict(&world, &limiter, CLIENTS[3], BANNED);
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    verdict(&world, &limiter, CLIENTS_V6[1], BANNED);
    verdict(&world, &limiter, CLIENTS_V6[2], ALLOWED);
    let bans = limiter.json(&["bans", "--json"]);
    assert_eq!(bans[0]["packets"], 6, "{bans}");
    // It ends by itself, without an agent to sweep it.
    limiter.kill_agent();
    std::thread::sleep(Duration::from_secs(2));
    limiter.restart();
    verdict(&world, &limiter, CLIENTS[2], ALLOWED);
}
