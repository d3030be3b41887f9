//! What the agent does again and again: signals followed, bans swept, sums told, problems kept.

use std::{rc::Rc, time::Duration};

use anyhow::Result;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time,
};

use super::{Agent, bans, notify, problems::Problem};
use crate::{clock, link::ToProxy, policy::BanScope};

/// How often the kernel's ring buffer is emptied.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// How often the source table is looked at while somebody watches.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often what is gathered is told, bans are swept, the book is saved.
const TICK: Duration = Duration::from_secs(1);

/// Why the agent's loop ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Requests in flight may take so long to finish.
    Stop(Duration),
    /// Another version of the program goes on.
    Upgrade,
}

/// The agent's loop, until a signal ends it.
pub(super) async fn attend(
    agent: &Rc<Agent>,
    terminate: &mut Signal,
    interrupt: &mut Signal,
    hangup: &mut Signal,
) -> Result<End> {
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let (approve, mut approved) = mpsc::channel(1);
    let watchdog = notify::watchdog_interval();
    let mut alive = time::interval(watchdog.unwrap_or(TICK));
    let mut drain = time::interval(DRAIN_EVERY);
    let mut tick = time::interval(TICK);
    let mut look = time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = drain.tick() => {
                agent.notice_links();
                agent.collect_drops(false);
                agent.watch_floods();
            }
            _ = look.tick(), if agent.is_watched() => agent.look_at_sources(),
            _ = tick.tick() => {
                agent.tick();
                agent.keep_lists();
                agent.keep_access_log();
            }
            _ = hangup.recv() => {
                agent.events.reopen();
                agent.reopen_access_log();
                // The outcome is an event; whatever else happens meanwhile is not kept waiting.
                let reloading = Rc::clone(agent);
                tokio::task::spawn_local(async move { drop(reloading.read_and_apply(None).await) });
            }
            _ = alive.tick(), if watchdog.is_some() => notify::alive(),
            _ = upgrade.recv() => {
                let (trying, approve) = (Rc::clone(agent), approve.clone());
                tokio::task::spawn_local(async move {
                    if trying.try_successor().await {
                        // A second one that comes meanwhile adds nothing.
                        approve.try_send(()).ok();
                    }
                });
            }
            Some(()) = approved.recv() => break Ok(End::Upgrade),
            _ = terminate.recv() => break Ok(End::Stop(agent.drain_patience())),
            _ = interrupt.recv() => break Ok(End::Stop(Duration::ZERO)),
        }
    }
}

impl Agent {
    /// Once a second.
    pub(super) fn tick(&self) {
        self.end_trial();
        self.look_at_interfaces();
        self.follow_certificates();
        self.collect_drops(true);
        self.catch_proxy_up();
        let now = bans::now();
        let mut table = Ok(());
        let connections = self.connections_problem();
        let sums = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            inner.safety.look_at_host();
            inner.top.tick(clock::monotonic_ns());
            let facts = inner.host_facts(&inner.policy);
            if let Some(kernel) = inner.kernel.as_mut() {
                table = kernel.follow(&facts).map_err(|error| error.to_string());
            }
            inner.escalation.sweep(&inner.policy.escalation, now.monotonic_ns);
            inner.book.follow_clock(now);
            for ban in inner.book.remove_expired(now.monotonic_ns) {
                // The kernel stopped enforcing it by itself; this only frees its entry.
                if let (BanScope::Kernel, Some(kernel)) = (ban.scope, inner.kernel.as_mut())
                    && let Err(error) = kernel.unban(ban.prefix)
                {
                    table = Err(error.to_string());
                }
            }
            inner.aggregate.tick(now.unix_ns)
        };
        if !sums.is_empty() {
            for event in sums {
                self.events.publish(event);
            }
            self.save_ledger();
        }
        self.judge(Problem::BanTable, table);
        self.judge(Problem::Connections, connections.map_or(Ok(()), Err));
        self.judge_journal();
        let sentence = {
            let inner = self.inner.borrow();
            match inner.problems.sentences().as_slice() {
                [] => format!("policy generation {} is in force", inner.generation),
                problems => format!("degraded: {}", problems.join("; ")),
            }
        };
        self.notifier.status(sentence);
    }

    /// Whether bans reach the disk.
    pub(super) fn judge_journal(&self) {
        let problem = self.inner.borrow().book.journal().problem();
        self.judge(Problem::BookUnwritten, problem.map_or(Ok(()), Err));
    }

    /// What is wrong with the count of open connections.
    fn connections_problem(&self) -> Option<String> {
        let inner = self.inner.borrow();
        match inner.kernel.as_ref()?.connections() {
            Ok(state) => state.problem,
            Err(why) if inner.policy.kernel.as_ref()?.limits_open_connections() => {
                Some(format!("limits of concurrent connections are off: {why}"))
            }
            Err(_) => None,
        }
    }

    /// Sends policy and bans whole after a message found no room.
    pub(super) fn catch_proxy_up(&self) {
        if !self.proxy_missed.replace(false) {
            return;
        }
        // Its list is newer than what waits.
        self.outbox.clear_http();
        let (generation, policy, bans) = self.proxy_policy();
        if let Some(policy) = policy {
            self.tell_proxy(ToProxy::Policy { generation, policy: Box::new(policy) });
            self.tell_proxy(ToProxy::HttpBans(bans));
            self.tell_proxy(ToProxy::AccessLog);
        }
    }

    /// Tells a problem when it begins and keeps it in the status until it is over.
    pub(super) fn judge(&self, problem: Problem, outcome: Result<(), String>) {
        let news = match outcome {
            Ok(()) => {
                self.inner.borrow_mut().problems.end(problem);
                None
            }
            Err(sentence) => {
                let is_new = self.inner.borrow_mut().problems.begin(problem, sentence.clone());
                is_new.then_some(sentence)
            }
        };
        if let Some(sentence) = news {
            self.degraded_event(&sentence);
        }
    }
}
