//! What the control socket can ask of the agent.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use limiter_common::verdict::{Action, Reason};

use super::{
    Agent,
    host::sysctls,
    problems::Problem,
    safety::ban_prefix,
    view::{
        ban_view, by_label, durations, explain_packets, failure, handshakes, kernel, kernel_status,
        outcomes, servers, signed_messages, signed_refused, source_view, store,
    },
};
use crate::{
    admin::{
        Backend, Listing,
        view::{
            BanRequest, BanView, Failure, ListChange, ListKind, ListOrigin, ListsView, PacketQuery,
            ReloadView, RequestQuery, SourceSort, SourceView, StatusView, TopView, WhyView,
        },
    },
    clock,
    events::{Lifecycle, stream::EventStream},
    kernel::SourceRecord,
    policy::BanScope,
    proxy::explain::{Asked, explain},
    refusal::Refusal,
};

/// Sets of the source table read at once: about a millisecond.
const SETS_AT_ONCE: u32 = 1_024;

/// Most sources in an answer.
const MAX_SOURCES: usize = 100_000;

impl Backend for Agent {
    fn status(&self) -> StatusView {
        let inner = self.inner.borrow();
        let mut view = StatusView {
            version: crate::cli::version().to_owned(),
            agent_pid: std::process::id(),
            proxy_pid: inner.proxy_pid,
            proxy_starts: inner.proxy_starts,
            uptime_seconds: clock::monotonic_ns().saturating_sub(self.started_ns) / 1_000_000_000,
            proxy_uptime_seconds: inner.proxy_pid.map(|_| {
                clock::monotonic_ns().saturating_sub(inner.proxy_started_ns) / 1_000_000_000
            }),
            sysctls: sysctls(),
            configuration: self.file.as_ref().map(|file| file.display().to_string()),
            policy_generation: inner.generation,
            degraded: inner.problems.sentences(),
            confirm_seconds: inner.trial.as_ref().map(super::reload::Trial::seconds_left),
            requests: inner.proxy_counters.requests,
            forwarded: inner.proxy_counters.forwarded,
            refused: by_label(&inner.proxy_counters.refused),
            monitored: by_label(&inner.proxy_counters.monitored),
            outcomes: outcomes(&inner.proxy_counters.outcomes),
            durations: durations(&inner.proxy_counters.durations),
            connections_open: inner.proxy_counters.connections_open,
            tls_handshakes: handshakes(&inner.proxy_counters),
            signed_messages: signed_messages(&inner.proxy_counters.signed),
            signed_refused: signed_refused(&inner.proxy_counters.signed),
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
                .flat_map(|one| {
                    one.servers.iter().map(move |server| format!("{} {server}", one.name))
                })
                .collect();
            view.servers = servers(http, &inner.proxy_counters.servers);
        }
        let shared = inner.policy.store.as_ref();
        let counts = inner.proxy_counters.store.as_ref();
        let is_lost = inner.problems.sentence(Problem::StoreLost).is_some();
        view.store = shared.map(|policy| store(policy, is_lost, counts, self.shared_bans.counts()));
        kernel_status(&inner, &mut view);
        view.events_lost.extend(self.events.losses());
        view.events_lost.insert("proxy".to_owned(), inner.observations_lost);
        view.events_lost.insert("access_log".to_owned(), inner.proxy_counters.access_lost);
        view.events_lost.insert("escalation".to_owned(), inner.escalation.overflowed);
        view.events_lost.insert("closings".to_owned(), self.outbox.overflowed.get());
        let (restored, took) = inner.restored;
        view.bans_restored = restored.try_into().unwrap_or(u64::MAX);
        view.bans_restored_milliseconds = took.as_millis().try_into().unwrap_or(u64::MAX);
        let refused = inner.bans_refused.iter();
        view.bans_refused = refused.map(|(table, count)| ((*table).to_owned(), *count)).collect();
        for scope in [BanScope::Kernel, BanScope::Http] {
            let count = inner.book.count(scope);
            view.bans.insert(scope.label().to_owned(), count.try_into().unwrap_or(u64::MAX));
        }
        view
    }

    async fn sources(&self, sort: SourceSort, limit: usize) -> Result<Vec<SourceView>, Failure> {
        let key = |record: &SourceRecord| {
            std::cmp::Reverse(match sort {
                SourceSort::Packets => record.packets,
                SourceSort::Bytes => record.bytes,
                SourceSort::Connections => record.connections,
                SourceSort::Dropped => record.dropped,
            })
        };
        let limit = limit.min(MAX_SOURCES);
        let mut records: Vec<SourceRecord> = Vec::new();
        let mut next = 0;
        loop {
            {
                let inner = self.inner.borrow();
                let kernel = kernel(&inner)?;
                let sets = kernel.source_sets();
                let end = sets.min(next + SETS_AT_ONCE);
                records.extend((next..end).flat_map(|set| kernel.records_of_set(set)));
                if end == sets {
                    break;
                }
                next = end;
            }
            if records.len() > limit + 65_536 {
                records.select_nth_unstable_by_key(limit, key);
                records.truncate(limit);
            }
            // The rest of the agent gets its turn.
            tokio::task::yield_now().await;
        }
        records.sort_by_key(key);
        records.truncate(limit);
        let inner = self.inner.borrow();
        let kernel = kernel(&inner)?;
        Ok(records.iter().map(|record| source_view(&inner, kernel, record)).collect())
    }

    fn top(&self, sort: SourceSort, limit: usize) -> Result<TopView, Failure> {
        self.top_view(sort, limit)
    }

