//! What all cores know of one server: whether it is well, where it is, what it was sent.
//!
//! In: how requests ended, and what the prober found; out: whether to send it more, and notices
//! for the agent. Every word is atomic; counts have one writer each.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::{
    breaker::{Breaker, Passage},
    choose,
    tls::Tls,
};
use crate::{
    link::{ServerChange, ServerCount, ServerNotice},
    policy::upstream::{BreakerPolicy, HealthPolicy, ServerPolicy},
};

/// Failures in a row after which others are preferred, unless it cannot even be reached.
const STRIKES: u32 = 3;

/// For how long others are preferred at first, and at most.
const AVOID_NS: u64 = 1_000_000_000;
const MAX_AVOID_DOUBLINGS: u32 = 5;

/// What makes a server another one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Identity {
    pub(super) upstream: String,
    pub(super) server: ServerPolicy,
    pub(super) health: Option<HealthPolicy>,
    pub(super) breaker: Option<BreakerPolicy>,
    pub(super) roots: Arc<Vec<Vec<u8>>>,
}

/// One server.
#[derive(Debug)]
pub(in crate::proxy) struct Server {
    pub(super) identity: Identity,
    pub(super) url: String,
    pub(super) authority: String,
    pub(super) tls: Option<Tls>,
    /// Of its URL, for choosing by hash.
    pub(super) hash: u64,
    pub(super) addresses: Addresses,
    pub(super) cores: Box<[CoreCounts]>,
    breaker: Option<Breaker>,
    /// The prober says so.
    down: AtomicBool,
    strikes: AtomicU32,
    avoided_until_ns: AtomicU64,
    notices: mpsc::Sender<ServerNotice>,
}

/// What one core sent to a server; only that core writes. Apart from other cores' in memory.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct CoreCounts {
    pub(super) requests: Tally,
    pub(super) failures: Tally,
    pub(super) retries: Tally,
    pub(super) connections: Tally,
    pub(super) active: Tally,
}

