//! Lists changed while the agent runs: all of a request or nothing, in force in the kernel in one
//! step, then on disk. Long ones are brought into the kernel apart from this thread, so that the
//! agent goes on meanwhile; one change at a time.

use std::{net::IpAddr, rc::Rc};

use super::{
    Agent,
    lists::{RuntimeLists, save},
    problems::Problem,
    safety::Safety,
    view::{failure, fits},
};
use crate::{
    admin::view::{Failure, ListChange, ListKind, ListOrigin, ListsView},
    events::Lifecycle,
    kernel::{Filled, Kernel},
    link::ToProxy,
    policy::{Networks, Policy, kernel::DefaultVerdict},
};

impl Agent {
    /// Carries out one request.
    pub(super) async fn change_lists(&self, change: ListChange) -> Result<ListsView, Failure> {
        let _turn = self.changing.lock().await;
        let (lists, mut view) = self.changed_lists(&change)?;
        let is_news = view.changed > 0;
        if is_news {
            self.put_lists_in_force(lists).await?;
            let what = if change.removes { "removed" } else { "added or replaced" };
            let detail = format!("lists: {} entries {what}", view.changed);
            self.lifecycle(Lifecycle::ConfigReloaded, detail);
        }
        view.generation = self.inner.borrow().generation;
        view.not_saved = self.save_lists().await.err();
        Ok(view)
    }

    /// The lists as they would be; nothing is changed yet.
    fn changed_lists(&self, change: &ListChange) -> Result<(RuntimeLists, ListsView), Failure> {
        let inner = self.inner.borrow();
        let Some(configured) = inner.configured.kernel.as_ref() else {
            let message = "there is no [kernel] section: nothing looks at lists".to_owned();
            return Err(Failure { status: 404, message });
        };
        let mut lists = inner.lists.clone();
        let mut view = ListsView::default();
        for (kind, unforced) in ListKind::ALL.into_iter().zip(&change.unforced) {
            if let Some(objection) = if change.removes {
                let denies = configured.default == DefaultVerdict::Deny;
                objection_to_removal(kind, unforced, denies, change.session)
            } else {
                inner.safety.list_objection(kind, unforced, change.session)
            } {
                return Err(Failure::refused(format!(
                    "nothing is changed: {objection} (--force overrides)"
                )));
            }
        }
        for kind in ListKind::ALL {
            let [saved, volatile] = &change.networks[kind as usize];
            if change.removes {
                let both = Networks::from([&saved[..], &volatile[..]].concat());
                let mut removed = lists.remove(kind, ListOrigin::Runtime, &both);
                removed += lists.remove(kind, ListOrigin::Saved, saved);
                view.changed += removed;
                view.unchanged += both.len().saturating_sub(removed);
                continue;
            }
            for (origin, networks) in [(ListOrigin::Saved, saved), (ListOrigin::Runtime, volatile)]
            {
                let replaces = change.replaces == Some((kind, origin));
                let tally = if replaces {
                    lists.replace(kind, origin, networks)
                } else {
                    lists.add(kind, origin, networks)
                };
                view.changed += tally.changed;
                view.unchanged += tally.unchanged;
            }
        }
        Ok((lists, view))
    }

    async fn put_lists_in_force(&self, lists: RuntimeLists) -> Result<(), Failure> {
        let policy = lists.merged(&self.inner.borrow().configured);
        fits(&policy)?;
        self.bring_lists(&policy).await?;
        {
            let mut inner = self.inner.borrow_mut();
            let inner = &mut *inner;
            let facts = inner.host_facts(&policy);
            if let (Some(kernel), Some(wanted)) = (inner.kernel.as_mut(), policy.kernel.as_ref()) {
                kernel.apply(wanted, &facts).map_err(|error| failure(&error))?;
            }
            inner.safety = Safety::of(&policy);
            inner.generation += 1;
            if let Some(http) = &policy.http {
                let (generation, policy) = (inner.generation, Box::new(http.clone()));
                self.tell_proxy(ToProxy::Policy { generation, policy });
            }
            inner.policy = policy;
            inner.lists = lists;
        }
        self.lift_bans_of_trusted();
        Ok(())
    }

