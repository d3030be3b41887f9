//! Where a client's word is in the table, or may be: two sets of eight entries.
//!
//! In: a fingerprint; out: its entry, or one that may be taken for it. Says how an entry changes
//! hands, and who may make one.

use std::sync::atomic::AtomicU64;

use super::{
    arena::{Arena, SLOTS},
    atomic,
    memory::{LINE_WORDS, Line},
    slot::{Slot, View, Word},
    table::PATIENCE,
};

/// Entries in one set; a set spans two cache lines.
pub(super) const WAYS: usize = LINE_WORDS / 2;

/// With as many to spare, the second set need not be looked at for a new entry.
const ROOMY: usize = 3;

/// Fingerprint of an entry that belongs to nobody.
pub(super) const FREE: u64 = 0;

/// Bits of a fingerprint that say whose limit it is.
pub(super) const SLOT_BITS: u32 = SLOTS.trailing_zeros();

/// A lock that is held since longer is held by nobody.
const GONE_NS: u64 = 1_000_000_000;

/// Where a client's word may be.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    pub(super) arena: &'a Arena,
    sets: [usize; 2],
    pub(super) fingerprint: u64,
}

/// An entry.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) owner: &'a AtomicU64,
    pub(super) word: &'a AtomicU64,
}

/// The number of the slot that an entry of this fingerprint counts for; 0: nobody's.
pub(super) fn slot_of(fingerprint: u64) -> usize {
    usize::try_from(fingerprint % SLOTS as u64).unwrap_or_default()
}

/// Entries of a set.
pub(super) fn entries(line: &Line) -> impl Iterator<Item = Entry<'_>> {
    let (pairs, _) = line.as_chunks::<2>();
    pairs.iter().map(|[owner, word]| Entry { owner, word })
}

/// Takes an entry of which `seen` was seen: its owner and its word. Its word then says that it
/// changes hands since `now_ns`, and its owner is `fingerprint`. Whether it was nobody's before;
/// `None` if somebody else was faster.
pub(super) fn take(
    entry: Entry<'_>,
    (owner, word): (u64, u64),
    fingerprint: u64,
    now_ns: u64,
) -> Option<bool> {
    atomic::change(entry.word, word, Word::Changing(now_ns).bits()).ok()?;
    if atomic::change(entry.owner, owner, fingerprint).is_err() {
        // The word was judged by what another owner's would mean.
        let _gone = atomic::change(entry.word, Word::Changing(now_ns).bits(), word);
        return None;
    }
    Some(owner == FREE)
}

impl<'a> Places<'a> {
    pub(super) fn new(slot: &'a Slot, hash: u64) -> Self {
        let arena = &*slot.arena;
        let mask = arena.sets() as u64 - 1;
        let index = |bits: u64| usize::try_from(bits & mask).unwrap_or_default();
        let first = index(hash >> SLOT_BITS);
        let second = index(hash >> 32);
        let second = if second == first { first ^ usize::from(mask > 0) } else { second };
        let fingerprint = (hash & !(SLOTS as u64 - 1)) | slot.index as u64;
        Self { arena, sets: [first, second], fingerprint }
    }

    /// Has the client's entry brought near, from where most are: they come into a first set unless it
    /// is nearly full.
    pub(super) fn prefetch(self) {
        self.arena.prefetch(self.sets[0]);
    }

    /// The client's entry.
    pub(super) fn find(self) -> Option<Entry<'a>> {
        self.sets.into_iter().find_map(|set| {
            entries(self.arena.set(set)).find(|e| atomic::load(e.owner) == self.fingerprint)
        })
    }

    /// An entry that may be taken, its set, and what it was seen to say: where there is more room.
    pub(super) fn room(self, now_ns: u64) -> Option<(usize, Entry<'a>, (u64, u64))> {
        let [first, second] = self.sets;
        let in_first = Room::of(self.arena, first, now_ns);
        if in_first.count >= ROOMY {
            return in_first.idle;
        }
        let in_second = Room::of(self.arena, second, now_ns);
        let roomier = if in_second.count > in_first.count { in_second } else { in_first };
        roomier.idle.or(in_second.unwanted).or(in_first.unwanted)
    }
}

/// What of a set may be taken.
#[derive(Clone, Copy)]
struct Room<'a> {
    count: usize,
    idle: Option<(usize, Entry<'a>, (u64, u64))>,
    /// In debt to a limit that is in force no more.
    unwanted: Option<(usize, Entry<'a>, (u64, u64))>,
}

impl<'a> Room<'a> {
    fn of(arena: &'a Arena, set: usize, now_ns: u64) -> Self {
        let mut room = Self { count: 0, idle: None, unwanted: None };
        for entry in entries(arena.set(set)) {
            let seen = (atomic::load(entry.owner), atomic::load(entry.word));
            let slot = View::of(arena, slot_of(seen.0));
            let is_free = seen.0 == FREE && seen.1 == 0;
            if is_free || slot.is_idle(seen.1, now_ns) {
                room.count += 1;
                room.idle.get_or_insert((set, entry, seen));
            } else if !slot.is_in_force() && matches!(Word::read(seen.1), Word::Written(..)) {
                room.unwanted.get_or_insert((set, entry, seen));
            }
        }
        room
    }
}

/// A lock that is released when dropped.
pub(super) struct Lock<'a>(&'a AtomicU64, u64);

impl<'a> Lock<'a> {
    /// Takes it, from nobody or from somebody who is long gone.
    pub(super) fn take(lock: &'a AtomicU64, now_ns: u64) -> Option<Self> {
        let stamp = now_ns.max(1);
        for turn in 0..PATIENCE {
            let seen = atomic::load(lock);
            if (seen == 0 || now_ns.saturating_sub(seen) > GONE_NS)
                && atomic::change(lock, seen, stamp).is_ok()
            {
                return Some(Self(lock, stamp));
            }
            atomic::wait(turn);
        }
        None
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Unless it was taken away.
        let _gone = atomic::change(self.0, self.1, 0);
    }
}
