//! What a core tells the agent: counters, and observations aggregated per peer and outcome.
//!
//! In: outcomes, as they happen on the request path (never waits there); out: bounded batches on
//! the channel to the link, within [`FLUSH_AFTER`]. What finds no room is counted as lost.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, mpsc};

use super::{outcomes::Outcomes, overload::Beat};
use crate::{
    link::{Observation, ObservedOutcome, ProxyCounters, RequestFacts},
    refusal::Refusal,
};

/// How long an observation waits for others.
const FLUSH_AFTER: Duration = Duration::from_millis(5);

/// How many observations of one peer and outcome go one by one in each second.
const DETAILED_PER_SECOND: u32 = 5;

/// Most observations in one batch.
const MAX_PENDING: usize = 512;

/// Most (peer, client, outcome) told apart in one second.
const MAX_KEYS: usize = 4096;

const REFUSALS: usize = Refusal::ALL.len();

/// What one core sends to the link.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) observations: Vec<Observation>,
    pub(super) lost: u64,
}

/// One core's observations on their way.
#[derive(Debug)]
pub(super) struct Report {
    inner: RefCell<Inner>,
    wake: Notify,
    channel: mpsc::Sender<Batch>,
}

type Key = (IpAddr, IpAddr, ObservedOutcome);

#[derive(Debug, Default)]
struct Inner {
    second: u64,
    /// Places in `tallies`.
    keys: HashMap<Key, usize>,
    tallies: Vec<Tally>,
    /// Place of the last one, which in a flood is often the next one too.
    last: Option<(Key, usize)>,
    /// Places with requests that are only counted, since the last flush.
    counted: Vec<usize>,
    pending: Vec<Observation>,
    lost: u64,
    /// The flusher was woken since the last flush.
    woken: bool,
}

#[derive(Debug)]
struct Tally {
    key: Key,
    detailed: u32,
    counted: u32,
    first_unix_ns: u64,
}

impl Report {
    pub(super) fn new(channel: mpsc::Sender<Batch>) -> Self {
        Self { inner: RefCell::default(), wake: Notify::new(), channel }
    }

    /// Notes one outcome; `facts` is asked only if it goes with details.
    pub(super) fn note(
        &self,
        unix_ns: u64,
        (peer, client): (IpAddr, IpAddr),
        outcome: ObservedOutcome,
        facts: impl FnOnce() -> Option<Box<RequestFacts>>,
    ) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let second = unix_ns / 1_000_000_000;
        if inner.second != second {
            inner.collect();
            inner.keys.clear();
            inner.tallies.clear();
            inner.last = None;
            inner.second = second;
        }
        let Some(place) = inner.place((peer, client, outcome)) else {
            inner.lost += 1;
            return;
        };
        let tally = &mut inner.tallies[place];
        if tally.detailed < DETAILED_PER_SECOND && inner.pending.len() < MAX_PENDING {
            tally.detailed += 1;
            inner.pending.push(Observation {
                unix_ns,
                peer,
                client,
                outcome,
                count: 1,
                request: facts(),
            });
        } else {
            if tally.counted == 0 {
                tally.first_unix_ns = unix_ns;
                inner.counted.push(place);
            }
            tally.counted = tally.counted.saturating_add(1);
        }
        if !inner.woken {
            inner.woken = true;
            self.wake.notify_one();
        }
    }

    /// Sends batches for ever; the timer runs only while something is pending.
    pub(super) async fn flush(&self) {
        loop {
            self.wake.notified().await;
            tokio::time::sleep(FLUSH_AFTER).await;
            self.flush_now();
        }
    }

    /// Sends what is pending without waiting.
    pub(super) fn flush_now(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.woken = false;
        inner.collect();
        if inner.pending.is_empty() && inner.lost == 0 {
            return;
        }
        let batch = Batch {
            observations: std::mem::take(&mut inner.pending),
            lost: std::mem::take(&mut inner.lost),
        };
        if let Err(unsent) = self.channel.try_send(batch) {
            let batch = unsent.into_inner();
            let count = |observation: &Observation| u64::from(observation.count);
            inner.lost += batch.lost + batch.observations.iter().map(count).sum::<u64>();
        }
    }
}

impl Inner {
    /// Where this key is tallied; `None`: there is no room for another.
    fn place(&mut self, key: Key) -> Option<usize> {
        if let Some((last, place)) = self.last
            && last == key
        {
            return Some(place);
        }
        let next = self.tallies.len();
        let place = match self.keys.get(&key) {
            Some(place) => *place,
            None if next < MAX_KEYS => {
                self.tallies.push(Tally { key, detailed: 0, counted: 0, first_unix_ns: 0 });
                self.keys.insert(key, next);
                next
            }
            None => return None,
        };
        self.last = Some((key, place));
        Some(place)
    }

    /// Turns what was only counted into one observation per key.
    fn collect(&mut self) {
        for place in self.counted.drain(..) {
            let tally = &mut self.tallies[place];
            let (peer, client, outcome) = tally.key;
            if self.pending.len() >= 2 * MAX_PENDING {
                self.lost += u64::from(tally.counted);
            } else {
                self.pending.push(Observation {
                    unix_ns: tally.first_unix_ns,
                    peer,
                    client,
                    outcome,
                    count: tally.counted,
                    request: None,
                });
            }
            tally.counted = 0;
        }
    }
}