    /// Brings the lists of a policy into the kernel, where they are not in force yet, while the
    /// agent goes on. Whoever calls has the turn.
    pub(super) async fn bring_lists(&self, policy: &Policy) -> Result<(), Failure> {
        let Some(wanted) = policy.kernel.as_ref() else { return Ok(()) };
        let facts = self.inner.borrow().host_facts(policy);
        let filling = {
            let mut inner = self.inner.borrow_mut();
            inner.kernel.as_mut().and_then(|kernel| kernel.begin_filling(wanted, &facts))
        };
        let Some(filling) = filling else { return Ok(()) };
        self.lists_lag.set(true);
        let filled = tokio::task::spawn_blocking(move || filling.run()).await;
        let filled = filled.map_err(|error| Failure::internal(error.to_string()))?;
        self.take_back(filled)
    }

    /// After a change: the half of the lists that is not in force any more follows, so that the
    /// next change writes only what differs. Not during a trial, which may need what lies there.
    fn let_lists_catch_up(self: &Rc<Self>) {
        let agent = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let _turn = agent.changing.lock().await;
            let filling = {
                let mut inner = agent.inner.borrow_mut();
                let is_needed = inner.trial.is_none() && !agent.is_stopping();
                let kernel = inner.kernel.as_mut().filter(|_| is_needed);
                kernel.and_then(Kernel::begin_catching_up)
            };
            let Some(filling) = filling else { return };
            if let Ok(filled) = tokio::task::spawn_blocking(move || filling.run()).await
                && let Err(failure) = agent.take_back(filled)
            {
                // The next change writes all of it.
                log::warn!("{}", failure.message);
            }
        });
    }

    fn take_back(&self, filled: Filled) -> Result<(), Failure> {
        match self.inner.borrow_mut().kernel.as_mut() {
            Some(kernel) => kernel.end_filling(filled).map_err(|error| failure(&error)),
            // Taken off meanwhile.
            None => Ok(()),
        }
    }

    /// Writes the lists, unless what is on disk is what holds. Whoever calls has the turn.
    pub(super) async fn save_lists(&self) -> Result<(), String> {
        let (lists, state) = {
            let inner = self.inner.borrow();
            if inner.lists.saves_as(&inner.lists_on_disk) {
                return Ok(());
            }
            (inner.lists.clone(), inner.policy.agent.state.clone())
        };
        let writing = lists.clone();
        let saved = tokio::task::spawn_blocking(move || save(&state, &writing)).await;
        let saved = saved.unwrap_or_else(|error| Err(error.to_string()));
        if saved.is_ok() {
            self.inner.borrow_mut().lists_on_disk = lists;
        }
        self.judge(Problem::ListsUnwritten, saved.clone());
        saved
    }

    /// Once a second: what was left for later.
    pub(super) fn keep_lists(self: &Rc<Self>) {
        self.retry_saving_lists_apart();
        if self.lists_lag.replace(false) {
            self.let_lists_catch_up();
        }
    }

    /// Tries again to write what could not be written, unless somebody has the turn.
    fn retry_saving_lists_apart(self: &Rc<Self>) {
        {
            let inner = self.inner.borrow();
            if inner.lists.saves_as(&inner.lists_on_disk) {
                return;
            }
        }
        let agent = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if let Ok(_turn) = agent.changing.try_lock() {
                // The outcome is a problem or its end.
                drop(agent.save_lists().await);
            }
        });
    }
}

/// Why taking these off a list is dangerous.
fn objection_to_removal(
    kind: ListKind,
    networks: &Networks,
    default_denies: bool,
    session: Option<IpAddr>,
) -> Option<String> {
    let peer = session?;
    let lets_in = kind == ListKind::Trust || (kind == ListKind::Allow && default_denies);
    let found = networks.iter().find(|network| lets_in && network.contains(&peer))?;
    Some(format!("{found} lets the peer of this SSH session in"))
}
