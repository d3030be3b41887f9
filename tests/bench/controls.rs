//! What controls cost: CPU time for each request of routes that differ in one control, beside a
//! route without any.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use limiter_tests::{http, netns::Namespace, scratch::Scratch, wait::eventually};

use crate::{
    proxy::{
        cases::{Case, FIELD, KEY},
        load::{self, Round},
        median, microseconds,
        servers::{self, MEASURED_CPU, OTHER_CPU, Server},
    },
    table,
};

const TURNS: usize = 7;
const ROUND: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(10);
const PORT: u16 = 8001;

const BEARER: &str = "Authorization";

const BARE: Case = Case {
    name: "no control",
    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    path: "/api/items",
    credential: None,
    status: 200,
    own_status: None,
    target: None,
};

/// Of the key in `peers/issuer.pem`, whose private half nobody has; good until 2100.
const TOKEN: &str = concat!(
    "Bearer ",
    "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJlbmNoIiwidHlwIjoiYXQrand0In0.eyJpc3MiOiJodHRwczov",
    "L2lkLmV4YW1wbGUuY29tIiwiYXVkIjpbImFwaSJdLCJzdWIiOiI1ZjFjMmE3ZS04ZDBiLTRjMWUtOWE1",
    "NS0zZjBlNWQyYjdjMTEiLCJpYXQiOjE3NjcyMjU2MDAsImV4cCI6NDEwMjQ0NDgwMCwianRpIjoiYTFi",
    "MmMzZDQtZTVmNi00YTdiLThjOWQtMGUxZjJhM2I0YzVkIiwic2NvcGUiOiJvcmRlcnM6cmVhZCBvcmRl",
    "cnM6d3JpdGUgcHJvZmlsZSIsImF6cCI6ImJlbmNoLWNsaWVudCIsImVtYWlsIjoidXNlckBleGFtcGxl",
    "LmNvbSJ9.WON5vvrAMT2RqyIBtaBDfccJBPb7qzxuP0cJo7CgBiPFOxF4KghCnx17h_Pxcoxyl_GWKcs",
    "4-FOFjYimihpSOYQrjrAE5KldCxHictbK6MT4bCPJjWwozAQFnK_7iqyaPEN8qOl3iJzA-LmhdaGjsYa",
    "7i4Xsa5uD2YieWX1BFmlA5JS4z33RVqC3fjLs-vf2qjGYufKyoe25jlZa5J0Ozdyviiscnd5pmvLT1ok",
    "AHQxiYOYLrYTzPHtuqtNtWmP5RaToo-ecxQL858kCmdDPKR1q_09HS3vsr-k_pIDW_NfYt3jFaHv89OT",
    "lf4sSUrtRKFzMfwM4f7Mve38AmdG4Sw",
);

/// Targets in ns more than the bare route.
const CASES: &[(Case, Option<u64>)] = &[
    (BARE, None),
    (Case { name: "a header that nobody reads", credential: Some((FIELD, KEY)), ..BARE }, None),
    (Case { name: "API key", path: "/api/key", credential: Some((FIELD, KEY)), ..BARE }, None),
    (
        Case {
            name: "API key, two limits, headers",
            path: "/api/limits",
            credential: Some((FIELD, KEY)),
            ..BARE
        },
        Some(3_000),
    ),
    (Case { name: "a token that nobody reads", credential: Some((BEARER, TOKEN)), ..BARE }, None),
    (Case { name: "token", path: "/api/token", credential: Some((BEARER, TOKEN)), ..BARE }, None),
    (
        Case {
            name: "token, two limits, headers",
            path: "/api/token/limits",
            credential: Some((BEARER, TOKEN)),
            ..BARE
        },
        Some(4_000),
    ),
];

/// The same with limits that hosts share.
const SHARED: &[(Case, Option<u64>)] = &[
    (BARE, None),
    (Case { name: "a shared limit", path: "/api/one", ..BARE }, Some(20_000)),
    (Case { name: "two shared limits", path: "/api/two", ..BARE }, Some(20_000)),
];

/// Measures everything; the tables.
pub(crate) fn measure() -> String {
    let namespace = Namespace::new("bench");
    let scratch = Scratch::new();
    let mut nginx = servers::on_cpu(&namespace, OTHER_CPU, "nginx");
    let text = std::fs::read(servers::peer("origin.conf")).expect("a peer's file");
    nginx.arg("-p").arg(scratch.path()).arg("-c").arg(scratch.write("origin.conf", text));
    let _origin = Server::start("nginx", 3000, &mut nginx);
    let issuer = std::fs::read(servers::peer("issuer.pem")).expect("a key of ours");
    scratch.write("issuer.pem", issuer);
    let own = measure_one(&namespace, &scratch, "controls.toml", CASES);
    let mut redis = servers::on_cpu(&namespace, OTHER_CPU, "redis-server");
    redis.args(["--port", "6379", "--save", "", "--appendonly", "no"]);
    let _store = Server::start("redis", 6379, &mut redis);
    let shared = measure_one(&namespace, &scratch, "shared.toml", SHARED);
    let mut text = format!("{own}\n{shared}");
    // Writing to a string cannot fail.
    let _infallible = write!(
        text,
        "\nCPU microseconds of all processes of the limiter for one request, median of {TURNS} \
         rounds of {} s, {} connections;\none thread on CPU {MEASURED_CPU}, client, origin and \
         Redis on CPU {OTHER_CPU}\n",
        ROUND.as_secs(),
        load::CONNECTIONS,
    );
    text
}

/// The routes of one file of ours, the first of them without any control.
fn measure_one(
    namespace: &Namespace,
    scratch: &Scratch,
    file: &str,
    cases: &[(Case, Option<u64>)],
) -> String {
    let mut limiter = servers::limiter(namespace, scratch, file);
    let server = Server::start("limiter", PORT, &mut limiter);
    for (case, _) in cases {
        let headers: Vec<(&str, &str)> = case.credential.into_iter().collect();
        let request = http::request("GET", case.path, &headers, b"");
        eventually(START, case.name, || {
            let address = SocketAddr::new(case.address, PORT);
            let answer = namespace.run(|| http::exchange(address, &request));
            answer.is_ok_and(|answer| answer.status == case.status)
        });
    }
    let mut rounds: Vec<Vec<Round>> = cases.iter().map(|_| Vec::new()).collect();
    for _ in 0..TURNS {
        for ((case, _), rounds) in cases.iter().zip(&mut rounds) {
            let wrk = servers::on_cpu(namespace, OTHER_CPU, "wrk");
            let address = SocketAddr::new(case.address, PORT);
            rounds.push(load::run(wrk, &server.child, address, case, ROUND));
        }
    }
    rows(cases, &rounds)
}

fn rows(cases: &[(Case, Option<u64>)], rounds: &[Vec<Round>]) -> String {
    let header = ["case", "us/request", "more than none", "target", ""];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for ((case, target), of_case) in cases.iter().zip(rounds) {
        // Of rounds that followed each other, so that what else the machine did hit both.
        let more = median(
            of_case
                .iter()
                .zip(&rounds[0])
                .map(|(one, bare)| one.cost_ns().saturating_sub(bare.cost_ns())),
        );
        let met = target.map_or("", |target| if more <= target { "PASS" } else { "MISS" });
        rows.push(vec![
            case.name.to_owned(),
            microseconds(median(of_case.iter().map(Round::cost_ns))),
            microseconds(more),
            target.map_or_else(String::new, microseconds),
            met.to_owned(),
        ]);
    }
    table::lines(&rows)
}
