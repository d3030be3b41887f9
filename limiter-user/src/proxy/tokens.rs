//! Tokens whose signature one core has verified, by their SHA-256: a client shows the same token
//! for minutes, and only the first request pays for it.
//!
//! Only what was verified is kept, so that nobody fills this without an issuer's help. Bounded by
//! two halves: when the newer one is full the older is dropped, with whatever was not asked for
//! since.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::{Mutex, PoisonError},
};

use super::identity::Identity;
use crate::credentials::jwt::{Algorithm, Claims};

/// Tokens in each half.
const HALF: usize = 8192;

/// A token of a scheme: SHA-256 of its text, and the scheme's own number.
pub(super) type TokenKey = ([u8; 32], u64);

/// What is known of a verified token.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Of the scheme and of its keys: what else is here was held against them as they were then.
    pub(super) epoch: (u64, u64),
    /// The key that signed it, and how.
    pub(super) signed: ([u8; 32], Algorithm),
    pub(super) claims: Claims,
    pub(super) identity: Rc<Identity>,
}

/// The tokens of one core.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    halves: RefCell<[HashMap<TokenKey, Rc<Known>>; 2]>,
}

impl Tokens {
    /// What is known of a token.
    pub(super) fn find(&self, key: &TokenKey) -> Option<Rc<Known>> {
        let [new, old] = &mut *self.halves.borrow_mut();
        if let Some(known) = new.get(key) {
            return Some(Rc::clone(known));
        }
        let known = old.remove(key)?;
        if new.len() < HALF {
            new.insert(*key, Rc::clone(&known));
        }
        Some(known)
    }

    /// Remembers a token.
    pub(super) fn insert(&self, key: TokenKey, known: Rc<Known>) {
        let [new, old] = &mut *self.halves.borrow_mut();
        if new.len() >= HALF {
            *old = std::mem::take(new);
        }
        new.insert(key, known);
    }

    /// Forgets a token.
    pub(super) fn remove(&self, key: &TokenKey) {
        for half in &mut *self.halves.borrow_mut() {
            half.remove(key);
        }
    }
}

/// The digests of tokens that any core verified, in halves too: a client that is known on one core
/// is no stranger to the guard on another.
#[derive(Debug, Default)]
pub(super) struct Verified(Mutex<[HashSet<TokenKey>; 2]>);

impl Verified {
    /// Digests in each half.
    const HALF: usize = 1 << 16;

    /// Whether some core verified this token lately.
    pub(super) fn has(&self, key: &TokenKey) -> bool {
        let halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        halves.iter().any(|half| half.contains(key))
    }

    /// Remembers it.
    pub(super) fn add(&self, key: TokenKey) {
        let [new, old] = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if new.len() >= Self::HALF {
            *old = std::mem::take(new);
        }
        new.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> TokenKey {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        (digest, 1)
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let tokens = Tokens::default();
        let known = Rc::new(Known {
            epoch: (0, 0),
            signed: ([0; 32], Algorithm::Es256),
            claims: Claims {
                subject: "a".to_owned(),
                id: None,
                begins_unix_seconds: 0,
                expires_unix_seconds: 0,
                scopes: Vec::new(),
                tier: None,
                certificate: None,
            },
            identity: Rc::new(Identity::new("a", None, []).unwrap()),
        });
        for number in 0..10 * HALF {
            tokens.insert(key(number), Rc::clone(&known));
            assert!(tokens.find(&key(0)).is_some());
            assert!(tokens.halves.borrow().iter().map(HashMap::len).sum::<usize>() <= 2 * HALF);
        }
        assert!(tokens.find(&key(1)).is_none() && tokens.find(&(key(0).0, 2)).is_none());
        tokens.remove(&key(0));
        assert!(tokens.find(&key(0)).is_none());
        assert_eq!(
            Rc::strong_count(&known),
            1 + tokens.halves.borrow().iter().map(HashMap::len).sum::<usize>()
        );
    }
}
