//! What a packet costs: `BPF_PROG_TEST_RUN` of every verdict, the programs taking turns, medians,
//! less what calling an empty program costs, beside a yardstick (IPv4 parsed, one LRU hash hit,
//! one clock, one counter).

use std::path::PathBuf;

use limiter_common::maps::counter_index;
use limiter_tests::{
    frames::Frame,
    program::{Others, object, quiet_namespace, stay_on_cpu},
};

use crate::{
    cases::{Case, cases},
    table,
};

const RUNS: u32 = 1_000_000;
const TURNS: usize = 10;
const CPU: usize = 0;

/// Measures everything; the table.
pub(crate) fn measure() -> String {
    quiet_namespace().run(|| {
        stay_on_cpu(CPU);
        measure_here()
    })
}

fn measure_here() -> String {
    let mut others = Others::load(&bench_object(), &["empty", "yardstick", "rotate"], "NEXT");
    let frame = Frame::udp("192.0.2.1:1024", "198.51.100.1:53", b"a question").bytes();
    let mut cases = cases();
    let mut empty = Vec::new();
    let mut yardstick = Vec::new();
    let mut rotated = Vec::new();
    let mut gross = vec![Vec::new(); cases.len()];
    for _ in 0..TURNS {
        empty.push(nanoseconds(others.time("empty", &frame, RUNS)));
        yardstick.push(nanoseconds(others.time("yardstick", &frame, RUNS)));
        others.go_on_to("empty");
        rotated.push(nanoseconds(others.time("rotate", &frame, RUNS)));
        for (case, times) in cases.iter_mut().zip(&mut gross) {
            times.push(nanoseconds(if case.rotated {
                others.go_on_to_limiter(&case.program);
                others.time("rotate", &case.frame, RUNS)
            } else {
                case.program.time(&case.frame, RUNS)
            }));
        }
    }
    let (empty, rotated) = (median(&mut empty), median(&mut rotated));
    let yardstick = median(&mut yardstick).saturating_sub(empty);
    let mut rows = vec![
        ["path", "gross ns", "net ns", "of yardstick", "target", "", "does"]
            .map(str::to_owned)
            .to_vec(),
        row(
            "yardstick",
            yardstick + empty,
            yardstick,
            yardstick,
            None,
            "LRU hash, ktime, 1 counter",
        ),
    ];
    for (case, times) in cases.iter().zip(&mut gross) {
        check(case);
        let gross = median(times);
        let net = gross.saturating_sub(if case.rotated { rotated } else { empty });
        rows.push(row(case.name, gross, net, yardstick, case.target, case.does));
    }
    let text = table::lines(&rows);
    let notes = format!(
        "\n{RUNS} runs, median of {TURNS}; net of an empty program ({empty} ns; {rotated} ns with a \
         new source each time)\nverified instructions: limiter {}, yardstick {}\n",
        cases.first().map_or(0, |case| case.program.verified_instructions()),
        others.verified_instructions("yardstick"),
    );
    text + &notes
}

/// Built beside the packet program.
fn bench_object() -> PathBuf {
    object().with_file_name("limiter-bench.o")
}

fn nanoseconds((_, duration): (u32, std::time::Duration)) -> u128 {
    duration.as_nanos()
}

fn median(times: &mut [u128]) -> u128 {
    times.sort_unstable();
    let middle = times.len() / 2;
    (times[middle - 1] + times[middle]).div_ceil(2)
}

/// A measurement of another path than its name says would be worse than none.
fn check(case: &Case) {
    let counted = case.program.counter(counter_index(0, case.verdict)).packets;
    let runs = u64::try_from(TURNS).expect("few") * u64::from(RUNS);
    // Of so many arbitrary sources some few are banned.
    let least = if case.rotated { runs - runs / 1_000 } else { runs };
    assert!(counted >= least, "{}: {counted} of {runs} had {:?}", case.name, case.verdict);
}

fn row(
    name: &str,
    gross: u128,
    net: u128,
    yardstick: u128,
    target: Option<u32>,
    does: &str,
) -> Vec<String> {
    // Hundredths, so that nothing is rounded before it is compared.
    let ratio = net * 100 / yardstick.max(1);
    let hundredths = |value: u128| format!("{}.{:02}", value / 100, value % 100);
    let met = target.map_or("", |target| if ratio <= u128::from(target) { "PASS" } else { "MISS" });
    vec![
        name.to_owned(),
        gross.to_string(),
        net.to_string(),
        hundredths(ratio),
        target.map_or_else(String::new, |target| hundredths(target.into())),
        met.to_owned(),
        does.to_owned(),
    ]
}
