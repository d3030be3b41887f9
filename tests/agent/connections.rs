//! Open connections by what the TCP stack says: right however they end, whoever dies meanwhile,
//! and whatever somebody else puts on the wire.

mod bans;
mod limit;
mod support;

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener},
    time::Duration,
};

use limiter_tests::{
    frames::{Frame, Tcp, tcp_flags},
    process::Limiter,
    random::Random,
    raw::Port,
    wait::{eventually, holds_for},
    world::{CLIENTS, CLIENTS_V6, SERVER, World},
};

use self::support::{Pair, Scene, connect, of_source, open, reset, state, table};
use crate::support::SOON;

#[test]
fn every_way_to_end_ends_it_once() {
    let scene = Scene::start("");
    let mut pairs: Vec<Pair> = (0..6).map(|_| scene.open(CLIENTS[0])).collect();
    let other = scene.open(CLIENTS[1]);
    scene.settles(&[(CLIENTS[0], 6), (CLIENTS[1], 1)]);
    let mut next = || pairs.pop().unwrap();

    let Pair { client, server } = next();
    drop(client);
    // Half closed: the host has not let go of its end.
    scene.settles(&[(CLIENTS[0], 6), (CLIENTS[1], 1)]);
    drop(server);
    scene.settles(&[(CLIENTS[0], 5), (CLIENTS[1], 1)]);

    let Pair { client, server } = next();
    drop(server);
    scene.settles(&[(CLIENTS[0], 4), (CLIENTS[1], 1)]);
    drop(client);

    let Pair { client, server } = next();
    reset(client);
    scene.settles(&[(CLIENTS[0], 3), (CLIENTS[1], 1)]);
    drop(server);

    let Pair { client, server } = next();
    reset(server);
    scene.settles(&[(CLIENTS[0], 2), (CLIENTS[1], 1)]);
    drop(client);

    let Pair { mut client, mut server } = next();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
    server.write_all(b"more").unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 4);
    scene.settles(&[(CLIENTS[0], 2), (CLIENTS[1], 1)]);
    drop((client, server));
    drop((next(), other));
    scene.settles(&[]);
    let why = scene.limiter.cli(&["why", CLIENTS[0]]).succeeded();
    assert!(!why.stdout.contains("TCP connections open"), "{why:?}");
    assert_eq!(state(&scene.limiter).drift_corrected, 0);
}

#[test]
fn a_source_sees_what_it_has_open() {
    let scene = Scene::start("");
    let _pairs = [scene.open(CLIENTS[0]), scene.open(CLIENTS[0])];
    scene.settles(&[(CLIENTS[0], 2)]);
    let why = scene.limiter.cli(&["why", CLIENTS[0]]).succeeded();
    assert!(why.stdout.contains("its source has 2 TCP connections open"), "{why:?}");
    let sources = scene.limiter.json(&["sources", "--json", "--sort", "connections"]);
    let record = &sources.as_array().unwrap()[0];
    assert_eq!(
        (&record["source"], &record["open_connections"]),
        (&"10.9.0.2/32".into(), &2.into())
    );
    let shown = scene.limiter.cli(&["status"]).succeeded().stdout;
    assert!(shown.contains("connections   2 open, 2 of 262144 tracked\n"), "{shown}");
}

#[test]
fn killed_and_restarted_agents_miss_nothing_and_count_nothing_twice() {
    let mut scene = Scene::start("");
    let mut pairs = vec![scene.open(CLIENTS[0]), scene.open(CLIENTS[0]), scene.open(CLIENTS[1])];
    scene.settles(&[(CLIENTS[0], 2), (CLIENTS[1], 1)]);
    for _ in 0..3 {
        scene.limiter.kill_agent();
        // The kernel counts alone.
        drop(pairs.remove(0));
        pairs.push(scene.open(CLIENTS[0]));
        pairs.push(scene.open(CLIENTS[2]));
        scene.limiter.restart();
    }
    scene.settles(&[(CLIENTS[0], 3), (CLIENTS[2], 3)]);
    assert_eq!(state(&scene.limiter).drift_corrected, 0);
    // Tables of another size start anew.
    scene.limiter.terminate(SOON);
    scene.limiter.configure(&World::kernel("max_bans = 9"));
    scene.limiter.restart();
    scene.settles(&[(CLIENTS[0], 3), (CLIENTS[2], 3)]);
    drop(pairs);
    scene.settles(&[]);
    assert_eq!(state(&scene.limiter).drift_corrected, 0);
}

