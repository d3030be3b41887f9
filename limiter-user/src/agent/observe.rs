//! What the proxy reports, turned into events and evidence.

use super::{Agent, Inner, bans::BanOrder, problems::Problem, safety::ban_prefix};
use crate::{
    clock,
    events::{Event, EventKind, Lifecycle, Source, escape::line},
    link::{Observation, ObservedOutcome, ServerChange, ServerNotice},
    policy::{BanScope, Mode},
};

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
            interface: None,
            evidence: None,
            detail: String::new(),
        });
        self.weigh(observation);
    }

    /// A server behind the proxy fails, or answers again.
    pub(super) fn server_changed(&self, notice: &ServerNotice) {
        let ServerNotice { upstream, server, change } = notice;
        let (what, why) = match change {
            ServerChange::BreakerOpened => (Lifecycle::BreakerOpened, String::new()),
            ServerChange::BreakerClosed => (Lifecycle::BreakerClosed, String::new()),
            // What the network and a server said.
            ServerChange::Down(why) => (Lifecycle::UpstreamDown, format!(": {}", line(why, 128))),
            ServerChange::Up => (Lifecycle::UpstreamUp, String::new()),
        };
        let detail = format!("{upstream} ({server}){why}");
        self.publish(Event::lifecycle(clock::unix_ns(), what, detail));
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
        let scope = scope_for(&inner, observation, policy.scope);
        // What was under way when the ban came is no further offence.
        if scope
            .and_then(|scope| inner.book.get(client, scope))
            .is_some_and(|ban| ban.expires_ns > now_ns)
        {
            return;
        }
        let Some(verdict) =
            inner.escalation.observe(client, refusal, observation.count, &policy, now_ns)
        else {
            return;
        };
        let Some(scope) = scope else { return };
        if policy.mode == Mode::Monitor {
            let now = clock::unix_ns();
            let event = Event {
                evidence: Some(Box::new(verdict.evidence)),
                ..Event::banned(now, client, verdict.length, &verdict.reason, policy.mode)
            };
            inner.escalation.told(client);
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
            origin: "escalation".into(),
            evidence: Some(Box::new(verdict.evidence)),
        };
        let made = self.enforce_ban(order);
        if made.is_ok() {
            self.inner.borrow_mut().escalation.banned(client, now_ns);
        }
        let made = made.map(drop).map_err(|error| format!("bans cannot be made: {error}"));
        self.judge(Problem::BanRefused, made);
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
