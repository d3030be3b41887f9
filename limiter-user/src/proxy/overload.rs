//! Whether more comes than this process can serve, and whom it then refuses: unknown clients
//! first, and of them as many as it takes.
//!
//! In: how late the cores are, how many requests and connections there are, memory; out: the share
//! of unknown clients' connections and requests that is refused. It grows while there is strain and
//! fades when there is none, so that what is served settles just below what is too much. Known is
//! who authenticated within the hour, or presents a good credential now.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{clients::ClientConnections, core::SWEEP, report::CoreCounters};
use crate::{
    clock,
    limits::Meter,
    link::{FromProxy, Strain},
    policy::{Rate, http::HttpBounds},
};

/// How often the conductor judges.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A core this late keeps every request waiting that long.
const LATE_NS: u64 = 250_000_000;

/// Of what is allowed in all, in quarters: beyond it only known clients are let in for sure.
const FULL_QUARTERS: u64 = 3;

/// Looks in a row that find strain before anybody is refused for it.
const PATIENCE: u32 = 3;

/// By how much the share grows with each look that finds strain, and fades with each that does
/// not (of 255): to everybody unknown in about a second, to nobody in three.
const MORE: u8 = 24;
const LESS: u8 = 8;

/// Of the memory there is, in percent.
const MAX_MEMORY_PERCENT: u64 = 85;
const MIN_AVAILABLE_PERCENT: u64 = 3;

/// What every core reads of it: shares of 255.
#[derive(Debug, Default)]
pub(super) struct Overload {
    requests: AtomicU8,
    connections: AtomicU8,
}

impl Overload {
    /// Whether anybody is refused at present.
    pub(super) fn is_on(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Whether this request is, if its client is unknown, by the luck of `random`.
    pub(super) fn refuses_request(&self, random: u64) -> bool {
        random.to_le_bytes()[0] < self.requests.load(Ordering::Relaxed)
    }

    /// Whether this connection is: not where requests alone are too many, of which one with a
    /// good credential may be the next.
    pub(super) fn refuses_connection(&self, random: u64) -> bool {
        random.to_le_bytes()[0] < self.connections.load(Ordering::Relaxed)
    }

    fn set(&self, share: u8, why: Option<Strain>) {
        let of_connections = if why == Some(Strain::Requests) { 0 } else { share };
        self.requests.store(share, Ordering::Relaxed);
        self.connections.store(of_connections, Ordering::Relaxed);
    }
}

/// When a core last looked at its deadlines: how late it is says how long everything waits there.
#[derive(Debug, Default)]
pub(super) struct Beat {
    /// `CLOCK_MONOTONIC`; 0: it has nothing to do.
    last_ns: AtomicU64,
    late_ns: AtomicU64,
}

impl Beat {
    /// The core has nothing to look at from now on.
    pub(super) fn rest(&self) {
        self.last_ns.store(0, Ordering::Relaxed);
        self.late_ns.store(0, Ordering::Relaxed);
    }

    /// The core looks now, and again in `every`.
    pub(super) fn now(&self, now_ns: u64, every: Duration) {
        self.late_ns.store(self.running_late_ns(now_ns, every), Ordering::Relaxed);
        self.last_ns.store(now_ns, Ordering::Relaxed);
    }

    /// How late it is, or was the last time.
    pub(super) fn late_ns(&self, now_ns: u64, every: Duration) -> u64 {
        self.late_ns.load(Ordering::Relaxed).max(self.running_late_ns(now_ns, every))
    }