/// A number with one writer.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    pub(super) fn up(&self) {
        self.0.store(self.get().wrapping_add(1), Relaxed);
    }

    pub(super) fn down(&self) {
        self.0.store(self.get().wrapping_sub(1), Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How a request ended, as far as its server is to blame or to praise.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It answered.
    Answered,
    /// It said itself that it cannot (502, 503, 504).
    Unable,
    /// It broke off, was too slow, or spoke nonsense.
    Failed,
    /// It could not be reached.
    Unreachable,
}

impl Server {
    pub(super) fn new(
        identity: Identity,
        tls: Option<Tls>,
        cores: usize,
        notices: mpsc::Sender<ServerNotice>,
    ) -> Self {
        let url = identity.server.to_string();
        Self {
            hash: choose::hash(url.as_bytes()),
            authority: identity.server.authority(),
            addresses: Addresses::new(&identity.server),
            cores: (0..cores).map(|_| CoreCounts::default()).collect(),
            breaker: identity.breaker.as_ref().map(Breaker::new),
            down: AtomicBool::new(false),
            strikes: AtomicU32::new(0),
            avoided_until_ns: AtomicU64::new(0),
            notices,
            tls,
            url,
            identity,
        }
    }

    /// Whether it may get a request, and whether others should not rather have it.
    pub(super) fn standing(&self, now_ns: u64) -> (bool, bool) {
        let usable = !self.down.load(Relaxed)
            && self.breaker.as_ref().is_none_or(|breaker| breaker.may_pass(now_ns));
        (usable, usable && self.avoided_until_ns.load(Relaxed) <= now_ns)
    }

    /// How long it certainly gets no request.
    pub(super) fn barred_for_ns(&self, now_ns: u64) -> u64 {
        self.breaker.as_ref().map_or(0, |breaker| breaker.closed_for_ns(now_ns))
    }

    /// As [`Self::standing`] says, and takes the place of a request that tries.
    pub(super) fn pass(&self, now_ns: u64) -> Passage {
        if self.down.load(Relaxed) {
            return Passage::Barred;
        }
        self.breaker.as_ref().map_or(Passage::Free, |breaker| breaker.pass(now_ns))
    }

    /// A request ended.
    pub(super) fn judge(&self, verdict: Verdict, passage: Passage, now_ns: u64) {
        if verdict == Verdict::Answered {
            // Nothing is written while all is well.
            if self.strikes.load(Relaxed) != 0 {
                self.strikes.store(0, Relaxed);
                self.avoided_until_ns.store(0, Relaxed);
            }
            if passage == Passage::Trial && self.breaker.as_ref().is_some_and(Breaker::close) {
                self.tell(ServerChange::BreakerClosed);
            }
            return;
        }
        let strikes = self.strikes.fetch_add(1, Relaxed).saturating_add(1);
        let before = if verdict == Verdict::Unreachable { 1 } else { STRIKES };
        if let Some(over) = strikes.checked_sub(before) {
            let length_ns = AVOID_NS << over.min(MAX_AVOID_DOUBLINGS);
            self.avoided_until_ns.store(now_ns.saturating_add(length_ns), Relaxed);
        }
        if self.breaker.as_ref().is_some_and(|breaker| breaker.fail(now_ns, passage)) {
            self.tell(ServerChange::BreakerOpened);
        }
    }

    /// What the prober found: well, or why not.
    pub(super) fn examine(&self, found: Result<(), String>) {
        let is_down = found.is_err();
        if self.down.swap(is_down, Relaxed) != is_down {
            if !is_down {
                self.strikes.store(0, Relaxed);
                self.avoided_until_ns.store(0, Relaxed);
            }
            self.tell(found.map_or_else(ServerChange::Down, |()| ServerChange::Up));
        }
    }

    /// What it was sent, and how it is.
    pub(super) fn count(&self) -> ServerCount {
        let sum = |tally: fn(&CoreCounts) -> &Tally| {
            self.cores.iter().fold(0_u64, |sum, core| sum.wrapping_add(tally(core).get()))
        };
        ServerCount {
            upstream: self.identity.upstream.clone(),
            server: self.url.clone(),
            requests: sum(|core| &core.requests),
            failures: sum(|core| &core.failures),
            retries: sum(|core| &core.retries),
            connections: sum(|core| &core.connections),
            active: sum(|core| &core.active),
            up: !self.down.load(Relaxed),
            breaker_open: self.breaker.as_ref().is_some_and(Breaker::is_open),
        }
    }

    /// Requests in flight from all cores.
    pub(super) fn active(&self) -> u32 {
        let sum = self.cores.iter().map(|core| core.active.get()).sum::<u64>();
        u32::try_from(sum).unwrap_or(u32::MAX)
    }

    fn tell(&self, change: ServerChange) {
        let notice = ServerNotice {
            upstream: self.identity.upstream.clone(),
            server: self.url.clone(),
            change,
        };
        if self.notices.try_send(notice).is_err() {
            // The state itself goes with the counters all the same.
            log::warn!("a change of {} was not told: too many at once", self.url);
        }
    }
}

/// Where a server is: what its name resolved to last.
#[derive(Debug)]
pub(super) struct Addresses {
    known: ArcSwap<Vec<SocketAddr>>,
    /// Rises when others replace them.
    generation: AtomicU64,
    /// Where the next connection begins.
    turn: AtomicU32,
    is_name: bool,
}

impl Addresses {
    fn new(server: &ServerPolicy) -> Self {
        let literal = server.host.parse::<IpAddr>().ok();
        let known: Vec<_> =
            literal.map(|ip| SocketAddr::new(ip, server.port)).into_iter().collect();
        Self {
            is_name: known.is_empty(),
            known: ArcSwap::from_pointee(known),
            generation: AtomicU64::new(0),
            turn: AtomicU32::new(0),
        }
    }

    /// Whether they come from a name, and may change.
    pub(super) fn is_name(&self) -> bool {
        self.is_name
    }

    /// Changes when connections to those before should not be kept.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Those known, another one first each time.
    pub(super) fn in_turn(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::clone(&self.known.load());
        if addresses.len() > 1 {
            let turn = self.turn.fetch_add(1, Relaxed);
            let first = usize::try_from(turn).unwrap_or(0) % addresses.len();
            addresses.rotate_left(first);
        }
        addresses
    }

    /// What the name resolves to now; none: those before stay.
    pub(super) fn replace(&self, found: Vec<SocketAddr>) {
        let before = self.known.load();
        let is_same = before.len() == found.len() && found.iter().all(|one| before.contains(one));
        if found.is_empty() || is_same {
            return;
        }
        if !before.is_empty() {
            self.generation.fetch_add(1, Relaxed);
        }
        self.known.store(Arc::new(found));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::upstream::Scheme;

    fn server(breaker: Option<BreakerPolicy>) -> (Server, mpsc::Receiver<ServerNotice>) {
        let (notices, receiver) = mpsc::channel(8);
        let identity = Identity {
            upstream: "api".into(),
            server: ServerPolicy { scheme: Scheme::Http, host: "origin.test".into(), port: 80 },
            health: None,
            breaker,
            roots: Arc::default(),
        };
        (Server::new(identity, None, 1, notices), receiver)
    }

    #[test]
    fn others_are_preferred_to_one_that_fails_and_it_comes_back() {
        let (server, _notices) = server(None);
        server.judge(Verdict::Failed, Passage::Free, 0);
        server.judge(Verdict::Failed, Passage::Free, 0);
        assert_eq!(server.standing(0), (true, true), "twice is chance");
        server.judge(Verdict::Failed, Passage::Free, 0);
        assert_eq!(server.standing(AVOID_NS - 1), (true, false), "still better than none");
        assert_eq!(server.standing(AVOID_NS), (true, true));
        server.judge(Verdict::Failed, Passage::Free, AVOID_NS);
        assert_eq!(server.standing(3 * AVOID_NS - 1), (true, false), "twice as long");
        server.judge(Verdict::Answered, Passage::Free, 0);
        assert_eq!(server.standing(0), (true, true));
        server.judge(Verdict::Unreachable, Passage::Free, 0);
        assert_eq!(server.standing(0), (true, false), "at once");
    }

    #[test]
    fn what_changes_is_told_once() {
        let policy = BreakerPolicy {
            failures: 2,
            window: Duration::from_secs(1),
            open: Duration::from_secs(1),
        };
        let (server, mut notices) = server(Some(policy));
        for _ in 0..5 {
            server.judge(Verdict::Unable, Passage::Free, 1);
        }
        assert_eq!(notices.try_recv().unwrap().change, ServerChange::BreakerOpened);
        assert_eq!(server.standing(1), (false, false));
        assert_eq!(server.pass(2_000_000_000), Passage::Trial);
        server.judge(Verdict::Answered, Passage::Trial, 2_000_000_000);
        assert_eq!(notices.try_recv().unwrap().change, ServerChange::BreakerClosed);
        server.examine(Ok(()));
        server.examine(Err("status 500".into()));
        server.examine(Err("status 500".into()));
        assert_eq!(notices.try_recv().unwrap().change, ServerChange::Down("status 500".into()));
        assert_eq!((server.standing(0), server.pass(0)), ((false, false), Passage::Barred));
        server.examine(Ok(()));
        assert_eq!(notices.try_recv().unwrap().change, ServerChange::Up);
        assert!(notices.try_recv().is_err());
    }

    #[test]
    fn addresses_stay_when_none_are_found_and_take_turns() {
        let (server, _notices) = server(None);
        let addresses = &server.addresses;
        let of =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        assert!(addresses.is_name() && addresses.in_turn().is_empty());
        addresses.replace(of(&["192.0.2.1:80", "192.0.2.2:80"]));
        assert_eq!(addresses.generation(), 0, "the first replace nothing");
        addresses.replace(Vec::new());
        addresses.replace(of(&["192.0.2.2:80", "192.0.2.1:80"]));
        assert_eq!(addresses.generation(), 0);
        assert_ne!(addresses.in_turn()[0], addresses.in_turn()[0]);
        addresses.replace(of(&["192.0.2.3:80"]));
        assert_eq!((addresses.generation(), addresses.in_turn()), (1, of(&["192.0.2.3:80"])));
    }
}
