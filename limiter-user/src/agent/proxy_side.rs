//! The proxy as the rest of the agent sees it: what it must know, what it said, whether it runs.

use super::{Agent, problems::Problem};
use crate::{
    clock,
    link::{FromProxy, HttpBan, ProxyCounters, ToProxy},
    policy::{BanScope, HttpPolicy},
};

impl Agent {
    /// A message to the proxy. What finds no room is made up for by the next tick, which sends
    /// policy and bans whole.
    pub(super) fn tell_proxy(&self, message: ToProxy) {
        if self.to_proxy.try_send(message).is_err() {
            self.proxy_missed.set(true);
        }
    }

    /// What a new proxy must know.
    pub(super) fn proxy_policy(&self) -> (u64, Option<HttpPolicy>, Vec<HttpBan>) {
        let inner = self.inner.borrow();
        let bans = inner
            .book
            .iter()
            .filter(|ban| ban.scope == BanScope::Http)
            .map(|ban| HttpBan { prefix: ban.prefix, expires_ns: ban.expires_ns })
            .collect();
        (inner.generation, inner.policy.http.clone(), bans)
    }

    pub(super) fn proxy_started(&self, pid: u32) {
        let mut inner = self.inner.borrow_mut();
        inner.proxy_pid = Some(pid);
        inner.proxy_started_ns = clock::monotonic_ns();
        inner.proxy_starts += 1;
        inner.proxy_counters = ProxyCounters::default();
    }

    pub(super) fn proxy_applied(&self, generation: u64) {
        self.inner.borrow_mut().applied = generation;
        if !self.notifier.is_ready() {
            self.notifier.ready();
        }
        self.judge(Problem::ProxyDown, Ok(()));
    }

    pub(super) fn proxy_ended(&self, why: &str) {
        {
            let mut inner = self.inner.borrow_mut();
            inner.proxy_pid = None;
            inner.applied = 0;
        }
        if !self.is_stopping() {
            let sentence = format!("the proxy ended and is replaced: {why}");
            self.judge(Problem::ProxyDown, Err(sentence));
        }
    }

    pub(super) fn received(&self, message: FromProxy) {
        match message {
            FromProxy::Observations { observations, lost } => {
                for observation in &observations {
                    self.observed(observation);
                }
                self.inner.borrow_mut().observations_lost += lost;
            }
            FromProxy::Counters(counters) => self.inner.borrow_mut().proxy_counters = *counters,
            FromProxy::Hello(_) | FromProxy::PolicyApplied { .. } | FromProxy::HandOver(_) => {}
        }
    }
}
