//! Limits of a request counted where hosts share them, and given back there.
//!
//! In: what a request asks its limits; out: answers as if it had been counted here, or that the store
//! is lost. What the store admits is charged here as well, so that this host can go on from it.

use std::{rc::Rc, sync::Arc};

use super::{compiled::Compiled, stage::limits::Charging};
use crate::{
    limits::{Answer, Decision, Verdict},
    store::{
        Line, StoreError,
        charge::{Ask, SharedLimit},
    },
};

/// What was charged for one limit.
#[derive(Debug)]
pub(super) struct Charge {
    line: Rc<Line>,
    limit: Arc<SharedLimit>,
    key: Vec<u8>,
    cost: u64,
    /// When, by the store's clock.
    charged_us: u64,
}

impl Charge {
    /// Gives it back, which nobody waits for; `decision` says where that leaves the client.
    pub(super) fn give_back(self, decision: &mut Decision) {
        decision.remaining = decision.remaining.saturating_add(self.cost).min(decision.limit);
        let Self { line, limit, key, cost, charged_us } = self;
        line.give_back(limit, &key, cost, charged_us);
    }
}

/// Asks about all limits in one question.
pub(super) async fn ask(
    line: &Rc<Line>,
    policy: &Compiled,
    charging: &Charging<'_>,
    now_ns: u64,
) -> Result<Vec<(Answer, Option<Charge>)>, StoreError> {
    let limits = charging.budgets(policy).map(|budget| budget.shared.clone());
    // A policy has a store for all of its limits or for none.
    let limits = limits.collect::<Option<Vec<_>>>().ok_or(StoreError::Absent)?;
    let keys: Vec<Vec<u8>> = charging.asks().iter().map(|ask| ask.key.bytes()).collect();
    let asks: Vec<Ask<'_>> = limits
        .iter()
        .zip(&keys)
        .zip(charging.asks())
        .map(|((limit, key), ask)| Ask { limit, key, cost: ask.cost })
        .collect();
    let charged = line.charge(&asks).await?;
    drop(asks);
    let said = charging.asks().iter().zip(charged.decisions);
    let answers = said.zip(limits.into_iter().zip(keys)).map(|((ask, decision), (limit, key))| {
        if !decision.allowed {
            let far = ask.counter.goes_on(ask.key, now_ns);
            return (Answer { verdict: Verdict { decision, far }, receipt: None }, None);
        }
        let verdict = Verdict { decision, far: false };
        if charged.refused {
            return (Answer { verdict, receipt: None }, None);
        }
        let receipt = ask.counter.charge(ask.key, ask.cost, now_ns).receipt;
        let line = Rc::clone(line);
        let charge = Charge { line, limit, key, cost: ask.cost, charged_us: charged.now_us };
        (Answer { verdict, receipt }, Some(charge))
    });
    Ok(answers.collect())
}
