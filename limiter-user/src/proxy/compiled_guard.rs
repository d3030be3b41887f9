//! Budgets of failed attempts, and of work for credentials that nobody has seen before.
//!
//! In: whom something is counted against, and the time; out: whether it may be done, or the ns to
//! wait. Never knows what was shown.

use std::{sync::Arc, time::Duration};

use crate::{
    limits::{AddressKey, Counter, Counters, Key, Meter, Receipt},
    policy::{Mode, Rate, http::GuardPolicy},
};

/// Cannot be names of limits, which are TOML keys of printable characters.
const GUARD_COUNTER: &str = "\0guard";
const WORK_COUNTER: &str = "\0work";

/// The budgets.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) mode: Mode,
    pub(super) failures: Arc<Counter>,
    work: Arc<Counter>,
}

impl Guard {
    pub(super) fn new(policy: &GuardPolicy, counters: &mut Counters) -> Result<Self, String> {
        let period = policy.failures.period;
        let failures = if policy.by_window {
            Meter::sliding_window(policy.failures)
        } else {
            Meter::bucket(policy.failures, policy.failures.count)
        };
        Ok(Self {
            mode: policy.mode,
            failures: counters.counter(GUARD_COUNTER, failures, period)?,
            work: counters.counter(WORK_COUNTER, unverified_work(), Duration::from_mins(1))?,
        })
    }

    /// Before a signature of `whose` is checked: `Err` with the ns to wait, if this address failed
    /// too often or had too many checked lately that were wrong; who signs well is served however
    /// often. `known`: somebody at this address lately proved to be who it said, and the failures
    /// of others do not keep it out.
    pub(super) fn may_check(
        &self,
        client: AddressKey,
        known: bool,
        whose: Key<'_>,
        now_ns: u64,
    ) -> Result<(), u64> {
        let work = self.work.peek(whose, 1, now_ns);
        if self.mode == Mode::Enforce && !work.allowed {
            return Err(work.retry_after_ns);
        }
        self.may_try(client, known, now_ns)
    }

    /// As [`Self::may_check`] for failed attempts alone.
    pub(super) fn may_try(&self, client: AddressKey, known: bool, now_ns: u64) -> Result<(), u64> {
        let failures = self.failures.peek(Key::address(client), 1, now_ns);
        if self.mode == Mode::Enforce && !known && !failures.allowed {
            return Err(failures.retry_after_ns);
        }
        Ok(())
    }

    /// A signature of `whose` was checked, and wrong.
    pub(super) fn checked_in_vain(&self, whose: Key<'_>, now_ns: u64) {
        self.work.charge(whose, 1, now_ns);
    }

    /// Before work that takes a while is done for `whose`: taken for work in vain until it is
    /// [given back](Self::give_back), so that many at once are no more than one after the other.
    pub(super) fn begin_work(&self, whose: Key<'_>, now_ns: u64) -> Result<Option<Receipt>, u64> {
        let answer = self.work.charge(whose, 1, now_ns);
        match self.mode {
            Mode::Enforce if !answer.verdict.decision.allowed => {
                Err(answer.verdict.decision.retry_after_ns)
            }
            _ => Ok(answer.receipt),
        }
    }

    /// It was not in vain.
    pub(super) fn give_back(&self, receipt: &Receipt, now_ns: u64) {
        self.work.give_back(receipt, now_ns);
    }
}

/// Signatures of one address that are checked, and questions about it: what many people behind it
/// need when all come at once, and a hundredth of a core.
fn unverified_work() -> Meter {
    Meter::bucket(Rate { count: 50, period: Duration::from_secs(1) }, 1_000)
}
