//! What the agent tells the world: events, at start also what is attached and what is risky.

use super::{Agent, interfaces::describe};
use crate::{
    clock, config,
    events::{Event, Lifecycle},
    kernel::Kernel,
};

impl Agent {
    /// Hands an event on, unless it only adds to the sums of this second.
    pub(in crate::agent) fn publish(&self, event: Event) {
        let passed = self.inner.borrow_mut().aggregate.observe(event);
        if let Some(event) = passed {
            self.events.publish(event);
        }
    }

    pub(in crate::agent) fn lifecycle(&self, what: Lifecycle, detail: impl Into<String>) {
        self.publish(Event::lifecycle(clock::unix_ns(), what, detail));
    }

    pub(in crate::agent) fn degraded_event(&self, detail: &str) {
        self.lifecycle(Lifecycle::Degraded, detail);
    }

    /// What is attached and what is not as it should be, at start.
    pub(in crate::agent) fn announce(&self, risks: &[config::Risk]) {
        let (interfaces, degraded) = {
            let inner = self.inner.borrow();
            let interfaces = inner.kernel.as_ref().map(Kernel::interfaces).unwrap_or_default();
            (interfaces, inner.problems.sentences())
        };
        for interface in interfaces {
            self.lifecycle(Lifecycle::Attached, describe(&interface));
        }
        for sentence in degraded {
            self.degraded_event(&sentence);
        }
        for risk in risks {
            log::warn!("{}: {}", risk.key, risk.sentence);
        }
    }
}
