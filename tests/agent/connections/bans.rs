//! A ban ends what the banned source has open, and nothing else.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use limiter_tests::{
    wait::{Deadline, eventually, holds_for},
    world::{CLIENTS, CLIENTS_V6, SERVER},
};

use super::support::{Scene, connect, state};
use crate::support::SOON;

/// Whether the host's end of a connection was ended.
fn is_ended(server: &mut TcpStream) -> bool {
    server.set_nonblocking(true).unwrap();
    match server.peek(&mut [0; 8]) {
        Err(error) => error.kind() != ErrorKind::WouldBlock,
        Ok(_) => false,
    }
}

#[test]
fn of_any_server_but_at_failsafe_ports_or_opened_by_the_host() {
    let scene = Scene::start("failsafe_ports = [7001]");
    let mut cut = [scene.open(CLIENTS[0]), scene.open(CLIENTS[0])];
    let mut other = scene.open(CLIENTS[1]);
    let mut failsafe = super::Pair::open(&scene.world, CLIENTS[0], &scene.listeners[1]);
    let outside = scene.world.client.run(|| TcpListener::bind((CLIENTS[0], 7000)).unwrap());
    let mut outbound = scene.world.server.run(|| connect(SERVER, outside.local_addr().unwrap()));
    let (mut answering, _) = outside.accept().unwrap();
    scene.settles(&[(CLIENTS[0], 3), (CLIENTS[1], 1)]);

    let since = Deadline::after(Duration::ZERO);
    scene.limiter.cli(&["ban", CLIENTS[0], "--for", "1h"]).succeeded();
    eventually(SOON, "its connections end", || {
        cut.iter_mut().all(|pair| is_ended(&mut pair.server))
    });
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    scene.settles(&[(CLIENTS[0], 1), (CLIENTS[1], 1)]);
    assert_eq!(state(&scene.limiter).ended_by_bans, 2);
    for kept in [&mut other.server, &mut failsafe.server, &mut outbound] {
        assert!(holds_for(Duration::from_millis(100), || !is_ended(kept)));
    }
    // Failsafe ports and answers pass in spite of the ban.
    failsafe.client.write_all(b"command").unwrap();
    failsafe.server.set_nonblocking(false).unwrap();
    assert_eq!(failsafe.server.read(&mut [0; 8]).unwrap(), 7);
    answering.write_all(b"answer").unwrap();
    outbound.set_nonblocking(false).unwrap();
    outbound.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(outbound.read(&mut [0; 8]).unwrap(), 6);
}

#[test]
fn an_ipv6_ban_ends_those_of_the_64_and_many_bans_at_once_end_all() {
    let scene = Scene::start("");
    let mut v6 = [CLIENTS_V6[0], CLIENTS_V6[1]].map(|source| scene.open(source));
    let mut other = scene.open(CLIENTS_V6[2]);
    let mut v4 = [CLIENTS[0], CLIENTS[1], CLIENTS[2]].map(|source| scene.open(source));
    scene.limiter.cli(&["ban", CLIENTS_V6[0]]).succeeded();
    eventually(SOON, "both end", || v6.iter_mut().all(|pair| is_ended(&mut pair.server)));
    for number in 0..300 {
        let address = format!("198.51.{}.{}", number / 100, number % 100);
        let body = format!("{{\"prefix\": \"{address}\"}}");
        assert_eq!(scene.limiter.control("POST", "/v1/bans", body.as_bytes()).status, 200);
        if let Some(source) = CLIENTS[..3].get(number / 10) {
            let body = format!("{{\"prefix\": \"{source}\"}}");
            assert_eq!(scene.limiter.control("POST", "/v1/bans", body.as_bytes()).status, 200);
        }
    }
    eventually(SOON, "all end", || v4.iter_mut().all(|pair| is_ended(&mut pair.server)));
    assert!(!is_ended(&mut other.server));
    let state = state(&scene.limiter);
    assert_eq!((state.ended_by_bans, state.bans_skipped), (5, 0));
    scene.settles(&[(CLIENTS_V6[2], 1)]);
}

#[test]
fn none_in_monitor_mode() {
    let scene = Scene::start("mode = \"monitor\"");
    let mut pair = scene.open(CLIENTS[0]);
    scene.limiter.cli(&["ban", CLIENTS[0]]).succeeded();
    assert!(holds_for(Duration::from_millis(500), || !is_ended(&mut pair.server)));
    scene.settles(&[(CLIENTS[0], 1)]);
}
