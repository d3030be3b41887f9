//! Credentials that a server which is asked about them accepted lately, by their SHA-256, on any
//! core: whoever shows one may be asked about although others at the same address are not.
//!
//! That is all it means: the server is asked about every request. Only what it accepted is kept,
//! for some minutes after the last time, and no newcomer pushes out what somebody else showed.
//! Bounded in all, for each name and, where nobody is named, for each address.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::limits::AddressKey;

/// How long a credential is known after it was accepted last.
const KEPT: Duration = Duration::from_mins(5);

/// Credentials in all, of one name, and of those without a name at one address. A name's oldest
/// makes room for its newest: sessions whose cookie changes with each answer are many.
const CAPACITY: usize = 16_384;
const OF_NAME: usize = 64;
const OF_ADDRESS: usize = 1_024;

/// How often, at most, those that ended are looked for while there is no room.
const SWEEP_NS: u64 = 1_000_000_000;

/// SHA-256 of a scheme's name and of what was shown to it.
pub(super) type Credential = [u8; 32];

/// Who showed a credential.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Holder {
    /// Whom the server named.
    Name(Arc<str>),
    /// Somebody at this address.
    At(AddressKey),
}

/// What is known of a credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// Nothing.
    Unknown,
    /// The server accepted it lately.
    Accepted,
    /// It did, and then did not: a session that ended is no attempt at anything.
    Lapsed,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Accepted(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    credentials: HashMap<Credential, Entry>,
    /// Oldest first.
    holders: HashMap<Holder, VecDeque<Credential>>,
    swept_ns: u64,
}

#[derive(Debug)]
struct Entry {
    until_ns: u64,
    has_lapsed: bool,
}

impl Accepted {
    /// What is known of a credential.
    pub(super) fn standing(&self, credential: &Credential, now_ns: u64) -> Standing {
        let memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match memory.credentials.get(credential) {
            Some(entry) if entry.until_ns <= now_ns => Standing::Unknown,
            Some(Entry { has_lapsed: true, .. }) => Standing::Lapsed,
            Some(_) => Standing::Accepted,
            None => Standing::Unknown,
        }
    }

    /// The server accepted it.
    pub(super) fn accept(&self, credential: Credential, holder: Holder, now_ns: u64) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept_ns = u64::try_from(KEPT.as_nanos()).unwrap_or(u64::MAX);
        let entry = Entry { until_ns: now_ns.saturating_add(kept_ns), has_lapsed: false };
        if memory.credentials.contains_key(&credential) || memory.make_room(&holder, now_ns) {
            memory.insert(credential, entry, holder);
        }
    }

    /// The server no longer accepts it.
    pub(super) fn lapse(&self, credential: &Credential) {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = memory.credentials.get_mut(credential) {
            entry.has_lapsed = true;
        }
    }
}

impl Memory {
    fn insert(&mut self, credential: Credential, entry: Entry, holder: Holder) {
        if self.credentials.insert(credential, entry).is_none() {
            self.holders.entry(holder).or_default().push_back(credential);
        }
    }

    /// Whether there is room for one more of this holder.
    fn make_room(&mut self, holder: &Holder, now_ns: u64) -> bool {
        if !self.has_room(holder) && now_ns.saturating_sub(self.swept_ns) >= SWEEP_NS {
            self.swept_ns = now_ns;
            self.sweep(now_ns);
        }
        if let (Holder::Name(_), Some(own)) = (holder, self.holders.get_mut(holder))
            && own.len() >= OF_NAME
            && let Some(oldest) = own.pop_front()
        {
            self.credentials.remove(&oldest);
        }
        self.has_room(holder)
    }

    fn has_room(&self, holder: &Holder) -> bool {
        let most = match holder {
            Holder::Name(_) => OF_NAME,
            Holder::At(_) => OF_ADDRESS,
        };
        self.credentials.len() < CAPACITY
            && self.holders.get(holder).is_none_or(|own| own.len() < most)
    }

