//! A limit's place in the shared memory: who it is, how it counts, and what its clients share.
//!
//! The parameters lie here and not in a process, so that all who count, also a proxy that drains
//! with an earlier policy, count alike from the moment they change. There are three generations of
//! them: a word says which one it was written by, and means through it what it always meant.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    algorithm::{Meter, Ready, WORD_BITS},
    arena::{Arena, SLOTS},
    atomic,
    memory::Line,
};

/// Generations of parameters that words may be written by; what is swept after each change.
const GENERATIONS: u64 = 3;

/// In place of a generation: the word is changing hands, since when the other bits say.
const CHANGING: u64 = 3;

const WORD_MASK: u64 = (1 << WORD_BITS) - 1;

/// Places in the first line.
const IDENTITY: usize = 0;
const LAST_TURN: usize = 1;
const GENERATION: usize = 2;
const IN_FORCE: usize = 3;
const METERS: usize = 4;

/// Places in the second line.
const OVERFLOW: usize = 0;
const FULL: usize = 1;

/// Identity of a slot whose words are being cleared.
const CLEARED: u64 = 1;

/// A slot that this process uses, until dropped.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) arena: Arc<Arena>,
    pub(super) index: usize,
}

/// A slot seen from its entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a>(&'a Arena, usize);

/// The parameters that were in force at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct InForce {
    /// How often they had changed: unlike a generation, this never comes again.
    changes: u64,
    pub(super) ready: Ready,
}

/// A word apart from what it was written by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Word {
    /// By this generation of the slot's parameters.
    Written(u64, u64),
    /// It changes hands since this time.
    Changing(u64),
}

impl Word {
    pub(super) const fn read(bits: u64) -> Self {
        match bits >> WORD_BITS {
            CHANGING => Self::Changing(bits & WORD_MASK),
            generation => Self::Written(generation, bits & WORD_MASK),
        }
    }

    pub(super) const fn bits(self) -> u64 {
        match self {
            Self::Written(generation, word) => generation << WORD_BITS | word & WORD_MASK,
            Self::Changing(since_ns) => CHANGING << WORD_BITS | since_ns & WORD_MASK,
        }
    }
}

impl Slot {
    /// The slot of the limit with this identity: as it was left, or a new one for `meter`. `None` if
    /// every slot is in use. Where none is left, those of limits that are in force no more are
    /// given away, and `clear` frees their entries ([`View::is_cleared`]).
    ///
    /// Called by one process at a time: one that drains gets no policy any more. It may still count
    /// in a slot that is given away here, which is cleared again by whoever comes upon it.
    pub(super) fn claim(
        arena: &Arc<Arena>,
        identity: u64,
        meter: Meter,
        clear: impl Fn(),
    ) -> Option<Self> {
        let identity = identity.max(CLEARED + 1);
        let turn = arena.next_turn();
        let of = |index: usize| arena.slot(index)[0][IDENTITY].load(Ordering::Acquire);
        // They are used from the first on.
        let used = (1..SLOTS).take_while(|index| of(*index) != 0).count();
        let known = (1..=used).find(|index| of(*index) == identity);
        let index = if let Some(index) = known {
            index
        } else {
            let cleared = || (1..=used).find(|index| of(*index) == CLEARED);
            let index = if used + 1 < SLOTS {
                used + 1
            } else if let Some(index) = cleared() {
                index
            } else {
                give_away(arena);
                clear();
                cleared()?
            };
            let [first, second] = arena.slot(index);
            second[OVERFLOW].store(0, Ordering::Relaxed);
            second[FULL].store(0, Ordering::Relaxed);
            View(arena, index).write_meter(0, &meter);
            first[GENERATION].store(0, Ordering::Release);
            first[IDENTITY].store(identity, Ordering::Release);
            index
        };
        let line = arena.slot(index)[0];
        line[LAST_TURN].store(turn, Ordering::Relaxed);
        line[IN_FORCE].store(1, Ordering::Relaxed);
        // Two counters of one identity would give the slot up twice.
        if arena.held()[index].swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(Self { arena: Arc::clone(arena), index })
    }

    pub(super) fn view(&self) -> View<'_> {
        View(&self.arena, self.index)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.arena.held()[self.index].store(false, Ordering::Relaxed);
    }
}

/// Gives away the slots of limits that are in force no more: the half that was asked for longer
/// ago.
fn give_away(arena: &Arena) {
    let line = |index: &usize| arena.slot(*index)[0];
    let mut free: Vec<usize> = (1..SLOTS)
        .filter(|index| !arena.held()[*index].load(Ordering::Relaxed))
        .filter(|index| line(index)[IN_FORCE].load(Ordering::Relaxed) == 0)
        .collect();
    free.sort_by_key(|index| line(index)[LAST_TURN].load(Ordering::Relaxed));
    for index in &free[..free.len().div_ceil(2)] {
        line(index)[IDENTITY].store(CLEARED, Ordering::Release);
    }
}

