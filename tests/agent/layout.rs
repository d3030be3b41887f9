//! What an agent of another layout, version or size left pinned is never misread.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use aya::maps::{HashMap, MapData, PerCpuArray};
use limiter_common::{
    maps::{self, control},
    verdict::{Action, Reason},
};
use limiter_tests::{
    counters::{Counters, assert_eventually},
    process::Limiter,
    wait::eventually,
    world::{CLIENTS, World},
};

use crate::support::{DENIED, verdict};

const SOON: Duration = Duration::from_secs(5);

/// An agent that banned a client and was killed, and the directory of its generation. Its book of
/// bans is gone, so that only the kernel's table can bring the ban back.
fn killed_after_a_ban(world: &World, lines: &str) -> (Limiter, PathBuf) {
    let mut limiter = Limiter::start(&world.server, &World::kernel(lines));
    limiter.cli(&["ban", CLIENTS[0], "--for", "10m"]).succeeded();
    limiter.kill_agent();
    fs::remove_file(limiter.directory().join("state/bans.journal")).unwrap();
    let mut generations = fs::read_dir(limiter.pins()).unwrap();
    let generation = generations.next().unwrap().unwrap().path();
    assert!(generations.next().is_none());
    (limiter, generation)
}

#[track_caller]
fn next_packet(limiter: &Limiter, world: &World, action: Action, reason: Reason) {
    let before = Counters::of(limiter);
    world.send(CLIENTS[0], 1);
    let ignored = [(Action::Pass, Reason::Essential)];
    assert_eventually(limiter, &before, SOON, &[(action, reason, 1)], &ignored);
}

#[test]
fn a_map_of_another_shape_under_a_known_name_is_refused() {
    let world = World::new();
    let (mut limiter, generation) = killed_after_a_ban(&world, "");
    let pin = |name: &str| generation.join(name);
    fs::rename(pin(maps::CONTROL), pin("aside")).unwrap();
    fs::rename(pin(maps::SETTINGS), pin(maps::CONTROL)).unwrap();
    fs::rename(pin("aside"), pin(maps::SETTINGS)).unwrap();
    let refused = limiter.run_to_end().ended_with(1);
    assert!(refused.stderr.contains("is not what this version pins"), "{refused:?}");
    assert!(refused.stderr.contains("`limiter detach` removes it"), "{refused:?}");
    limiter.with_file(&["detach"]).succeeded();
    limiter.restart();
    next_packet(&limiter, &world, Action::Pass, Reason::Allowed);
}

#[test]
fn maps_of_the_same_sizes_and_another_type_or_other_flags_are_refused_too() {
    const NO_PREALLOC: u32 = 1;
    let world = World::new();
    for is_other_type in [true, false] {
        let (limiter, generation) = killed_after_a_ban(&world, "");
        let pin = |name: &str| generation.join(name);
        let (name, found) = if is_other_type {
            fs::remove_file(pin(maps::CONTROL)).unwrap();
            let found = PerCpuArray::<MapData, [u64; control::WORDS]>::create(1, 0).unwrap();
            found.pin(pin(maps::CONTROL)).unwrap();
            (maps::CONTROL, "PerCpuArray of ")
        } else {
            fs::remove_file(pin(maps::BANS)).unwrap();
            let found = HashMap::<MapData, u64, [u64; 2]>::create(65_536, NO_PREALLOC).unwrap();
            found.pin(pin(maps::BANS)).unwrap();
            (maps::BANS, "flags 0x1, expected Hash of 65536 ")
        };
        let refused = limiter.run_to_end().ended_with(1);
        let start = format!("{} is not what this version pins: ", pin(name).display());
        assert!(refused.stderr.contains(&start), "{refused:?}");
        assert!(refused.stderr.contains(found), "{refused:?}");
        limiter.with_file(&["detach"]).succeeded();
    }
}

#[test]
fn what_is_pinned_as_a_link_and_is_none_is_told_and_not_used() {
    let world = World::new();
    let (mut limiter, generation) = killed_after_a_ban(&world, "");
    let link = generation.join(format!("link-0-native-{}", world.veth.server.index));
    fs::remove_file(&link).unwrap();
    fs::rename(generation.join(maps::EVENTS), &link).unwrap();
    limiter.restart();
    let told = limiter.wait_for_line(SOON, "not an XDP link");
    assert!(told.contains(&format!("{} is not used", link.display())), "{told}");
    let interface = &limiter.status().interfaces[0];
    assert!(interface.mode == "native" && !interface.taken_over, "{interface:?}");
    next_packet(&limiter, &world, Action::Drop, Reason::Banned);
}

#[test]
fn tables_of_another_layout_are_not_read_and_their_link_is_taken_over() {
    let world = World::new();
    let (mut limiter, generation) = killed_after_a_ban(&world, "");
    let current = format!("v{}-", maps::LAYOUT_VERSION);
    let name = generation.file_name().unwrap().to_str().unwrap();
    let other = limiter.pins().join(name.replace(&current, "v9999-"));
    fs::rename(&generation, &other).unwrap();
    limiter.restart();
    assert!(limiter.status().interfaces[0].taken_over, "no packet passed unfiltered");
    assert!(limiter.json(&["bans", "--json"]).as_array().unwrap().is_empty());
    next_packet(&limiter, &world, Action::Pass, Reason::Allowed);
    assert!(!other.exists(), "what nobody uses any more is removed");
}

