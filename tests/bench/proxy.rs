//! What a request costs: CPU time of all processes of a server, user and kernel, for each answered
//! request, of `limiter` and of nginx and `HAProxy` set up to do the same in front of the same
//! origin, the programs taking turns, medians.

pub(crate) mod cases;
pub(crate) mod load;
pub(crate) mod servers;

use std::{fmt::Write as _, time::Duration};

use limiter_tests::netns::Namespace;

use self::{
    cases::{CASES, Case},
    load::Round,
    servers::{LIMITER, Servers},
};
use crate::table;

const TURNS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);

/// Measures everything; the table.
pub(crate) fn measure() -> String {
    let namespace = Namespace::new("bench");
    // Requests to it come from it: a client that policies tell from 127.0.0.1.
    namespace.batch("addr add 198.51.100.1/32 dev lo\n");
    let servers = Servers::start(&namespace);
    let mut rounds: Vec<Vec<Vec<Round>>> =
        CASES.iter().map(|_| vec![Vec::new(); servers.len()]).collect();
    for case in CASES {
        for server in 0..servers.len() {
            servers.verify(&namespace, server, case);
        }
    }
    for _ in 0..TURNS {
        for (case, of_case) in CASES.iter().zip(&mut rounds) {
            for (server, of_server) in of_case.iter_mut().enumerate() {
                of_server.push(servers.load(&namespace, server, case, ROUND));
            }
        }
    }
    let mut text = table::lines(&rows(&servers, &rounds));
    // Writing to a string cannot fail.
    let _infallible = write!(
        text,
        "\nCPU microseconds of all processes of the server for one request, median of {TURNS} rounds \
         of {} s, {} connections;\none worker or thread each, on a CPU of its own; client and origin \
         on the other\n",
        ROUND.as_secs(),
        load::CONNECTIONS,
    );
    text
}

fn rows(servers: &Servers, rounds: &[Vec<Vec<Round>>]) -> Vec<Vec<String>> {
    let header = [
        "case",
        "server",
        "us/request",
        "of which agent",
        "requests/s",
        "/nginx",
        "/haproxy",
        "target",
        "",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (case, of_case) in CASES.iter().zip(rounds) {
        for (server, of_server) in of_case.iter().enumerate() {
            let own = |text: String| if server == LIMITER { text } else { String::new() };
            let to_nginx = ratio(of_server, &of_case[servers::NGINX]);
            let to_haproxy = ratio(of_server, &of_case[servers::HAPROXY]);
            rows.push(vec![
                case.name.to_owned(),
                servers.name(server).to_owned(),
                microseconds(median(of_server.iter().map(Round::cost_ns))),
                own(microseconds(median(of_server.iter().map(Round::first_process_ns)))),
                median(of_server.iter().map(Round::per_second)).to_string(),
                own(hundredths(to_nginx)),
                own(hundredths(to_haproxy)),
                own(case.target.map_or_else(String::new, hundredths)),
                own(met(case, to_nginx).to_owned()),
            ]);
        }
    }
    rows
}

/// Hundredths; of rounds that followed each other, so that what else the machine did hit both.
fn ratio(ours: &[Round], theirs: &[Round]) -> u64 {
    median(ours.iter().zip(theirs).map(|(own, their)| own.cost_ns() * 100 / their.cost_ns().max(1)))
}

fn met(case: &Case, hundredths_of_nginx: u64) -> &'static str {
    match case.target {
        Some(target) if hundredths_of_nginx <= target => "PASS",
        Some(_) => "MISS",
        None => "",
    }
}

pub(crate) fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

pub(crate) fn hundredths(value: u64) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}

pub(crate) fn microseconds(ns: u64) -> String {
    hundredths(ns / 10)
}
