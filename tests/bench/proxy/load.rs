//! One round of load, and the CPU time that a server's processes used meanwhile.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use limiter_tests::wait::Deadline;

use super::cases::Case;

pub(crate) const CONNECTIONS: u32 = 64;

/// Longest time between the end of a round and the end of the program that made it.
const GRACE: Duration = Duration::from_secs(10);

/// What one round cost.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    requests: u64,
    duration_ns: u64,
    /// CPU time of each process, the one started here first.
    process_ns: Vec<u64>,
}

impl Round {
    /// CPU ns of all processes per request.
    pub(crate) fn cost_ns(&self) -> u64 {
        self.process_ns.iter().sum::<u64>() / self.requests.max(1)
    }

    /// CPU ns of the first process per request.
    pub(crate) fn first_process_ns(&self) -> u64 {
        self.process_ns.first().copied().unwrap_or_default() / self.requests.max(1)
    }

    pub(crate) fn per_second(&self) -> u64 {
        let per_second =
            u128::from(self.requests) * 1_000_000_000 / u128::from(self.duration_ns.max(1));
        u64::try_from(per_second).unwrap_or(u64::MAX)
    }
}

/// Runs `wrk` (a command in the right namespace, on the right CPU) with the requests of `case`.
/// Panics if an answer failed, or had another kind of status than all of this case have.
pub(crate) fn run(
    mut wrk: Command,
    server: &Child,
    address: SocketAddr,
    case: &Case,
    duration: Duration,
) -> Round {
    let processes = family(server.id());
    let before: Vec<u64> = processes.iter().map(|process| cpu_ns(*process)).collect();
    wrk.args(["--threads=1", &format!("--connections={CONNECTIONS}")])
        .arg(format!("--duration={}s", duration.as_secs()));
    if let Some((name, value)) = case.credential {
        wrk.arg(format!("--header={name}: {value}"));
    }
    wrk.arg(format!("http://{address}{}", case.path));
    let stopwatch = Deadline::after(duration + GRACE);
    let output = wrk.stdin(Stdio::null()).stderr(Stdio::piped()).output().expect("wrk starts");
    let duration_ns = u64::try_from(stopwatch.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = Report::read(&text)
        .unwrap_or_else(|| panic!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let unexpected = if case.status < 400 {
        report.refused
    } else {
        report.requests.saturating_sub(report.refused)
    };
    // The first of a budget are allowed.
    assert!(unexpected <= 1, "{}: {unexpected} answers of another kind: {text}", case.name);
    let process_ns =
        processes.iter().zip(before).map(|(process, before)| cpu_ns(*process) - before).collect();
    Round { requests: report.requests, duration_ns, process_ns }
}

/// What `wrk` printed.
#[derive(Debug)]
struct Report {
    requests: u64,
    refused: u64,
}

impl Report {
    /// `None` unless there were answers and no failed connections.
    fn read(text: &str) -> Option<Self> {
        let number = |line: &str| line.split_whitespace().next()?.parse().ok();
        let requests = text.lines().find(|line| line.contains(" requests in ")).and_then(number)?;
        let refused = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Non-2xx or 3xx responses: "))
            .map_or(Some(0), number)?;
        (requests > 0 && !text.contains("Socket errors")).then_some(Self { requests, refused })
    }
}

/// A process and all its descendants.
pub(crate) fn family(first: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|process: u32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            // proc(5): the name in parentheses may hold anything; state and parent follow.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((process, parent))
        })
        .collect();
    let mut family = vec![first];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        next += 1;
        let children = parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process);
        family.extend(children);
    }
    family
}

/// CPU time of all threads of a process, user and kernel. The scheduler's own account: the one of
/// proc(5) stat has the resolution of a clock tick.
pub(crate) fn cpu_ns(process: u32) -> u64 {
    fs::read_dir(format!("/proc/{process}/task"))
        .unwrap_or_else(|error| panic!("a server has ended: {error}"))
        .flatten()
        .map(|task| {
            let path = task.path().join("schedstat");
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default()
        })
        .sum()
}
