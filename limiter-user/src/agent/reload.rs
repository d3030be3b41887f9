//! A new configuration while the agent runs: read, checked, put in force in both halves, or
//! refused with the old one as it was; on trial, if asked, and undone unless confirmed.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Agent, Inner,
    host::Selected,
    interfaces::describe,
    problems::Problem,
    safety::Safety,
    start,
    view::{failure, fits},
};
use crate::{
    admin::view::{Failure, ReloadView},
    clock,
    events::Lifecycle,
    kernel::Change,
    link::ToProxy,
    policy::{KernelPolicy, Policy, kernel::InterfaceSelection},
};

/// How often, and with which pauses, is looked whether the proxy acts on a new policy.
const APPLY_LOOKS: u32 = 1_000;
const APPLY_PAUSE: Duration = Duration::from_millis(2);

/// Said to whoever asked for what is refused.
const STAYS: &str = "the policy in force stays as it was";

/// A policy in force that somebody must confirm.
#[derive(Debug)]
pub(super) struct Trial {
    /// What comes back otherwise.
    pub(super) before: Policy,
    /// When, `CLOCK_MONOTONIC`.
    until_ns: u64,
}

impl Trial {
    /// Seconds left, rounded up.
    pub(super) fn seconds_left(&self) -> u64 {
        self.until_ns.saturating_sub(clock::monotonic_ns()).div_ceil(1_000_000_000)
    }
}

/// Who asks for a policy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    /// Somebody who can be told that it cannot be done.
    ByHand,
    /// A trial that ended: what was in force before comes back as far as it can.
    ByRollback,
}

impl Agent {
    /// Reads the configuration again and puts it in force; an invalid one changes nothing.
    /// `confirm`: only for so long, unless [`Self::confirm_trial`] is called. While a trial lasts,
    /// nothing else ends it: neither SIGHUP nor a command that reloads on the way confirms.
    pub(super) async fn read_and_apply(
        &self,
        confirm: Option<Duration>,
    ) -> Result<ReloadView, Failure> {
        let _turn = self.changing.lock().await;
        self.notifier.reloading();
        let outcome = self.read_and_apply_now(confirm).await;
        if self.notifier.is_ready() {
            self.notifier.ready();
        }
        outcome
    }

    async fn read_and_apply_now(&self, confirm: Option<Duration>) -> Result<ReloadView, Failure> {
        // A long file takes its time; the agent goes on meanwhile.
        let args = self.args.clone();
        let loading = tokio::task::spawn_blocking(move || start::load(&args)).await;
        let loaded = match loading.map_err(|error| Failure::internal(error.to_string()))? {
            Ok(loaded) => loaded,
            Err(error) => {
                self.lifecycle(Lifecycle::ConfigRejected, error.brief());
                let error = error.to_string();
                return Err(Failure::invalid(format!("{}\n{STAYS}", error.trim_end())));
            }
        };
        let (before, wanted) = {
            let inner = self.inner.borrow();
            (inner.configured.clone(), inner.lists.merged(&loaded.policy))
        };
        let brought = self.bring_lists(&wanted).await;
        let applied = brought.and_then(|()| self.apply(loaded.policy, Asked::ByHand));
        let (mut view, changes) = match applied {
            Ok(applied) => applied,
            Err(failure) => {
                self.lifecycle(Lifecycle::ConfigRejected, failure.message.clone());
                return Err(Failure {
                    message: format!("{}\n{STAYS}", failure.message),
                    ..failure
                });
            }
        };
        {
            let mut inner = self.inner.borrow_mut();
            if let Some(length) = confirm {
                let length_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
                let until_ns = clock::monotonic_ns().saturating_add(length_ns);
                // Several in a row: what comes back is what was confirmed last.
                let before = inner.trial.take().map_or(before, |trial| trial.before);
                inner.trial = Some(Trial { before, until_ns });
            }
            view.confirm_seconds = inner.trial.as_ref().map(Trial::seconds_left);
            inner.problems.end(Problem::RolledBack);
        }
        self.tell_changes(&changes);
        self.look_at_interfaces();
        self.lift_bans_of_trusted();
        self.wait_until_applied(view.generation).await;
        let until =
            view.confirm_seconds.map(|seconds| format!(", undone in {seconds}s unless confirmed"));
        let generation = view.generation;
        let detail = format!("generation {generation}{}", until.unwrap_or_default());
        self.lifecycle(Lifecycle::ConfigReloaded, detail);
        Ok(view)
    }

