//! What one decision costs where a million clients are known, on one thread and on more, and the
//! memory that they take. In this process, over the library that the proxy counts with.

use std::{fmt::Write as _, hint::black_box, sync::Barrier, thread, time::Duration};

use limiter_user::{
    limits::{Answer, Ask, Counter, Counters, Key, Meter, decide},
    policy::Rate,
};

use nix::time::{ClockId, clock_gettime};

use crate::table;

const CLIENTS: u64 = 1_000_000;
const DECISIONS: u64 = 4_000_000;

/// A moment at which everybody has been up for some time.
const NOW_NS: u64 = 1_000_000_000_000_000;

fn client(number: u64) -> Key<'static> {
    let bits = 0x2001_0db8_u128 << 96 | u128::from(number) << 64;
    Key::address(limiter_user::limits::AddressKey::new(std::net::Ipv6Addr::from_bits(bits).into()))
}

/// An order in which neighbours are far from each other.
fn shuffled(turn: u64) -> u64 {
    turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) % CLIENTS
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// What the proxy does once a second, until there is no more to do.
fn join_pages(counters: &mut Counters) {
    const REGIONS: u64 = 64;
    (0..REGIONS).for_each(|_| counters.sweep(NOW_NS));
}

/// CPU time of this thread: others on the machine do not count.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// Nanoseconds of CPU that a decision takes each of so many threads.
fn each_takes(threads: u64, decide: impl Fn(u64) + Sync) -> u128 {
    let barrier = Barrier::new(usize::try_from(threads).unwrap_or(1));
    let took: Vec<Duration> = thread::scope(|scope| {
        let work = |number: u64| {
            let (barrier, decide) = (&barrier, &decide);
            scope.spawn(move || {
                barrier.wait();
                let began = worked();
                for turn in 0..DECISIONS {
                    decide(turn.wrapping_mul(threads).wrapping_add(number));
                }
                worked().saturating_sub(began)
            })
        };
        let running: Vec<_> = (0..threads).map(work).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let all: Duration = took.iter().sum();
    all.as_nanos() / u128::from(DECISIONS * threads)
}

pub(crate) fn measure() -> String {
    let hour = |count| Rate { count, period: Duration::from_hours(1) };
    let meters = [
        ("token bucket", Meter::bucket(hour(100_000), 100_000)),
        ("sliding window", Meter::sliding_window(hour(100_000))),
        ("fixed window", Meter::fixed_window(hour(100_000))),
    ];
    let threads = [1, thread::available_parallelism().map_or(2, |number| number.get() as u64)];
    let mut rows = vec![vec![
        format!("limits, {CLIENTS} clients"),
        "new ns".to_owned(),
        "small pages ns".to_owned(),
        "1 thread ns".to_owned(),
        format!("{} threads ns", threads[1]),
        "refused ns".to_owned(),
        "memory MB".to_owned(),
        String::new(),
    ]];
    for (name, meter) in meters {
        let before = resident_kb();
        let mut counters = Counters::default();
        counters.begin(NOW_NS);
        let Ok(counter) = counters.counter(name, meter, Duration::from_hours(1)) else {
            return format!("{name}: no memory\n");
        };
        let Ok(tight) =
            counters.counter("tight", Meter::fixed_window(hour(1)), Duration::from_hours(1))
        else {
            return format!("{name}: no memory\n");
        };
        counters.commit();
        let began = worked();
        for number in 0..CLIENTS {
            counter.charge(client(number), 1, NOW_NS);
        }
        let new_ns = worked().saturating_sub(began).as_nanos() / u128::from(CLIENTS);
        let memory = resident_kb().saturating_sub(before);
        let charge = |counter: &Counter, turn| {
            black_box(counter.charge(client(shuffled(turn)), 1, NOW_NS + turn));
        };
        let small = each_takes(1, |turn| charge(&counter, turn));
        join_pages(&mut counters);
        let memory = memory.max(resident_kb().saturating_sub(before));
        let [one, more] = threads.map(|threads| each_takes(threads, |turn| charge(&counter, turn)));
        let refuse = |turn| charge(&tight, turn % 1_000);
        let refused = each_takes(1, refuse);
        let (entries, full) = counters.usage();
        rows.push(vec![
            name.to_owned(),
            new_ns.to_string(),
            small.to_string(),
            one.to_string(),
            more.to_string(),
            refused.to_string(),
            (memory / 1_000).to_string(),
            format!("target 200 ns, 100 MB; {entries} entries, {full} without"),
        ]);
    }
    let mut text = table::lines(&rows);
    text.push_str(&two_limits());
    text
}

/// As most requests: one limit by address and one by principal.
fn two_limits() -> String {
    let mut counters = Counters::default();
    counters.begin(NOW_NS);
    let hour = Duration::from_hours(1);
    let meter = Meter::sliding_window(Rate { count: 100_000, period: hour });
    let made = ["one", "two"].map(|name| counters.counter(name, meter, hour));
    let [Ok(one), Ok(two)] = made else {
        return "two limits: no memory\n".to_owned();
    };
    counters.commit();
    let mut text = String::new();
    for turn in 0..2 {
        if turn > 0 {
            join_pages(&mut counters);
        }
        let took = each_takes(1, |turn| {
            let key = client(shuffled(turn));
            let ask = |counter| Ask::new(counter, key, 1, true);
            let mut answers: Vec<Answer> = Vec::with_capacity(2);
            decide(&[ask(&*one), ask(&*two)], NOW_NS + turn, &mut answers);
            black_box(answers);
        });
        text = format!("two limits of one request, looked at and charged: {took} ns\n");
    }
    let (entries, full) = counters.usage();
    let _written = writeln!(text, "{entries} entries, {full} without one");
    text
}
