//! Memory that outlives the proxy which counts in it, shared with the one that comes after it.
//!
//! In: a memory file that the agent made ([`create`]) and never maps; out: lines of atomic words:
//! a table of clients' words for all limits, a slot for each limit, and words for others. A proxy
//! that is replaced, after a crash or by another version, leaves its words in place: the next maps
//! the same file, and while one drains both count in the same words. Nothing is copied while
//! anybody counts, so nothing is lost or counted twice.

use std::{
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        stat::fstat,
    },
};

use super::{
    hash::Secret,
    memory::{LINE_BYTES, LINE_WORDS, Line, Memory, REGION_BYTES},
};

/// Limits that have a place here at once, with those of the policy before. The first is nobody's.
pub(super) const SLOTS: usize = 1 << 12;

/// What a limit is, and what all its clients share.
const SLOT_LINES: usize = 2;

/// Sets of eight entries: four million entries in 64 MiB.
const SETS: usize = 1 << 19;

/// Lines of a page: what [`Arena::touched`] knows of.
pub(super) const PAGE_LINES: usize = 4096 / LINE_BYTES;

/// Lines of a region, which may lie on one huge page.
const REGION_LINES: usize = REGION_BYTES / LINE_BYTES;

/// Pages in a region.
const REGION_PAGES: usize = REGION_LINES / PAGE_LINES;

/// Locks of the making of entries.
const LOCKS: usize = 1 << 10;

/// Before the slots: what this is, counts, which pages are in use, locks.
const COUNTS_LINE: usize = 1;
const TOUCHED_LINE: usize = 2;
const LOCKS_LINE: usize = TOUCHED_LINE + SETS / PAGE_LINES / 64 / LINE_WORDS;
const SLOTS_LINE: usize = (LOCKS_LINE + LOCKS / LINE_WORDS).next_multiple_of(PAGE_LINES);
const REPLAYS_LINE: usize = SLOTS_LINE + SLOTS * SLOT_LINES;
const SETS_LINE: usize = (REPLAYS_LINE + REPLAY_LINES).next_multiple_of(REGION_LINES);

/// Lines for signed messages, each of which is used once: a page, and 16 MiB.
const REPLAY_LINES: usize = PAGE_LINES + (1 << 21) / LINE_WORDS;

/// First word: what this memory is, and which layout it has. Another layout is never opened.
const MAGIC: u64 = u64::from_le_bytes(*b"limits\0\x04");

/// Places in the first line.
const SECRET: usize = 1;
const TURN: usize = 3;
const SETS_HERE: usize = 4;

/// Places in the line of counts.
const ENTRIES: usize = 0;

/// The memory, mapped. Pages that were never touched take no room.
pub struct Arena {
    memory: Memory,
    sets: usize,
    secret: Secret,
    /// Slots that counters of this process use.
    held: Box<[AtomicBool]>,
}

/// Makes the memory, for the agent to hold: of a fixed size that nobody can change any more.
pub fn create(secret: [u64; 2]) -> io::Result<OwnedFd> {
    create_for(secret, SETS)
}

/// As [`create`], with another number of sets: a power of two, at most as many.
pub(super) fn create_for(secret: [u64; 2], sets: usize) -> io::Result<OwnedFd> {
    let mut words = [0; 40];
    let values = [MAGIC, secret[0], secret[1], 0, sets as u64];
    for (place, word) in words.chunks_exact_mut(8).zip(values) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let bytes = ((SETS_LINE + sets) * LINE_BYTES) as u64;
    create_filled(bytes, |file| file.write_all_at(&words, 0))
}

/// Memory of so many bytes, with what `write` writes to it: what [`create`] made, once before.
pub(super) fn create_filled(
    bytes: u64,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    if bytes > ((SETS_LINE + SETS) * LINE_BYTES) as u64 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "limiter memory of another size"));
    }
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"limiter-limits", flags)?);
    file.set_len(bytes)?;
    write(&file)?;
    // A file that another process could cut off would end whoever reads beyond its end.
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file.into())
}