    /// Keeps the policy that is on trial.
    pub(super) fn confirm_trial(&self) -> Result<ReloadView, Failure> {
        let generation = {
            let mut inner = self.inner.borrow_mut();
            if inner.trial.take().is_none() {
                return Err(Failure {
                    status: 404,
                    message: "nothing waits to be confirmed: it was confirmed, or undone, already"
                        .to_owned(),
                });
            }
            inner.generation
        };
        self.lifecycle(Lifecycle::ConfigReloaded, format!("generation {generation} confirmed"));
        Ok(ReloadView { generation, changes: vec![], needs_restart: vec![], confirm_seconds: None })
    }

    /// Brings the policy before a trial back when nobody has confirmed in time.
    pub(super) fn end_trial(&self) {
        // Whoever changes something now is done in a moment.
        let Ok(_turn) = self.changing.try_lock() else { return };
        let before = {
            let inner = self.inner.borrow();
            let due = inner.trial.as_ref().filter(|trial| trial.until_ns <= clock::monotonic_ns());
            let Some(trial) = due else { return };
            trial.before.clone()
        };
        match self.apply(before, Asked::ByRollback) {
            Ok((view, changes)) => {
                let sentence = "the configuration file is not in force: nobody confirmed it in \
                                time, and the policy before it came back";
                {
                    let mut inner = self.inner.borrow_mut();
                    inner.trial = None;
                    inner.problems.end(Problem::RollbackFailed);
                    inner.problems.begin(Problem::RolledBack, sentence.to_owned());
                }
                self.tell_changes(&changes);
                self.look_at_interfaces();
                self.lift_bans_of_trusted();
                let detail = format!("generation {}, rolled back: not confirmed", view.generation);
                self.lifecycle(Lifecycle::ConfigReloaded, detail);
            }
            Err(failure) => {
                let why = format!("rolling back the configuration failed: {}", failure.message);
                self.judge(Problem::RollbackFailed, Err(why));
            }
        }
    }

    /// Whoever is told that a policy is in force can rely on it: waits for the proxy, unless there
    /// is none (the next one starts with it) or it takes too long.
    async fn wait_until_applied(&self, generation: u64) {
        for _ in 0..APPLY_LOOKS {
            {
                let inner = self.inner.borrow();
                if inner.proxy_pid.is_none() || inner.applied >= generation {
                    return;
                }
            }
            tokio::time::sleep(APPLY_PAUSE).await;
        }
        log::warn!("the proxy has not confirmed policy generation {generation} yet");
    }

    /// Puts a checked policy in force, in both halves. What fails leaves the old one as it was.
    fn apply(&self, policy: Policy, asked: Asked) -> Result<(ReloadView, Vec<Change>), Failure> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let mut configured = policy;
        let mut needs_restart = keep_what_needs_restart(&mut configured, &inner.configured);
        let policy = inner.lists.merged(&configured);
        fits(&policy)?;
        let routed = inner.watch.routed.clone();
        let (interfaces, later) = inner.apply_kernel(&policy, asked)?;
        needs_restart.extend(later);
        let mut changes = Vec::new();
        if inner.policy.kernel != policy.kernel {
            changes.push("kernel policy".to_owned());
        }
        changes.extend(interfaces.iter().map(|change| match change {
            Change::Attached(state) => format!("XDP attached: {}", describe(state)),
            Change::Detached(name, why) => format!("XDP detached: {name}: {why}"),
        }));
        if policy.sinks != inner.policy.sinks {
            if let Err(error) = self.events.replace_sinks(&policy.sinks) {
                // The kernel goes back with it; its old policy was in force a moment ago.
                inner.restore_kernel(routed)?;
                return Err(Failure::invalid(format!("events.sink: {error}")));
            }
            changes.push("event sinks".to_owned());
        }
        inner.safety = Safety::of(&policy);
        inner.generation += 1;
        let generation = inner.generation;
        if let Some(http) = &policy.http {
            if inner.policy.http.as_ref() != Some(http) {
                changes.push("HTTP policy".to_owned());
            }
            self.tell_proxy(ToProxy::Policy { generation, policy: Box::new(http.clone()) });
            // Attached when it is sent: by then this policy is in force.
            self.tell_proxy(ToProxy::AccessLog);
        }
        if inner.policy.escalation != policy.escalation {
            changes.push("escalation".to_owned());
        }
        inner.policy = policy;
        inner.configured = configured;
        let view = ReloadView { generation, changes, needs_restart, confirm_seconds: None };
        Ok((view, interfaces))
    }
}

