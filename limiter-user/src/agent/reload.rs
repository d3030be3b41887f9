//! A new configuration while the agent runs: read, checked, put in force in both halves, or
//! refused with the old one as it was.

use std::time::Duration;

use super::{Agent, host_facts, load, safety_of, view::failure};
use crate::{
    admin::view::{Failure, ReloadView},
    events::Lifecycle,
    link::ToProxy,
    policy::Policy,
};

/// How often, and with which pauses, is looked whether the proxy acts on a new policy.
const APPLY_LOOKS: u32 = 1_000;
const APPLY_PAUSE: Duration = Duration::from_millis(2);

impl Agent {
    /// Reads the configuration again and puts it in force; an invalid one changes nothing.
    pub(super) async fn read_and_apply(&self) -> Result<ReloadView, Failure> {
        let loaded = match load(&self.args) {
            Ok(loaded) => loaded,
            Err(error) => {
                self.lifecycle(Lifecycle::ConfigRejected, error.brief());
                return Err(Failure::invalid(error.to_string()));
            }
        };
        let view = self.apply(loaded.policy)?;
        self.lift_bans_of_trusted();
        self.wait_until_applied(view.generation).await;
        self.lifecycle(Lifecycle::ConfigReloaded, format!("generation {}", view.generation));
        Ok(view)
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
    fn apply(&self, policy: Policy) -> Result<ReloadView, Failure> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        let mut needs_restart = Vec::new();
        let mut changes = Vec::new();
        let mut policy = policy;
        if policy.agent != inner.policy.agent {
            needs_restart.push("[agent] stays as it is until restart".to_owned());
            policy.agent = inner.policy.agent.clone();
        }
        if policy.http.is_some() != inner.policy.http.is_some() {
            needs_restart.push("[http] is switched on or off only at restart".to_owned());
            policy.http.clone_from(&inner.policy.http);
        }
        if let (Some(new), Some(old)) = (policy.http.as_mut(), inner.policy.http.as_ref())
            && new.listeners != old.listeners
        {
            needs_restart.push("http.listener: sockets are bound only at restart".to_owned());
            new.listeners.clone_from(&old.listeners);
        }
        if policy.kernel.is_some() != inner.policy.kernel.is_some() {
            needs_restart.push("[kernel] is switched on or off only at restart".to_owned());
            policy.kernel.clone_from(&inner.policy.kernel);
        }
        if let (Some(kernel), Some(new)) = (inner.kernel.as_mut(), policy.kernel.as_ref()) {
            let facts = host_facts(&policy);
            needs_restart.extend(kernel.apply(new, &facts).map_err(|error| failure(&error))?);
            if inner.policy.kernel.as_ref() != Some(new) {
                changes.push("kernel policy".to_owned());
            }
        }
        if policy.sinks != inner.policy.sinks {
            match self.events.replace_sinks(&policy.sinks) {
                Ok(()) => changes.push("event sinks".to_owned()),
                Err(error) => {
                    // The kernel goes back with it; its old policy was in force a moment ago.
                    if let (Some(kernel), Some(old)) =
                        (inner.kernel.as_mut(), inner.policy.kernel.as_ref())
                    {
                        let facts = host_facts(&inner.policy);
                        kernel.apply(old, &facts).map_err(|error| failure(&error))?;
                    }
                    return Err(Failure::invalid(format!("events.sink: {error}")));
                }
            }
        }
        inner.safety = safety_of(&policy);
        inner.generation += 1;
        if let Some(http) = &policy.http {
            if inner.policy.http.as_ref() != Some(http) {
                changes.push("HTTP policy".to_owned());
            }
            let generation = inner.generation;
            self.tell_proxy(ToProxy::Policy { generation, policy: Box::new(http.clone()) });
        }
        if inner.policy.escalation != policy.escalation {
            changes.push("escalation".to_owned());
        }
        inner.policy = policy;
        Ok(ReloadView { generation: inner.generation, changes, needs_restart })
    }
}
