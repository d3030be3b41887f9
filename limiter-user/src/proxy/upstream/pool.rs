//! One core's connections to the servers of one upstream, and whose turn it is.
//!
//! In: a request that wants a server; out: a [`Lease`] on a connection, which goes back when the
//! answer has ended. Kept connections are taken last used first.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use http::{HeaderValue, header::RETRY_AFTER};

use super::{
    breaker::Passage,
    choose::{Choice, mix},
    directory::Upstream,
    lane::{Http1, Lane, Shared},
    server::{Server, Verdict},
};
use crate::{
    clock,
    policy::upstream::Balance,
    proxy::{exchange::Exchange, reply::Reply},
    refusal::Refusal,
};

/// What a request adds to the budget of retries, what a retry takes, and how much there is at
/// most: one in ten, and ten at once.
const DEPOSIT: u32 = 1;
const RETRY_COST: u32 = 10;
const MAX_BUDGET: u32 = 100;

/// One core's servers of one upstream.
#[derive(Debug)]
pub(in crate::proxy) struct Pool {
    pub(super) upstream: Arc<Upstream>,
    lanes: Vec<Rc<Lane>>,
    next: Cell<usize>,
    budget: Cell<u32>,
}

/// All pools of a core; a server that no policy names is dropped with its last request.
#[derive(Debug)]
pub(in crate::proxy) struct Pools {
    core: usize,
    pools: RefCell<Vec<Rc<Pool>>>,
}

/// A server that was chosen for a request.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) lane: Rc<Lane>,
    /// Its bit among the servers.
    pub(super) bit: u64,
    pub(super) passage: Passage,
}

/// A request's hold on a server, and on one of its connections.
#[derive(Debug)]
pub(in crate::proxy) struct Lease {
    pub(super) lane: Rc<Lane>,
    pub(super) link: Link,
}

/// The connection of a lease.
#[derive(Debug)]
pub(super) enum Link {
    /// Given back, or a tunnel's.
    None,
    Http1(Box<Http1>),
    Http2(Rc<Shared>),
}

impl Pools {
    /// Of the core of this number.
    pub(in crate::proxy) fn new(core: usize) -> Self {
        Self { core, pools: RefCell::default() }
    }

    /// The pools of these upstreams, with the connections to servers that stay.
    pub(in crate::proxy) fn select(&self, upstreams: &[Arc<Upstream>]) -> Vec<Rc<Pool>> {
        let mut pools = self.pools.borrow_mut();
        let lane = |server: &Arc<Server>| {
            let mut known = pools.iter().flat_map(|pool| &pool.lanes);
            known
                .find(|lane| Arc::ptr_eq(&lane.server, server))
                .map_or_else(|| Rc::new(Lane::new(Arc::clone(server), self.core)), Rc::clone)
        };
        let selected: Vec<Rc<Pool>> = upstreams
            .iter()
            .map(|upstream| {
                Rc::new(Pool {
                    lanes: upstream.servers.iter().map(lane).collect(),
                    // Cores that begin together do not all begin with the first server.
                    next: Cell::new(self.core % upstream.servers.len().max(1)),
                    budget: Cell::new(MAX_BUDGET),
                    upstream: Arc::clone(upstream),
                })
            })
            .collect();
        pools.clone_from(&selected);
        selected
    }

    /// Drops connections that ended or were not used for long.
    pub(in crate::proxy) fn prune(&self, now_ns: u64) {
        for lane in self.pools.borrow().iter().flat_map(|pool| &pool.lanes) {
            lane.prune(now_ns);
        }
    }
}

impl Pool {
    /// A server for a request, none of those in `not`; `None`: there is none to send it to.
    pub(super) fn choose(&self, exchange: &Exchange, not: u64, now_ns: u64) -> Option<Chosen> {
        if let ([only], 0) = (self.lanes.as_slice(), not) {
            return Chosen::pass(only, 0, now_ns);
        }
        self.choose_of_several(exchange, not, now_ns)
    }

