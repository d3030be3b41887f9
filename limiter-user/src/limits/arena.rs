//! Memory that outlives the proxy which counts in it, shared with the one that comes after it.
//!
//! In: a memory file that the agent made ([`create`]) and never reads; out: lines of atomic words,
//! a slot of them for each limit. A proxy that is replaced, after a crash or by another version,
//! leaves its words in place: the next maps the same file, and while one drains both count in the
//! same words. Nothing is copied, so nothing is lost or counted twice.

use std::{
    fmt,
    fs::File,
    io,
    num::NonZeroUsize,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap, munmap},
        stat::fstat,
    },
};

use super::hash::Secret;

/// Words in a line: two cache lines, which hold one set of a table.
pub(super) const LINE_WORDS: usize = 16;

/// One line.
pub(super) type Line = [AtomicU64; LINE_WORDS];

const LINE_BYTES: usize = LINE_WORDS * 8;

/// Limits that have a place here at once; those beyond it count in memory of their process.
pub(super) const SLOTS: usize = 128;

/// Lines of one slot: what it is for, and two tables (whole pages).
pub(super) const SLOT_LINES: usize = 10_272;

/// A page before the slots.
const HEADER_LINES: usize = 32;

const BYTES: usize = (HEADER_LINES + SLOTS * SLOT_LINES) * LINE_BYTES;

/// First word: what this memory is, and which layout it has. Another layout is never opened.
const MAGIC: u64 = u64::from_le_bytes(*b"limits\0\x01");

/// Places in the first line.
const SECRET: usize = 1;
const TURN: usize = 3;

/// Places in the first line of a slot.
const IDENTITY: usize = 0;
const LAST_TURN: usize = 1;

/// The memory, mapped. Pages that were never touched take no room.
pub struct Arena {
    start: NonNull<Line>,
    secret: Secret,
    /// Slots that counters of this process use.
    held: [AtomicBool; SLOTS],
}

/// A slot in use.
#[derive(Debug)]
pub(super) struct Slot {
    arena: Arc<Arena>,
    index: usize,
}

/// Makes the memory, for the agent to hold: of a fixed size that nobody can change any more.
pub fn create(secret: [u64; 2]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"limiter-limits", flags)?);
    file.set_len(BYTES as u64)?;
    let mut words = [0; 24];
    for (place, word) in words.chunks_exact_mut(8).zip([MAGIC, secret[0], secret[1]]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    file.write_all_at(&words, 0)?;
    // A file that another process could cut off would end whoever reads beyond its end.
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file.into())
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

impl fmt::Debug for Arena {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Arena").finish_non_exhaustive()
    }
}

impl Arena {
    /// Maps what [`create`] made, in this process or another. `InvalidData` for anything else.
    pub fn open(file: impl AsFd) -> io::Result<Arc<Self>> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let size = fstat(&file)?.st_size;
        if usize::try_from(size) != Ok(BYTES) {
            return Err(invalid("limiter memory of another size"));
        }
        let found = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS)?);
        if !found.contains(seals()) {
            return Err(invalid("limiter memory whose size may change"));
        }
        let length = NonZeroUsize::new(BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping: nothing of this process moves. The file keeps its size for ever.
        #[expect(unsafe_code, reason = "a mapping outlives what the compiler can see")]
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) }?;
        let mut arena = Self {
            start: start.cast(),
            secret: Secret::default(),
            held: std::array::from_fn(|_| AtomicBool::new(false)),
        };
        let header = &arena.lines()[0];
        if header[0].load(Ordering::Relaxed) != MAGIC {
            return Err(invalid("limiter memory of another layout"));
        }
        let word = |place: usize| header[place].load(Ordering::Relaxed);
        arena.secret = Secret::new([word(SECRET), word(SECRET + 1)]);
        Ok(Arc::new(arena))
    }

    /// What fingerprints are made with, for as long as this memory lives.
    pub(super) fn secret(&self) -> Secret {
        self.secret
    }

    /// The slot of this identity: as it was left, or empty. `None` if every slot is in use.
    ///
    /// Called by one process at a time: one that drains gets no policy any more. It may still count
    /// in a slot that is given away here, which is therefore the one that was asked for longest ago.
    pub(super) fn claim(self: &Arc<Self>, identity: u64) -> Option<Slot> {
        let identity = identity.max(1);
        let turn = self.lines()[0][TURN].fetch_add(1, Ordering::Relaxed) + 1;
        let of = |index: usize| self.slot(index)[0][IDENTITY].load(Ordering::Relaxed);
        let is_free = |index: &usize| !self.held[*index].load(Ordering::Relaxed);
        let known = (0..SLOTS).find(|index| of(*index) == identity);
        let index = if let Some(index) = known {
            index
        } else {
            let age = |index: &usize| self.slot(*index)[0][LAST_TURN].load(Ordering::Relaxed);
            let index = (0..SLOTS).filter(is_free).min_by_key(age)?;
            if of(index) != 0 {
                for word in self.slot(index).as_flattened() {
                    word.store(0, Ordering::Relaxed);
                }
            }
            self.slot(index)[0][IDENTITY].store(identity, Ordering::Relaxed);
            index
        };
        self.slot(index)[0][LAST_TURN].store(turn, Ordering::Relaxed);
        // Two counters of one identity would give the slot up twice.
        if self.held[index].swap(true, Ordering::Relaxed) {
            return None;
        }
        Some(Slot { arena: Arc::clone(self), index })
    }

    fn slot(&self, index: usize) -> &[Line] {
        let start = HEADER_LINES + index * SLOT_LINES;
        &self.lines()[start..start + SLOT_LINES]
    }

    /// Everything. Other processes change it at the same time.
    fn lines(&self) -> &[Line] {
        // SAFETY: `BYTES` bytes are mapped from `start`, page-aligned, until `self` is dropped;
        // everybody accesses them atomically, in this process and in others.
        #[expect(unsafe_code, reason = "as above")]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), BYTES / LINE_BYTES)
        }
    }
}

