//! How long a request takes at half of the rate that saturates nginx: each is due at its own time,
//! and what it waits for the one before counts (no coordinated omission; Tene, 2013).

use std::{fmt::Write as _, net::SocketAddr, thread, time::Duration};

use limiter_tests::{http, netns::Namespace, wait::Deadline};

use crate::{
    proxy::{
        cases::{CASES, KEY},
        hundredths,
        load::Round,
        median, microseconds,
        servers::{self, Servers},
    },
    table,
};

const TURNS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

/// Each sends its share of the requests, one at a time.
const CLIENTS: u32 = 24;

/// Measures everything; the table.
pub(crate) fn measure() -> String {
    let namespace = Namespace::new("bench");
    namespace.batch("addr add 198.51.100.1/32 dev lo\n");
    let servers = Servers::start(&namespace);
    let allowed = &CASES[0];
    let saturated = |_| servers.load(&namespace, servers::NGINX, allowed, Duration::from_secs(1));
    let rounds: Vec<Round> = (0..3).map(saturated).collect();
    let per_second = median(rounds.iter().map(Round::per_second)) / 2;
    let interval = Duration::from_nanos(1_000_000_000 * u64::from(CLIENTS) / per_second.max(1));
    let mut turns: Vec<Vec<[u64; 3]>> = vec![Vec::new(); servers.len()];
    for _ in 0..TURNS {
        for (server, of_server) in turns.iter_mut().enumerate() {
            of_server.push(round(&namespace, servers.address(server), interval));
        }
    }
    let header = ["server", "p50 us", "p99 us", "p99.9 us", "p99/nginx", "target", ""];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (server, of_server) in turns.iter().enumerate() {
        let ratios = of_server.iter().zip(&turns[servers::NGINX]);
        let ratio = median(ratios.map(|(own, theirs)| own[1] * 100 / theirs[1].max(1)));
        let is_own = server == servers::LIMITER;
        let own = |text: &str| if is_own { text.to_owned() } else { String::new() };
        let mut row = vec![servers.name(server).to_owned()];
        row.extend((0..3).map(|rank| microseconds(median(of_server.iter().map(|t| t[rank])))));
        row.push(own(&hundredths(ratio)));
        row.push(own("1.00"));
        row.push(own(if ratio <= 100 { "PASS" } else { "MISS" }));
        rows.push(row);
    }
    let mut text = table::lines(&rows);
    // Writing to a string cannot fail.
    let _infallible = writeln!(
        text,
        "\n{per_second} requests per second, half of what nginx can do here, by {CLIENTS} clients; \
         median of {TURNS} rounds of {} s",
        ROUND.as_secs()
    );
    text
}

/// The 50th, 99th and 99.9th percentile, ns.
fn round(namespace: &Namespace, address: SocketAddr, interval: Duration) -> [u64; 3] {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            // Their requests are spread over the interval.
            let first = interval * number / CLIENTS;
            namespace.spawn(move || client(address, first, interval))
        })
        .collect();
    let mut all: Vec<u64> =
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
    all.sort_unstable();
    [500, 990, 999].map(|rank| all[(all.len() - 1) * rank / 1_000])
}

/// How long each request took since it was due, ns.
fn client(address: SocketAddr, first: Duration, interval: Duration) -> Vec<u64> {
    let request = http::request("GET", "/api/items", &[("X-API-KEY", KEY)], b"");
    let mut connection = http::Connection::open(address).expect("the server accepts");
    let clock = Deadline::after(ROUND);
    let mut due = first;
    let mut took = Vec::new();
    while due < ROUND {
        thread::sleep(due.saturating_sub(clock.elapsed()));
        let response = connection.exchange(&request).expect("an answer");
        assert_eq!(response.status, 200);
        took.push(u64::try_from(clock.elapsed().saturating_sub(due).as_nanos()).unwrap_or(0));
        due += interval;
    }
    took
}