    fn choose_of_several(&self, exchange: &Exchange, mut not: u64, now_ns: u64) -> Option<Chosen> {
        loop {
            let (mut usable, mut preferred) = (0, 0);
            for (index, lane) in self.lanes.iter().enumerate() {
                let bit = 1 << index;
                let standing = lane.server.standing(now_ns);
                if not & bit == 0 && standing.0 {
                    usable |= bit;
                    preferred |= if standing.1 { bit } else { 0 };
                }
            }
            let candidates = if preferred == 0 { usable } else { preferred };
            if candidates == 0 {
                return None;
            }
            let balance = self.upstream.balance;
            let client = match (balance, exchange.client) {
                (Balance::ConsistentHash, Some(client)) => client.key.hash(mix),
                _ => 0,
            };
            let mut next = self.next.get();
            let choice = Choice {
                candidates,
                next: &mut next,
                random: exchange.core.random_word(),
                client,
                active: |index: usize| self.lanes[index].server.active(),
                hash: |index: usize| self.lanes[index].server.hash,
            };
            let index = choice.make(balance);
            self.next.set(next);
            match Chosen::pass(&self.lanes[index], index, now_ns) {
                // Another core was faster to try.
                None => not |= 1 << index,
                chosen => return chosen,
            }
        }
    }

    /// Refuses a request for which there is no server, and says when there may be one.
    pub(super) fn nobody(&self, refusal: Refusal, now_ns: u64) -> Reply {
        let barred = self.lanes.iter().map(|lane| lane.server.barred_for_ns(now_ns));
        let seconds = barred.min().unwrap_or(0).div_ceil(1_000_000_000).max(1);
        Reply::refuse(refusal).with(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// A request is sent for the first time.
    pub(super) fn deposit(&self) {
        self.budget.set((self.budget.get() + DEPOSIT).min(MAX_BUDGET));
    }

    /// Whether one more retry is within the budget; it is taken from it.
    pub(super) fn afford_retry(&self) -> bool {
        let left = self.budget.get().checked_sub(RETRY_COST);
        self.budget.set(left.unwrap_or(self.budget.get()));
        left.is_some()
    }
}

impl Chosen {
    fn pass(lane: &Rc<Lane>, index: usize, now_ns: u64) -> Option<Self> {
        match lane.server.pass(now_ns) {
            Passage::Barred => None,
            passage => Some(Self { lane: Rc::clone(lane), bit: 1 << index, passage }),
        }
    }

    /// A lease on a kept connection, if there is one and nothing is to be tried.
    pub(super) fn kept(self, now_ns: u64) -> Result<Lease, Self> {
        if self.passage == Passage::Trial {
            return Err(self);
        }
        match self.lane.take(now_ns) {
            Some(kept) => Ok(self.lease(Link::Http1(kept))),
            None => Err(self),
        }
    }

    /// Goes on with this connection.
    pub(super) fn lease(&self, link: Link) -> Lease {
        let counts = self.lane.counts();
        counts.requests.up();
        counts.active.up();
        if let Link::Http2(shared) = &link {
            shared.enter();
        }
        Lease { lane: Rc::clone(&self.lane), link }
    }

    /// It could not be reached.
    pub(super) fn unreachable(&self) {
        self.lane.counts().failures.up();
        let now_ns = clock::coarse_monotonic_ns();
        self.lane.server.judge(Verdict::Unreachable, self.passage, now_ns);
    }
}

impl Lease {
    /// Keeps the connection for the next request. Without this, it ends.
    pub(in crate::proxy) fn give_back(&mut self) {
        if let Link::Http1(kept) = std::mem::replace(&mut self.link, Link::None) {
            self.lane.keep(kept);
        }
    }

    /// How the request ended, that passed like this. Another try counts by itself.
    pub(super) fn judge(&self, verdict: Verdict, passage: Passage) {
        let now_ns = if verdict == Verdict::Answered {
            0
        } else {
            self.lane.counts().failures.up();
            clock::coarse_monotonic_ns()
        };
        self.lane.server.judge(verdict, passage, now_ns);
    }

    /// The answer broke off.
    pub(in crate::proxy) fn broke(&self) {
        self.judge(Verdict::Failed, Passage::Free);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lane.counts().active.down();
        match std::mem::replace(&mut self.link, Link::None) {
            Link::None => {}
            Link::Http1(kept) => kept.end(),
            Link::Http2(shared) => shared.leave(),
        }
    }
}
