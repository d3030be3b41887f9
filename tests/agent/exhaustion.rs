//! A flood from random sources: it takes nothing from those who matter, neither with the agent nor
//! without it.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::Duration,
};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    process::Limiter,
    random::Random,
    raw::Port,
    wait::Deadline,
    world::{CLIENTS, World},
};

use crate::support::{BANNED, verdict};

/// Frames of one flood.
const FRAMES: usize = 2_000_000;
/// Of one system call.
const BATCH: usize = 64;
/// A flood that is not over by then is not waited for.
const LONGEST: Duration = Duration::from_secs(40);

/// Sends so many datagrams, each of another random source, from two processors; how many.
fn flood(world: &World, frames: usize, seed: u64) -> u64 {
    let sent = |seed: u64| {
        let (port, mut random) = (Port::open(&world.veth.client), Random::new(seed));
        let mut batch = vec![world.datagram("11.0.0.1"); BATCH];
        let deadline = Deadline::after(LONGEST);
        let mut sent = 0;
        while sent < frames / 2 && !deadline.is_over() {
            for frame in &mut batch {
                // 64.0.0.0/3: nobody's in these tests, and no multicast. The stack finds the
                // checksum wrong: what passes ends there.
                let source = 0x4000_0000 | (random.next_u32() >> 3);
                frame[26..30].copy_from_slice(&source.to_be_bytes());
            }
            port.send_batch(&batch);
            sent += BATCH;
        }
        sent as u64
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| sent(seed ^ 0xffff));
        sent(seed) + other.join().unwrap()
    })
}

fn memory_kb(limiter: &Limiter) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", limiter.agent_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn capacities(limiter: &Limiter) -> Vec<(String, u64)> {
    limiter.status().maps.into_iter().map(|(name, fill)| (name, fill.capacity)).collect()
}

const LIMITS: &str = "max_sources = 20000\nmax_bans = 3000\n\
    [kernel.limits]\npackets = \"50/s\"\npackets_burst = 100";
/// What this admits at most within a time, and while a source waits for its slot.
fn most(time: Duration) -> u64 {
    100 + 50 * (time.as_secs() + 1) + 200
}

/// Datagrams that the host's socket got since the last look, of two sources.
fn received(socket: &UdpSocket, sources: [&str; 2]) -> [u64; 2] {
    let (mut counts, mut buffer) = ([0; 2], [0; 64]);
    while let Ok(bytes) = socket.recv(&mut buffer) {
        for (source, count) in sources.iter().zip(&mut counts) {
            *count += u64::from(&buffer[..bytes] == source.as_bytes());
        }
    }
    counts
}

/// Floods while `heavy` sends ten times its rate and `honest` half of its own; what arrived of
/// both, how much there was of the flood, and for how long.
fn flood_beside(
    world: &World,
    socket: &UdpSocket,
    (heavy, honest): (&str, &str),
    frames: usize,
) -> ([u64; 2], u64, Duration) {
    let port = Port::open(&world.veth.client);
    let (heavy_frame, honest_frame) = (world.datagram(heavy), world.datagram(honest));
    let start = Deadline::after(Duration::ZERO);
    let mut arrived = [0; 2];
    let sent = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(world, frames, 2));
        while !flooding.is_finished() {
            port.send_many(&heavy_frame, 20, 100_000);
            port.send(&honest_frame);
            thread::sleep(Duration::from_millis(40));
            let more = received(socket, [heavy, honest]);
            arrived = [arrived[0] + more[0], arrived[1] + more[1]];
        }
        flooding.join().expect("a flood ends")
    });
    (arrived, sent, start.elapsed())
}

