//! Interfaces that appear, vanish and change while the agent runs: looked at when the kernel says
//! that a link changed, and once a second for what it does not say (default routes).

use std::collections::BTreeSet;

use anyhow::Result;

use super::{
    Agent, Inner,
    host::Selected,
    host_facts,
    problems::{Problem, Problems},
};
use crate::{
    cli::run::RunArgs,
    events::Lifecycle,
    kernel::{Change, InterfaceState, Kernel, KernelError, LinkMonitor, ProgramNames},
    policy::{KernelPolicy, Policy},
};

/// What is remembered between two looks.
#[derive(Debug)]
pub(super) struct Watch {
    monitor: Option<LinkMonitor>,
    /// What "auto" has found since this policy's interfaces are in force.
    pub(super) routed: BTreeSet<String>,
}

impl Watch {
    /// Hears of changes from now on.
    pub(super) fn start(routed: BTreeSet<String>) -> Self {
        let monitor = LinkMonitor::open();
        if let Err(error) = &monitor {
            log::warn!("changes of interfaces are looked for once a second only: {error}");
        }
        Self { monitor: monitor.ok(), routed }
    }
}

/// The kernel half, where there is to be one; `None` also where it is not required and cannot be.
pub(super) fn start_or_detach(
    policy: &Policy,
    args: &RunArgs,
    prepared: Result<ProgramNames, KernelError>,
    routed: &mut BTreeSet<String>,
    problems: &mut Problems,
) -> Result<Option<Kernel>> {
    if let Some(kernel_policy) = &policy.kernel {
        let started = prepared.map_err(anyhow::Error::from);
        let started =
            started.and_then(|names| start_kernel(policy, kernel_policy, args, names, routed));
        match started {
            Ok(kernel) => Ok(Some(kernel)),
            Err(error) if kernel_policy.required => Err(error),
            Err(error) => {
                problems.begin(Problem::KernelOff, format!("the kernel half is off: {error:#}"));
                Ok(None)
            }
        }
    } else {
        // What an earlier agent attached would filter for ever, by a policy nobody sees.
        let links = crate::kernel::detach_pins(&policy.agent.pins)?;
        if links > 0 {
            log::warn!("XDP of an earlier agent is taken off: there is no [kernel] any more");
        }
        Ok(None)
    }
}

/// Loads and attaches, or takes over what an earlier agent left.
fn start_kernel(
    policy: &Policy,
    kernel_policy: &KernelPolicy,
    args: &RunArgs,
    names: ProgramNames,
    routed: &mut BTreeSet<String>,
) -> Result<Kernel> {
    let selected = Selected::look(&kernel_policy.interfaces, routed);
    if kernel_policy.required {
        selected.complete().map_err(anyhow::Error::msg)?;
    }
    let facts = host_facts(policy, false);
    let diagnostics = args.kernel_log.unwrap_or(log::LevelFilter::Off);
    let pins = &policy.agent.pins;
    Ok(Kernel::start(kernel_policy, &selected.present, pins, &facts, diagnostics, names)?)
}

impl Agent {
    /// Looks at the interfaces if the kernel has said that one changed.
    pub(super) fn notice_links(&self) {
        let news = {
            let inner = self.inner.borrow();
            inner.watch.monitor.as_ref().is_some_and(LinkMonitor::has_news)
        };
        if news {
            self.look_at_interfaces();
        }
    }

    /// Attaches what appeared, lets go what vanished, and tells both.
    pub(super) fn look_at_interfaces(&self) {
        let (changes, problem) = {
            let mut inner = self.inner.borrow_mut();
            let Some(policy) = inner.policy.kernel.clone() else { return };
            if inner.kernel.is_none() {
                return;
            }
            let changes = inner.follow(&policy, false);
            (changes, inner.unfiltered(&policy))
        };
        self.tell_changes(&changes);
        self.judge_interfaces(problem);
    }

    /// Says of each change what it was.
    pub(super) fn tell_changes(&self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Attached(state) => self.lifecycle(Lifecycle::Attached, describe(state)),
                Change::Detached(name, why) => {
                    self.lifecycle(Lifecycle::Detached, format!("{name}: {why}"));
                }
            }
        }
    }

    /// Keeps what is not filtered as a problem; tells it when it begins and when it changes.
    pub(super) fn judge_interfaces(&self, problem: Option<String>) {
        let Some(sentence) = problem else {
            self.inner.borrow_mut().problems.end(Problem::Interfaces);
            return;
        };
        let is_news = {
            let mut inner = self.inner.borrow_mut();
            let is_news = inner.problems.sentence(Problem::Interfaces) != Some(&sentence);
            inner.problems.begin(Problem::Interfaces, sentence.clone());
            is_news
        };
        if is_news {
            self.degraded_event(&sentence);
        }
    }
}

impl Inner {
    /// Keeps what is not filtered at start as a problem, to be announced with the others.
    pub(super) fn note_unfiltered(&mut self) {
        let policy = self.policy.kernel.clone();
        if let Some(sentence) = policy.and_then(|policy| self.unfiltered(&policy)) {
            self.problems.begin(Problem::Interfaces, sentence);
        }
    }

    /// Makes the attached interfaces those that the policy wants and the host has.
    pub(super) fn follow(&mut self, policy: &KernelPolicy, renew: bool) -> Vec<Change> {
        let selected = Selected::look(&policy.interfaces, &mut self.watch.routed);
        match self.kernel.as_mut() {
            Some(kernel) => kernel.follow_interfaces(&selected.present, renew),
            None => Vec::new(),
        }
    }

    /// What is wanted and not filtered, in one line; `None`: nothing.
    pub(super) fn unfiltered(&self, policy: &KernelPolicy) -> Option<String> {
        let kernel = self.kernel.as_ref()?;
        let selected = Selected::look(&policy.interfaces, &mut self.watch.routed.clone());
        let mut sentences = selected.sentences();
        sentences.extend(kernel.unattached().into_iter().map(|one| one.why));
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }
}

/// `eth0 (native, taken over)`, `lo (generic: its driver has no native XDP)`.
pub(super) fn describe(state: &InterfaceState) -> String {
    let taken_over = if state.taken_over { ", taken over" } else { "" };
    let note = state.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
    format!("{} ({}{taken_over}{note})", state.name, state.mode.label())
}
