//! The proxy as the rest of the agent sees it: what it must know, what it said, whether it runs.

use super::{Agent, Inner, host::host_facts, problems::Problem};
use crate::{
    clock,
    events::escape::line,
    kernel::image::HostFacts,
    link::{FromProxy, HttpBan, ProxyCounters, StoreNotice, Strain, ToProxy},
    policy::{BanScope, HttpPolicy, Policy, store::OnFailure},
};

/// How long new connections stay tightened after the proxy had too much to do: changing the kernel
/// half again and again would only add to it.
const HOLD_NS: u64 = 5_000_000_000;

/// Whether the proxy has too much to do, as the kernel half follows it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProxyOverload {
    is_on: bool,
    ended_ns: Option<u64>,
}

impl ProxyOverload {
    fn tell(&mut self, is_on: bool, now_ns: u64) {
        if self.is_on && !is_on {
            self.ended_ns = Some(now_ns);
        }
        self.is_on = is_on;
    }

    /// Whether new connections are to be tightened.
    pub(super) fn tightens(&self, now_ns: u64) -> bool {
        self.is_on
            || self.ended_ns.is_some_and(|ended_ns| now_ns < ended_ns.saturating_add(HOLD_NS))
    }
}

impl Inner {
    /// What the kernel half needs to know of this host and this moment.
    pub(super) fn host_facts(&self, policy: &Policy) -> HostFacts {
        host_facts(policy, self.overload.tightens(clock::monotonic_ns()))
    }
}

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
            inner.overload.tell(false, clock::monotonic_ns());
        }
        self.judge(Problem::Overloaded, Ok(()));
        self.judge(Problem::StoreLost, Ok(()));
        if !self.is_stopping() {
            let sentence = format!("the proxy ended and is replaced: {why}");
            self.judge(Problem::ProxyDown, Err(sentence));
        }
    }

    /// The proxy refuses unknown clients, or no more. The kernel half follows with the next tick,
    /// and lets go of it some time after the end.
    fn overloaded(&self, strain: Option<Strain>) {
        self.inner.borrow_mut().overload.tell(strain.is_some(), clock::monotonic_ns());
        let what = match strain {
            None => return self.judge(Problem::Overloaded, Ok(())),
            Some(Strain::Delay) => "requests wait too long for a core",
            Some(Strain::Requests) => "too many requests are in flight",
            Some(Strain::Connections) => "too many connections are open",
            Some(Strain::Memory) => "memory is short",
        };
        let sentence = format!("unknown clients are refused: {what}");
        self.judge(Problem::Overloaded, Err(sentence));
    }

    /// Limits are no longer, or again, counted where hosts share them.
    fn store_changed(&self, notice: StoreNotice) {
        let lost = match notice {
            StoreNotice::Back => None,
            StoreNotice::Lost(why) => {
                let inner = self.inner.borrow();
                inner.policy.store.as_ref().map(|store| {
                    let instead = match store.on_failure {
                        OnFailure::Local => "each host counts for itself",
                        OnFailure::Open => "nothing is limited",
                        OnFailure::Closed => "what is limited is refused",
                    };
                    // What a server said.
                    format!("the store {store} is lost ({}): {instead}", line(&why, 200))
                })
            }
        };
        self.judge(Problem::StoreLost, lost.map_or(Ok(()), Err));
    }

    pub(super) fn received(&self, message: FromProxy) {
        match message {
            FromProxy::Observations { observations, lost } => {
                for observation in &observations {
                    self.observed(observation);
                }
                self.inner.borrow_mut().observations_lost += lost;
            }
            FromProxy::Server(notice) => self.server_changed(&notice),
            FromProxy::Counters(counters) => self.inner.borrow_mut().proxy_counters = *counters,
            FromProxy::Overload(strain) => self.overloaded(strain),
            FromProxy::Store(notice) => self.store_changed(notice),
            FromProxy::Hello(_) | FromProxy::PolicyApplied { .. } | FromProxy::HandOver(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_connections_stay_tightened_for_a_while() {
        let mut overload = ProxyOverload::default();
        overload.tell(false, 1);
        assert!(!overload.tightens(1), "there was none");
        overload.tell(true, 10);
        assert!(overload.tightens(u64::MAX));
        overload.tell(false, 20);
        assert!(overload.tightens(20 + HOLD_NS - 1) && !overload.tightens(20 + HOLD_NS));
    }
}
