//! Rate limits of a route: counts the request against them.
//!
//! In: who calls and `now`; out: where the request stands with every limit, for enforcement and for
//! the fields of its answer. A request that one limit refuses is counted against none. What is not
//! to count in the end is given back when the status is known, and a place among those under way
//! when the exchange ends.

mod fields;

use crate::{
    limits::{Answer, Ask, Decision, Verdict, concurrency::Permit, decide},
    policy::{Mode, limits::Counting},
    proxy::{
        compiled::{Compiled, Route},
        compiled_limits::{Budget, Caller, Fields, Limit},
        shared_limits::Charge,
    },
    refusal::Refusal,
};

/// Where a request stands with the limits that count it.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Quota {
    standings: Vec<Standing>,
}

/// Where it stands with one of them.
#[derive(Debug)]
struct Standing {
    /// Index into the policy's limits.
    limit: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// How much in a time: the limit's budget that it is counted in, and what that said; what was
    /// charged where hosts share it.
    Counted { budget: usize, answer: Answer, charge: Option<Charge> },
    /// How many at once, with this one, and its place among them as long as it has one.
    UnderWay { count: u64, is_admitted: bool, place: Option<Permit> },
}

/// A request about to be counted: what it asks the limits of its route.
pub(in crate::proxy) struct Charging<'a> {
    quota: Quota,
    /// There are too many under way: what is asked is not charged.
    is_refused: bool,
    /// Places of limits, and of budgets in them.
    budgets: Vec<(usize, usize)>,
    asks: Vec<Ask<'a>>,
}

/// Begins to count one request that `caller` makes. One that is refused anyway is counted only by
/// limits of failures.
pub(in crate::proxy) fn begin<'a>(
    policy: &'a Compiled,
    route: &'a Route,
    caller: &Caller<'a>,
    is_failure: bool,
) -> Charging<'a> {
    let mut quota = Quota::default();
    let limits = || {
        let limits = route.limits.iter().map(|index| (*index, &policy.limits[*index]));
        let is_asked = |limit: &Limit| !is_failure || limit.count == Counting::Failures;
        limits.filter(move |(_, limit)| limit.applies(caller) && is_asked(limit))
    };
    let mut is_refused = false;
    for (index, limit) in limits() {
        if let Some(concurrent) = &limit.concurrent {
            let (key, most) = (limit.key(caller), concurrent.most);
            let (place, count) = concurrent.counts.admit(concurrent.identity, key, most);
            is_refused |= place.is_none() && limit.mode == Mode::Enforce;
            let state = State::UnderWay { count, is_admitted: place.is_some(), place };
            quota.standings.push(Standing { limit: index, state });
        }
    }
    let budgets = limits().filter_map(|(index, limit)| Some((index, limit.budget_of(caller)?)));
    let budgets: Vec<(usize, usize)> = budgets.collect();
    let ask = |(index, budget): &(usize, usize)| {
        let limit = &policy.limits[*index];
        let cost = route.cost.unwrap_or(limit.cost);
        let is_enforced = limit.mode == Mode::Enforce;
        Ask::new(&limit.budget(*budget).counter, limit.key(caller), cost, is_enforced)
    };
    let asks = budgets.iter().map(ask).collect();
    Charging { quota, is_refused, budgets, asks }
}

impl<'a> Charging<'a> {
    /// What is to be charged, if anything is.
    pub(in crate::proxy) fn asks(&self) -> &[Ask<'a>] {
        if self.is_refused { &[] } else { &self.asks }
    }

    /// The budgets of [`Self::asks`].
    pub(in crate::proxy) fn budgets(
        &self,
        policy: &'a Compiled,
    ) -> impl Iterator<Item = &'a Budget> {
        self.budgets.iter().map(|(limit, budget)| policy.limits[*limit].budget(*budget))
    }

    /// Counts it on this host.
    pub(in crate::proxy) fn here(self, policy: &Compiled, now_ns: u64) -> Quota {
        let mut answers = Vec::with_capacity(self.asks.len());
        if self.is_refused {
            answers.extend(self.asks.iter().map(|ask| {
                let decision = ask.counter.look(ask.key, now_ns);
                Answer { verdict: Verdict { decision, far: false }, receipt: None }
            }));
        } else {
            decide(&self.asks, now_ns, &mut answers);
        }
        self.finish(policy, answers.into_iter().map(|answer| (answer, None)))
    }

    /// It was counted, here or where hosts share limits, with these answers to what was asked; none
    /// where nobody counts it.
    pub(in crate::proxy) fn finish(
        self,
        policy: &Compiled,
        answers: impl IntoIterator<Item = (Answer, Option<Charge>)>,
    ) -> Quota {
        let mut quota = self.quota;
        let counted = self.budgets.iter().zip(answers);
        quota.standings.extend(counted.map(|((limit, budget), (answer, charge))| Standing {
            limit: *limit,
            state: State::Counted { budget: *budget, answer, charge },
        }));
        if quota.violations(policy).any(|(mode, _)| mode == Mode::Enforce) {
            quota.leave();
        }
        quota
    }
}

impl Quota {
    /// Whether any limit is exceeded, be it in monitor mode.
    pub(in crate::proxy) fn is_violated(&self) -> bool {
        self.standings.iter().any(Standing::is_refused)
    }