    /// Forgets what ended.
    fn sweep(&mut self, now_ns: u64) {
        self.credentials.retain(|_, entry| entry.until_ns > now_ns);
        let credentials = &self.credentials;
        self.holders.retain(|_, own| {
            own.retain(|credential| credentials.contains_key(credential));
            !own.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_NS: u64 = 60_000_000_000;

    fn credential(number: usize) -> Credential {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        digest
    }

    fn at(last: u8) -> Holder {
        Holder::At(AddressKey::new([192, 0, 2, last].into()))
    }

    fn sizes(accepted: &Accepted) -> (usize, usize) {
        let memory = accepted.0.lock().unwrap();
        (memory.credentials.len(), memory.holders.values().map(VecDeque::len).sum())
    }

    #[test]
    fn a_credential_is_known_for_minutes_after_it_was_accepted_last() {
        let accepted = Accepted::default();
        let one = credential(1);
        assert_eq!(accepted.standing(&one, 0), Standing::Unknown);
        accepted.lapse(&one);
        assert_eq!(accepted.standing(&one, 0), Standing::Unknown, "nobody ever accepted it");
        accepted.accept(one, at(1), 0);
        accepted.accept(one, at(2), 3 * MINUTE_NS);
        assert_eq!(accepted.standing(&one, 8 * MINUTE_NS - 1), Standing::Accepted);
        assert_eq!(accepted.standing(&one, 8 * MINUTE_NS), Standing::Unknown);
        accepted.lapse(&one);
        assert_eq!(accepted.standing(&one, 4 * MINUTE_NS), Standing::Lapsed);
        accepted.accept(one, at(1), 4 * MINUTE_NS);
        assert_eq!(accepted.standing(&one, 4 * MINUTE_NS), Standing::Accepted);
        assert_eq!(sizes(&accepted), (1, 1));
    }

    /// Whoever has one good credential can show it with anything beside it.
    #[test]
    fn nobody_pushes_out_what_others_showed() {
        let accepted = Accepted::default();
        let (honest, named) = (credential(usize::MAX), credential(usize::MAX - 1));
        accepted.accept(honest, at(1), 0);
        accepted.accept(named, Holder::Name("other:alice".into()), 0);
        for number in 0..100_000 {
            accepted.accept(credential(number), at(1), 1);
            accepted.accept(credential(number), Holder::Name("other:mallory".into()), 1);
            accepted.accept(credential(100_000 + number), at(number.to_le_bytes()[0]), 1);
        }
        let (credentials, held) = sizes(&accepted);
        assert_eq!((credentials, held), (CAPACITY, CAPACITY));
        for one in [honest, named] {
            assert_eq!(accepted.standing(&one, 2), Standing::Accepted);
        }
        let newcomer = credential(usize::MAX - 2);
        accepted.accept(newcomer, Holder::Name("other:bob".into()), 2);
        assert_eq!(accepted.standing(&newcomer, 2), Standing::Unknown, "there is no room");
        accepted.accept(newcomer, Holder::Name("other:bob".into()), 6 * MINUTE_NS);
        assert_eq!(accepted.standing(&newcomer, 6 * MINUTE_NS), Standing::Accepted);
        assert_eq!(sizes(&accepted), (1, 1), "the others ended");
    }

    #[test]
    fn a_name_has_its_newest_and_an_address_its_oldest() {
        let accepted = Accepted::default();
        let name = Holder::Name("other:carol".into());
        for number in 0..1_000 {
            accepted.accept(credential(number), name.clone(), 1);
        }
        assert_eq!(accepted.standing(&credential(999), 1), Standing::Accepted);
        assert_eq!(accepted.standing(&credential(0), 1), Standing::Unknown);
        assert_eq!(sizes(&accepted), (OF_NAME, OF_NAME));
        for number in 1_000..3_000 {
            accepted.accept(credential(number), at(1), 1);
        }
        assert_eq!(accepted.standing(&credential(1_000), 1), Standing::Accepted);
        assert_eq!(accepted.standing(&credential(2_999), 1), Standing::Unknown);
        assert_eq!(sizes(&accepted).0, OF_NAME + OF_ADDRESS);
        accepted.accept(credential(2_999), at(1), 6 * MINUTE_NS);
        assert_eq!(accepted.standing(&credential(2_999), 6 * MINUTE_NS), Standing::Accepted);
        assert_eq!(sizes(&accepted), (1, 1), "what ended made room");
    }
}