    fn ban(&self, request: &BanRequest) -> Result<BanView, Failure> {
        let ban = self.enforce_ban(self.order(request)?).map_err(|error| failure(&error))?;
        Ok(ban_view(&self.inner.borrow(), &ban))
    }

    fn add_ban(&self, request: &BanRequest) -> Result<(), Failure> {
        let made = self.enforce_ban(self.order(request)?);
        made.map(drop).map_err(|error| failure(&error))
    }

    async fn saved(&self) -> Result<(), String> {
        let committed = self.inner.borrow().book.journal().committed();
        let saved = committed.await;
        self.judge_journal();
        saved.and(self.keep_lifts().await)
    }

    fn must_wait(&self) -> bool {
        self.inner.borrow().book.journal().is_behind()
    }

    fn unban(&self, prefix: IpNet) -> Result<usize, Failure> {
        // An IPv6 address is banned by its /64: lifting either lifts it.
        let prefix = match prefix {
            IpNet::V6(v6) if v6.prefix_len() > 64 => ban_prefix(IpAddr::V6(v6.addr())),
            other => other,
        };
        let lifted = self.lift(|ban| prefix.contains(&ban.prefix));
        let lifted = lifted.map_err(|error| failure(&error))?;
        for ban in &lifted {
            self.share_lift(ban);
        }
        Ok(lifted.len())
    }

    fn bans(&self) -> Result<Vec<BanView>, Failure> {
        let inner = self.inner.borrow();
        let now_ns = clock::monotonic_ns();
        let mut bans: Vec<BanView> = inner
            .book
            .iter()
            .filter(|ban| ban.expires_ns > now_ns)
            .map(|ban| ban_view(&inner, ban))
            .collect();
        bans.sort_by_key(|ban| (ban.prefix, ban.scope.label()));
        Ok(bans)
    }

    async fn change_lists(&self, change: ListChange) -> Result<ListsView, Failure> {
        Self::change_lists(self, change).await
    }

    fn list(&self, kind: ListKind, origin: ListOrigin) -> Listing {
        let inner = self.inner.borrow();
        let configured = inner.configured.kernel.as_ref();
        match (origin, kind, configured) {
            (ListOrigin::Configuration, ListKind::Trust, Some(kernel)) => {
                Listing::Trusted(kernel.trusted.clone())
            }
            (ListOrigin::Configuration, ListKind::Allow, Some(kernel)) => {
                Listing::Everywhere(kernel.allow.clone())
            }
            (ListOrigin::Configuration, ListKind::Deny, Some(kernel)) => {
                Listing::Everywhere(kernel.deny.clone())
            }
            _ => Listing::Everywhere(inner.lists.get(kind, origin)),
        }
    }

    fn why(&self, source: IpAddr, packet: Option<PacketQuery>) -> Result<WhyView, Failure> {
        let source = source.to_canonical();
        let inner = self.inner.borrow();
        let prefix = ban_prefix(source);
        let now_ns = clock::monotonic_ns();
        let policy = &inner.policy.escalation;
        let (score, findings, shared) = inner.escalation.standing(prefix, policy, now_ns);
        // Of several the one that the packet path meets: in the kernel, exact, then the longest.
        let ban = inner
            .book
            .iter()
            .filter(|ban| ban.prefix.contains(&source) && ban.expires_ns > now_ns)
            .max_by_key(|ban| (ban.scope == BanScope::Kernel, ban.prefix.prefix_len()));
        let mut view = WhyView {
            source,
            verdict: Action::Pass.label().to_owned(),
            reason: Reason::Allowed.label().to_owned(),
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
            let whole = if ban.prefix == ban_prefix(source) {
                String::new()
            } else {
                format!(" as part of {}", ban.prefix)
            };
            view.explanation.push(format!("it is banned{whole} ({place}): {}", ban.reason));
        }
        explain_packets(&inner, source, packet, &mut view)?;
        let is_refused = ban.is_some_and(|ban| ban.scope == BanScope::Http);
        if is_refused && packet.is_none() && view.verdict == Action::Pass.label() {
            // Its packets pass; nothing that it asks for does.
            view.verdict = String::from("refuse");
            view.reason = String::from(Refusal::Banned.label());
        }
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
        let (verdict, reason) = match (refusal, fate.depends) {
            (Some(refusal), _) => ("refuse", refusal.label()),
            (None, Some(unknown)) => ("depends", unknown.label()),
            (None, None) => ("pass", "allowed"),
        };
        (view.verdict, view.reason) = (verdict.to_owned(), reason.to_owned());
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
        let (names, restored) = {
            let mut inner = self.inner.borrow_mut();
            inner.drops = None;
            let names = if let Some(kernel) = inner.kernel.take() {
                let sentence = "XDP was taken off by `limiter detach`".to_owned();
                inner.problems.begin(Problem::Detached, sentence);
                inner.problems.end(Problem::Interfaces);
                kernel.detach()
            } else {
                let pins = inner.policy.agent.pins.clone();
                let links = crate::kernel::detach_pins(&pins).map_err(|error| failure(&error))?;
                (0..links).map(|_| "an interface of an earlier agent".to_owned()).collect()
            };
            (names, inner.cookies.restore())
        };
        self.judge(Problem::SynCookies, restored);
        for name in &names {
            self.lifecycle(Lifecycle::Detached, name.clone());
        }
        Ok(names)
    }

    fn events(&self) -> &EventStream {
        &self.events
    }
}