/// Whether [`Arena::open`] can open it, in this version.
pub fn check(file: impl AsFd) -> io::Result<()> {
    Arena::open(file).map(drop)
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
        let bytes = usize::try_from(fstat(&file)?.st_size).unwrap_or_default();
        let lines = bytes / LINE_BYTES;
        let sets = lines.saturating_sub(SETS_LINE);
        if bytes % LINE_BYTES > 0 || !sets.is_power_of_two() || sets > SETS {
            return Err(invalid("limiter memory of another size"));
        }
        let found = SealFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GET_SEALS)?);
        if !found.contains(seals()) {
            return Err(invalid("limiter memory whose size may change"));
        }
        let mut arena = Self {
            // The file keeps its size for ever.
            memory: Memory::map(file, bytes)?,
            sets,
            secret: Secret::default(),
            held: (0..SLOTS).map(|_| AtomicBool::new(false)).collect(),
        };
        let word = |place: usize| arena.all()[0][place].load(Ordering::Relaxed);
        if word(0) != MAGIC || word(SETS_HERE) != sets as u64 {
            return Err(invalid("limiter memory of another layout"));
        }
        arena.secret = Secret::new([word(SECRET), word(SECRET + 1)]);
        Ok(Arc::new(arena))
    }

    /// What fingerprints are made with, for as long as this memory lives.
    pub(super) fn secret(&self) -> Secret {
        self.secret
    }

    /// How many sets of entries there are, a power of two.
    pub(super) fn sets(&self) -> usize {
        self.sets
    }

    /// Words that are nothing to limits: for signed messages, each of which is used once.
    pub fn replays(&self) -> &[AtomicU64] {
        self.all()[REPLAYS_LINE..REPLAYS_LINE + REPLAY_LINES].as_flattened()
    }

    /// One set of entries.
    pub(super) fn set(&self, index: usize) -> &Line {
        &self.all()[SETS_LINE + (index & (self.sets - 1))]
    }

    /// Has a set brought near the processor, for somebody who reads it soon.
    pub(super) fn prefetch(&self, index: usize) {
        self.memory.prefetch(SETS_LINE + (index & (self.sets - 1)));
    }

    /// Whole regions of sets.
    pub(super) fn regions(&self) -> usize {
        self.sets / REGION_LINES
    }

    /// Whether so many pages of this region of sets are in use that a huge page in their place takes
    /// little more room.
    pub(super) fn is_filled(&self, region: usize) -> bool {
        let pages = region * REGION_PAGES..(region + 1) * REGION_PAGES;
        8 * pages.filter(|page| self.is_touched(*page)).count() >= 7 * REGION_PAGES
    }

    /// Puts a huge page under this region of sets ([`Memory::join_pages`]).
    pub(super) fn join_pages(&self, region: usize) -> io::Result<()> {
        self.memory.join_pages(SETS_LINE / REGION_LINES + region)
    }

    /// The two lines of a slot: read by every decision, and written by few.
    pub(super) fn slot(&self, index: usize) -> [&Line; SLOT_LINES] {
        let start = SLOTS_LINE + (index & (SLOTS - 1)) * SLOT_LINES;
        let lines = &self.all()[start..start + SLOT_LINES];
        [&lines[0], &lines[1]]
    }

    /// Marks of slots that this process uses.
    pub(super) fn held(&self) -> &[AtomicBool] {
        &self.held
    }

    /// Counts the calls: a slot that was asked for longer ago says a smaller number.
    pub(super) fn next_turn(&self) -> u64 {
        self.all()[0][TURN].fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many entries somebody has.
    pub(super) fn entries(&self) -> &AtomicU64 {
        &self.all()[COUNTS_LINE][ENTRIES]
    }

    /// Held while an entry for one of the fingerprints with these bits is made.
    pub(super) fn lock(&self, bits: u64) -> &AtomicU64 {
        let bits = usize::try_from(bits % LOCKS as u64).unwrap_or_default();
        &self.all()[LOCKS_LINE + bits / LINE_WORDS][bits % LINE_WORDS]
    }

    /// Remembers that a set was written to.
    pub(super) fn touch(&self, set: usize) {
        let page = (set & (self.sets - 1)) / PAGE_LINES;
        let (word, bit) = (self.touched(page), 1 << (page % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether any set of this page was ever written to; the others are not there at all.
    pub(super) fn is_touched(&self, page: usize) -> bool {
        self.touched(page).load(Ordering::Relaxed) & (1 << (page % 64)) != 0
    }

    fn touched(&self, page: usize) -> &AtomicU64 {
        let word = page / 64;
        &self.all()[TOUCHED_LINE + word / LINE_WORDS][word % LINE_WORDS]
    }

    fn all(&self) -> &[Line] {
        self.memory.lines()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_leaves_the_next_finds() {
        let file = create([1, 2]).unwrap();
        let one = Arena::open(&file).unwrap();
        one.set(7)[0].store(42, Ordering::Relaxed);
        one.touch(7);
        let other = Arena::open(&file).unwrap();
        assert_eq!(other.set(7)[0].load(Ordering::Relaxed), 42);
        other.set(7)[0].store(43, Ordering::Relaxed);
        assert_eq!(one.set(7)[0].load(Ordering::Relaxed), 43, "both at once");
        assert!(other.is_touched(7 / PAGE_LINES) && !other.is_touched(1 + 7 / PAGE_LINES));
        assert_eq!(one.secret(), other.secret());
    }

    #[test]
    fn only_what_is_full_comes_to_lie_on_a_huge_page_and_says_the_same() {
        let arena = Arena::open(create_for([1, 2], REGION_LINES).unwrap()).unwrap();
        for page in 0..REGION_PAGES {
            assert_eq!(arena.is_filled(0), 8 * page >= 7 * REGION_PAGES, "{page}");
            arena.touch(page * PAGE_LINES);
            arena.set(page * PAGE_LINES)[0].store(page as u64, Ordering::Relaxed);
        }
        assert_eq!(arena.regions(), 1);
        // Kernels before Linux 6.1 cannot, and others may have no such page to spare.
        drop(arena.join_pages(0));
        for page in 0..REGION_PAGES {
            assert_eq!(arena.set(page * PAGE_LINES)[0].load(Ordering::Relaxed), page as u64);
        }
        assert!(arena.join_pages(1).is_err(), "beyond the end");
    }

    #[test]
    fn nothing_lies_on_anything_else() {
        let arena = Arena::open(create_for([1, 2], 64).unwrap()).unwrap();
        let place = |word: &AtomicU64| std::ptr::from_ref(word).addr();
        let mut places = vec![place(arena.entries()), place(&arena.all()[0][SETS_HERE])];
        places.extend((0..LOCKS as u64).map(|bits| place(arena.lock(bits))));
        places.extend((0..SETS / PAGE_LINES).step_by(64).map(|page| place(arena.touched(page))));
        for index in 0..SLOTS {
            let [first, second] = arena.slot(index);
            places.extend([place(&first[0]), place(&second[LINE_WORDS - 1])]);
        }
        places.extend((0..64).map(|set| place(&arena.set(set)[0])));
        let count = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), count);
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
        unsealed.set_len(((SETS_LINE + SETS) * LINE_BYTES) as u64).unwrap();
        assert_eq!(Arena::open(&unsealed).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