    fn running_late_ns(&self, now_ns: u64, every: Duration) -> u64 {
        match self.last_ns.load(Ordering::Relaxed) {
            0 => 0,
            last_ns => {
                let every_ns = u64::try_from(every.as_nanos()).unwrap_or(u64::MAX);
                now_ns.saturating_sub(last_ns).saturating_sub(every_ns)
            }
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) late_ns: u64,
    /// Requests in flight, and how many there may be.
    pub(super) requests: (u64, u64),
    /// Connections open, and how many there may be.
    pub(super) connections: (u64, u64),
    pub(super) is_short_of_memory: bool,
}

impl Load {
    fn strain(&self) -> Option<Strain> {
        let is_full = |(count, most): (u64, u64)| count > most / 4 * FULL_QUARTERS;
        if self.late_ns >= LATE_NS {
            Some(Strain::Delay)
        } else if is_full(self.requests) {
            Some(Strain::Requests)
        } else if is_full(self.connections) {
            Some(Strain::Connections)
        } else if self.is_short_of_memory {
            Some(Strain::Memory)
        } else {
            None
        }
    }
}

/// The conductor's judgement, look after look.
#[derive(Debug, Default)]
pub(super) struct Judge {
    in_a_row: u32,
    share: u8,
    /// The latest strain, until nobody is refused any more.
    why: Option<Strain>,
}

impl Judge {
    /// Looks once, sets the share, and says why somebody is refused if that has changed.
    pub(super) fn look(&mut self, load: &Load, overload: &Overload) -> Option<FromProxy> {
        let strain = load.strain();
        self.in_a_row = if strain.is_some() { self.in_a_row.saturating_add(1) } else { 0 };
        self.share = match strain {
            Some(_) if self.in_a_row >= PATIENCE => self.share.saturating_add(MORE),
            Some(_) => self.share,
            None => self.share.saturating_sub(LESS),
        };
        let why = if self.share == 0 { None } else { strain.or(self.why) };
        overload.set(self.share, why);
        (std::mem::replace(&mut self.why, why) != why).then_some(FromProxy::Overload(why))
    }
}

/// Who looks, and what at.
#[derive(Debug, Default)]
pub(super) struct Watchman {
    pub(super) overload: Arc<Overload>,
    pub(super) clients: Arc<ClientConnections>,
    /// Of the policy in force.
    pub(super) bounds: Option<HttpBounds>,
    judge: Judge,
    memory: Memory,
    is_short_of_memory: bool,
}

impl Watchman {
    /// Looks at all cores; says why somebody is refused from now on if that has changed.
    pub(super) fn look<'a>(
        &mut self,
        cores: impl Iterator<Item = &'a CoreCounters>,
    ) -> Option<FromProxy> {
        let bounds = self.bounds?;
        let wide = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let now_ns = clock::coarse_monotonic_ns();
        let (late_ns, in_flight) = cores.fold((0, 0), |(late_ns, in_flight), core| {
            (core.beat.late_ns(now_ns, SWEEP).max(late_ns), in_flight + core.in_flight())
        });
        let load = Load {
            late_ns,
            requests: (in_flight, wide(bounds.max_requests)),
            connections: (wide(self.clients.open()), wide(bounds.max_connections)),
            is_short_of_memory: self.is_short_of_memory,
        };
        self.judge.look(&load, &self.overload)
    }

    /// Looks at memory, which costs two files of `/proc`.
    pub(super) fn look_at_memory(&mut self) {
        self.is_short_of_memory = self.memory.is_short();
    }
}

/// A bucket that says who is known: each success takes one token of two, and who has taken any
/// within the last half hour to hour is known.
pub(super) fn known_meter() -> Meter {
    Meter::bucket(Rate { count: 2, period: Duration::from_hours(1) }, 2)
}

/// Whether this process takes more memory than is good, or the host has none left.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Bytes that this process may have: of its control group, or of the host.
    limit: Option<u64>,
}

impl Memory {
    pub(super) fn is_short(&mut self) -> bool {
        let host = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = kilobytes(&host, "MemTotal:");
        let limit = *self.limit.get_or_insert_with(|| {
            total.unwrap_or(u64::MAX).min(control_group_limit().unwrap_or(u64::MAX))
        });
        let own = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = kilobytes(&own, "VmRSS:").unwrap_or(0);
        let is_host_short = match (kilobytes(&host, "MemAvailable:"), total) {
            (Some(available), Some(total)) => available < total / 100 * MIN_AVAILABLE_PERCENT,
            _ => false,
        };
        is_host_short || resident > limit / 100 * MAX_MEMORY_PERCENT
    }
}

