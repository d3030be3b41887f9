//! Bans by the thousand: accepted at a rate, on disk when they are answered, in force again after
//! anything, a full table counted.

use std::{fmt::Write as _, fs, net::Ipv4Addr, time::Duration};

use limiter_tests::{
    process::Limiter,
    wait::{Deadline, eventually},
    world::{CLIENTS, World},
};
use limiter_user::admin::view::BansView;

use crate::support::{ALLOWED, BANNED, SOON, verdict};

/// As many as the table holds by default.
const MANY: u32 = 65_536;

/// Far below what an optimised program does, so that a busy machine fails nothing.
const LEAST_PER_SECOND: f64 = 2_000.0;

/// Far more than an optimised program on an idle machine takes.
const RESTORED: Duration = Duration::from_secs(5);

/// JSON lines that ban these addresses for an hour.
fn lines(addresses: impl Iterator<Item = Ipv4Addr>) -> String {
    addresses.fold(String::new(), |mut lines, address| {
        writeln!(lines, "{{\"prefix\":\"{address}\",\"seconds\":3600}}").unwrap();
        lines
    })
}

/// Addresses that nobody has.
fn strangers(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..count).map(|number| Ipv4Addr::from_bits(0xcb00_0000 + number))
}

#[track_caller]
fn post(limiter: &Limiter, lines: &str) -> (u16, BansView) {
    let response = limiter.control("POST", "/v1/bans", lines.as_bytes());
    (response.status, serde_json::from_slice(&response.body).unwrap())
}

#[test]
fn a_full_table_of_bans_survives_kill_restart_and_reboot() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    let body = lines(strangers(MANY - 1).chain([CLIENTS[0].parse().unwrap()]));
    let since = Deadline::after(Duration::ZERO);
    let (status, view) = post(&limiter, &body);
    let took = since.elapsed();
    assert_eq!((status, view.accepted, view.refused), (200, u64::from(MANY), 0));
    assert_eq!(view.not_saved, None);
    let rate = f64::from(MANY) / took.as_secs_f64();
    println!("{rate:.0} bans a second");
    assert!(rate > LEAST_PER_SECOND, "{rate:.0} bans a second");

    // One more finds no room: refused, and counted where people look.
    let refused = limiter.cli(&["ban", "198.51.100.1"]).ended_with(1);
    assert!(refused.stderr.contains("raise kernel.max_bans"), "{refused:?}");
    let status = limiter.status();
    assert_eq!(status.bans_refused["bans"], 1);
    assert_eq!((status.maps["bans"].entries, status.bans["kernel"]), (MANY.into(), MANY.into()));
    eventually(SOON, "every ban is told, few by themselves", || {
        let told = limiter.lines("events.json").into_iter().filter_map(|line| {
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            let count = event["limiter.count"].as_u64();
            count.filter(|_| event["event.action"] == "banned")
        });
        let told: Vec<u64> = told.collect();
        assert!(told.len() < 1_000, "{} events", told.len());
        told.iter().sum::<u64>() == u64::from(MANY)
    });

    // Killed: the kernel remembers the bans. Pins gone as after a reboot: only the disk does.
    for has_rebooted in [false, true] {
        limiter.kill_agent();
        if has_rebooted {
            limiter.with_file(&["detach"]).succeeded();
        }
        limiter.restart();
        let status = limiter.status();
        assert_eq!(status.bans_restored, u64::from(MANY));
        assert_eq!(status.maps["bans"].entries, u64::from(MANY));
        assert!(status.degraded.is_empty(), "{:?}", status.degraded);
        let took = Duration::from_millis(status.bans_restored_milliseconds);
        println!("restored in {took:?}, rebooted: {has_rebooted}");
        assert!(took < RESTORED, "{took:?}, rebooted: {has_rebooted}");
        verdict(&world, &limiter, CLIENTS[0], BANNED);
        verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    }
    let lifted = limiter.cli(&["unban", "--all"]).succeeded();
    assert_eq!(lifted.stdout, format!("bans lifted: {MANY}\n"));
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
    limiter.kill_agent();
    limiter.restart();
    assert_eq!(limiter.status().bans_restored, 0);
}