    /// Name of the limit that refuses the request, the first of several.
    pub(in crate::proxy) fn refusing<'a>(&self, policy: &'a Compiled) -> Option<&'a str> {
        self.refusing_all(policy).next().map(|limit| &*limit.name)
    }

    /// What the limits refuse, each with the mode of its limit.
    pub(in crate::proxy) fn violations<'a>(
        &'a self,
        policy: &'a Compiled,
    ) -> impl Iterator<Item = (Mode, Refusal)> + 'a {
        let refused = self.standings.iter().filter(|standing| standing.is_refused());
        refused.map(|standing| {
            let refusal = match &standing.state {
                State::UnderWay { .. } => Refusal::ConcurrencyLimited,
                State::Counted { answer, .. } if answer.verdict.far => Refusal::RateLimitedFar,
                State::Counted { .. } => Refusal::RateLimited,
            };
            (policy.limits[standing.limit].mode, refusal)
        })
    }

    /// Names of the limits that refuse the request.
    pub(in crate::proxy) fn violated<'a>(&self, policy: &'a Compiled) -> Vec<&'a str> {
        self.refusing_all(policy).map(|limit| &*limit.name).collect()
    }

    fn refusing_all<'a>(&self, policy: &'a Compiled) -> impl Iterator<Item = &'a Limit> {
        let refusing = self.standings.iter().filter(|standing| standing.is_refused());
        let limits = refusing.map(|standing| &policy.limits[standing.limit]);
        limits.filter(|limit| limit.mode == Mode::Enforce)
    }

    /// How long the request waits for its turn, in ns.
    pub(in crate::proxy) fn turn_after_ns(&self, policy: &Compiled) -> u64 {
        let waits = self.standings.iter().filter_map(|standing| {
            let limit = &policy.limits[standing.limit];
            let decision = standing.decision().filter(|decision| decision.allowed)?;
            (limit.waits && limit.mode == Mode::Enforce).then_some(decision.turn_after_ns)
        });
        waits.max().unwrap_or_default()
    }

    /// The request goes nowhere after all: nothing of it counts.
    pub(in crate::proxy) fn withdraw(&mut self, policy: &Compiled, now_ns: u64) {
        self.give_back(policy, now_ns, |_| true);
        self.leave();
    }

    /// The request goes nowhere after all, and whoever has a copy of it can make it again: it counts
    /// only against the address that it came from.
    pub(in crate::proxy) fn excuse(&mut self, policy: &Compiled, now_ns: u64) {
        self.give_back(policy, now_ns, |limit| !limit.counts_client());
        self.leave();
    }

    /// The request is answered with `status`: what is not to count is given back.
    pub(in crate::proxy) fn settle(
        &mut self,
        policy: &Compiled,
        status: u16,
        now_ns: impl FnOnce() -> u64,
    ) {
        let is_free = |limit: &Limit| !limit.count.counts(status);
        if self.standings.iter().any(|standing| is_free(&policy.limits[standing.limit])) {
            self.give_back(policy, now_ns(), is_free);
        }
    }

    fn give_back(&mut self, policy: &Compiled, now_ns: u64, is_free: impl Fn(&Limit) -> bool) {
        for standing in &mut self.standings {
            let limit = &policy.limits[standing.limit];
            let State::Counted { budget, answer, charge } = &mut standing.state else { continue };
            if !is_free(limit) {
                continue;
            }
            let decision = &mut answer.verdict.decision;
            if let Some(receipt) = answer.receipt.take() {
                let here = limit.budget(*budget).counter.give_back(&receipt, now_ns);
                if charge.is_none() {
                    *decision = here;
                }
            }
            if let Some(charge) = charge.take() {
                charge.give_back(decision);
            }
        }
    }

    /// The places among requests under way, for whoever is under way for longer.
    pub(in crate::proxy) fn take_places(&mut self) -> Vec<Permit> {
        let places = self.standings.iter_mut().filter_map(|standing| match &mut standing.state {
            State::UnderWay { place, .. } => place.take(),
            State::Counted { .. } => None,
        });
        places.collect()
    }

    /// Gives up the places among requests under way.
    fn leave(&mut self) {
        for standing in &mut self.standings {
            if let State::UnderWay { count, place, .. } = &mut standing.state
                && place.take().is_some()
            {
                *count = count.saturating_sub(1);
            }
        }
    }
}

impl Standing {
    fn is_refused(&self) -> bool {
        match &self.state {
            State::Counted { answer, .. } => !answer.verdict.decision.allowed,
            State::UnderWay { is_admitted, .. } => !is_admitted,
        }
    }

    fn decision(&self) -> Option<Decision> {
        match &self.state {
            State::Counted { answer, .. } => Some(answer.verdict.decision),
            State::UnderWay { .. } => None,
        }
    }

    fn fields<'a>(&self, limit: &'a Limit) -> Option<&'a Fields> {
        match &self.state {
            State::Counted { budget, .. } => Some(&limit.budget(*budget).fields),
            State::UnderWay { .. } => limit.concurrent.as_ref().map(|most| &most.fields),
        }
    }
}
