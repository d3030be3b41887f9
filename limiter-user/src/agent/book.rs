//! Every ban with its reason, as people ask for it; what changes goes to the journal.
//!
//! The kernel's tables decide about packets and know expiries only; this book adds who banned whom
//! and why. Expiries are `CLOCK_MONOTONIC` here, as in the kernel, so that setting the wall clock
//! changes no ban in force; on disk they are wall clock, and are written anew when it was set.

use std::{collections::HashMap, path::Path};

use ipnet::IpNet;

use super::{
    journal::{Entry, Journal, Record},
    safety::ban_prefix,
};
use crate::policy::BanScope;

/// Bans of scope `http` that are kept (those of scope `kernel` are bounded by the kernel's tables).
pub(super) const MAX_HTTP_BANS: usize = 65_536;

/// Of these, bans of other networks than one IPv4 address or IPv6 /64: the proxy walks them for
/// every request.
pub(super) const MAX_HTTP_NETWORKS: usize = 1_024;

/// A wall clock that went further than this beside `CLOCK_MONOTONIC` was set.
const CLOCK_WAS_SET_NS: u64 = 2_000_000_000;

/// What a ban takes in the journal, about.
const ENTRY_BYTES: usize = 80;

/// One ban.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Ban {
    pub(super) prefix: IpNet,
    pub(super) scope: BanScope,
    /// `CLOCK_MONOTONIC` ns.
    pub(super) expires_ns: u64,
    /// How long it was to last when it was made.
    pub(super) length_ns: u64,
    pub(super) reason: String,
    /// `manual`, `escalation`, or `restored` for one that only the kernel remembered.
    pub(super) origin: String,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) monotonic_ns: u64,
    pub(super) unix_ns: u64,
}

/// The bans in force.
#[derive(Debug)]
pub(super) struct Book {
    bans: HashMap<(IpNet, BanScope), Ban>,
    journal: Journal,
    kernel_bans: usize,
    http_bans: usize,
    http_networks: usize,
    /// No ban ends before this.
    next_expiry_ns: u64,
    /// Wall clock less `CLOCK_MONOTONIC` by which the journal's expiries were written.
    wall_offset_ns: u64,
}

impl Book {
    /// Reads the journal; what was wrong with it.
    pub(super) fn open(state: &Path, now: Now) -> (Self, Option<String>) {
        let (journal, entries, problem) = Journal::open(state);
        let mut book = Self {
            bans: HashMap::with_capacity(entries.len()),
            journal,
            kernel_bans: 0,
            http_bans: 0,
            http_networks: 0,
            next_expiry_ns: u64::MAX,
            wall_offset_ns: now.unix_ns.wrapping_sub(now.monotonic_ns),
        };
        for entry in entries {
            // A clock that was set back makes no ban longer than it was meant.
            let left_ns = entry.expires_unix_ns.saturating_sub(now.unix_ns).min(entry.length_ns);
            if left_ns > 0 {
                book.keep(Ban {
                    prefix: entry.prefix,
                    scope: entry.scope,
                    expires_ns: now.monotonic_ns.saturating_add(left_ns),
                    length_ns: entry.length_ns,
                    reason: entry.reason,
                    origin: entry.origin,
                });
            }
        }
        (book, problem)
    }

    /// Whether another ban like this finds room. Those of scope `kernel` are bounded by the
    /// kernel's tables.
    pub(super) fn has_room_for(&self, ban: &Ban) -> bool {
        if ban.scope == BanScope::Kernel || self.bans.contains_key(&(ban.prefix, ban.scope)) {
            return true;
        }
        self.http_bans < MAX_HTTP_BANS
            && (!is_network(ban.prefix) || self.http_networks < MAX_HTTP_NETWORKS)
    }

    /// Adds or replaces.
    pub(super) fn insert(&mut self, ban: Ban) {
        self.journal.append(&Record::Ban(self.entry(&ban)));
        self.keep(ban);
        self.bound_backlog();
    }

    /// Records the whole book where that is shorter than what waits for the disk.
    fn bound_backlog(&self) {
        if self.journal.is_overdue(self.bans.len() * ENTRY_BYTES) {
            self.record_everything();
        }
    }

    /// As [`Self::insert`], for a ban of which the journal knows more than this.
    pub(super) fn set_expiry(&mut self, prefix: IpNet, scope: BanScope, expires_ns: u64) -> bool {
        let Some(ban) = self.bans.get_mut(&(prefix, scope)) else { return false };
        ban.expires_ns = expires_ns;
        self.next_expiry_ns = self.next_expiry_ns.min(expires_ns);
        true
    }

    fn keep(&mut self, ban: Ban) {
        self.next_expiry_ns = self.next_expiry_ns.min(ban.expires_ns);
        let key = (ban.prefix, ban.scope);
        if self.bans.insert(key, ban).is_none() {
            self.tally(key, usize::checked_add);
        }
    }

    /// Removes and returns these.
    pub(super) fn remove_where(&mut self, which: impl Fn(&Ban) -> bool) -> Vec<Ban> {
        let removed = self.take_where(which);
        for ban in &removed {
            self.journal.append(&Record::Lift(ban.prefix, ban.scope));
        }
        self.bound_backlog();
        removed
    }

    /// Removes one that is not in force, but not from the disk: it may find room another time.
    pub(super) fn set_aside(&mut self, prefix: IpNet, scope: BanScope) {
        if self.bans.remove(&(prefix, scope)).is_some() {
            self.tally((prefix, scope), usize::checked_sub);
        }
    }

