//! The one table of clients' words: fixed size, used by every core at once, for all limits.
//!
//! In: a slot, a client's hash and a cost; out: the decision. An entry is a fingerprint (the upper
//! bits of the hash and the number of the slot) and a word, in one of two sets of eight. An entry in
//! debt is never taken; one whose word is idle is, and so is, where there is no other, one of a
//! limit that is in force no more. Where both sets are full of entries in debt, the request is
//! counted in a word that all such requests of the limit share, so that memory is bounded and a
//! flood of clients cannot lift the limit.
//!
//! Any number of cores admit exactly what one would: a word is changed by compare-and-swap, and
//! changes hands by compare-and-swap too, so that a charge either comes before, and the entry stays,
//! or finds itself too late; and a client's entry is made under a lock of its own, so that there is
//! one. Only whoever is stopped for a second in the midst of making an entry may cost one request.

use std::sync::atomic::AtomicU64;

use super::{
    algorithm::Decision,
    arena::Arena,
    atomic,
    place::{Entry, FREE, Lock, Places, SLOT_BITS, WAYS, slot_of, take},
    slot::{InForce, Slot, View, Word},
};

/// How long to wait for somebody who is making an entry, in turns.
pub(super) const PATIENCE: u32 = 4_096;

/// What one request was charged, to give it back.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    hash: u64,
    cost: u64,
    then_ns: u64,
    generation: u64,
    is_shared: bool,
}

impl Receipt {
    /// What the limit knows the client by.
    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }
}

