//! Every map, and nothing else. Sizes are those of the default configuration; user space sets the
//! configured ones before it loads the program.

use core::sync::atomic::AtomicU64;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
};
use limiter_common::{
    ban::{Ban, FILTER_WORDS},
    connection::{Connection, TOTALS, losses},
    maps::{COUNTER_COUNT, EVENTS_BYTES, MAX_CONNECTIONS, control},
    report::{Counter, DROP_SLOTS, DropSlot},
    settings::Settings,
    source::SourceSet,
};

/// Which settings hold.
#[map]
pub(crate) static CONTROL: Array<u64> = Array::with_max_entries(control::COUNT, 0);

/// The policy in force and the one before or after it.
#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(2, 0);

/// Per-source state, see `limiter_common::source`.
#[map]
pub(crate) static SOURCES: Array<SourceSet> = Array::with_max_entries(65_536, 0);

/// Bans: never evicts, insertion into a full one fails and is reported.
#[map]
pub(crate) static BANS: HashMap<u64, Ban> = HashMap::with_max_entries(65_536, 0);

/// The filter before the bans: user space writes it.
#[map]
pub(crate) static BAN_FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, 0);

/// Lists of the policy in force or the other one.
#[map]
pub(crate) static LISTS_FIRST: LpmTrie<[u8; 16], u64> = LpmTrie::with_max_entries(65_536, 0);

/// Lists of the policy in force or the other one.
#[map]
pub(crate) static LISTS_SECOND: LpmTrie<[u8; 16], u64> = LpmTrie::with_max_entries(65_536, 0);

/// Every TCP connection that a peer opened, by socket cookie.
#[map]
pub(crate) static SOCKETS: HashMap<u64, Connection> =
    HashMap::with_max_entries(MAX_CONNECTIONS, BPF_F_NO_PREALLOC);

/// How many connections a source has open, see `limiter_common::connection`.
#[map]
pub(crate) static CONNECTIONS: HashMap<u64, AtomicU64> =
    HashMap::with_max_entries(MAX_CONNECTIONS, BPF_F_NO_PREALLOC);

/// How many connections the whole host and each service have open.
#[map(name = "CONN_TOTALS")]
pub(crate) static CONNECTION_TOTALS: Array<AtomicU64> = Array::with_max_entries(TOTALS, 0);

/// What could not be counted.
#[map(name = "CONN_LOSSES")]
pub(crate) static CONNECTION_LOSSES: Array<AtomicU64> = Array::with_max_entries(losses::COUNT, 0);

/// Packets and bytes by interface, verdict and reason. One writer per CPU: no atomics needed.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

/// Drops that gather. One writer per CPU: XDP runs to completion with softirqs off.
#[map]
pub(crate) static DROPS: PerCpuArray<DropSlot> = PerCpuArray::with_max_entries(DROP_SLOTS, 0);

/// Drops on their way to user space.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
