//! Agent and proxy killed, ended and restarted while packets and requests flow.

use std::{net::IpAddr, time::Duration};

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    http,
    load::{Flood, Load},
    origin::{Behaviour, Origin},
    process::Limiter,
    raw::Port,
    wait::{Deadline, eventually},
    world::{CLIENTS, World},
};
use nix::sys::signal::Signal;

use crate::support::{BANNED, SOON, counts, verdict};

const DENIED: &str = CLIENTS[1];
const FLOOD_PER_SECOND: u32 = 4_000;

/// A denied source floods, an honest client asks, and the host's end is watched.
struct Scene {
    world: World,
    origin: Origin,
    limiter: Limiter,
    load: Load,
    flood: Flood,
    watch: Port,
}

impl Scene {
    fn start() -> Self {
        Self::with("")
    }

    fn with(lines: &str) -> Self {
        let world = World::new();
        let origin = Origin::start(&world.server);
        let text =
            World::kernel(&format!("deny = [\"{DENIED}\"]\n{lines}")) + &World::http(&origin);
        let limiter = Limiter::start(&world.server, &text);
        let watch = Port::open(&world.veth.server);
        let honest: IpAddr = CLIENTS[0].parse().unwrap();
        let get = http::request("GET", "/", &[], b"");
        let load = Load::start(&world.client, honest, world.address(), &get, 4);
        let frames = vec![world.datagram(DENIED)];
        let flood = Flood::start(&world.veth.client, frames, FLOOD_PER_SECOND);
        load.flows(20);
        flood.flows(100);
        Self { world, origin, limiter, load, flood, watch }
    }

    /// Ends the traffic: not one packet of the denied source came through, and every one was
    /// counted as dropped.
    #[track_caller]
    fn end(mut self) -> (limiter_tests::load::Tally, Limiter, World) {
        let tally = self.load.stop();
        let sent = self.flood.stop();
        let denied = self.world.datagram(DENIED);
        let seen = self.watch.count_matching(Duration::from_millis(100), |found| found == denied);
        assert_eq!(seen, 0, "of {sent} packets of a denied source");
        eventually(SOON, "every packet is counted", || {
            Counters::of(&self.limiter).get(Action::Drop, Reason::Denied) == sent
        });
        assert!(self.origin.count() > 0);
        (tally, self.limiter, self.world)
    }
}

#[test]
fn an_agent_killed_under_load_is_missed_by_nobody() {
    let mut scene = Scene::start();
    scene.limiter.cli(&["ban", CLIENTS[2], "--for", "10m"]).succeeded();
    for _ in 0..2 {
        scene.limiter.kill_agent();
        // Neither packets nor requests notice.
        scene.load.flows(50);
        scene.flood.flows(500);
        scene.limiter.restart();
        scene.load.flows(50);
        scene.flood.flows(200);
        let interface = &scene.limiter.status().interfaces[0];
        assert!(interface.taken_over && interface.mode == "native");
    }
    let (tally, limiter, world) = scene.end();
    tally.all(200);
    verdict(&world, &limiter, CLIENTS[2], BANNED);
    // The earlier proxies drained and ended.
    eventually(SOON, "one agent and one proxy are left", || world.server.processes().len() == 2);
}

#[test]
fn a_proxy_killed_under_load_is_replaced_and_packets_do_not_notice() {
    let mut scene = Scene::start();
    let first = scene.limiter.proxy_pid().unwrap();
    scene.limiter.kill_proxy();
    scene.flood.flows(200);
    scene.load.flows(50);
    let status = scene.limiter.status();
    assert_eq!(status.proxy_starts, 2);
    assert_ne!(status.proxy_pid, Some(first));
    scene.limiter.event("signal: 9 (SIGKILL)");
    let (tally, _limiter, _world) = scene.end();
    // What was under way on a connection of the killed process is lost, nothing else.
    assert!(tally.failed <= 4, "{tally:?}");
    assert_eq!(tally.statuses.keys().copied().collect::<Vec<_>>(), [200], "{tally:?}");
}

#[test]
fn both_killed_the_kernel_alone_goes_on() {
    let mut scene = Scene::with("[kernel.limits]\npackets = \"1000/h\"\npackets_burst = 100000");
    scene.limiter.cli(&["ban", CLIENTS[2], "--for", "10m"]).succeeded();
    let world_send = |scene: &Scene, source: &str, count| scene.world.send(source, count);
    scene.limiter.kill_agent();
    scene.limiter.kill_proxy();
    assert!(scene.world.server.processes().is_empty());
    scene.flood.flows(500);
    let banned = scene.world.datagram(CLIENTS[2]);
    let mut watch = Port::open(&scene.world.veth.server);
    world_send(&scene, CLIENTS[2], 20);
    // A limit as well: one burst for whoever comes now.
    world_send(&scene, CLIENTS[3], 20);
    let slow = scene.world.datagram(CLIENTS[3]);
    let (mut of_banned, mut of_slow) = (0, 0);
    watch.count_matching(Duration::from_millis(100), |frame| {
        of_banned += usize::from(frame == banned);
        of_slow += usize::from(frame == slow);
        false
    });
    assert_eq!((of_banned, of_slow), (0, 20));
    scene.limiter.restart();
    scene.load.flows(50);
    let sources = scene.limiter.json(&["sources", "--json", "--limit", "100"]);
    let record =
        sources.as_array().unwrap().iter().find(|record| record["source"] == "10.9.0.5/32");
    assert_eq!(record.unwrap()["packets"], 20, "what was counted alone is there");
    let (_tally, limiter, world) = scene.end();
    assert_eq!(Counters::of(&limiter).get(Action::Drop, Reason::Banned), 20);
    verdict(&world, &limiter, CLIENTS[2], BANNED);
}