#[test]
fn a_changed_prefix_moves_what_is_open() {
    let mut scene = Scene::start("");
    let pairs = vec![scene.open(CLIENTS[0]), scene.open(CLIENTS[1])];
    scene.settles(&[(CLIENTS[0], 1), (CLIENTS[1], 1)]);
    scene.limiter.kill_agent();
    scene.limiter.configure(&World::kernel("ipv4_prefix = 24"));
    scene.limiter.restart();
    eventually(SOON, "both are of one source", || of_source(&scene.limiter, CLIENTS[0]) == 2);
    assert_eq!((of_source(&scene.limiter, CLIENTS[4]), open(&scene.limiter)), (2, 2));
    drop(pairs);
    scene.settles(&[]);
}

#[test]
fn what_was_open_before_counts_and_what_the_host_opens_does_not() {
    let world = World::new();
    let listener = world.server.run(|| TcpListener::bind("[::]:7000").unwrap());
    let outside = world.client.run(|| TcpListener::bind((CLIENTS[3], 7000)).unwrap());
    let outbound = || world.server.run(|| connect(SERVER, outside.local_addr().unwrap()));
    let dial = |source| {
        let address = format!("{SERVER}:7000").parse().unwrap();
        let client = world.client.run(|| connect(source, address));
        (client, listener.accept().unwrap())
    };
    let early = [dial(CLIENTS[0]), dial(CLIENTS[0]), dial(CLIENTS[1])];
    let early_out = outbound();
    // Closed for everybody but the stack.
    let (client, server) = dial(CLIENTS[2]);
    drop(server);
    drop(client);
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    assert_eq!((open(&limiter), of_source(&limiter, CLIENTS[0])), (3, 2));
    let late_out = outbound();
    let late = dial(CLIENTS[1]);
    eventually(SOON, "one more", || of_source(&limiter, CLIENTS[1]) == 2);
    assert_eq!((open(&limiter), of_source(&limiter, CLIENTS[3])), (4, 0));
    drop((early, early_out, late_out, late));
    eventually(SOON, "all are gone", || open(&limiter) == 0);
    assert_eq!(state(&limiter).drift_corrected, 0);
}

#[test]
fn ten_thousand_opened_and_closed_at_random_add_up() {
    const ROUNDS: u32 = 5_000;
    let mut scene = Scene::start("");
    let left: Vec<(Vec<Pair>, Vec<u64>)> = std::thread::scope(|scope| {
        let work = |seed: u64| {
            let (world, listeners) = (&scene.world, &scene.listeners);
            let listener = &listeners[usize::try_from(seed).unwrap()];
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let mut pairs: Vec<(usize, Pair)> = Vec::new();
                for _ in 0..ROUNDS {
                    if pairs.len() > 200 || (!pairs.is_empty() && random.chance(2, 5)) {
                        let at = random.below(pairs.len());
                        let (_, Pair { client, server }) = pairs.swap_remove(at);
                        match random.below(4) {
                            0 => reset(client),
                            1 => reset(server),
                            2 => drop((client, server)),
                            _ => drop((server, client)),
                        }
                    }
                    let source = random.below(CLIENTS.len());
                    pairs.push((source, Pair::open(world, CLIENTS[source], listener)));
                }
                let mut counts = vec![0; CLIENTS.len()];
                for (source, _) in &pairs {
                    counts[*source] += 1;
                }
                (pairs.into_iter().map(|(_, pair)| pair).collect(), counts)
            })
        };
        let threads = [0, 1].map(work);
        threads.map(|thread| thread.join().unwrap()).into()
    });
    let expected: Vec<(&str, u64)> = CLIENTS
        .iter()
        .enumerate()
        .map(|(at, source)| (*source, left.iter().map(|(_, counts)| counts[at]).sum()))
        .collect();
    scene.settles(&expected);
    scene.limiter.kill_agent();
    scene.limiter.restart();
    scene.settles(&expected);
    drop(left);
    scene.settles(&[]);
    let state = state(&scene.limiter);
    assert_eq!((state.drift_corrected, state.untracked), (0, 0), "{state:?}");
    assert_eq!(table(&scene.limiter, "CONNECTIONS").keys().count(), 0, "counts at 0 leave");
}