/// One core's totals. Only that core writes, so a count is a load and a store.
#[derive(Debug, Default)]
pub(super) struct CoreCounters {
    pub(super) requests: Count,
    pub(super) requests_ended: Count,
    pub(super) forwarded: Count,
    pub(super) refused: [Count; REFUSALS],
    pub(super) monitored: [Count; REFUSALS],
    pub(super) connections: Count,
    pub(super) connections_closed: Count,
    pub(super) connections_refused: Count,
    pub(super) handshakes: Count,
    pub(super) handshakes_resumed: Count,
    pub(super) handshakes_failed: Count,
    pub(super) responses: [Count; 5],
    pub(super) outcomes: Outcomes,
    pub(super) beat: Beat,
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    /// One more.
    pub(super) fn bump(&self) {
        let next = self.0.load(Ordering::Relaxed) + 1;
        self.0.store(next, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl CoreCounters {
    /// Counts a TLS handshake that succeeded.
    pub(super) fn handshake(&self, is_resumed: bool) {
        self.handshakes.bump();
        if is_resumed {
            self.handshakes_resumed.bump();
        }
    }

    /// Counts a request that was refused before there was an exchange.
    pub(super) fn refuse(&self, refusal: Refusal) {
        self.refused[refusal as usize].bump();
        self.outcomes.count(None, refusal.status(), Some(refusal), 0);
    }

    /// Counts a request whose head was refused as it was read.
    pub(super) fn refuse_head(&self, refusal: Refusal) {
        self.requests.bump();
        self.requests_ended.bump();
        self.respond(refusal.status());
        self.refuse(refusal);
    }

    /// Counts an answer by the class of its status.
    pub(super) fn respond(&self, status: u16) {
        if let Some(class) = (status / 100).checked_sub(1)
            && let Some(count) = self.responses.get(usize::from(class))
        {
            count.bump();
        }
    }

    /// Requests of this core that have not ended.
    pub(super) fn in_flight(&self) -> u64 {
        self.requests.get().saturating_sub(self.requests_ended.get())
    }

    /// Adds this core's totals to `sum`.
    pub(super) fn add_to(&self, sum: &mut ProxyCounters) {
        sum.requests += self.requests.get();
        sum.forwarded += self.forwarded.get();
        sum.connections += self.connections.get();
        sum.connections_open +=
            self.connections.get().saturating_sub(self.connections_closed.get());
        sum.connections_refused += self.connections_refused.get();
        sum.tls_handshakes += self.handshakes.get();
        sum.tls_resumed += self.handshakes_resumed.get();
        sum.tls_failed += self.handshakes_failed.get();
        for (class, count) in sum.responses.iter_mut().zip(&self.responses) {
            *class += count.get();
        }
        self.outcomes.add_to(&mut sum.outcomes, &mut sum.durations);
        add(&mut sum.refused, &self.refused);
        add(&mut sum.monitored, &self.monitored);
    }
}

fn add(sum: &mut Vec<u64>, counts: &[Count]) {
    sum.resize(counts.len(), 0);
    for (total, count) in sum.iter_mut().zip(counts) {
        *total += count.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_go_with_details_and_the_rest_are_counted() {
        let (sender, mut receiver) = mpsc::channel(1);
        let report = Report::new(sender);
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let refused = ObservedOutcome::Refused(Refusal::InvalidCredential);
        let facts = || Some(Box::<RequestFacts>::default());
        for _ in 0..100 {
            report.note(1, (peer, peer), refused, facts);
        }
        report.flush_now();
        let batch = receiver.try_recv().unwrap();
        assert_eq!(batch.observations.len(), 6);
        assert_eq!(batch.observations.iter().map(|o| o.count).sum::<u32>(), 100);
        assert_eq!(batch.observations.iter().filter(|o| o.request.is_some()).count(), 5);
        report.note(1, (peer, peer), refused, facts);
        report.flush_now();
        assert_eq!(receiver.try_recv().unwrap().observations[0].count, 1);
        report.flush_now();
        assert!(receiver.try_recv().is_err(), "nothing is pending");
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let (sender, mut receiver) = mpsc::channel(1);
        let report = Report::new(sender);
        let refused = ObservedOutcome::Refused(Refusal::NotFound);
        let total = u32::try_from(2 * MAX_KEYS).unwrap();
        for client in 0..total {
            let peer = IpAddr::V4(client.into());
            report.note(1, (peer, peer), refused, || None);
        }
        report.flush_now();
        report.note(
            1,
            ("192.0.2.1".parse().unwrap(), "192.0.2.1".parse().unwrap()),
            refused,
            || None,
        );
        report.flush_now();
        let batch = receiver.try_recv().unwrap();
        let seen: u32 = batch.observations.iter().map(|o| o.count).sum();
        assert_eq!(u64::from(seen) + batch.lost, u64::from(total));
        assert!(batch.observations.len() <= 2 * MAX_PENDING);
        report.note(
            1,
            ("192.0.2.1".parse().unwrap(), "192.0.2.1".parse().unwrap()),
            refused,
            || None,
        );
        report.flush_now();
        let batch = receiver.try_recv().unwrap();
        assert_eq!(batch.lost, 2, "also what a full channel lost");
    }
}