/// Whose word is changed.
#[derive(Clone, Copy)]
enum Held<'a> {
    /// An entry's, as long as it belongs to this fingerprint.
    Entry(Entry<'a>, u64),
    /// One that all share.
    Shared(&'a AtomicU64),
}

/// Has a client's entry brought near, for a decision that comes soon.
pub(super) fn prefetch(slot: &Slot, hash: u64) {
    Places::new(slot, hash).prefetch();
}

/// Decides one request of this client and cost, and counts it if allowed.
pub(super) fn charge(
    slot: &Slot,
    hash: u64,
    cost: u64,
    now_ns: u64,
) -> (Decision, Option<Receipt>) {
    let (view, places) = (slot.view(), Places::new(slot, hash));
    places.prefetch();
    let in_force = view.ready(now_ns);
    for turn in 0..PATIENCE {
        let outcome = match places.find() {
            Some(entry) => charge_entry(view, entry, &in_force, places.fingerprint, (cost, now_ns)),
            None => match make(view, places, cost, now_ns) {
                Made::Now(outcome) => Some(outcome),
                Made::Already => None,
                Made::NoRoom => break,
            },
        };
        if let Some((decision, generation)) = outcome {
            let receipt = Receipt { hash, cost, then_ns: now_ns, generation, is_shared: false };
            return (decision, decision.allowed.then_some(receipt));
        }
        atomic::wait(turn);
    }
    charge_shared(view, hash, cost, now_ns)
}

/// What [`charge`] would say, without counting anything or taking an entry.
pub(super) fn peek(slot: &Slot, hash: u64, cost: u64, now_ns: u64) -> Decision {
    let (view, places) = (slot.view(), Places::new(slot, hash));
    places.prefetch();
    let in_force = view.ready(now_ns);
    for turn in 0..PATIENCE {
        let Some(entry) = places.find() else { break };
        let seen = atomic::load(entry.word);
        let judged = match view.read(seen, &in_force) {
            Some((_, word)) => Some(in_force.ready.charge(word, cost)),
            None => {
                view.convert(seen, now_ns).map(|(_, meter, word)| meter.charge(word, cost, now_ns))
            }
        };
        if atomic::load(entry.owner) == places.fingerprint
            && let Some((decision, _)) = judged
        {
            return decision;
        }
        atomic::wait(turn);
    }
    in_force.ready.charge(0, cost).0
}

/// Gives back what `receipt` says, as far as it still weighs.
pub(super) fn give_back(slot: &Slot, receipt: &Receipt, now_ns: u64) {
    let (view, places) = (slot.view(), Places::new(slot, receipt.hash));
    for turn in 0..PATIENCE {
        let held = if receipt.is_shared {
            Held::Shared(view.overflow())
        } else {
            // Once nothing of it weighs any more, the entry may be somebody else's.
            let Some(entry) = places.find() else { return };
            Held::Entry(entry, places.fingerprint)
        };
        let seen = atomic::load(held.word());
        match Word::read(seen) {
            _ if !held.is_still_ours() => {}
            Word::Changing(_) => {}
            // After a change of the limit it is not known how much of it still weighs.
            Word::Written(generation, _) if generation != receipt.generation => return,
            Word::Written(generation, state) => {
                let meter = view.meter(generation);
                let next = meter.give_back(state, receipt.cost, receipt.then_ns, now_ns);
                let next = Word::Written(generation, next).bits();
                if next == seen {
                    return;
                }
                if atomic::change(held.word(), seen, next).is_ok() {
                    settle(view, held, generation, now_ns);
                    return;
                }
            }
        }
        atomic::wait(turn);
    }
}

/// Counts in the word of all who found no entry, which nobody ever takes.
fn charge_shared(view: View<'_>, hash: u64, cost: u64, now_ns: u64) -> (Decision, Option<Receipt>) {
    atomic::add(view.full(), 1);
    let outcome = charge_word(view, Held::Shared(view.overflow()), cost, now_ns);
    let (decision, generation) = outcome.unwrap_or_else(|| {
        let (generation, meter) = view.current();
        (meter.charge(0, cost, now_ns).0, generation)
    });
    let receipt = Receipt { hash, cost, then_ns: now_ns, generation, is_shared: true };
    (decision, decision.allowed.then_some(receipt))
}

/// Charges a client's entry; `None` if it changed hands meanwhile. Nearly always its word was written
/// by the parameters in force, and nobody else is at it.
fn charge_entry(
    view: View<'_>,
    entry: Entry<'_>,
    in_force: &InForce,
    fingerprint: u64,
    (cost, now_ns): (u64, u64),
) -> Option<(Decision, u64)> {
    let held = Held::Entry(entry, fingerprint);
    let seen = atomic::load(entry.word);
    if let Some((generation, state)) = view.read(seen, in_force)
        && held.is_still_ours()
    {
        let (decision, next) = in_force.ready.charge(state, cost);
        if !decision.allowed {
            return Some((decision, generation));
        }
        if atomic::change(entry.word, seen, Word::Written(generation, next).bits()).is_ok() {
            settle(view, held, generation, now_ns);
            return Some((decision, generation));
        }
    }
    charge_word(view, held, cost, now_ns)
}

/// Charges a word by the parameters in force; `None` if it changed hands meanwhile.
#[cold]
fn charge_word(view: View<'_>, held: Held<'_>, cost: u64, now_ns: u64) -> Option<(Decision, u64)> {
    let word = held.word();
    loop {
        let seen = atomic::load(word);
        // Only then is what was seen this client's: a word is written after its owner.
        if !held.is_still_ours() {
            return None;
        }
        // Whoever was making the entry ended in the midst of it.
        if View::is_abandoned(seen, now_ns) {
            let _newer = atomic::change(word, seen, 0);
            continue;
        }
        let (generation, meter, state) = view.convert(seen, now_ns)?;
        let (decision, next) = meter.charge(state, cost, now_ns);
        if !decision.allowed {
            return Some((decision, generation));
        }
        let next = Word::Written(generation, next).bits();
        if atomic::change(word, seen, next).is_ok() {
            settle(view, held, generation, now_ns);
            return Some((decision, generation));
        }
    }
}

/// Converts a word just written, if the parameters have changed meanwhile: whoever swept may have
/// been here before. Nearly always they have not.
fn settle(view: View<'_>, held: Held<'_>, generation: u64, now_ns: u64) {
    if !view.is_current(generation) {
        convert_anew(view, held, generation, now_ns);
    }
}

#[cold]
fn convert_anew(view: View<'_>, held: Held<'_>, generation: u64, now_ns: u64) {
    let word = held.word();
    let mut written = generation;
    while !view.is_current(written) {
        let seen = atomic::load(word);
        if !held.is_still_ours() {
            return;
        }
        let Some((current, _, state)) = view.convert(seen, now_ns) else { return };
        if Word::read(seen) == Word::Written(current, state)
            || atomic::change(word, seen, Word::Written(current, state).bits()).is_ok()
        {
            written = current;
        }
    }
}

/// What came of the making of an entry.
enum Made {
    Now((Decision, u64)),
    Already,
    NoRoom,
}

/// Makes the client's entry, charged.
fn make(view: View<'_>, places: Places<'_>, cost: u64, now_ns: u64) -> Made {
    let (generation, meter) = view.current();
    let (decision, next) = meter.charge(0, cost, now_ns);
    if !decision.allowed {
        return Made::Now((decision, generation));
    }
    let Some(_lock) = Lock::take(places.arena.lock(places.fingerprint >> SLOT_BITS), now_ns) else {
        return Made::NoRoom;
    };
    if places.find().is_some() {
        return Made::Already;
    }
    let next = Word::Written(generation, next).bits();
    for _ in 0..WAYS {
        let Some((set, entry, seen)) = places.room(now_ns) else {
            return Made::NoRoom;
        };
        let Some(was_free) = take(entry, seen, places.fingerprint, now_ns) else {
            continue;
        };
        places.arena.touch(set);
        if was_free {
            atomic::add(places.arena.entries(), 1);
        }
        let changing = Word::Changing(now_ns).bits();
        if atomic::change(entry.word, changing, next).is_ok() {
            settle(view, Held::Entry(entry, places.fingerprint), generation, now_ns);
            return Made::Now((decision, generation));
        }
    }
    Made::NoRoom
}

impl Held<'_> {
    fn word(&self) -> &AtomicU64 {
        match self {
            Self::Entry(entry, _) => entry.word,
            Self::Shared(word) => word,
        }
    }

    fn is_still_ours(&self) -> bool {
        match self {
            Self::Entry(entry, fingerprint) => atomic::load(entry.owner) == *fingerprint,
            Self::Shared(_) => true,
        }
    }
}