/// A line of `/proc/meminfo` or `/proc/self/status`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let count: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(count.saturating_mul(1024))
}

/// The least `memory.max` from this process's control group up (cgroup v2).
fn control_group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = std::path::Path::new("/sys/fs/cgroup").join(own);
    let limit = |group: &std::path::Path| -> Option<u64> {
        fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok()
    };
    own.ancestors().take_while(|group| group.starts_with("/sys/fs/cgroup")).filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{AddressKey, Counters, Key};

    const FULL: Load =
        Load { late_ns: 0, requests: (80, 100), connections: (0, 100), is_short_of_memory: false };
    const CALM: Load = Load { requests: (75, 100), ..FULL };

    #[test]
    fn the_share_grows_under_strain_and_fades_after_it() {
        let (mut judge, overload) = (Judge::default(), Overload::default());
        assert_eq!(judge.look(&FULL, &overload), None);
        assert_eq!(judge.look(&CALM, &overload), None);
        let told: Vec<_> = (0..20).filter_map(|_| judge.look(&FULL, &overload)).collect();
        assert_eq!(told, [FromProxy::Overload(Some(Strain::Requests))], "once, when it begins");
        assert!(overload.is_on() && overload.refuses_request(0) && overload.refuses_request(254));
        let late = Load { late_ns: LATE_NS, ..FULL };
        assert!(overload.refuses_request(0) && !overload.refuses_connection(0));
        let told = judge.look(&late, &overload);
        assert_eq!(told, Some(FromProxy::Overload(Some(Strain::Delay))));
        assert!(overload.refuses_connection(0));
        assert_eq!(judge.look(&CALM, &overload), None, "it fades");
        assert!(overload.refuses_request(0) && !overload.refuses_request(254), "of some");
        let told: Vec<_> = (0..40).filter_map(|_| judge.look(&CALM, &overload)).collect();
        assert_eq!(told, [FromProxy::Overload(None)]);
        assert!(!overload.is_on() && !overload.refuses_request(0));
    }

    #[test]
    fn a_core_is_as_late_as_its_next_look() {
        let (beat, every) = (Beat::default(), Duration::from_nanos(100));
        assert_eq!(beat.late_ns(5_000, every), 0);
        beat.now(5_000, every);
        assert_eq!(beat.late_ns(5_100, every), 0);
        assert_eq!(beat.late_ns(5_400, every), 300, "it has not come back");
        beat.now(5_400, every);
        assert_eq!(beat.late_ns(5_450, every), 300, "it was");
        beat.now(5_500, every);
        assert_eq!(beat.late_ns(5_500, every), 0);
        beat.rest();
        assert_eq!(beat.late_ns(9_000, every), 0);
    }

    #[test]
    fn a_success_makes_known_for_a_while() {
        const MINUTE: u64 = 60_000_000_000;
        let mut counters = Counters::default();
        let known = counters.counter("x", known_meter(), Duration::from_hours(1)).unwrap();
        let key = Key::address(AddressKey::new("192.0.2.1".parse().unwrap()));
        let is_known = |now_ns| known.has_any(key, now_ns);
        let begin = 1_000 * MINUTE;
        assert!(!is_known(begin));
        known.charge(key, 1, begin);
        assert!(is_known(begin + 29 * MINUTE) && !is_known(begin + 31 * MINUTE));
        for turn in 0..100 {
            known.charge(key, 1, begin + turn * MINUTE);
        }
        assert!(is_known(begin + 125 * MINUTE) && !is_known(begin + 170 * MINUTE));
    }

    #[test]
    fn memory_is_read_from_the_host() {
        assert_eq!(kilobytes("A: 1\nMemTotal:   12 kB\n", "MemTotal:"), Some(12 << 10));
        assert!(!Memory { limit: Some(u64::MAX) }.is_short());
        assert!(Memory { limit: Some(1) }.is_short());
    }
}