impl Inner {
    /// The kernel half of [`Agent::apply`]: what changed of the interfaces, and what needs a
    /// restart.
    fn apply_kernel(
        &mut self,
        policy: &Policy,
        asked: Asked,
    ) -> Result<(Vec<Change>, Vec<String>), Failure> {
        let (Some(new), Some(old)) = (policy.kernel.as_ref(), self.policy.kernel.clone()) else {
            return Ok((Vec::new(), Vec::new()));
        };
        let is_strict = asked == Asked::ByHand && new.required;
        if is_strict && self.kernel.is_some() {
            refuse_newly_missing(&old, new).map_err(Failure::invalid)?;
        }
        let (facts, facts_before) = (self.host_facts(policy), self.host_facts(&self.policy));
        let Some(kernel) = self.kernel.as_mut() else { return Ok((Vec::new(), Vec::new())) };
        let unattached_before = kernel.unattached();
        // Interfaces first, by the policy that still holds: if one cannot be had, no packet has
        // seen the new one.
        let (interfaces, attach) = (new.interfaces.clone(), new.attach);
        let between = KernelPolicy { interfaces, attach, ..old.clone() };
        kernel.apply(&between, &facts_before).map_err(|error| failure(&error))?;
        let routed = self.watch.routed.clone();
        if old.interfaces != new.interfaces {
            self.watch.routed.clear();
        }
        let changes =
            self.follow(&between, old.interfaces != new.interfaces || old.attach != new.attach);
        let unattached = self.kernel.as_ref().map(crate::kernel::Kernel::unattached);
        let newly: Vec<String> = unattached
            .unwrap_or_default()
            .into_iter()
            .filter(|one| !unattached_before.iter().any(|before| before.name == one.name))
            .map(|one| one.why)
            .collect();
        if is_strict && !newly.is_empty() {
            self.restore_kernel(routed)?;
            return Err(Failure::invalid(newly.join("; ")));
        }
        let applied = self.kernel.as_mut().map(|kernel| kernel.apply(new, &facts));
        let needs_restart = match applied {
            Some(Err(error)) => {
                self.restore_kernel(routed)?;
                return Err(failure(&error));
            }
            Some(Ok(needs_restart)) => needs_restart,
            None => Vec::new(),
        };
        Ok((changes, needs_restart))
    }

    /// Puts the policy that still holds back into the kernel.
    fn restore_kernel(&mut self, routed: BTreeSet<String>) -> Result<(), Failure> {
        let facts = self.host_facts(&self.policy);
        let (Some(kernel), Some(old)) = (self.kernel.as_mut(), self.policy.kernel.clone()) else {
            return Ok(());
        };
        kernel.apply(&old, &facts).map_err(|error| failure(&error))?;
        self.watch.routed = routed;
        self.follow(&old, true);
        Ok(())
    }
}

/// Leaves in `policy` what only a restart can change as it is in `old`; a line each.
fn keep_what_needs_restart(policy: &mut Policy, old: &Policy) -> Vec<String> {
    let mut lines = Vec::new();
    if policy.agent != old.agent {
        lines.push("[agent] stays as it is until restart".to_owned());
        policy.agent = old.agent.clone();
    }
    if policy.http.is_some() != old.http.is_some() {
        lines.push("[http] is switched on or off only at restart".to_owned());
        policy.http.clone_from(&old.http);
    }
    if let (Some(new), Some(old)) = (policy.http.as_mut(), old.http.as_ref())
        && !new.listens_as(old)
    {
        lines.push("http.listener: sockets are bound only at restart".to_owned());
        new.listeners.clone_from(&old.listeners);
    }
    if policy.kernel.is_some() != old.kernel.is_some() {
        lines.push("[kernel] is switched on or off only at restart".to_owned());
        policy.kernel.clone_from(&old.kernel);
    }
    lines
}

/// Fails for an interface that the old policy did not name and the host does not have. One that
/// both name may be gone for a while.
fn refuse_newly_missing(old: &KernelPolicy, new: &KernelPolicy) -> Result<(), String> {
    let known = |selection: &&InterfaceSelection| !old.interfaces.contains(selection);
    let added: Vec<InterfaceSelection> = new.interfaces.iter().filter(known).cloned().collect();
    Selected::look(&added, &mut BTreeSet::new()).complete()
}
