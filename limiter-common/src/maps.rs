//! Names and shapes of the maps, as both sides spell them, and the version of the layout.

use crate::{
    ban::Ban,
    connection::Connection,
    limits::Buckets,
    report::{Counter, DropSlot},
    settings::{MAX_SERVICES, ServiceSettings, Settings},
    source::{ClaimBudget, KeySet, SlotSet},
    verdict::Verdict,
};

/// Version of everything that lies in pinned maps. Part of the pin path: an agent of another
/// layout never reads what this one wrote. Raise it whenever a record, its meaning, or the
/// arithmetic on it changes.
pub const LAYOUT_VERSION: u32 = 2;

/// Array of one entry: the words of [`control`].
pub const CONTROL: &str = "CONTROL";
/// Array of two [`Settings`], of which [`control::ACTIVE`] names one.
pub const SETTINGS: &str = "SETTINGS";
/// Array of [`ServiceSettings`], two halves of [`SERVICE_COUNT`]; [`control::ACTIVE`] names one.
pub const SERVICES: &str = "SERVICES";
/// Array of words, two halves of [`crate::ports::PORT_WORDS`]; [`control::ACTIVE`] names one.
pub const PORTS: &str = "PORTS";
/// Array of [`KeySet`], its size a power of two.
pub const KEYS: &str = "KEYS";
/// Array of [`SlotSet`], of the same size.
pub const SLOTS: &str = "SLOTS";
/// Per-CPU array of one [`ClaimBudget`].
pub const CLAIMS: &str = "CLAIMS";
/// Array of [`Buckets`] by service, 0 for the host.
pub const TOTALS: &str = "TOTALS";
/// Per-CPU array of [`Buckets`] by service, 0 for the host: what is not in [`TOTALS`] yet.
pub const PENDING: &str = "PENDING";
/// Hash from ban key to [`Ban`].
pub const BANS: &str = "BANS";
/// Array of [`crate::ban::FILTER_WORDS`] words: the filter before [`BANS`].
pub const BAN_FILTER: &str = "BAN_FILTER";
/// Prefix trie from v4-mapped address to [`Ban`]. An entry whose expiry is 0 bans nobody: it keeps
/// what lies inside a banned prefix out of the ban.
pub const BAN_PREFIXES: &str = "BAN_PREFIXES";
/// The first of two hashes from address to list value.
pub const EXACT_FIRST: &str = "EXACT_FIRST";
/// The second of two hashes from address to list value.
pub const EXACT_SECOND: &str = "EXACT_SECOND";
/// The first of two prefix tries from address to list value.
pub const LISTS_FIRST: &str = "LISTS_FIRST";
/// The second of two prefix tries from address to list value.
pub const LISTS_SECOND: &str = "LISTS_SECOND";
/// Hash from socket cookie to [`Connection`]: every TCP connection that a peer opened.
pub const SOCKETS: &str = "SOCKETS";
/// Hash from source key, or key of a source at a service, to how many connections it has open:
/// a word for [`crate::connection::count_in`].
pub const CONNECTIONS: &str = "CONNECTIONS";
/// Array of [`crate::connection::TOTALS`] words for [`crate::connection::count_in`]: open
/// connections of the whole host, and of each service.
pub const OPEN_TOTALS: &str = "OPEN_TOTALS";
/// Array of words, see [`crate::connection::losses`].
pub const OPEN_LOSSES: &str = "OPEN_LOSSES";
/// Array of words, two halves of [`crate::lists::LIST_FILTER_WORDS`].
pub const LIST_FILTER: &str = "LIST_FILTER";
/// Array of words, two halves of [`crate::lists::LIST_BITMAP_WORDS`].
pub const LIST_BITMAP: &str = "LIST_BITMAP";
/// The first of two prefix tries from service and address to a list value.
pub const ADMIT_FIRST: &str = "ADMIT_FIRST";
/// The second of two prefix tries from service and address to a list value.
pub const ADMIT_SECOND: &str = "ADMIT_SECOND";
/// Per-CPU array of packets by [`crate::headers::Flaw`].
pub const FLAWS: &str = "FLAWS";
/// Per-CPU array of [`Counter`], see [`counter_index`].
pub const COUNTERS: &str = "COUNTERS";
/// Per-CPU array of [`DropSlot`].
pub const DROPS: &str = "DROPS";
/// Ring buffer of drop records ([`DropSlot`]).
pub const EVENTS: &str = "EVENTS";

