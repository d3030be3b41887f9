//! Networks that people put on the lists while the agent runs: kept beside the configuration's, in
//! a file or until the agent ends, and merged with them into the policy that is in force.
//!
//! Values only: a change makes a new one, which costs nothing where lists stay the same.

mod file;

use std::path::Path;

use ipnet::IpNet;

pub(super) use self::file::save;
use crate::{
    admin::view::{ListKind, ListOrigin},
    policy::{Networks, Policy, kernel::Trusted},
};

/// Where an entry is kept, beside the configuration.
const KEPT: [ListOrigin; 2] = [ListOrigin::Saved, ListOrigin::Runtime];

/// The lists of people, by list and by how long they are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RuntimeLists {
    saved: [Networks; 3],
    volatile: [Networks; 3],
}

/// What a change came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Tally {
    pub(super) changed: usize,
    pub(super) unchanged: usize,
}

impl RuntimeLists {
    /// Reads the file in the state directory; also what was wrong with it, for people.
    pub(super) fn open(state: &Path) -> (Self, Option<String>) {
        let (saved, problem) = file::read(state);
        (Self { saved: saved.map(Networks::from), ..Self::default() }, problem)
    }

    pub(super) fn get(&self, kind: ListKind, origin: ListOrigin) -> Networks {
        match origin {
            ListOrigin::Configuration => Networks::default(),
            ListOrigin::Saved => self.saved[kind as usize].clone(),
            ListOrigin::Runtime => self.volatile[kind as usize].clone(),
        }
    }

    fn place(&mut self, kind: ListKind, origin: ListOrigin) -> &mut Networks {
        match origin {
            ListOrigin::Runtime => &mut self.volatile[kind as usize],
            ListOrigin::Configuration | ListOrigin::Saved => &mut self.saved[kind as usize],
        }
    }

    /// Whether the same entries are to be on disk.
    pub(super) fn saves_as(&self, other: &Self) -> bool {
        self.saved == other.saved
    }

    /// These with further ones. What is saved stays saved; what was volatile can become saved.
    pub(super) fn add(&mut self, kind: ListKind, origin: ListOrigin, added: &Networks) -> Tally {
        let saved = &self.saved[kind as usize];
        let is_known = |network: &IpNet| {
            let is_volatile = || self.volatile[kind as usize].binary_search(network).is_ok();
            saved.binary_search(network).is_ok() || (origin == ListOrigin::Runtime && is_volatile())
        };
        let news: Vec<IpNet> = added.iter().copied().filter(|one| !is_known(one)).collect();
        let tally = Tally { changed: news.len(), unchanged: added.len() - news.len() };
        if origin == ListOrigin::Saved {
            self.remove(kind, ListOrigin::Runtime, added);
        }
        if !news.is_empty() {
            let place = self.place(kind, origin);
            *place = union(place, &news.into());
        }
        tally
    }

    /// These without some.
    pub(super) fn remove(&mut self, kind: ListKind, origin: ListOrigin, gone: &Networks) -> usize {
        let place = self.place(kind, origin);
        let stays = |network: &&IpNet| gone.binary_search(network).is_err();
        let count = gone.iter().filter(|network| place.binary_search(network).is_ok()).count();
        if count > 0 {
            *place = place.iter().filter(stays).copied().collect();
        }
        count
    }

    /// Makes one list of them exactly this.
    pub(super) fn replace(&mut self, kind: ListKind, origin: ListOrigin, with: &Networks) -> Tally {
        let place = self.place(kind, origin);
        let unchanged = with.iter().filter(|one| place.binary_search(one).is_ok()).count();
        let tally = Tally { changed: with.len() + place.len() - 2 * unchanged, unchanged };
        *place = with.clone();
        tally
    }

    /// All of one list, whatever keeps them.
    fn all(&self, kind: ListKind) -> Networks {
        let [saved, volatile] = KEPT.map(|origin| self.get(kind, origin));
        union(&saved, &volatile)
    }

    /// The policy with these on its lists.
    pub(super) fn merged(&self, configured: &Policy) -> Policy {
        let mut policy = configured.clone();
        let Some(kernel) = policy.kernel.as_mut() else { return policy };
        kernel.allow = union(&kernel.allow, &self.all(ListKind::Allow));
        kernel.deny = union(&kernel.deny, &self.all(ListKind::Deny));
        let trusted = self.all(ListKind::Trust);
        if !trusted.is_empty() {
            let everywhere = |network: &IpNet| Trusted { network: *network, interface: None };
            kernel.trusted.extend(trusted.iter().map(everywhere));
            kernel.trusted.sort();
            kernel.trusted.dedup();
            if let Some(http) = policy.http.as_mut() {
                http.trusted = kernel.trusted_everywhere().collect();
            }
        }
        policy
    }
}

/// Both; one that is empty costs nothing.
fn union(some: &Networks, others: &Networks) -> Networks {
    match (some.is_empty(), others.is_empty()) {
        (_, true) => some.clone(),
        (true, false) => others.clone(),
        (false, false) => some.iter().chain(others).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
    }

    #[test]
    fn what_is_saved_stays_saved_and_what_is_volatile_can_become_saved() {
        let mut lists = RuntimeLists::default();
        let both = networks(&["192.0.2.0/24", "2001:db8::/32"]);
        let one = networks(&["192.0.2.0/24"]);
        let deny = ListKind::Deny;
        let tally = |changed, unchanged| Tally { changed, unchanged };
        assert_eq!(lists.add(deny, ListOrigin::Runtime, &one), tally(1, 0));
        assert_eq!(lists.add(deny, ListOrigin::Runtime, &one), tally(0, 1));
        assert_eq!(lists.add(deny, ListOrigin::Saved, &both), tally(2, 0));
        assert!(lists.get(deny, ListOrigin::Runtime).is_empty());
        assert_eq!(lists.add(deny, ListOrigin::Runtime, &both), tally(0, 2));
        assert_eq!(lists.get(deny, ListOrigin::Saved), both);
        assert!(lists.get(ListKind::Allow, ListOrigin::Saved).is_empty());
        assert_eq!(lists.remove(deny, ListOrigin::Saved, &one), 1);
        assert_eq!(lists.remove(deny, ListOrigin::Saved, &one), 0);
        let other = networks(&["198.51.100.0/24", "2001:db8::/32"]);
        assert_eq!(lists.replace(deny, ListOrigin::Saved, &other), tally(1, 1));
        assert_eq!(lists.all(deny), other);
    }
}