#[test]
fn reloads_under_load_lose_no_request_and_pass_no_packet() {
    let scene = Scene::start();
    let http = World::http(&scene.origin);
    for round in 0..6 {
        // Lists change each time, so that both tries take turns.
        let lines = format!("deny = [\"{DENIED}\", \"198.51.100.{round}\"]");
        scene.limiter.configure(&(World::kernel(&lines) + &http));
        if round % 2 == 0 {
            let done = scene.limiter.cli(&["reload"]).succeeded();
            assert!(done.stdout.starts_with(&format!("generation {} is in force", round + 2)));
            assert!(done.stdout.contains("  kernel policy\n"), "{done:?}");
        } else {
            scene.limiter.signal(Signal::SIGHUP);
            let told = format!("Configuration reloaded: generation {}", round + 2);
            scene.limiter.event(&told);
        }
        scene.load.flows(20);
        scene.flood.flows(100);
    }
    assert_eq!(scene.limiter.status().proxy_starts, 1);
    let (tally, limiter, world) = scene.end();
    tally.all(200);
    counts(&limiter, &[(Action::Drop, Reason::Denied, 1)], || world.send("198.51.100.5", 1));
    counts(&limiter, &[(Action::Pass, Reason::Allowed, 1)], || world.send("198.51.100.4", 1));
}

#[test]
fn sigterm_drains_what_is_under_way_and_leaves_packets_filtered() {
    let world = World::new();
    let origin = Origin::start(&world.server);
    let text = World::kernel(&format!("deny = [\"{DENIED}\"]")) + &World::http(&origin);
    let mut limiter = Limiter::start(&world.server, &text);
    origin.on(
        "/slow",
        Behaviour::Delayed(Duration::from_millis(700), Box::new(Behaviour::ok("late"))),
    );
    let mut idle = world.connect(CLIENTS[0]);
    let get = |path| http::request("GET", path, &[], b"");
    assert_eq!(idle.exchange(&get("/")).unwrap().status, 200);
    let mut busy = world.connect(CLIENTS[0]);
    busy.send(&get("/slow")).unwrap();
    eventually(SOON, "the request is at the origin", || origin.count() == 2);
    let since = Deadline::after(Duration::ZERO);
    limiter.proxy_pid();
    limiter.signal(Signal::SIGTERM);
    let late = busy.response().unwrap();
    assert_eq!((late.status, late.text().as_str()), (200, "late"));
    assert!(idle.is_closed_within(Duration::from_secs(2)), "idle connections end soon");
    assert_eq!(limiter.wait_end(SOON).code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    assert!(world.server.processes().is_empty());
    let refused = world.client.run(|| http::exchange(world.address(), &get("/")));
    assert!(matches!(refused, Err(http::Failure::Reset)), "{refused:?}");
    let mut watch = Port::open(&world.veth.server);
    let denied = world.datagram(DENIED);
    world.send(DENIED, 5);
    assert_eq!(watch.count_matching(Duration::from_millis(100), |frame| frame == denied), 0);
}

#[test]
fn a_lone_proxy_keeps_its_policy_and_its_bans() {
    let world = World::new();
    let origin = Origin::start(&world.server);
    let text = World::kernel("")
        + &World::http(&origin)
            .replace("\"none\"\nlimits = \"none\"", "[\"keys\"]\nlimits = \"none\"")
        + "[auth.keys]\nkind = \"api_key\"\ntoken = { env = \"TEST_TOKEN\" }\n";
    let mut limiter = Limiter::prepare(&world.server, &text);
    limiter.environment("TEST_TOKEN", "correct-horse-battery-staple");
    limiter.restart();
    limiter.cli(&["ban", CLIENTS[3], "--scope", "http"]).succeeded();
    eventually(SOON, "the ban is in force", || world.get(CLIENTS[3], &[]).status == 403);
    limiter.kill_agent();
    let good = [("X-API-Key", "correct-horse-battery-staple")];
    for _ in 0..3 {
        assert_eq!(world.get(CLIENTS[0], &good).status, 200);
        assert_eq!(world.get(CLIENTS[0], &[]).status, 401);
        assert_eq!(world.get(CLIENTS[3], &good).status, 403);
    }
    limiter.restart();
    assert_eq!(world.get(CLIENTS[0], &good).status, 200);
    assert_eq!(world.get(CLIENTS[3], &good).status, 403, "the book brings http bans back too");
}
