//! What the agent does again and again: bans restored, swept and saved, sums told, problems kept.

use super::{Agent, book, problems::Problem, safety};
use crate::{clock, link::ToProxy, policy::BanScope};

impl Agent {
    /// Bans of the book into the kernel, and bans that only the kernel remembers into the book.
    pub(super) fn restore_bans(&self) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let (now_unix_ns, now_ns) = (clock::unix_ns(), clock::monotonic_ns());
        inner.book.remove_expired(now_unix_ns);
        let Some(kernel) = inner.kernel.as_mut() else { return };
        for (address, ban) in kernel.bans() {
            let prefix = safety::ban_prefix(address);
            if ban.expires_ns <= now_ns {
                if let Err(error) = kernel.unban(address) {
                    inner.problems.begin(Problem::BanTable, error.to_string());
                }
                continue;
            }
            if inner.book.get(prefix, BanScope::Kernel).is_none() {
                inner.book.insert(book::Ban {
                    prefix,
                    scope: BanScope::Kernel,
                    expires_unix_ns: now_unix_ns.saturating_add(ban.expires_ns - now_ns),
                    reason: "in force when the agent started".to_owned(),
                    origin: "restored".to_owned(),
                });
            }
        }
        let missing: Vec<book::Ban> = inner
            .book
            .iter()
            .filter(|ban| {
                ban.scope == BanScope::Kernel && kernel.ban_of(ban.prefix.addr()).is_none()
            })
            .cloned()
            .collect();
        let (mut left_out, mut why) = (0_usize, String::new());
        for ban in missing {
            let left_ns = ban.expires_unix_ns.saturating_sub(now_unix_ns);
            if let Err(error) = kernel.ban(ban.prefix.addr(), now_ns.saturating_add(left_ns)) {
                // What is not in force is not listed as if it were.
                inner.book.remove(ban.prefix, BanScope::Kernel);
                left_out += 1;
                why = error.to_string();
            }
        }
        if left_out > 0 {
            let sentence = format!("bans that could not be restored: {left_out}: {why}");
            inner.problems.begin(Problem::BansLeftOut, sentence);
        }
    }

    /// Once a second.
    pub(super) fn tick(&self) {
        self.collect_drops(true);
        self.catch_proxy_up();
        let now_unix_ns = clock::unix_ns();
        let mut table = Ok(());
        let connections = self.connections_problem();
        let sums = {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            inner.safety.look_at_host();
            let facts = super::host_facts(&inner.policy);
            if let Some(kernel) = inner.kernel.as_mut() {
                table = kernel.follow(&facts).map_err(|error| error.to_string());
            }
            inner.escalation.sweep(&inner.policy.escalation, clock::monotonic_ns());
            for ban in inner.book.remove_expired(now_unix_ns) {
                // The kernel stopped enforcing it by itself; this only frees its entry.
                if let (BanScope::Kernel, Some(kernel)) = (ban.scope, inner.kernel.as_mut())
                    && let Err(error) = kernel.unban(ban.prefix.addr())
                {
                    table = Err(error.to_string());
                }
            }
            inner.aggregate.tick(now_unix_ns)
        };
        for event in sums {
            self.events.publish(event);
        }
        self.judge(Problem::BanTable, table);
        self.judge(Problem::Connections, connections.map_or(Ok(()), Err));
        self.save_book();
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

    /// Writes the bans down. What somebody was told is done shall hold, also if the agent dies
    /// now; bans by evidence wait for the tick, or an attacker would set the pace of the disk.
    pub(super) fn save_book(&self) {
        let saved = self.inner.borrow_mut().book.save();
        let saved = saved.map_err(|error| format!("the bans cannot be saved: {error}"));
        self.judge(Problem::BookUnwritten, saved);
    }

    /// Sends policy and bans whole after a message found no room.
    pub(super) fn catch_proxy_up(&self) {
        if !self.proxy_missed.replace(false) {
            return;
        }
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
