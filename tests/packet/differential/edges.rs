//! When something about a source changes: the times at which kernel and host would disagree.

use std::sync::atomic::Ordering::Relaxed;

use limiter_common::{
    headers::{Headers, Parsed, parse},
    limits::{Buckets, Limits},
    report::{DropSlot, GATHER_NS},
};

use super::{Pair, SECOND_NS};

impl Pair {
    /// A third of the frames come when something about their source changes, give or take 1 ns.
    pub(super) fn next_time(&mut self, frame: &[u8]) -> u64 {
        let edges = if self.random.chance(1, 2) { self.edges(frame) } else { Vec::new() };
        if !edges.is_empty() {
            let edge = self.random.pick(&edges);
            // Far ones seldom, or every bucket would be full whenever it is looked at.
            if edge.abs_diff(self.now_ns) < 2 * SECOND_NS || self.random.chance(1, 50) {
                return edge + self.random.next_u64() % 3 - 1;
            }
        }
        let step = self.random.pick(&[0, 0, 1, 100, 1_000_000, 100_000_000]);
        self.now_ns + self.random.next_u64() % (step + 1)
    }

    /// When buckets refill or are full, a slot may be reused, a ban ends, drops are told.
    fn edges(&self, frame: &[u8]) -> Vec<u64> {
        let Some(headers) = parsed(frame) else { return Vec::new() };
        let source = headers.source;
        let settings = &self.host.policy.settings;
        let mut edges = Vec::new();
        for (service, limits) in [(0, &settings.limits)]
            .into_iter()
            .chain((1..).zip(self.host.policy.services[1..].iter().map(|service| &service.limits)))
        {
            if let Some(slot) = self.host.slot(source, service) {
                refills(&mut edges, &slot.buckets, limits);
                edges.push(slot.busy_until.load(Relaxed).div_ceil(16));
            }
        }
        refills(&mut edges, &self.host.totals[0], &settings.total_limits);
        for (total, service) in self.host.totals.iter().zip(&self.host.policy.services).skip(1) {
            refills(&mut edges, total, &service.total_limits);
        }
        if let Some(ban) = self.host.bans.borrow().get(&source.ban_key()) {
            edges.push(ban.expires_ns);
        }
        edges.extend(self.host.prefix_bans.borrow().values().map(|ban| ban.expires_ns));
        let slot = self.host.cpus[self.host.cpu as usize].drops[DropSlot::index(source) as usize];
        if slot.source == source {
            edges.push(slot.since_ns + GATHER_NS);
        }
        edges.retain(|edge| *edge > SECOND_NS);
        edges
    }
}

/// When each bucket is full, and when it has room for one packet more.
fn refills(edges: &mut Vec<u64>, buckets: &Buckets, limits: &Limits) {
    for (word, rate) in buckets.words().into_iter().zip(limits.rates()) {
        let full = word.load(Relaxed);
        if rate.cost != 0 && full != 0 {
            let room = (full + rate.cost).saturating_sub(rate.burst_ticks);
            edges.extend([full, room].map(|ticks| ticks.div_ceil(16)));
        }
    }
}

/// The headers of a frame that is whole.
pub(super) fn parsed(frame: &[u8]) -> Option<Headers> {
    match parse(frame) {
        Parsed::Ip(headers) => Some(headers),
        Parsed::Malformed(..) | Parsed::NotIp => None,
    }
}
