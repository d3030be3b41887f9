//! What is done to the whole table, off the request path: words are converted after a limit has
//! changed, entries that say nothing any more are freed, and what is full comes to lie on huge pages.
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

/// Regions of the table that lie on huge pages: with pages of 4 KiB, finding the address of a set
/// among many takes as long as reading it.
#[derive(Debug, Default)]
pub(super) struct Joining {
    /// By region, one bit each: that it was tried.
    tried: u64,
}

impl Joining {
    /// Has one region more lie on a huge page, if one is well filled. One at a time: whoever reads
    /// in it meanwhile waits. Where the kernel cannot, all stays as it is until all are tried again.
    pub(super) fn next(&mut self, arena: &Arena) {
        let is_left = |region: &usize| self.tried & (1 << region) == 0 && arena.is_filled(*region);
        let Some(region) = (0..arena.regions().min(64)).find(is_left) else { return };
        self.tried |= 1 << region;
        if let Err(error) = arena.join_pages(region) {
            log::debug!("no huge page for region {region} of the table of limits: {error}");
        }
    }
}