/// Indices into [`CONTROL`].
pub mod control {
    /// Which [`super::Settings`] hold: 0 or 1.
    pub const ACTIVE: usize = 0;
    /// How many entries [`super::BAN_PREFIXES`] has; 0: nobody looks.
    pub const PREFIX_BANS: usize = 1;
    /// Not 0: connection requests to flooded listeners are answered with SYN cookies.
    pub const SYN_COOKIES: usize = 2;
    /// How many words.
    pub const WORDS: usize = 8;
}

/// Entries of [`TOTALS`], [`PENDING`], [`OPEN_TOTALS`] and of each half of [`SERVICES`].
pub const SERVICE_COUNT: u32 = MAX_SERVICES + 1;

/// The key of [`ADMIT_FIRST`] and [`ADMIT_SECOND`]: the number of a service, then an address.
pub const ADMIT_KEY_BYTES: usize = 20;

/// How many interfaces can be counted apart.
pub const MAX_INTERFACES: u32 = 16;

/// Counters of one interface: one per verdict, then as many for packets of lost drop records.
pub const COUNTERS_PER_INTERFACE: u32 = small(2 * Verdict::COUNTERS);

/// Entries of [`COUNTERS`].
pub const COUNTER_COUNT: u32 = MAX_INTERFACES * COUNTERS_PER_INTERFACE;

/// Bytes of the ring buffer: a power of two and a multiple of the page size. Room for 4 096
/// records, which the agent empties ten times a second.
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// How many connections can be tracked, and how many sources can have some. Entries take memory
/// only while they are used.
pub const MAX_CONNECTIONS: u32 = 262_144;

/// Sizes and counts of this crate as the kernel has them.
#[expect(clippy::cast_possible_truncation, reason = "all are far below 2^32")]
const fn small(size: usize) -> u32 {
    size as u32
}

/// Index of a verdict's counter.
#[inline]
pub const fn counter_index(interface: u32, verdict: Verdict) -> u32 {
    interface * COUNTERS_PER_INTERFACE + small(verdict.counter())
}

/// Index of the counter of packets with this verdict whose drop record found no room in the ring
/// buffer.
#[inline]
pub const fn lost_index(interface: u32, verdict_counter: u32) -> u32 {
    interface * COUNTERS_PER_INTERFACE + small(Verdict::COUNTERS) + verdict_counter
}

/// Key and value sizes, for checking pinned maps before they are believed.
pub const VALUE_SIZES: [(&str, u32, u32); 27] = [
    (CONTROL, 4, small(8 * control::WORDS)),
    (SETTINGS, 4, small(size_of::<Settings>())),
    (SERVICES, 4, small(size_of::<ServiceSettings>())),
    (PORTS, 4, 8),
    (KEYS, 4, small(size_of::<KeySet>())),
    (SLOTS, 4, small(size_of::<SlotSet>())),
    (CLAIMS, 4, small(size_of::<ClaimBudget>())),
    (TOTALS, 4, small(size_of::<Buckets>())),
    (PENDING, 4, small(size_of::<Buckets>())),
    (BANS, 8, small(size_of::<Ban>())),
    (BAN_FILTER, 4, 8),
    (BAN_PREFIXES, 20, small(size_of::<Ban>())),
    (EXACT_FIRST, 16, 8),
    (EXACT_SECOND, 16, 8),
    (LISTS_FIRST, 20, 8),
    (LISTS_SECOND, 20, 8),
    (SOCKETS, 8, small(size_of::<Connection>())),
    (LIST_FILTER, 4, 8),
    (LIST_BITMAP, 4, 8),
    (ADMIT_FIRST, 24, 8),
    (ADMIT_SECOND, 24, 8),
    (CONNECTIONS, 8, 8),
    (OPEN_TOTALS, 4, 8),
    (OPEN_LOSSES, 4, 8),
    (COUNTERS, 4, small(size_of::<Counter>())),
    (FLAWS, 4, 8),
    (DROPS, 4, small(size_of::<DropSlot>())),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Action, Reason};

    #[test]
    fn names_fit_the_kernel() {
        for (name, ..) in VALUE_SIZES {
            assert!(name.len() <= 15, "{name}: the kernel keeps 15 characters");
        }
    }

    #[test]
    fn counters_do_not_overlap() {
        let last = Verdict { action: Action::Tx, reason: Reason::TableFull };
        let highest = small(last.counter());
        assert_eq!(counter_index(0, last) + 1, lost_index(0, 0));
        assert_eq!(lost_index(0, highest) + 1, counter_index(1, Verdict::pass(Reason::Allowed)));
        assert_eq!(lost_index(MAX_INTERFACES - 1, highest) + 1, COUNTER_COUNT);
    }
}