    /// Removes and returns what has expired: the journal says so itself.
    pub(super) fn remove_expired(&mut self, now_ns: u64) -> Vec<Ban> {
        if now_ns < self.next_expiry_ns {
            return Vec::new();
        }
        let expired = self.take_where(|ban| ban.expires_ns <= now_ns);
        self.next_expiry_ns =
            self.bans.values().map(|ban| ban.expires_ns).min().unwrap_or(u64::MAX);
        expired
    }

    fn take_where(&mut self, which: impl Fn(&Ban) -> bool) -> Vec<Ban> {
        let removed: Vec<Ban> = self.bans.extract_if(|_, ban| which(ban)).map(|it| it.1).collect();
        for ban in &removed {
            self.tally((ban.prefix, ban.scope), usize::checked_sub);
        }
        removed
    }

    /// Expiries on disk follow a wall clock that was set; bans in force do not.
    pub(super) fn follow_clock(&mut self, now: Now) {
        let offset_ns = now.unix_ns.wrapping_sub(now.monotonic_ns);
        let moved_ns = offset_ns.wrapping_sub(self.wall_offset_ns).cast_signed().unsigned_abs();
        if moved_ns > CLOCK_WAS_SET_NS {
            self.wall_offset_ns = offset_ns;
            self.record_everything();
        }
    }

    fn record_everything(&self) {
        self.journal.replace(self.bans.values().map(|ban| self.entry(ban)));
    }

    fn entry(&self, ban: &Ban) -> Entry {
        Entry {
            prefix: ban.prefix,
            scope: ban.scope,
            expires_unix_ns: ban.expires_ns.wrapping_add(self.wall_offset_ns),
            length_ns: ban.length_ns,
            reason: ban.reason.clone(),
            origin: ban.origin.clone(),
        }
    }

    fn tally(&mut self, key: (IpNet, BanScope), by: impl Fn(usize, usize) -> Option<usize>) {
        let change = |count: &mut usize| *count = by(*count, 1).unwrap_or_default();
        match key {
            (_, BanScope::Kernel) => change(&mut self.kernel_bans),
            (prefix, BanScope::Http) => {
                change(&mut self.http_bans);
                if is_network(prefix) {
                    change(&mut self.http_networks);
                }
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.bans.values()
    }

    pub(super) fn get(&self, prefix: IpNet, scope: BanScope) -> Option<&Ban> {
        self.bans.get(&(prefix, scope))
    }

    pub(super) const fn count(&self, scope: BanScope) -> usize {
        match scope {
            BanScope::Kernel => self.kernel_bans,
            BanScope::Http => self.http_bans,
        }
    }

    /// What it is written in.
    pub(super) const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Writes what is left and ends.
    pub(super) fn close(&mut self) {
        self.journal.close();
    }
}

fn is_network(prefix: IpNet) -> bool {
    ban_prefix(prefix.addr()) != prefix
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ban(prefix: &str, scope: BanScope, expires_ns: u64) -> Ban {
        Ban {
            prefix: prefix.parse().unwrap(),
            scope,
            expires_ns,
            length_ns: 100 * SECOND,
            reason: "why".into(),
            origin: "manual".into(),
        }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("limiter-book-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    const fn at(monotonic_s: u64, unix_s: u64) -> Now {
        Now { monotonic_ns: monotonic_s * SECOND, unix_ns: unix_s * SECOND }
    }

    #[test]
    fn the_book_outlives_its_agent_and_its_host() {
        let state = directory("outlives");
        let (mut book, problem) = Book::open(&state, at(50, 1_000));
        assert_eq!(problem, None);
        book.insert(ban("192.0.2.1/32", BanScope::Kernel, 60 * SECOND));
        book.insert(ban("192.0.2.1/32", BanScope::Http, 70 * SECOND));
        book.insert(ban("192.0.2.0/24", BanScope::Http, 70 * SECOND));
        book.close();
        // After a reboot the monotonic clock begins anew.
        let (mut again, _) = Book::open(&state, at(1, 1_005));
        assert_eq!((again.count(BanScope::Kernel), again.count(BanScope::Http)), (1, 2));
        assert!(again.remove_expired(5 * SECOND).is_empty());
        let expired = again.remove_expired(6 * SECOND);
        assert_eq!(expired, [ban("192.0.2.1/32", BanScope::Kernel, 6 * SECOND)]);
        assert_eq!(again.remove_where(|_| true).len(), 2);
        assert_eq!((again.count(BanScope::Http), again.http_networks), (0, 0));
        again.close();
        assert_eq!(Book::open(&state, at(20, 1_030)).0.iter().count(), 0);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn a_wall_clock_that_is_set_changes_no_ban() {
        let state = directory("clock");
        let (mut book, _) = Book::open(&state, at(50, 1_000));
        book.insert(ban("192.0.2.1/32", BanScope::Kernel, 60 * SECOND));
        book.follow_clock(at(51, 9_000));
        assert!(book.remove_expired(51 * SECOND).is_empty());
        book.close();
        let (book, _) = Book::open(&state, at(1, 9_002));
        let left = book.iter().next().unwrap().expires_ns;
        assert_eq!(left, (1 + 7) * SECOND);
        drop(book);
        // Set far back while nobody ran: no longer than it was meant.
        let (book, _) = Book::open(&state, at(1, 10));
        assert_eq!(book.iter().next().unwrap().expires_ns, 101 * SECOND);
        drop(book);
        fs::remove_dir_all(state).unwrap();
    }
}