/// Gives a generation the name that an agent of layout 1 gave it.
fn rename_to_first_layout(limiter: &Limiter, generation: &Path) {
    let name = generation.file_name().unwrap().to_str().unwrap();
    let (_, sizes) = name.split_once('-').unwrap();
    fs::rename(generation, limiter.pins().join(format!("v1-{sizes}"))).unwrap();
}

#[test]
fn bans_of_the_layout_before_are_copied_since_their_records_are_the_same() {
    let world = World::new();
    let (mut limiter, generation) = killed_after_a_ban(&world, "");
    rename_to_first_layout(&limiter, &generation);
    limiter.restart();
    assert!(limiter.status().interfaces[0].taken_over);
    let bans = limiter.json(&["bans", "--json"]);
    assert_eq!(
        (&bans[0]["prefix"], &bans[0]["origin"]),
        (&"10.9.0.2/32".into(), &"restored".into())
    );
    next_packet(&limiter, &world, Action::Drop, Reason::Banned);
}

#[test]
fn bans_of_the_layout_before_with_other_records_are_not_read() {
    let world = World::new();
    let (mut limiter, generation) = killed_after_a_ban(&world, "");
    let pin = |name: &str| generation.join(name);
    fs::rename(pin(maps::BANS), pin("aside")).unwrap();
    fs::rename(pin(maps::BAN_FILTER), pin(maps::BANS)).unwrap();
    rename_to_first_layout(&limiter, &generation);
    limiter.restart();
    assert!(limiter.status().interfaces[0].taken_over);
    limiter.wait_for_line(SOON, "is of another shape and not read");
    assert!(limiter.json(&["bans", "--json"]).as_array().unwrap().is_empty());
    next_packet(&limiter, &world, Action::Pass, Reason::Allowed);
}

#[test]
fn bans_are_copied_into_tables_of_another_size() {
    let world = World::new();
    let (mut limiter, generation) = killed_after_a_ban(&world, "");
    let larger = World::kernel("max_bans = 1000\nmax_sources = 1000");
    limiter.configure(&larger);
    limiter.restart();
    let interface = &limiter.status().interfaces[0];
    assert!(interface.taken_over);
    assert!(!generation.exists());
    let bans = limiter.json(&["bans", "--json"]);
    let [ban] = bans.as_array().unwrap().as_slice() else { panic!("{bans}") };
    assert_eq!((&ban["prefix"], &ban["origin"]), (&"10.9.0.2/32".into(), &"restored".into()));
    let left = ban["seconds_left"].as_u64().unwrap();
    assert!((580..=600).contains(&left), "{left}");
    next_packet(&limiter, &world, Action::Drop, Reason::Banned);
}

#[test]
fn a_smaller_table_takes_what_fits_and_says_what_did_not() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel("max_bans = 10"));
    for source in &CLIENTS[..3] {
        limiter.cli(&["ban", source, "--for", "10m"]).succeeded();
    }
    limiter.terminate(SOON);
    limiter.configure(&World::kernel("max_bans = 2"));
    limiter.restart();
    let status = limiter.status();
    assert!(status.interfaces[0].taken_over);
    assert_eq!((status.maps["bans"].entries, status.maps["bans"].capacity), (2, 2));
    assert_eq!(
        status.degraded,
        [
            "bans that could not be restored: 1: the ban table is full (2 bans): raise kernel.max_bans"
        ]
    );
    assert_eq!(limiter.json(&["bans", "--json"]).as_array().unwrap().len(), 2);
    let before = Counters::of(&limiter);
    for source in &CLIENTS[..3] {
        world.send(source, 1);
    }
    let expected = [(Action::Drop, Reason::Banned, 2), (Action::Pass, Reason::Allowed, 1)];
    let ignored = [(Action::Pass, Reason::Essential)];
    assert_eventually(&limiter, &before, SOON, &expected, &ignored);
}

#[test]
fn what_else_lies_beside_the_pins_is_left_alone() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    let other = limiter.pins().join("somebody-elses");
    fs::create_dir(&other).unwrap();
    limiter.terminate(SOON);
    limiter.restart();
    assert!(other.exists());
    limiter.cli(&["detach"]).succeeded();
    assert!(other.exists());
    fs::remove_dir(&other).unwrap();
}

#[test]
fn what_is_unpinned_by_somebody_is_told_and_put_right_by_a_restart() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel("deny = [\"10.9.0.2\"]"));
    let [generation] = &fs::read_dir(limiter.pins()).unwrap().collect::<Vec<_>>()[..] else {
        panic!("there is one generation")
    };
    for pin in fs::read_dir(generation.as_ref().unwrap().path()).unwrap() {
        fs::remove_file(pin.unwrap().path()).unwrap();
    }
    // Not with maps of its own, which nobody fills.
    eventually(SOON, "that is told", || {
        limiter.status().degraded.iter().any(|why| why.contains("is gone, somebody removed it"))
    });
    assert!(limiter.status().interfaces.is_empty());
    limiter.kill_agent();
    limiter.restart();
    assert_eq!(limiter.status().state, "ready");
    verdict(&world, &limiter, CLIENTS[0], DENIED);
}
