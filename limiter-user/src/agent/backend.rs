//! What the control socket can ask of the agent.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use limiter_common::verdict::Action;

use super::{
    Agent,
    bans::BanOrder,
    problems::Problem,
    safety::{Immunity, ban_prefix},
    view::{ban_view, by_label, explain_packets, failure, kernel, kernel_status, source_view},
};
use crate::{
    admin::{
        Backend,
        view::{
            BanRequest, BanView, Failure, PacketQuery, ReloadView, RequestQuery, SourceSort,
            SourceView, StatusView, WhyView,
        },
    },
    clock,
    events::{Lifecycle, stream::EventStream},
    policy::BanScope,
    proxy::explain::{Asked, explain},
    refusal::Refusal,
};

/// The longest ban: ten years.
const MAX_BAN_SECONDS: u64 = 10 * 365 * 86_400;

impl Backend for Agent {
    fn status(&self) -> StatusView {
        let inner = self.inner.borrow();
        let mut view = StatusView {
            version: crate::cli::version().to_owned(),
            agent_pid: std::process::id(),
            proxy_pid: inner.proxy_pid,
            proxy_starts: inner.proxy_starts,
            uptime_seconds: clock::monotonic_ns().saturating_sub(self.started_ns) / 1_000_000_000,
            configuration: self.file.as_ref().map(|file| file.display().to_string()),
            policy_generation: inner.generation,
            degraded: inner.problems.sentences(),
            confirm_seconds: inner.trial.as_ref().map(super::reload::Trial::seconds_left),
            requests: inner.proxy_counters.requests,
            forwarded: inner.proxy_counters.forwarded,
            refused: by_label(&inner.proxy_counters.refused),
            monitored: by_label(&inner.proxy_counters.monitored),
            connections_open: inner.proxy_counters.connections_open,
            ..StatusView::default()
        };
        let serves = inner.policy.http.is_none() || inner.applied > 0;
        view.state = String::from(match (serves, inner.problems.is_empty()) {
            (true, true) => "ready",
            (false, true) => "starting",
            (_, false) => "degraded",
        });
        if let Some(http) = &inner.policy.http {
            view.listeners = http.listeners.iter().map(|one| one.address.to_string()).collect();
            view.upstreams = http
                .upstreams
                .iter()
                .map(|one| format!("{} {}:{}", one.name, one.host, one.port))
                .collect();
        }
        kernel_status(&inner, &mut view);
        view.events_lost.extend(self.events.losses());
        view.events_lost.insert("proxy".to_owned(), inner.observations_lost);
        view.events_lost.insert("escalation".to_owned(), inner.escalation.overflowed);
        for scope in [BanScope::Kernel, BanScope::Http] {
            let count = inner.book.count(scope);
            view.bans.insert(scope.label().to_owned(), count.try_into().unwrap_or(u64::MAX));
        }
        view
    }

    fn sources(&self, sort: SourceSort, limit: usize) -> Result<Vec<SourceView>, Failure> {
        let inner = self.inner.borrow();
        let kernel = kernel(&inner)?;
        let mut records = kernel.sources();
        records.sort_by_key(|record| {
            std::cmp::Reverse(match sort {
                SourceSort::Packets => record.packets,
                SourceSort::Bytes => record.bytes,
                SourceSort::Connections => record.connections,
                SourceSort::Dropped => record.dropped,
            })
        });
        records.truncate(limit);
        Ok(records.iter().map(|record| source_view(&inner, kernel, record)).collect())
    }

    fn ban(&self, request: &BanRequest) -> Result<BanView, Failure> {
        let prefix = widen(request)?;
        if !(1..=MAX_BAN_SECONDS).contains(&request.seconds) {
            return Err(Failure::invalid(format!(
                "a ban lasts 1 to {MAX_BAN_SECONDS} seconds, not {}",
                request.seconds,
            )));
        }
        let immunity = self.inner.borrow().safety.immunity(prefix);
        match immunity {
            // The packet path relies on it: it never looks at the lists before the bans.
            Some(Immunity::Trusted) => {
                return Err(Failure::refused(format!(
                    "{prefix} is not banned: {}; remove it there first",
                    Immunity::Trusted.reason(),
                )));
            }
            Some(immunity) if !request.force => {
                return Err(Failure::refused(format!(
                    "{prefix} is not banned: {} (--force overrides)",
                    immunity.reason(),
                )));
            }
            Some(_) | None => {}
        }
        let reason = if request.reason.is_empty() { "by hand" } else { &request.reason };
        let order = BanOrder {
            prefix,
            scope: request.scope,
            length: Duration::from_secs(request.seconds),
            reason: reason.chars().filter(|c| !c.is_control()).take(200).collect(),
            origin: "manual",
        };
        let ban = self.enforce_ban(order).map_err(|error| failure(&error))?;
        self.save_book();
        Ok(ban_view(&self.inner.borrow(), &ban))
    }

    fn unban(&self, prefix: IpNet) -> Result<usize, Failure> {
        // An IPv6 address is banned by its /64: lifting either lifts it.
        let prefix = match prefix {
            IpNet::V6(v6) if v6.prefix_len() > 64 => ban_prefix(IpAddr::V6(v6.addr())),
            other => other,
        };
        let lifted =
            self.lift(|ban| prefix.contains(&ban.prefix)).map_err(|error| failure(&error))?;
        self.save_book();
        Ok(lifted)
    }

