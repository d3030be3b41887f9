//! Events and counters are the same numbers: packets and bytes, for every reason, enforced and
//! monitored, also of what was dropped while an agent was killed and none ran.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, thread, time::Duration};

use limiter_tests::{
    frames::Frame,
    load::Flood,
    process::Limiter,
    raw::Port,
    wait::{Deadline, eventually},
    world::{CLIENTS, World},
};
use serde_json::Value;

/// How long until all is told: a second of gathering, one of holding back, and time to write.
const TOLD: Duration = Duration::from_secs(8);

/// Packets and bytes by verdict and reason.
type Sums = BTreeMap<(String, String), (u64, u64)>;

fn counted(limiter: &Limiter) -> Sums {
    let mut sums = Sums::new();
    for count in limiter.status().packets {
        if matches!(count.verdict.as_str(), "drop" | "monitor") {
            let sum = sums.entry((count.verdict, count.reason)).or_default();
            *sum = (sum.0 + count.packets, sum.1 + count.bytes);
        }
    }
    sums
}

fn told(limiter: &Limiter) -> Sums {
    let mut sums = Sums::new();
    for line in limiter.lines("events.json") {
        // The last one may still be on its way.
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        if event["event.action"] == "packets_dropped" {
            let verdict = if event["limiter.mode"] == "monitor" { "monitor" } else { "drop" };
            let reason = event["event.reason"].as_str().unwrap().to_owned();
            let sum = sums.entry((verdict.to_owned(), reason)).or_default();
            sum.0 += event["limiter.packets"].as_u64().unwrap();
            sum.1 += event["limiter.bytes"].as_u64().unwrap();
        }
    }
    sums
}

/// Waits until they are the same, and looks whether they stay so.
#[track_caller]
fn add_up(limiter: &Limiter) {
    let deadline = Deadline::after(TOLD);
    while told(limiter) != counted(limiter) && !deadline.is_over() {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(told(limiter), counted(limiter), "what is told is what is counted");
    thread::sleep(Duration::from_millis(2_500));
    assert_eq!(told(limiter), counted(limiter), "and nothing is told later");
}

/// Packets of several sizes, from many sources and few, that are dropped for several reasons.
fn frames(world: &World) -> Vec<Vec<u8>> {
    let from = |source: &str, size: usize| {
        world.frame(Frame::udp(&format!("{source}:4000"), "10.9.0.1:9", &vec![7; size]))
    };
    let mut frames: Vec<Vec<u8>> = (0..6_000_u32)
        .map(|number| {
            let source = Ipv4Addr::from(0xc612_0000 + number).to_string();
            from(&source, number as usize % 900)
        })
        .collect();
    for size in 0..200 {
        frames.push(from(CLIENTS[1], size));
        frames.push(from(CLIENTS[2], 2 * size));
        // Its IPv4 header is said to be shorter than any is.
        let mut malformed = from(CLIENTS[3], size);
        malformed[14] = 0x44;
        frames.push(malformed);
    }
    frames
}

fn kernel(mode: &str) -> String {
    World::kernel(&format!(
        "mode = \"{mode}\"\ndeny = [\"198.18.0.0/15\"]\n\
         [kernel.limits]\npackets = \"1/h\"\npackets_burst = 5"
    ))
}

fn send(port: &Port, frames: &[Vec<u8>]) {
    for (number, frame) in frames.iter().enumerate() {
        port.send(frame);
        if number % 200 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn every_reason_adds_up_in_packets_and_bytes() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &kernel("enforce"));
    limiter.cli(&["ban", CLIENTS[1]]).succeeded();
    let port = Port::open(&world.veth.client);
    let frames = frames(&world);
    for _ in 0..3 {
        send(&port, &frames);
    }
    add_up(&limiter);
    let told = told(&limiter);
    for reason in ["banned", "denied", "packet_rate", "malformed"] {
        assert!(told.contains_key(&("drop".into(), reason.into())), "{reason}: {told:?}");
    }
    assert_eq!(told[&("drop".into(), "denied".into())].0, 18_000);
    assert_eq!(told[&("drop".into(), "banned".into())].0, 600);
}

#[test]
fn monitored_packets_add_up_too() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &kernel("monitor"));
    let port = Port::open(&world.veth.client);
    send(&port, &frames(&world));
    add_up(&limiter);
    let told = told(&limiter);
    assert_eq!(told[&("monitor".into(), "denied".into())].0, 6_000);
    assert!(told.keys().all(|(verdict, _)| verdict == "monitor"), "{told:?}");
}

/// Waits until the sink has written what it was given: what it holds ends with the agent.
fn is_written(limiter: &Limiter) {
    let size = || fs::metadata(limiter.directory().join("events.json")).map_or(0, |it| it.len());
    let (mut last, mut quiet) = (size(), 0);
    eventually(TOLD, "the sink has written all", || {
        thread::sleep(Duration::from_millis(10));
        let now = size();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
        quiet == 8
    });
}

/// Waits for the end of the agent's second, at which it tells what gathers: a second packet
/// of a source waits for it.
fn a_second_ends(limiter: &Limiter, world: &World, marker: &str) {
    // In a second of its own, or it might be one too many to be told apart.
    thread::sleep(Duration::from_millis(1_100));
    world.send(marker, 2);
    let is_told = || {
        let events = limiter.lines("events.json");
        let events = events.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let about = events.filter(|event| event["source.ip"] == marker);
        about.filter_map(|event| event["limiter.packets"].as_u64()).sum::<u64>() == 2
    };
    eventually(TOLD, "the marker is told", is_told);
}

#[test]
fn what_is_dropped_while_no_agent_runs_does_not_vanish() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &kernel("enforce"));
    limiter.cli(&["ban", CLIENTS[1], "--for", "1h"]).succeeded();
    let port = Port::open(&world.veth.client);
    let frames = frames(&world);
    for marker in ["198.19.0.1", "198.19.0.2", "198.19.0.3"] {
        a_second_ends(&limiter, &world, marker);
        send(&port, &frames);
        // Taken out of the ring; some of it gathers, some is held back to be told as a sum.
        is_written(&limiter);
        limiter.kill_agent();
        // More than the ring holds.
        for _ in 0..2 {
            send(&port, &frames);
        }
        limiter.restart();
        send(&port, &frames);
    }
    add_up(&limiter);
    assert!(limiter.status().events_lost["kernel"] > 1_000, "the ring was full");
    let told = told(&limiter);
    assert_eq!(told[&("drop".into(), "denied".into())].0, 3 * (4 * 6_000 + 2));
    // An end that is asked for loses nothing either.
    send(&port, &frames);
    limiter.terminate(Duration::from_secs(10));
    send(&port, &frames);
    limiter.restart();
    add_up(&limiter);
}

/// What a killed agent had taken and not written is all that can be missing, or told twice.
#[test]
fn a_kill_in_the_middle_of_a_flood_costs_a_moment_at_most() {
    const PER_SECOND: u32 = 20_000;
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &kernel("enforce"));
    let flood = Flood::start(&world.veth.client, frames(&world), PER_SECOND);
    flood.flows(1_000);
    for _ in 0..2 {
        thread::sleep(Duration::from_millis(730));
        limiter.kill_agent();
        thread::sleep(Duration::from_millis(300));
        limiter.restart();
    }
    flood.stop();
    let total = |sums: &Sums| sums.values().map(|(packets, _)| packets).sum::<u64>();
    let moment = u64::from(PER_SECOND) / 5;
    eventually(TOLD, "nearly all is told", || {
        total(&told(&limiter)).abs_diff(total(&counted(&limiter))) < 2 * moment
    });
}
