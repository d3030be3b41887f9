//! Every ban with its reason, as people ask for it, and on disk so that it outlives a restart.
//!
//! The kernel's table decides about packets and knows expiries only; this book adds who banned
//! whom and why. It is rewritten as a whole (temporary file, fsync, rename) when it changed.

use std::{
    collections::HashMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::safety::ban_prefix;
use crate::policy::BanScope;

/// Bans of scope `http` that are kept (those of scope `kernel` are bounded by the kernel's table).
pub(super) const MAX_HTTP_BANS: usize = 65_536;

/// Of these, bans of other networks than one IPv4 address or IPv6 /64: the proxy walks them for
/// every request.
pub(super) const MAX_HTTP_NETWORKS: usize = 1_024;

/// One ban.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Ban {
    pub(super) prefix: IpNet,
    pub(super) scope: BanScope,
    /// Wall clock, so that it means the same after a reboot.
    pub(super) expires_unix_ns: u64,
    pub(super) reason: String,
    /// `manual`, `escalation`, or `restored` for one that only the kernel remembered.
    pub(super) origin: String,
}

/// The bans in force.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    bans: HashMap<(IpNet, BanScope), Ban>,
    dirty: bool,
}

impl Book {
    /// Reads the book; a missing file is an empty book, an unreadable one is told and set aside.
    pub(super) fn open(state: &Path) -> (Self, Option<String>) {
        let path = state.join("bans.json");
        let (bans, problem): (Vec<Ban>, _) = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(bans) => (bans, None),
                Err(error) => {
                    let aside = path.with_extension("json.broken");
                    let kept = fs::rename(&path, &aside).is_ok();
                    let kept =
                        if kept { format!(", kept as {}", aside.display()) } else { String::new() };
                    (Vec::new(), Some(format!("{}: {error}{kept}", path.display())))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), None),
            Err(error) => (Vec::new(), Some(format!("{}: {error}", path.display()))),
        };
        let bans = bans.into_iter().map(|ban| ((ban.prefix, ban.scope), ban)).collect();
        (Self { path, bans, dirty: false }, problem)
    }

    /// Whether another ban like this finds room. Those of scope `kernel` are bounded by the
    /// kernel's table.
    pub(super) fn has_room_for(&self, ban: &Ban) -> bool {
        if ban.scope == BanScope::Kernel || self.bans.contains_key(&(ban.prefix, ban.scope)) {
            return true;
        }
        let is_network = |prefix: &IpNet| ban_prefix(prefix.addr()) != *prefix;
        let networks = || {
            self.bans
                .keys()
                .filter(|(prefix, scope)| *scope == BanScope::Http && is_network(prefix))
                .count()
        };
        self.count(BanScope::Http) < MAX_HTTP_BANS
            && (!is_network(&ban.prefix) || networks() < MAX_HTTP_NETWORKS)
    }

    /// Adds or replaces.
    pub(super) fn insert(&mut self, ban: Ban) {
        self.bans.insert((ban.prefix, ban.scope), ban);
        self.dirty = true;
    }

    /// Removes and returns these.
    pub(super) fn remove_where(&mut self, which: impl Fn(&Ban) -> bool) -> Vec<Ban> {
        let removed: Vec<Ban> = self.bans.extract_if(|_, ban| which(ban)).map(|it| it.1).collect();
        self.dirty |= !removed.is_empty();
        removed
    }

    /// Removes one.
    pub(super) fn remove(&mut self, prefix: IpNet, scope: BanScope) {
        self.dirty |= self.bans.remove(&(prefix, scope)).is_some();
    }

    /// Removes and returns what has expired.
    pub(super) fn remove_expired(&mut self, now_unix_ns: u64) -> Vec<Ban> {
        self.remove_where(|ban| ban.expires_unix_ns <= now_unix_ns)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.bans.values()
    }

    pub(super) fn get(&self, prefix: IpNet, scope: BanScope) -> Option<&Ban> {
        self.bans.get(&(prefix, scope))
    }

    pub(super) fn count(&self, scope: BanScope) -> usize {
        self.bans.keys().filter(|(_, of)| *of == scope).count()
    }

    /// Writes the book if it changed. After a failure the next call tries again.
    pub(super) fn save(&mut self) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let bans: Vec<&Ban> = self.bans.values().collect();
        let temporary = self.path.with_extension("json.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&serde_json::to_vec(&bans)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        self.dirty = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(prefix: &str, scope: BanScope, expires_unix_ns: u64) -> Ban {
        Ban {
            prefix: prefix.parse().unwrap(),
            scope,
            expires_unix_ns,
            reason: "why".into(),
            origin: "manual".into(),
        }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("limiter-book-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_book_outlives_its_agent() {
        let state = directory("outlives");
        let (mut book, problem) = Book::open(&state);
        assert_eq!(problem, None);
        book.insert(ban("192.0.2.1/32", BanScope::Kernel, 10));
        book.insert(ban("192.0.2.1/32", BanScope::Http, 20));
        book.save().unwrap();
        let (mut again, _) = Book::open(&state);
        assert_eq!(again.iter().count(), 2);
        assert_eq!(again.remove_expired(15), [ban("192.0.2.1/32", BanScope::Kernel, 10)]);
        assert_eq!(again.remove_where(|_| true).len(), 1);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn a_broken_book_is_told_and_kept_aside() {
        let state = directory("broken");
        fs::write(state.join("bans.json"), "nonsense").unwrap();
        let (book, problem) = Book::open(&state);
        assert_eq!(book.iter().count(), 0);
        assert!(problem.unwrap().contains("bans.json.broken"));
        assert!(state.join("bans.json.broken").exists());
        fs::remove_dir_all(state).unwrap();
    }
}
