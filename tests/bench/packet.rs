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
    cases::{Case, Rotation, cases},
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
    let programs = ["empty", "yardstick", "rotate", "rotate_some"];
    let mut others = Others::load(&bench_object(), &programs, "NEXT");
    let frame = Frame::udp("192.0.2.1:1024", "198.51.100.1:53", b"a question").bytes();
    let mut cases = cases();
    // By rotation: the empty program, and the yardstick.
    let mut empty = [Vec::new(), Vec::new(), Vec::new()];
    let mut yardstick = [Vec::new(), Vec::new(), Vec::new()];
    let mut gross = vec![Vec::new(); cases.len()];
    for _ in 0..TURNS {
        for (times, name) in [(&mut empty, "empty"), (&mut yardstick, "yardstick")] {
            times[0].push(nanoseconds(others.time(name, &frame, RUNS)));
            others.go_on_to(name);
            times[1].push(nanoseconds(others.time("rotate_some", &frame, RUNS)));
            times[2].push(nanoseconds(others.time("rotate", &frame, RUNS)));
        }
        for (case, times) in cases.iter_mut().zip(&mut gross) {
            times.push(nanoseconds(match case.rotation {
                Rotation::None => case.program.time(&case.frame, RUNS),
                rotation => {
                    others.go_on_to_limiter(&case.program);
                    let name = if rotation == Rotation::Some { "rotate_some" } else { "rotate" };
                    others.time(name, &case.frame, RUNS)
                }
            }));
        }
    }
    let empty = empty.map(|mut times| median(&mut times));
    let yardstick = [0, 1, 2].map(|at| median(&mut yardstick[at]).saturating_sub(empty[at]));
    let head = ["path", "gross ns", "net ns", "of yardstick", "target", ""];
    let operations = ["arrays", "hashes", "tries", "stack", "ktime"];
    let mut rows = vec![head.into_iter().chain(operations).map(str::to_owned).collect()];
    for (at, name) in
        ["yardstick", "yardstick, 65,536 sources", "yardstick, new sources"].iter().enumerate()
    {
        rows.push(row(name, yardstick[at] + empty[at], yardstick[at], (yardstick[0], None)));
    }
    let mut beside = Vec::new();
    let mut nets = Vec::new();
    for (case, times) in cases.iter().zip(&mut gross) {
        check(case);
        let at = case.rotation as usize;
        let gross = median(times);
        let net = gross.saturating_sub(empty[at]);
        let mut row = row(case.name, gross, net, (yardstick[at], case.target));
        let asked = case.operations;
        row.extend(
            [asked.arrays, asked.hashes, asked.tries, asked.stack, asked.precise_clocks]
                .map(|count| count.to_string()),
        );
        rows.push(row);
        nets.push((case.name, net));
        if let Some((other, target)) = case.beside {
            let base = nets.iter().find(|(name, _)| *name == other).map_or(1, |(_, net)| *net);
            let ratio = net * 100 / base.max(1);
            let met = if ratio <= u128::from(target) { "PASS" } else { "MISS" };
            beside.push(format!(
                "{}: {} of {other}, at most {} {met}\n",
                case.name,
                hundredths(ratio),
                hundredths(target.into()),
            ));
        }
    }
    let notes = format!(
        "{RUNS} runs, median of {TURNS}; net of an empty program (ns: {} the same source, {} \
         65,536, {} new ones). Jiffies are read once for each packet.\nverified instructions: \
         limiter {}, yardstick {}\n",
        empty[0],
        empty[1],
        empty[2],
        cases.first().map_or(0, |case| case.program.verified_instructions()),
        others.verified_instructions("yardstick"),
    );
    [table::lines(&rows), "\n".to_owned(), beside.concat(), notes].concat()
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
    let packets = |verdict| case.program.counter(counter_index(0, verdict)).packets;
    let counted: u64 = case.verdicts.iter().copied().map(packets).sum();
    let runs = u64::try_from(TURNS).expect("few") * u64::from(RUNS);
    // Of so many arbitrary sources some few are banned.
    let least = if case.rotation == Rotation::None { runs } else { runs - runs / 50 };
    assert!(counted >= least, "{}: {counted} of {runs} had {:?}", case.name, case.verdicts);
}

fn row(name: &str, gross: u128, net: u128, of: (u128, Option<u32>)) -> Vec<String> {
    let (yardstick, target) = of;
    // Hundredths, so that nothing is rounded before it is compared.
    let ratio = net * 100 / yardstick.max(1);
    let met = target.map_or("", |target| if ratio <= u128::from(target) { "PASS" } else { "MISS" });
    vec![
        name.to_owned(),
        gross.to_string(),
        net.to_string(),
        hundredths(ratio),
        target.map_or_else(String::new, |target| hundredths(target.into())),
        met.to_owned(),
    ]
}

fn hundredths(value: u128) -> String {
    format!("{}.{:02}", value / 100, value % 100)
}
