//! Bans by hand: in force at once, over on time without the agent, refused where they would hurt.

use std::{net::UdpSocket, time::Duration};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    http,
    origin::Origin,
    process::Limiter,
    wait::{Deadline, eventually},
    world::{CLIENTS, CLIENTS_V6, World},
};
use nix::sys::signal::Signal;

use crate::support::{ALLOWED, BANNED, SOON, arrive, counts, verdict};

#[test]
fn a_ban_holds_at_once_is_counted_and_is_lifted_at_once() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
    let said = limiter.cli(&["ban", CLIENTS[0], "--for", "1h", "--reason", "noisy"]).succeeded();
    assert_eq!(said.stdout, "banned 10.9.0.2 for 1h (kernel)\n");
    verdict(&world, &limiter, CLIENTS[0], BANNED);
    verdict(&world, &limiter, CLIENTS[1], ALLOWED);
    let told = "WARN: [SECURITY] Banned 10.9.0.2 for 1h: noisy";
    assert_eq!(limiter.event("noisy"), told);
    let bans = limiter.json(&["bans", "--json"]);
    let [ban] = bans.as_array().unwrap().as_slice() else { panic!("{bans}") };
    assert_eq!(
        (&ban["prefix"], &ban["scope"], &ban["origin"], &ban["reason"], &ban["packets"]),
        (&"10.9.0.2/32".into(), &"kernel".into(), &"manual".into(), &"noisy".into(), &3.into())
    );
    let why = limiter.json(&["why", CLIENTS[0], "--json"]);
    assert_eq!((&why["verdict"], &why["reason"]), (&"drop".into(), &"banned".into()));
    let said = limiter.cli(&["unban", CLIENTS[0]]).succeeded();
    assert_eq!(said.stdout, "bans lifted: 1\n");
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
    limiter.event("INFO: [SECURITY] Unbanned 10.9.0.2");
    // A ban of the same source again begins anew.
    limiter.cli(&["ban", CLIENTS[0]]).succeeded();
    verdict(&world, &limiter, CLIENTS[0], BANNED);
    let said = limiter.cli(&["unban", "--all"]).succeeded();
    assert_eq!(said.stdout, "bans lifted: 1\n");
}

#[test]
fn a_ban_ends_on_time_without_the_agent() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    let since = Deadline::after(Duration::ZERO);
    limiter.cli(&["ban", CLIENTS[0], "--for", "2s"]).succeeded();
    limiter.kill_agent();
    assert_eq!(arrive(&world, CLIENTS[0], 3), 0);
    eventually(SOON, "the ban ends", || arrive(&world, CLIENTS[0], 1) == 1);
    let took = since.elapsed();
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    limiter.restart();
    assert!(limiter.json(&["bans", "--json"]).as_array().unwrap().is_empty());
    verdict(&world, &limiter, CLIENTS[0], ALLOWED);
}

#[test]
fn an_ipv6_source_is_banned_by_its_64() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel(""));
    let said = limiter.cli(&["ban", CLIENTS_V6[0]]).succeeded();
    assert_eq!(said.stdout, "banned fd00:a::/64 for 10m (kernel)\n");
    verdict(&world, &limiter, CLIENTS_V6[0], BANNED);
    verdict(&world, &limiter, CLIENTS_V6[1], BANNED);
    verdict(&world, &limiter, CLIENTS_V6[2], ALLOWED);
    limiter.cli(&["unban", CLIENTS_V6[1]]).succeeded();
    verdict(&world, &limiter, CLIENTS_V6[0], ALLOWED);
}

#[test]
fn whoever_the_host_needs_is_banned_only_with_force_or_not_at_all() {
    let world = World::new();
    world.veth.server.route("default", CLIENTS[4].parse().unwrap());
    let limiter = Limiter::start(&world.server, &World::kernel("trusted = [\"10.9.0.2\"]"));
    for (target, why) in [
        (CLIENTS[0], "10.9.0.2/32 is not banned: it is on the `trusted` list"),
        (CLIENTS[4], "10.9.0.6/32 is not banned: it is a gateway or name server of this host"),
        ("10.9.0.1", "10.9.0.1/32 is not banned: it is an address of this host"),
    ] {
        let refused = limiter.cli(&["ban", target]).ended_with(1);
        assert!(refused.stderr.contains(why), "{refused:?}");
    }
    limiter.cli(&["ban", CLIENTS[4], "--force"]).succeeded();
    verdict(&world, &limiter, CLIENTS[4], BANNED);
    let refused = limiter.cli(&["ban", CLIENTS[1], "--for", "0s"]).ended_with(2);
    assert!(!refused.stderr.is_empty());
}

