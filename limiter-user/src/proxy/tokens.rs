//! Tokens whose signature one core has verified, by their [`mark`]: a client shows the same token
//! for minutes, and only the first request pays for it.
//!
//! Only what was verified is kept, so that nobody fills this without an issuer's help. Bounded by
//! two halves: when the newer one is full the older is dropped, with whatever was not asked for
//! since.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::{LazyLock, Mutex, PoisonError},
};

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};

use super::identity::Identity;
use crate::credentials::jwt::{Algorithm, Claims};

/// Tokens in each half.
const HALF: usize = 8192;

/// What a token is known by in this process.
pub(super) type Mark = [u8; 16];

/// A token of a scheme: the mark of its text, and the scheme's own number.
pub(super) type TokenKey = (Mark, u64);

/// The mark of a token: GMAC (NIST SP 800-38D) under a key that this process drew and tells nobody.
/// `None`: there is no randomness to draw one from, and no token is known.
///
/// A quarter of what SHA-256 takes. A nonce that is used again would give the key away to whoever
/// sees two tags; marks never leave this process, and without them this is a universal hash (Wegman
/// and Carter, 1981): that a token of n blocks, whoever chose it, has the mark of another is as
/// likely as n in 2^128.
pub(super) fn mark(token: &[u8]) -> Option<Mark> {
    static KEY: LazyLock<Option<LessSafeKey>> = LazyLock::new(|| {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).ok()?;
        UnboundKey::new(&AES_128_GCM, &bytes).ok().map(LessSafeKey::new)
    });
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    let tag = KEY.as_ref()?.seal_in_place_separate_tag(nonce, Aad::from(token), &mut []);
    tag.ok()?.as_ref().try_into().ok()
}

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

/// The marks of tokens that any core verified, in halves too: a client that is known on one core
/// is no stranger to the guard on another.
#[derive(Debug, Default)]
pub(super) struct Verified(Mutex<[HashSet<TokenKey>; 2]>);

impl Verified {
    /// Marks in each half.
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
        let mut mark = [0; 16];
        mark[..8].copy_from_slice(&number.to_le_bytes());
        (mark, 1)
    }

    #[test]
    fn a_mark_is_of_every_byte_of_a_token() {
        let token: Vec<u8> = (0..200).collect();
        let marks: HashSet<Mark> = (0..200)
            .map(|place| {
                let mut other = token.clone();
                other[place] ^= 1;
                other
            })
            .chain((0..=200).map(|length| token[..length].to_vec()))
            .map(|token| mark(&token).unwrap())
            .collect();
        assert_eq!(marks.len(), 200 + 201);
        assert!(marks.contains(&mark(&token).unwrap()), "the same again");
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