#[test]
fn what_somebody_else_puts_on_the_wire_changes_nothing() {
    let scene = Scene::start("");
    let Pair { mut client, mut server } = scene.open(CLIENTS[0]);
    scene.settles(&[(CLIENTS[0], 1)]);
    let port = Port::open(&scene.world.veth.client);
    let (live, service) = (client.local_addr().unwrap(), format!("{SERVER}:7000"));
    for flags in [
        tcp_flags::SYN,
        tcp_flags::ACK,
        tcp_flags::RST,
        tcp_flags::FIN | tcp_flags::ACK,
        tcp_flags::SYN | tcp_flags::ACK,
        tcp_flags::RST | tcp_flags::ACK,
    ] {
        for number in 0..50_u16 {
            let from = format!("{}:{}", CLIENTS[1], 2_000 + number);
            // Of the live connection, but by someone who does not know its numbers.
            let spoofed = Frame::tcp(&live.to_string(), &service, flags).map::<Tcp>(|tcp| {
                tcp.sequence = u32::from(number) * 80_000_000;
                tcp.acknowledgement = u32::from(number) * 70_000_000;
            });
            for frame in [Frame::tcp(&from, &service, flags), spoofed] {
                port.send(&scene.world.frame(frame));
            }
        }
    }
    let unchanged = || (open(&scene.limiter), of_source(&scene.limiter, CLIENTS[1])) == (1, 0);
    assert!(holds_for(Duration::from_millis(300), unchanged));
    server.write_all(b"still").unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 5);
}

#[test]
fn both_families_at_one_listener_count_as_what_they_are() {
    let scene = Scene::start("");
    let v4 = scene.open(CLIENTS[0]);
    let v6 = [CLIENTS_V6[0], CLIENTS_V6[1], CLIENTS_V6[2]].map(|source| scene.open(source));
    assert!(v4.server.peer_addr().unwrap().is_ipv6(), "v4-mapped, as the stack has it");
    scene.settles(&[(CLIENTS[0], 1), (CLIENTS_V6[0], 2), (CLIENTS_V6[2], 1)]);
    assert_eq!(of_source(&scene.limiter, CLIENTS_V6[1]), 2, "of one /64");
    drop((v4, v6));
    scene.settles(&[]);
}

#[test]
fn connections_of_other_namespaces_do_not_count() {
    let scene = Scene::start("");
    let other = scene.world.client.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let own = scene.world.client.run(|| connect("127.0.0.1", other.local_addr().unwrap()));
    let accepted = other.accept().unwrap();
    let here = scene.open(CLIENTS[0]);
    scene.settles(&[(CLIENTS[0], 1)]);
    assert_eq!(of_source(&scene.limiter, "127.0.0.1"), 0);
    drop((own, accepted, here));
    scene.settles(&[]);
}

#[test]
fn drift_is_found_put_right_and_told() {
    let scene = Scene::start("");
    let pairs = [scene.open(CLIENTS[0]), scene.open(CLIENTS[0]), scene.open(CLIENTS[1])];
    scene.settles(&[(CLIENTS[0], 2), (CLIENTS[1], 1)]);
    let mut counts = table(&scene.limiter, "CONNECTIONS");
    let keys: Vec<u64> = counts.keys().flatten().collect();
    counts.insert(keys[0], 77, 0).unwrap();
    counts.insert(9, 5, 0).unwrap();
    counts.remove(&keys[1]).unwrap();
    eventually(Duration::from_secs(20), "the counts are right again", || {
        state(&scene.limiter).drift_corrected == 3
    });
    scene.settles(&[(CLIENTS[0], 2), (CLIENTS[1], 1)]);
    assert_eq!(counts.keys().count(), 2);
    drop(pairs);
    scene.settles(&[]);
}

#[test]
fn detach_leaves_no_program_behind() {
    let scene = Scene::start("");
    let programs = || {
        aya::programs::loaded_programs()
            .flatten()
            .filter(|program| program.name_as_str() == Some("connections_too"))
            .count()
    };
    assert!(programs() > 0);
    let pins: Vec<_> = scene.pins().collect();
    assert!(pins.contains(&"watch-first".to_owned()), "{pins:?}");
    assert!(!pins.iter().any(|pin| pin.ends_with("-new")), "{pins:?}");
    scene.limiter.cli(&["detach"]).succeeded();
    assert!(!scene.limiter.pins().exists());
    assert_eq!(scene.limiter.status().connections, None);
}