impl Slot {
    /// Its lines, without the one that says what it is for.
    pub(super) fn lines(&self) -> &[Line] {
        &self.arena.slot(self.index)[1..]
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.arena.held[self.index].store(false, Ordering::Relaxed);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: this is what `mmap` returned, and nothing borrows it any more.
        #[expect(unsafe_code, reason = "as above")]
        let unmapped = unsafe { munmap(self.start.cast(), BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

// SAFETY: the words are atomics, and the mapping belongs to no thread.
#[expect(unsafe_code, reason = "as above")]
unsafe impl Send for Arena {}

// SAFETY: as above.
#[expect(unsafe_code, reason = "as above")]
unsafe impl Sync for Arena {}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_word(slot: &Slot) -> &AtomicU64 {
        &slot.lines()[0][0]
    }

    #[test]
    fn what_one_leaves_the_next_finds() {
        let file = create([1, 2]).unwrap();
        let one = Arena::open(&file).unwrap();
        let slot = one.claim(7).unwrap();
        first_word(&slot).store(42, Ordering::Relaxed);
        let other = Arena::open(&file).unwrap();
        let same = other.claim(7).unwrap();
        assert_eq!(first_word(&same).load(Ordering::Relaxed), 42);
        first_word(&same).store(43, Ordering::Relaxed);
        assert_eq!(first_word(&slot).load(Ordering::Relaxed), 43, "both at once");
        assert_eq!(first_word(&other.claim(8).unwrap()).load(Ordering::Relaxed), 0);
        assert_eq!(one.secret(), other.secret());
        assert!(other.claim(7).is_none(), "one counter for each slot of a process");
    }

    #[test]
    fn the_slot_that_was_asked_for_longest_ago_is_given_away_empty() {
        let arena = Arena::open(create([1, 2]).unwrap()).unwrap();
        let slots: Vec<Slot> = (1..=SLOTS as u64).map(|id| arena.claim(id).unwrap()).collect();
        assert!(arena.claim(1000).is_none(), "all are in use");
        for slot in &slots {
            first_word(slot).store(1, Ordering::Relaxed);
        }
        drop(slots);
        assert_eq!(first_word(&arena.claim(1).unwrap()).load(Ordering::Relaxed), 1);
        let new = arena.claim(1000).unwrap();
        assert_eq!(first_word(&new).load(Ordering::Relaxed), 0);
        assert_eq!(first_word(&arena.claim(1).unwrap()).load(Ordering::Relaxed), 1, "1 was newer");
        assert_eq!(first_word(&arena.claim(2).unwrap()).load(Ordering::Relaxed), 0, "2 was not");
    }

    #[test]
    fn other_files_are_refused() {
        let small = memfd_create(c"x", MFdFlags::MFD_CLOEXEC).unwrap();
        assert_eq!(Arena::open(&small).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let file = create([1, 2]).unwrap();
        assert!(File::from(file.try_clone().unwrap()).set_len(0).is_err(), "its size is fixed");
        File::from(file.try_clone().unwrap()).write_all_at(&[0; 8], 0).unwrap();
        assert_eq!(Arena::open(&file).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let unsealed = File::from(memfd_create(c"x", MFdFlags::MFD_CLOEXEC).unwrap());
        unsealed.set_len(BYTES as u64).unwrap();
        assert_eq!(Arena::open(&unsealed).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
