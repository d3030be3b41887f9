//! A claim on a message: spent when the message goes on, given back if it never does.
//!
//! Dropped without having been spent, it is given back. Whoever spends it first makes every copy of
//! the message a repetition, and only who knows that nothing went on takes that back.

use std::{cell::Cell, sync::Arc};

use super::{
    Replays,
    word::{self, FREE},
};

/// The only one on its message.
#[derive(Debug)]
pub struct Claim {
    replays: Arc<Replays>,
    /// Index of each entry, with the identity and the end of what it says.
    entries: Vec<(usize, (u64, u64))>,
    standing: Cell<Standing>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Held,
    Spent,
    GivenBack,
}

impl Claim {
    pub(super) fn new(replays: Arc<Replays>) -> Self {
        Self { replays, entries: Vec::with_capacity(1), standing: Cell::new(Standing::Held) }
    }

    pub(super) fn add(&mut self, index: usize, what: (u64, u64)) {
        self.entries.push((index, what));
    }

    /// From now on the message was used. `false`: it must not be, since its time is over and others
    /// have its place, or it was given back.
    #[must_use]
    pub fn spend(&self) -> bool {
        match self.standing.get() {
            Standing::Spent => true,
            Standing::GivenBack => false,
            Standing::Held => {
                self.standing.set(Standing::Spent);
                let mut all = true;
                for (index, (identity, until)) in &self.entries {
                    let held = word::held(*identity, *until);
                    all &= self.replays.change(*index, held, word::used(*identity, *until));
                }
                all
            }
        }
    }

    /// Nothing of the message went on after all: it is held again.
    pub fn unspend(&self) {
        if self.standing.get() == Standing::Spent {
            for (index, (identity, until)) in &self.entries {
                let (held, used) = (word::held(*identity, *until), word::used(*identity, *until));
                self.replays.change(*index, used, held);
            }
            self.standing.set(Standing::Held);
        }
    }

    /// Whether the message was used.
    pub fn is_spent(&self) -> bool {
        self.standing.get() == Standing::Spent
    }

    /// The message does not go on, now or later: the next copy is the first, unless it was spent.
    pub fn give_back(&self) {
        if self.standing.get() != Standing::Held {
            return;
        }
        self.standing.set(Standing::GivenBack);
        // Last come, first gone: whoever has a copy looks for the first one first, and is not to
        // find only some of them.
        for (index, (identity, until)) in self.entries.iter().rev() {
            self.replays.change(*index, word::held(*identity, *until), FREE);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// All that one request claims: it goes on, or not, as a whole.
#[derive(Debug, Default)]
pub struct Claims(Vec<Claim>);

impl Claims {
    /// One more.
    pub fn add(&mut self, claim: Claim) {
        self.0.push(claim);
    }

    /// All of `other` too.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// See [`Claim::spend`].
    #[must_use]
    pub fn spend(&self) -> bool {
        let mut all = true;
        for claim in &self.0 {
            all &= claim.spend();
        }
        all
    }

    /// See [`Claim::unspend`].
    pub fn unspend(&self) {
        self.0.iter().rev().for_each(Claim::unspend);
    }

    /// See [`Claim::give_back`]; whether anything was given back, so that nothing was used.
    pub fn give_back(&self) -> bool {
        self.0.iter().rev().for_each(Claim::give_back);
        !self.0.is_empty() && self.0.iter().all(|claim| !claim.is_spent())
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        self.give_back();
    }
}
