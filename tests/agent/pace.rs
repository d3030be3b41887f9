//! Rates over time and from several processors: who keeps to the rate loses nothing, who does not
//! gets the rate and no more.

use std::{sync::Barrier, thread, time::Duration};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    process::Limiter,
    program::stay_on_cpu,
    raw::Port,
    wait::{Deadline, eventually},
    world::{CLIENTS, World},
};

use crate::support::SOON;

/// Packets per second of the steady sender.
const RATE: u64 = 10_000;

/// How much later than due a packet may be without those after it being put off too: half of the
/// smallest burst here.
const LATE: Duration = Duration::from_millis(1);

/// How many frames of this source reached the interface, and how many of them were dropped.
fn of_source(limiter: &Limiter, source: &str) -> (u64, u64) {
    let sources = limiter.json(&["sources", "--json", "--limit", "100"]);
    let wanted = format!("{source}/32");
    let found = sources.as_array().unwrap().iter().find(|one| one["source"] == wanted.as_str());
    found.map_or((0, 0), |one| (one["packets"].as_u64().unwrap(), one["dropped"].as_u64().unwrap()))
}

fn cpus() -> usize {
    thread::available_parallelism().unwrap().get()
}

/// Of two senders one keeps to the rate exactly for 10 s, the other sends twice as much.
#[test]
fn who_keeps_to_the_rate_loses_nothing_who_sends_twice_gets_half() {
    let world = World::new();
    // 2 ms of burst: less than a tick of the coarse clock.
    let lines = format!("[kernel.limits]\npackets = \"{RATE}/s\"\npackets_burst = 20");
    let limiter = Limiter::start(&world.server, &World::kernel(&lines));
    let port = Port::open(&world.veth.client);
    let (steady, greedy) = (world.datagram(CLIENTS[0]), world.datagram(CLIENTS[1]));
    let start = Deadline::after(Duration::from_secs(10));
    let (mut put_off, mut sent) = (Duration::ZERO, 0_u64);
    while !start.is_over() {
        let due = Duration::from_nanos(sent * 1_000_000_000 / RATE) + put_off;
        let now = start.elapsed();
        if now < due {
            if due.saturating_sub(now) > Duration::from_micros(200) {
                thread::sleep(Duration::from_micros(50));
            }
            continue;
        }
        // This thread was not run for a while: the schedule begins anew, or it would be a burst.
        put_off += now.saturating_sub(due + LATE);
        port.send(&steady);
        port.send(&greedy);
        port.send(&greedy);
        sent += 1;
    }
    let took = start.elapsed();
    eventually(SOON, "all have arrived", || {
        of_source(&limiter, CLIENTS[1]).0 >= 2 * sent * 99 / 100
    });
    let (packets, dropped) = of_source(&limiter, CLIENTS[0]);
    assert!(dropped * 100 <= packets, "{dropped} of {packets} lost, {put_off:?} put off");
    let (packets, dropped) = of_source(&limiter, CLIENTS[1]);
    let admitted = packets - dropped;
    let most = RATE * u64::try_from(took.as_micros()).unwrap() / 1_000_000 + 20;
    assert!(admitted <= most + most / 100, "{admitted} of at most {most}");
    // Where it was not put off, it gets all of the rate.
    let least = RATE * u64::try_from(took.saturating_sub(put_off).as_micros()).unwrap() / 1_000_000;
    assert!(admitted >= least - least / 50, "{admitted} of at least {least}, {put_off:?}");
}

/// Sends `count` frames of each list from each processor, all at once.
fn from_all_cpus(world: &World, frames: &[Vec<u8>], batches: usize) {
    let barrier = Barrier::new(cpus());
    thread::scope(|scope| {
        for cpu in 0..cpus() {
            let (barrier, port) = (&barrier, Port::open(&world.veth.client));
            scope.spawn(move || {
                stay_on_cpu(cpu);
                barrier.wait();
                for _ in 0..batches {
                    port.send_batch(frames);
                }
            });
        }
    });
}

/// A source that arrives on every processor gets its burst, and at most one packet more for each.
#[test]
fn a_burst_from_all_processors_is_exact_within_one_packet_each() {
    let world = World::new();
    let lines = "[kernel.limits]\npackets = \"1/h\"\npackets_burst = 500";
    let limiter = Limiter::start(&world.server, &World::kernel(lines));
    let mut excess = Vec::new();
    for round in 0..20 {
        let before = Counters::of(&limiter);
        let frame = world.datagram(&format!("198.51.100.{round}"));
        from_all_cpus(&world, &vec![frame; 50], 40);
        let (mut admitted, mut dropped) = (0, 0);
        eventually(SOON, "all are counted", || {
            let now = Counters::of(&limiter);
            let more = |action, reason| now.get(action, reason) - before.get(action, reason);
            admitted = more(Action::Pass, Reason::Allowed);
            dropped = more(Action::Drop, Reason::PacketRate);
            admitted + dropped == 2_000 * cpus() as u64
        });
        excess.push(i64::try_from(admitted).unwrap() - 500);
    }
    let most = i64::try_from(cpus()).unwrap();
    assert!(excess.iter().all(|excess| (0..=most).contains(excess)), "{excess:?}");
}

/// So do all sources together, each of which is another one on every processor.
#[test]
fn the_total_is_exact_from_all_processors() {
    let world = World::new();
    let lines = "[kernel.total_limits]\npackets = \"1/h\"\npackets_burst = 500";
    let mut excess = Vec::new();
    for _ in 0..4 {
        let limiter = Limiter::start(&world.server, &World::kernel(lines));
        let frames: Vec<_> =
            (0..50).map(|number| world.datagram(&format!("198.51.100.{number}"))).collect();
        from_all_cpus(&world, &frames, 40);
        let mut admitted = 0;
        eventually(SOON, "all are counted", || {
            let now = Counters::of(&limiter);
            admitted = now.get(Action::Pass, Reason::Allowed);
            admitted + now.get(Action::Drop, Reason::TotalRate) == 2_000 * cpus() as u64
        });
        excess.push(i64::try_from(admitted).unwrap() - 500);
    }
    let most = i64::try_from(cpus()).unwrap();
    assert!(excess.iter().all(|excess| (0..=most).contains(excess)), "{excess:?}");
}

/// A rate too, while processors contend for the source.
#[test]
fn a_rate_holds_while_all_processors_send() {
    let world = World::new();
    let lines = format!("[kernel.limits]\npackets = \"{RATE}/s\"\npackets_burst = 100");
    let limiter = Limiter::start(&world.server, &World::kernel(&lines));
    let frame = world.datagram(CLIENTS[0]);
    let before = Counters::of(&limiter);
    let start = Deadline::after(Duration::from_secs(2));
    thread::scope(|scope| {
        for cpu in 0..cpus() {
            let (port, frame) = (Port::open(&world.veth.client), &frame);
            scope.spawn(move || {
                stay_on_cpu(cpu);
                while !start.is_over() {
                    port.send_batch(&vec![frame.clone(); 50]);
                    thread::sleep(Duration::from_micros(200));
                }
            });
        }
    });
    let took = start.elapsed();
    let now = Counters::of(&limiter);
    let admitted =
        now.get(Action::Pass, Reason::Allowed) - before.get(Action::Pass, Reason::Allowed);
    let rate = RATE * u64::try_from(took.as_micros()).unwrap() / 1_000_000;
    let most = rate + rate / 100 + 100 + cpus() as u64;
    assert!(admitted <= most && admitted >= rate * 95 / 100, "{admitted} at {rate}");
}
