//! What is done to the whole table, off the request path: words are converted after a limit has
//! changed, and entries that say nothing any more are freed.
//!
//! Requests go on meanwhile, and decide the same before and after. Pages that nobody ever wrote to
//! are not looked at, or looking would make them.

use super::{
    arena::{Arena, PAGE_LINES, SLOTS},
    place::{Entry, entries},
    slot::View,
    table,
};

/// How often the table is swept at least: long before the number of a window comes again.
pub const EVERY: std::time::Duration = std::time::Duration::from_mins(10);

/// Converts every word to the parameters in force and frees what is idle.
pub(super) fn all(arena: &Arena, now_ns: u64) {
    for slot in (1..SLOTS).map(|index| View::of(arena, index)).take_while(|slot| slot.is_used()) {
        table::tidy_shared(slot, now_ns);
    }
    each(arena, |entry| table::tidy(arena, entry, now_ns));
}

fn each(arena: &Arena, mut visit: impl FnMut(Entry<'_>)) {
    for page in (0..arena.sets().div_ceil(PAGE_LINES)).filter(|page| arena.is_touched(*page)) {
        let sets = page * PAGE_LINES..((page + 1) * PAGE_LINES).min(arena.sets());
        for set in sets {
            for entry in entries(arena.set(set)) {
                visit(entry);
            }
        }
    }
}
