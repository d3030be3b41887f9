//! More requests than there is room for: strangers are refused first, the kernel half slows new
//! connections down, and whoever administers goes on being answered.

use std::time::Duration;

use limiter_common::verdict::{Action, Reason};
use limiter_tests::{
    counters::Counters,
    frames::{Frame, tcp_flags},
    http::{self, Connection},
    origin::{Behaviour, Origin},
    process::Limiter,
    raw::Port,
    wait::{Deadline, eventually},
    world::{CLIENTS, SERVER, World},
};

use crate::support::SOON;

const TOKEN: &str = "correct-horse-battery-staple";
const KEY: (&str, &str) = ("X-API-Key", TOKEN);

/// How long the requests that are too many last.
const LASTS: Duration = Duration::from_secs(8);

fn configuration(origin: &Origin) -> String {
    World::kernel("")
        + &format!(
            "[http]\nmax_requests = 8\n[[http.listener]]\naddress = \"0.0.0.0:8080\"\n\
             [[http.upstream]]\nname = \"api\"\nservers = [\"{}\"]\n\
             [[http.route]]\nauth = \"none\"\nlimits = \"none\"\n\
             [[http.route]]\npath = \"/mine\"\nauth = [\"keys\"]\nlimits = \"none\"\n\
             [auth.keys]\nkind = \"api_key\"\ntoken = {{ env = \"TEST_TOKEN\" }}\n",
            origin.url()
        )
}

/// Of 40 connection requests that come at once, how many the kernel half refuses.
fn refused_connections(world: &World, limiter: &Limiter, source: &str) -> u64 {
    let refused = || Counters::of(limiter).get(Action::Drop, Reason::ConnectionRate);
    let before = refused();
    let (from, to) = (format!("{source}:4000"), format!("{SERVER}:9"));
    let syn = world.frame(Frame::tcp(&from, &to, tcp_flags::SYN));
    Port::open(&world.veth.client).send_many(&syn, 40, 100_000);
    std::thread::sleep(Duration::from_millis(50));
    refused() - before
}

fn get(connection: &mut Connection, path: &str, headers: &[(&str, &str)]) -> http::Response {
    connection.exchange(&http::request("GET", path, headers, b"")).unwrap()
}

#[test]
fn strangers_are_refused_first_and_come_back() {
    let world = World::new();
    let origin = Origin::start(&world.server);
    let mut limiter = Limiter::prepare(&world.server, &configuration(&origin));
    limiter.environment("TEST_TOKEN", TOKEN);
    limiter.restart();
    origin.on("/slow", Behaviour::Delayed(LASTS, Box::new(Behaviour::ok("late"))));
    let (mut known, mut stranger) = (world.connect(CLIENTS[0]), world.connect(CLIENTS[2]));
    assert_eq!(get(&mut known, "/mine", &[KEY]).status, 200);
    assert_eq!(get(&mut stranger, "/", &[]).status, 200);
    assert_eq!(refused_connections(&world, &limiter, CLIENTS[3]), 0);

    let began = Deadline::after(Duration::ZERO);
    let mut slow: Vec<Connection> = (0..7).map(|_| world.connect(CLIENTS[1])).collect();
    for connection in &mut slow {
        connection.send(&http::request("GET", "/slow", &[], b"")).unwrap();
    }
    limiter.event("unknown clients are refused: too many requests are in flight");
    let mut in_a_row = 0;
    eventually(SOON, "strangers are refused", || {
        let answer = get(&mut stranger, "/", &[]);
        in_a_row = if answer.status == 503 { in_a_row + 1 } else { 0 };
        assert!(answer.status == 200 || answer.header("retry-after") == Some("1"), "{answer:?}");
        in_a_row == 20
    });
    for _ in 0..20 {
        assert_eq!(get(&mut known, "/", &[]).status, 200, "known, though without its key");
    }
    assert_eq!(get(&mut stranger, "/mine", &[]).status, 401);
    assert_eq!(get(&mut stranger, "/mine", &[KEY]).status, 200, "a good key is let in");
    assert_eq!(get(&mut stranger, "/", &[]).status, 200, "and makes known");
    eventually(SOON, "the kernel half slows new connections down", || {
        refused_connections(&world, &limiter, CLIENTS[3]) >= 29
    });
    let asked = Deadline::after(Duration::ZERO);
    let status = limiter.status();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(status.state, "degraded");
    eventually(SOON, "refusals are counted", || {
        limiter.status().refused.get("overloaded").copied() >= Some(20)
    });
    assert!(began.elapsed() < LASTS, "the test is too slow");

    for connection in &mut slow {
        assert_eq!(connection.response().unwrap().status, 200, "what was let in is answered");
    }
    eventually(SOON, "it is over", || limiter.status().state == "ready");
    let mut another = world.connect(CLIENTS[4]);
    for _ in 0..20 {
        assert_eq!(get(&mut another, "/", &[]).status, 200);
    }
    eventually(2 * SOON, "the kernel half follows", || {
        refused_connections(&world, &limiter, CLIENTS[3]) == 0
    });
}