/// Converts what an entry says to the parameters in force, or frees it if that is nothing.
/// So are those of a slot that was given away.
pub(super) fn tidy(arena: &Arena, entry: Entry<'_>, now_ns: u64) {
    loop {
        let owner = atomic::load(entry.owner);
        let seen = atomic::load(entry.word);
        if owner == FREE {
            return;
        }
        let view = View::of(arena, slot_of(owner));
        if view.is_cleared() || view.is_idle(seen, now_ns) {
            if take(entry, (owner, seen), FREE, now_ns).is_some() {
                let _newer = atomic::change(entry.word, Word::Changing(now_ns).bits(), 0);
                atomic::add(arena.entries(), u64::MAX);
                return;
            }
            continue;
        }
        let Some((generation, _, state)) = view.convert(seen, now_ns) else { return };
        let next = Word::Written(generation, state).bits();
        let is_done = next == seen
            || atomic::load(entry.owner) == owner && atomic::change(entry.word, seen, next).is_ok();
        if is_done {
            return;
        }
    }
}

/// Converts what all who found no entry share.
pub(super) fn tidy_shared(view: View<'_>, now_ns: u64) {
    let seen = atomic::load(view.overflow());
    if let Word::Written(generation, _) = Word::read(seen) {
        settle(view, Held::Shared(view.overflow()), generation, now_ns);
    }
}