#[test]
fn two_million_random_sources_take_nothing_from_those_who_matter() {
    let world = World::new();
    let socket = world.server.run(|| UdpSocket::bind("10.9.0.1:9").unwrap());
    socket.set_nonblocking(true).unwrap();
    let mut limiter = Limiter::start(&world.server, &World::kernel(LIMITS));
    let banned: Vec<Ipv4Addr> =
        (0..2_000).map(|number: u32| Ipv4Addr::from_bits(0xc633_6400 + number * 7)).collect();
    let line = |address: &Ipv4Addr| format!("{{\"prefix\":\"{address}\",\"seconds\":3600}}");
    let lines = banned.iter().map(line).collect::<Vec<_>>().join("\n");
    let response = limiter.control("POST", "/v1/bans", lines.as_bytes());
    assert_eq!(response.status, 200, "{response:?}");
    limiter.cli(&["ban", "203.0.113.0/24", "--for", "1h"]).succeeded();
    // Known before the flood; and what the agent needs for its first answers does not count.
    world.send(CLIENTS[0], 300);
    flood(&world, 200_000, 1);
    thread::sleep(Duration::from_millis(1_500));
    received(&socket, [CLIENTS[0], CLIENTS[1]]);
    let (capacity, memory) = (capacities(&limiter), memory_kb(&limiter));
    let before = Counters::of(&limiter);

    let ([heavy, honest], sent, took) =
        flood_beside(&world, &socket, (CLIENTS[0], CLIENTS[1]), FRAMES);
    let now = Counters::of(&limiter);
    let more = |action, reason| now.get(action, reason) - before.get(action, reason);
    let seen = more(Action::Pass, Reason::Allowed)
        + more(Action::Pass, Reason::Untracked)
        + more(Action::Pass, Reason::TableFull);
    let told = format!(
        "{sent} sent, {seen} seen in {took:?}; heavy {heavy}, honest {honest}, {}",
        now.since(&before)
    );
    eprintln!("{told}");
    assert!(seen >= 300_000, "{told}");
    assert!(more(Action::Pass, Reason::Untracked) > 1_000, "{told}");
    assert!(heavy <= most(took), "{told}");
    assert!(honest > 0, "{told}");
    // All drops are told, with their source: one source has some.
    assert_eq!(
        now.total(Action::Drop) - before.total(Action::Drop),
        more(Action::Drop, Reason::PacketRate),
        "{told}"
    );
    thread::sleep(Duration::from_millis(1_500));
    let events = limiter.events();
    let drops = || events.iter().filter(|line| line.contains("packet_rate"));
    assert!(drops().any(|line| line.contains("from 10.9.0.2 ")), "{events:?}");
    assert!(drops().all(|line| line.contains("from 10.9.0.2 ")), "{events:?}");
    // Nothing has grown, nothing was evicted.
    assert_eq!(capacities(&limiter), capacity);
    let grown = memory_kb(&limiter).saturating_sub(memory);
    assert!(grown < 4_096, "{grown} kB more than {memory}");
    assert_eq!(limiter.status().bans["kernel"], 2_001);
    for source in banned.iter().step_by(400) {
        verdict(&world, &limiter, &source.to_string(), BANNED);
    }
    verdict(&world, &limiter, "203.0.113.77", BANNED);
    verdict(&world, &limiter, CLIENTS[1], crate::support::ALLOWED);

    // The same without the agent, with an abuser that nobody knew before.
    limiter.kill_agent();
    received(&socket, [CLIENTS[2], CLIENTS[1]]);
    let ([abuser, honest], sent, took) =
        flood_beside(&world, &socket, (CLIENTS[2], CLIENTS[1]), FRAMES / 4);
    let told = format!("{sent} sent in {took:?}; abuser {abuser}, honest {honest}");
    eprintln!("{told}");
    assert!(abuser <= most(took) && honest > 0, "{told}");
    // And one that begins after it.
    world.send(CLIENTS[3], 1_000);
    let [abuser, _] = received(&socket, [CLIENTS[3], CLIENTS[1]]);
    assert!((1..=110).contains(&abuser), "{abuser}");
    assert_eq!(crate::support::arrive(&world, &banned[7].to_string(), 3), 0);
    limiter.restart();
    assert_eq!(limiter.status().bans["kernel"], 2_001);
    verdict(&world, &limiter, &banned[1_999].to_string(), BANNED);
}
