//! What the two halves report, turned into events and evidence.

use std::time::Duration;

use ipnet::IpNet;
use limiter_common::{report::Counter, verdict::Action};

use super::{Agent, Inner, book, safety::ban_prefix};
use crate::{
    clock,
    events::{Event, EventKind, Lifecycle, Source},
    kernel::KernelError,
    link::{HttpBan, Observation, ObservedOutcome, ToProxy},
    policy::{BanScope, Mode},
};

/// A ban to be made.
#[derive(Debug)]
pub(super) struct BanOrder {
    pub(super) prefix: IpNet,
    pub(super) scope: BanScope,
    pub(super) length: Duration,
    pub(super) reason: String,
    /// `manual` or `escalation`.
    pub(super) origin: &'static str,
}

impl Agent {
    /// One observation of the proxy: an event, and evidence.
    pub(super) fn observed(&self, observation: &Observation) {
        let (kind, mode) = match observation.outcome {
            ObservedOutcome::Refused(refusal) => (EventKind::Refused(refusal), Mode::Enforce),
            ObservedOutcome::Monitored(refusal) => (EventKind::Refused(refusal), Mode::Monitor),
            ObservedOutcome::Authenticated => {
                (EventKind::Lifecycle(Lifecycle::Authenticated), Mode::Enforce)
            }
        };
        let client = (observation.client != observation.peer).then_some(observation.client);
        self.publish(Event {
            unix_ns: observation.unix_ns,
            kind,
            source: Some(Source::Address(observation.peer)),
            client,
            count: u64::from(observation.count),
            bytes: 0,
            mode,
            request: observation.request.clone(),
            detail: String::new(),
        });
        self.weigh(observation);
    }

    /// Evidence to ban.
    fn weigh(&self, observation: &Observation) {
        let mut inner = self.inner.borrow_mut();
        let now_ns = clock::monotonic_ns();
        let client = ban_prefix(observation.client);
        let refusal = match observation.outcome {
            ObservedOutcome::Authenticated => {
                inner.escalation.authenticated(client, now_ns);
                return;
            }
            // Findings in monitor mode ban nobody.
            ObservedOutcome::Monitored(_) => return,
            ObservedOutcome::Refused(refusal) => refusal,
        };
        if inner.policy.http.as_ref().is_some_and(|http| {
            http.trusted.iter().any(|network| network.contains(&observation.client))
        }) {
            return;
        }
        let policy = inner.policy.escalation.clone();
        let Some(verdict) =
            inner.escalation.observe(client, refusal, observation.count, &policy, now_ns)
        else {
            return;
        };
        let Some(scope) = scope_for(&inner, observation, policy.scope) else { return };
        if policy.mode == Mode::Monitor {
            let now = clock::unix_ns();
            let event = Event::banned(now, client, verdict.length, &verdict.reason, policy.mode);
            drop(inner);
            self.publish(event);
            return;
        }
        drop(inner);
        let order = BanOrder {
            prefix: client,
            scope,
            length: verdict.length,
            reason: verdict.reason,
            origin: "escalation",
        };
        if let Err(error) = self.enforce_ban(order) {
            self.degraded_event(&format!("a ban could not be made: {error}"));
        }
    }

