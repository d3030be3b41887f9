//! What the agent does again and again: bans swept, sums told, problems kept.

use super::{Agent, bans, problems::Problem};
use crate::{clock, link::ToProxy, policy::BanScope};

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
            let facts = super::host_facts(&inner.policy);
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