/// From now on only entries of these slots are in force; those of others may be taken.
pub(super) fn only_in_force(arena: &Arena, is_in_force: impl Fn(usize) -> bool) {
    for slot in (1..SLOTS).map(|index| View(arena, index)).take_while(|slot| slot.is_used()) {
        slot.first()[IN_FORCE].store(u64::from(is_in_force(slot.1)), Ordering::Relaxed);
    }
}

impl<'a> View<'a> {
    /// The slot of this number, which an entry says it belongs to.
    pub(super) fn of(arena: &'a Arena, index: usize) -> Self {
        Self(arena, index)
    }

    /// Whether it was ever given to a limit; those after one that was not, were not either.
    pub(super) fn is_used(self) -> bool {
        self.first()[IDENTITY].load(Ordering::Relaxed) != 0
    }

    /// The generation of parameters in force, and what they are.
    pub(super) fn current(self) -> (u64, Meter) {
        let generation = atomic::load(&self.first()[GENERATION]) % GENERATIONS;
        (generation, self.meter(generation))
    }

    /// The parameters in force at `now_ns`, for a word that is not there yet.
    pub(super) fn ready(self, now_ns: u64) -> InForce {
        let changes = atomic::load(&self.first()[GENERATION]);
        InForce { changes, ready: self.meter(changes).ready(now_ns) }
    }

    /// The generation and the word of what was just seen, if it was written by these parameters and
    /// they are in force still.
    pub(super) fn read(self, seen: u64, in_force: &InForce) -> Option<(u64, u64)> {
        match Word::read(seen) {
            Word::Written(generation, word)
                if generation == in_force.changes % GENERATIONS
                    && atomic::load(&self.first()[GENERATION]) == in_force.changes =>
            {
                Some((generation, word))
            }
            _ => None,
        }
    }

    /// Whether this generation is still the one in force.
    pub(super) fn is_current(self, generation: u64) -> bool {
        atomic::load(&self.first()[GENERATION]) % GENERATIONS == generation
    }

    /// The parameters of a generation.
    pub(super) fn meter(self, generation: u64) -> Meter {
        let place = METERS + 3 * usize::try_from(generation % GENERATIONS).unwrap_or_default();
        let word = |offset: usize| self.first()[place + offset].load(Ordering::Relaxed);
        Meter::from_words([word(0), word(1), word(2)])
    }

    /// Whether its entries are to be freed.
    pub(super) fn is_cleared(self) -> bool {
        self.first()[IDENTITY].load(Ordering::Relaxed) == CLEARED
    }

    /// Whether the limit is of a policy in force.
    pub(super) fn is_in_force(self) -> bool {
        self.first()[IN_FORCE].load(Ordering::Relaxed) != 0
            && self.first()[IDENTITY].load(Ordering::Relaxed) > CLEARED
    }

    /// Counts by `meter` from now on. Every word of the generation before the one before must have
    /// been converted since; called by one thread of one process at a time.
    pub(super) fn change(self, meter: &Meter) {
        let next = atomic::load(&self.first()[GENERATION]).wrapping_add(1);
        self.write_meter(next % GENERATIONS, meter);
        atomic::store(&self.first()[GENERATION], next);
    }

    /// What all count in who find no entry.
    pub(super) fn overflow(self) -> &'a AtomicU64 {
        &self.second()[OVERFLOW]
    }

    /// How many requests found no entry.
    pub(super) fn full(self) -> &'a AtomicU64 {
        &self.second()[FULL]
    }

    /// What `seen` means to the parameters in force.
    pub(super) fn convert(self, seen: u64, now_ns: u64) -> Option<(u64, Meter, u64)> {
        let Word::Written(written, word) = Word::read(seen) else {
            return None;
        };
        let (generation, meter) = self.current();
        let word = if written == generation || word == 0 {
            word
        } else {
            meter.convert(&self.meter(written), word, now_ns)
        };
        Some((generation, meter, word))
    }

    /// Whether a word says nothing that a fresh one would not. One that changes hands says
    /// something, unless whoever is at it has long been gone.
    pub(super) fn is_idle(self, seen: u64, now_ns: u64) -> bool {
        match Word::read(seen) {
            Word::Written(generation, word) => self.meter(generation).is_idle(word, now_ns),
            Word::Changing(_) => Self::is_abandoned(seen, now_ns),
        }
    }

    /// Whether a word has been changing hands for longer than anybody takes who is still there.
    pub(super) fn is_abandoned(seen: u64, now_ns: u64) -> bool {
        const GONE_NS: u64 = 1_000_000_000;
        matches!(Word::read(seen), Word::Changing(since) if now_ns.saturating_sub(since) > GONE_NS)
    }

    fn write_meter(self, generation: u64, meter: &Meter) {
        let place = METERS + 3 * usize::try_from(generation).unwrap_or_default();
        for (offset, word) in meter.words().into_iter().enumerate() {
            self.first()[place + offset].store(word, Ordering::Relaxed);
        }
    }

    fn first(self) -> &'a Line {
        self.0.slot(self.1)[0]
    }

    fn second(self) -> &'a Line {
        self.0.slot(self.1)[1]
    }
}
