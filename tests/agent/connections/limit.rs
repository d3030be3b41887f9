//! The limit on open connections, with a real server: one more than allowed waits until another one
//! has ended.

use std::{
    net::{SocketAddr, TcpStream},
    thread::JoinHandle,
    time::Duration,
};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    wait::eventually,
    world::{CLIENTS, CLIENTS_V6, SERVER},
};

use super::support::{Pair, Scene, connect};
use crate::support::SOON;

/// Connects in a thread, for as long as the stack tries.
fn connecting(scene: &Scene, source: &'static str, port: u16) -> JoinHandle<TcpStream> {
    scene
        .world
        .client
        .spawn(move || connect(source, SocketAddr::new(SERVER.parse().unwrap(), port)))
}

fn refused(scene: &Scene) -> u64 {
    let counters = Counters::of(&scene.limiter);
    assert_eq!(
        counters.total(Action::Drop),
        counters.get(Action::Drop, Reason::TooManyConnections)
    );
    counters.total(Action::Drop)
}

/// One more waits until one of `open` ends, and is then the next one's turn.
#[track_caller]
fn one_more_waits(scene: &Scene, source: &'static str, mut open: Vec<Pair>) {
    let before = refused(scene);
    let waiting = connecting(scene, source, 7000);
    eventually(SOON, "it is refused", || refused(scene) > before);
    // The stack tries again after a second.
    std::thread::sleep(Duration::from_millis(1_100));
    assert!(!waiting.is_finished(), "{} are open", open.len());
    drop(open.pop());
    eventually(SOON, "it goes through", || waiting.is_finished());
    let client = waiting.join().unwrap();
    let (server, _) = scene.listeners[0].accept().unwrap();
    open.push(Pair { client, server });
}

#[test]
fn the_eleventh_waits_until_one_of_ten_ends() {
    let scene = Scene::start("[kernel.limits]\nconcurrent_connections = 10");
    let open: Vec<Pair> = (0..10).map(|_| scene.open(CLIENTS[0])).collect();
    scene.settles(&[(CLIENTS[0], 10)]);
    let other = scene.open(CLIENTS[1]);
    let v6: Vec<Pair> = (0..10).map(|_| scene.open(CLIENTS_V6[0])).collect();
    scene.settles(&[(CLIENTS[0], 10), (CLIENTS[1], 1), (CLIENTS_V6[0], 10)]);
    one_more_waits(&scene, CLIENTS[0], open);
    drop((other, v6));
}

#[test]
fn a_service_and_the_host_have_limits_of_their_own() {
    let service = "[[kernel.service]]\nname = \"one\"\nports = [\"tcp/7000\"]\n";
    for (lines, beside) in [
        (format!("{service}limits = {{ concurrent_connections = 3 }}"), Some((CLIENTS[1], 7000))),
        (
            format!("{service}total_limits = {{ concurrent_connections = 3 }}"),
            Some((CLIENTS[0], 7001)),
        ),
        ("[kernel.total_limits]\nconcurrent_connections = 3".to_owned(), None),
    ] {
        let scene = Scene::start(&lines);
        let mut open: Vec<Pair> = (0..3).map(|_| scene.open(CLIENTS[0])).collect();
        scene.settles(&[(CLIENTS[0], 3)]);
        // What the limit does not concern goes on.
        let beside = beside.map(|(source, port)| {
            let client = connecting(&scene, source, port);
            let (server, _) = scene.listeners[usize::from(port - 7000)].accept().unwrap();
            (client.join().unwrap(), server)
        });
        assert_eq!(refused(&scene), 0);
        if lines.contains("kernel.total_limits") {
            // All sources together.
            let waiting = connecting(&scene, CLIENTS[1], 7001);
            eventually(SOON, "it is refused", || refused(&scene) > 0);
            drop(open.pop());
            eventually(SOON, "it goes through", || waiting.is_finished());
            drop(scene.listeners[1].accept().unwrap());
            drop(waiting.join().unwrap());
            continue;
        }
        one_more_waits(&scene, CLIENTS[0], open);
        drop(beside);
    }
}

#[test]
fn monitored_it_is_counted_and_refuses_nobody() {
    let scene = Scene::start("[kernel.limits]\nmode = \"monitor\"\nconcurrent_connections = 2");
    let open: Vec<Pair> = (0..5).map(|_| scene.open(CLIENTS[0])).collect();
    scene.settles(&[(CLIENTS[0], 5)]);
    assert_eq!(refused(&scene), 0);
    let monitored = Counters::of(&scene.limiter).get(Action::Monitor, Reason::TooManyConnections);
    // Counting follows the packets by a moment.
    assert!((1..=3).contains(&monitored), "{monitored}");
    drop(open);
}