#[test]
fn what_finds_no_room_is_refused_by_the_line() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("max_bans = 1000"));
    let (status, view) = post(&limiter, &lines(strangers(1_500)));
    assert_eq!((status, view.accepted, view.refused), (207, 1_000, 500));
    assert_eq!((view.refusals.len(), view.refusals[0].line), (20, 1_001));
    assert!(view.refusals[0].message.contains("raise kernel.max_bans"), "{view:?}");
    assert_eq!(limiter.status().bans_refused["bans"], 500);
    // Everybody else is served meanwhile, and renewing needs no room.
    assert_eq!(post(&limiter, &lines(strangers(1_000))).1.accepted, 1_000);
}

#[test]
fn a_ban_that_was_answered_survives_a_crash_at_once() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    limiter.cli(&["ban", CLIENTS[0], "--for", "1h"]).succeeded();
    limiter.cli(&["ban", CLIENTS[1], "--for", "1h"]).succeeded();
    limiter.cli(&["unban", CLIENTS[1]]).succeeded();
    limiter.kill_agent();
    limiter.with_file(&["detach"]).succeeded();
    // The end of the last record is torn off: what was answered before it is there.
    let journal = limiter.directory().join("state/bans.journal");
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, [&bytes[..], &bytes[16..40]].concat()).unwrap();
    limiter.restart();
    let bans = limiter.json(&["bans", "--json"]);
    assert_eq!(bans.as_array().unwrap().len(), 1, "{bans}");
    assert!(limiter.status().degraded.is_empty());
    verdict(&world, &limiter, CLIENTS[0], BANNED);
}

#[test]
fn a_damaged_journal_is_told_and_costs_only_what_is_damaged() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    for source in &CLIENTS[..3] {
        limiter.cli(&["ban", source, "--for", "1h"]).succeeded();
    }
    limiter.kill_agent();
    limiter.with_file(&["detach"]).succeeded();
    let journal = limiter.directory().join("state/bans.journal");
    let mut bytes = fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&journal, &bytes).unwrap();
    limiter.restart();
    assert_eq!(limiter.status().bans_restored, 2);
    let [problem] = &limiter.status().degraded[..] else { panic!("{:?}", limiter.status()) };
    assert!(problem.contains("bans.journal.broken"), "{problem}");
    verdict(&world, &limiter, CLIENTS[0], BANNED);
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    verdict(&world, &limiter, CLIENTS[2], BANNED);
}

#[test]
fn a_disk_that_refuses_leaves_bans_in_force_and_says_so() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    limiter.kill_agent();
    // A directory where the journal is written anew: refused for root too.
    let state = limiter.directory().join("state");
    fs::remove_file(state.join("bans.journal")).unwrap();
    fs::create_dir(state.join("bans.journal.new")).unwrap();
    limiter.restart();
    let banned = limiter.cli(&["ban", CLIENTS[0], "--for", "1h"]).succeeded();
    assert!(banned.stderr.contains("the bans cannot be saved"), "{banned:?}");
    verdict(&world, &limiter, CLIENTS[0], BANNED);
    assert!(limiter.status().degraded[0].contains("the bans cannot be saved"));
    fs::remove_dir(state.join("bans.journal.new")).unwrap();
    eventually(SOON, "it is written after all", || limiter.status().degraded.is_empty());
    limiter.kill_agent();
    limiter.with_file(&["detach"]).succeeded();
    limiter.restart();
    verdict(&world, &limiter, CLIENTS[0], BANNED);
}

#[test]
fn bans_of_the_version_before_are_imported() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    limiter.kill_agent();
    let state = limiter.directory().join("state");
    fs::remove_file(state.join("bans.journal")).unwrap();
    let earlier = "[{\"prefix\":\"10.9.0.2/32\",\"scope\":\"kernel\",\
                   \"expires_unix_ns\":18000000000000000000,\"reason\":\"why\",\
                   \"origin\":\"manual\"}]";
    fs::write(state.join("bans.json"), earlier).unwrap();
    limiter.restart();
    verdict(&world, &limiter, CLIENTS[0], BANNED);
    assert!(!state.join("bans.json").exists());
    limiter.kill_agent();
    limiter.restart();
    assert_eq!(limiter.status().bans_restored, 1);
}