#[test]
fn a_full_table_refuses_and_says_so() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("max_bans = 3"));
    for source in &CLIENTS[..3] {
        limiter.cli(&["ban", source]).succeeded();
    }
    let refused = limiter.cli(&["ban", CLIENTS[3]]).ended_with(1);
    let expected = "the ban table is full (3 bans): raise kernel.max_bans";
    assert!(refused.stderr.contains(expected), "{refused:?}");
    let body = b"{\"prefix\": \"10.9.0.5\"}";
    assert_eq!(limiter.control("POST", "/v1/bans", body).status, 507);
    let fill = &limiter.status().maps["bans"];
    assert_eq!((fill.entries, fill.capacity), (3, 3));
    for source in &CLIENTS[..3] {
        verdict(&world, &limiter, source, BANNED);
    }
    verdict(&world, &limiter, CLIENTS[3], ALLOWED);
    // One that is there is renewed, and one that left makes room.
    limiter.cli(&["ban", CLIENTS[0], "--for", "2h"]).succeeded();
    limiter.cli(&["unban", CLIENTS[1]]).succeeded();
    limiter.cli(&["ban", CLIENTS[3]]).succeeded();
    verdict(&world, &limiter, CLIENTS[3], BANNED);
}

#[test]
fn what_the_host_asked_for_is_let_in() {
    let world = World::new();
    let origin = world.client.run(|| Origin::start_here("10.9.0.2:80".parse().unwrap()));
    let limiter = Limiter::start(&world.server, &World::kernel("default = \"deny\""));
    let fetch = || {
        world.server.run(|| http::exchange(origin.address(), &http::request("GET", "/", &[], b"")))
    };
    assert_eq!(fetch().unwrap().status, 200);
    // Under a ban too, TCP and UDP.
    limiter.cli(&["ban", CLIENTS[0]]).succeeded();
    assert_eq!(fetch().unwrap().status, 200);
    let resolver = world.client.run(|| UdpSocket::bind("10.9.0.2:53").unwrap());
    let asking = world.server.run(|| UdpSocket::bind("10.9.0.1:0").unwrap());
    asking.connect("10.9.0.2:53").unwrap();
    asking.set_read_timeout(Some(SOON)).unwrap();
    resolver.set_read_timeout(Some(SOON)).unwrap();
    counts(&limiter, &[(Action::Pass, Reason::Reply, 1)], || {
        asking.send(b"question").unwrap();
        let (_, peer) = resolver.recv_from(&mut [0; 64]).unwrap();
        resolver.send_to(b"answer", peer).unwrap();
        assert_eq!(asking.recv(&mut [0; 64]).unwrap(), 6);
    });
    // Whoever was not asked stays out.
    verdict(&world, &limiter, CLIENTS[0], BANNED);
    verdict(&world, &limiter, CLIENTS[1], (Action::Drop, Reason::NotAllowed));
}

#[test]
fn bans_outlive_restarts_of_any_kind() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    limiter.cli(&["ban", CLIENTS[0], "--for", "1h", "--reason", "first"]).succeeded();
    limiter.signal(Signal::SIGTERM);
    limiter.wait_end(SOON);
    limiter.restart();
    verdict(&world, &limiter, CLIENTS[0], BANNED);
    let bans = limiter.json(&["bans", "--json"]);
    assert_eq!((&bans[0]["reason"], &bans[0]["origin"]), (&"first".into(), &"manual".into()));
    // Without pins (a reboot) the book brings it back.
    limiter.cli(&["detach"]).succeeded();
    limiter.terminate(SOON);
    limiter.restart();
    assert!(!limiter.status().interfaces[0].taken_over);
    verdict(&world, &limiter, CLIENTS[0], BANNED);
}

#[test]
fn a_ban_in_monitor_mode_is_counted_and_nothing_is_dropped() {
    let world = World::new();
    let limiter = Limiter::start(&world.server, &World::kernel("mode = \"monitor\""));
    limiter.cli(&["ban", CLIENTS[0]]).succeeded();
    verdict(&world, &limiter, CLIENTS[0], (Action::Monitor, Reason::Banned));
    limiter.configure(&World::kernel("mode = \"enforce\""));
    limiter.cli(&["reload"]).succeeded();
    verdict(&world, &limiter, CLIENTS[0], BANNED);
}

#[test]
fn a_source_that_is_trusted_from_a_restart_on_is_banned_no_more() {
    let world = World::new();
    let mut limiter = Limiter::start(&world.server, &World::kernel(""));
    for source in &CLIENTS[..2] {
        limiter.cli(&["ban", source, "--for", "1h"]).succeeded();
    }
    limiter.kill_agent();
    limiter.configure(&World::kernel("trusted = [\"10.9.0.2\"]"));
    limiter.restart();
    verdict(&world, &limiter, CLIENTS[0], (Action::Pass, Reason::Trusted));
    verdict(&world, &limiter, CLIENTS[1], BANNED);
    let bans = limiter.json(&["bans", "--json"]);
    assert_eq!(bans.as_array().unwrap().len(), 1, "{bans}");
}