    /// Puts a ban in force, in the kernel or the proxy, and says so.
    pub(super) fn enforce_ban(&self, request: BanOrder) -> Result<book::Ban, KernelError> {
        let BanOrder { prefix, scope, length, reason, origin } = request;
        let now_unix_ns = clock::unix_ns();
        let expires_ns = clock::monotonic_ns().saturating_add(nanoseconds(length));
        let expires_unix_ns = now_unix_ns.saturating_add(nanoseconds(length));
        let origin = origin.to_owned();
        let ban = book::Ban { prefix, scope, expires_unix_ns, reason, origin };
        let mut inner = self.inner.borrow_mut();
        match ban.scope {
            BanScope::Kernel => {
                let Some(kernel) = inner.kernel.as_mut() else {
                    return Err(KernelError::Host("the kernel half is off".to_owned()));
                };
                kernel.ban(ban.prefix.addr(), expires_ns)?;
                // Its packets end from here on; its connections would otherwise linger.
                self.tell_proxy(ToProxy::CloseConnections(ban.prefix));
            }
            BanScope::Http => {
                self.tell_proxy(ToProxy::AddHttpBan(HttpBan { prefix: ban.prefix, expires_ns }));
            }
        }
        if !inner.book.insert(ban.clone()) {
            return Err(KernelError::Full("the book of http bans is full".to_owned()));
        }
        drop(inner);
        self.publish(Event::banned(now_unix_ns, prefix, length, &ban.reason, Mode::Enforce));
        Ok(ban)
    }

    /// What the kernel dropped since the last look. `pending`: also what is still gathering.
    pub(super) fn collect_drops(&self, pending: bool) {
        let mut told = Vec::new();
        {
            let mut inner = self.inner.borrow_mut();
            if let Some(kernel) = inner.kernel.as_mut() {
                kernel.flush_diagnostics();
            }
            let Some(drops) = inner.drops.as_mut() else { return };
            if pending {
                drops.pending(|dropped| told.push(dropped));
            } else {
                drops.records(|dropped| told.push(dropped));
            }
        }
        let now = clock::unix_ns();
        for dropped in told {
            let mode = match dropped.verdict.action {
                Action::Monitor => Mode::Monitor,
                Action::Drop | Action::Pass => Mode::Enforce,
            };
            self.publish(Event::packets(
                now,
                Source::Address(dropped.source),
                dropped.verdict.reason,
                dropped.counter.packets,
                dropped.counter.bytes,
                mode,
            ));
        }
        if pending {
            self.collect_lost(now);
        }
    }

    /// Packets whose records found no room: the source is not known, the totals add up.
    fn collect_lost(&self, now_unix_ns: u64) {
        let mut events = Vec::new();
        {
            let mut inner = self.inner.borrow_mut();
            let Inner { kernel: Some(kernel), drops: Some(drops), lost_told, .. } = &mut *inner
            else {
                return;
            };
            let (_, lost) = kernel.counts();
            for count in lost {
                let told = lost_told.entry((count.interface, count.verdict)).or_default();
                let newly = Counter {
                    packets: count.counter.packets.saturating_sub(told.packets),
                    bytes: count.counter.bytes.saturating_sub(told.bytes),
                };
                *told = count.counter;
                let Counter { packets, bytes } = drops.untold(count.verdict, newly);
                if packets > 0 {
                    let mode = match count.verdict.action {
                        Action::Monitor => Mode::Monitor,
                        Action::Drop | Action::Pass => Mode::Enforce,
                    };
                    let reason = count.verdict.reason;
                    let event =
                        Event::packets(now_unix_ns, Source::Other, reason, packets, bytes, mode);
                    events.push(event);
                }
            }
        }
        for event in events {
            self.publish(event);
        }
    }
}

/// Where a ban on this client is enforced; `None`: nowhere, it would hit others.
fn scope_for(inner: &Inner, observation: &Observation, wanted: BanScope) -> Option<BanScope> {
    use super::safety::Immunity;
    let direct = observation.client == observation.peer;
    let immunity = inner.safety.immunity(ban_prefix(observation.client));
    match immunity {
        Some(Immunity::Trusted | Immunity::TrustedProxy | Immunity::Infrastructure) => None,
        None if direct && wanted == BanScope::Kernel && inner.kernel.is_some() => {
            Some(BanScope::Kernel)
        }
        // Arrived without passing XDP, or not by its own address: refused before routing.
        Some(Immunity::Own) | None => Some(BanScope::Http),
    }
}

/// Whole nanoseconds, saturating.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