    fn bans(&self) -> Result<Vec<BanView>, Failure> {
        let inner = self.inner.borrow();
        let now = clock::unix_ns();
        let mut bans: Vec<BanView> = inner
            .book
            .iter()
            .filter(|ban| ban.expires_unix_ns > now)
            .map(|ban| ban_view(&inner, ban))
            .collect();
        bans.sort_by_key(|ban| (ban.prefix, ban.scope.label()));
        Ok(bans)
    }

    fn why(&self, source: IpAddr, packet: Option<PacketQuery>) -> Result<WhyView, Failure> {
        let source = source.to_canonical();
        let inner = self.inner.borrow();
        let prefix = ban_prefix(source);
        let now_ns = clock::monotonic_ns();
        let policy = &inner.policy.escalation;
        let (score, findings, shared) = inner.escalation.standing(prefix, policy, now_ns);
        let now_unix_ns = clock::unix_ns();
        let ban = inner
            .book
            .iter()
            .filter(|ban| ban.prefix.contains(&source) && ban.expires_unix_ns > now_unix_ns)
            .min_by_key(|ban| ban.scope.label() != BanScope::Kernel.label());
        let mut view = WhyView {
            source,
            verdict: Action::Pass.label().to_owned(),
            reason: String::new(),
            explanation: Vec::new(),
            ban: ban.map(|ban| ban_view(&inner, ban)),
            score,
            threshold: policy.threshold,
            findings: findings
                .into_iter()
                .map(|(refusal, count)| (refusal.label().to_owned(), count))
                .collect(),
            record: None,
        };
        if let Some(ban) = ban {
            let place = ban.scope.label();
            view.explanation.push(format!("it is banned ({place}): {}", ban.reason));
        }
        explain_packets(&inner, source, packet, &mut view)?;
        if shared {
            view.explanation
                .push("it authenticated lately, so it is throttled before it is banned".to_owned());
        }
        if let Some(immunity) = inner.safety.immunity(prefix) {
            view.explanation
                .push(format!("it is never banned in the kernel: {}", immunity.reason()));
        }
        if view.explanation.is_empty() {
            view.explanation.push("nothing is known of it and no rule names it".to_owned());
        }
        Ok(view)
    }

    fn explain(&self, request: &RequestQuery) -> Result<WhyView, Failure> {
        let (policy, now_seconds) = {
            let inner = self.inner.borrow();
            let policy = inner.policy.http.clone();
            let missing =
                || Failure::invalid("there is no [http] policy: requests are not looked at");
            (policy.ok_or_else(missing)?, clock::unix_ns() / 1_000_000_000)
        };
        let asked = Asked {
            peer: request.source.to_canonical(),
            method: &request.method,
            target: &request.target,
            headers: &request.headers,
        };
        let fate = explain(&policy, &asked, now_seconds).map_err(Failure::invalid)?;
        let mut view = self.why(fate.client, None)?;
        let banned = view.ban.as_ref().is_some_and(|ban| ban.scope == BanScope::Http);
        let refusal = if banned { Some(Refusal::Banned) } else { fate.refusal };
        view.verdict = String::from(if refusal.is_some() { "refuse" } else { "pass" });
        view.reason = String::from(refusal.map_or("allowed", Refusal::label));
        view.explanation.splice(0..0, fate.explanation);
        Ok(view)
    }

    async fn reload(&self, confirm: Option<Duration>) -> Result<ReloadView, Failure> {
        self.read_and_apply(confirm).await
    }

    fn confirm_reload(&self) -> Result<ReloadView, Failure> {
        self.confirm_trial()
    }

    fn detach(&self) -> Result<Vec<String>, Failure> {
        // What was dropped until now is still told.
        self.collect_drops(true);
        let names = {
            let mut inner = self.inner.borrow_mut();
            inner.drops = None;
            if let Some(kernel) = inner.kernel.take() {
                let sentence = "XDP was taken off by `limiter detach`".to_owned();
                inner.problems.begin(Problem::Detached, sentence);
                inner.problems.end(Problem::Interfaces);
                kernel.detach()
            } else {
                let pins = inner.policy.agent.pins.clone();
                let links = crate::kernel::detach_pins(&pins).map_err(|error| failure(&error))?;
                (0..links).map(|_| "an interface of an earlier agent".to_owned()).collect()
            }
        };
        for name in &names {
            self.lifecycle(Lifecycle::Detached, name.clone());
        }
        Ok(names)
    }

    fn events(&self) -> &EventStream {
        &self.events
    }
}

/// What a ban of this scope can be of: in the kernel one IPv4 address or IPv6 /64.
fn widen(request: &BanRequest) -> Result<IpNet, Failure> {
    let prefix = request.prefix.trunc();
    match (request.scope, prefix) {
        (BanScope::Http, prefix) => Ok(prefix),
        (BanScope::Kernel, IpNet::V4(v4)) if v4.prefix_len() == 32 => Ok(prefix),
        (BanScope::Kernel, IpNet::V6(v6)) if v6.prefix_len() >= 64 => {
            Ok(ban_prefix(IpAddr::V6(v6.addr())))
        }
        (BanScope::Kernel, _) => Err(Failure::invalid(format!(
            "{prefix} is not supported by this version: the kernel bans one IPv4 address or one \
             IPv6 /64; use `deny` in the configuration for networks, or --scope http",
        ))),
    }
}
