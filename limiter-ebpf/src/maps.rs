//! Every map, and nothing else. Sizes are those of the default configuration; user space sets the
//! configured ones before it loads the program. Those that user space maps into its memory are
//! `BPF_F_MMAPABLE` (kernel 5.5).

use core::sync::atomic::AtomicU64;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf},
};
use limiter_common::{
    ban::{Ban, FILTER_WORDS},
    connection::{Connection, losses},
    headers::Flaw,
    limits::Buckets,
    lists::{LIST_BITMAP_WORDS, LIST_FILTER_WORDS},
    maps::{ADMIT_KEY_BYTES, COUNTER_COUNT, EVENTS_BYTES, MAX_CONNECTIONS, SERVICE_COUNT, control},
    ports::PORT_WORDS,
    report::{Counter, DROP_SLOTS, DropSlot},
    settings::{ServiceSettings, Settings},
    source::{ClaimBudget, KeySet, SlotSet},
};

/// Which settings hold, and what is switched on.
#[map]
pub(crate) static CONTROL: Array<[u64; control::WORDS]> =
    Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The policy in force and the one before or after it.
#[map]
pub(crate) static SETTINGS: Array<Settings> = Array::with_max_entries(2, 0);

/// Services of the policy in force and of the other one.
#[map]
pub(crate) static SERVICES: Array<ServiceSettings> = Array::with_max_entries(2 * SERVICE_COUNT, 0);

/// What is known of ports, by the policy in force and by the other one.
#[map]
pub(crate) static PORTS: Array<u64> = Array::with_max_entries(2 * PORT_WORDS, BPF_F_MMAPABLE);

/// Keys of the source table, see `limiter_common::source`.
#[map]
pub(crate) static KEYS: Array<KeySet> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// Slots of the source table.
#[map]
pub(crate) static SLOTS: Array<SlotSet> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// What each CPU may claim of it. One writer per CPU.
#[map]
pub(crate) static CLAIMS: PerCpuArray<ClaimBudget> = PerCpuArray::with_max_entries(1, 0);

/// What all sources together may still send, by service.
#[map]
pub(crate) static TOTALS: Array<Buckets> = Array::with_max_entries(SERVICE_COUNT, 0);

/// What each CPU has not charged there yet. One writer per CPU.
#[map]
pub(crate) static PENDING: PerCpuArray<Buckets> = PerCpuArray::with_max_entries(SERVICE_COUNT, 0);

/// Bans: never evicts, insertion into a full one fails and is reported.
#[map]
pub(crate) static BANS: HashMap<u64, Ban> = HashMap::with_max_entries(65_536, 0);

/// Bans of prefixes.
#[map]
pub(crate) static BAN_PREFIXES: LpmTrie<[u8; 16], Ban> = LpmTrie::with_max_entries(1_024, 0);

/// The filter before the bans: user space writes it.
#[map]
pub(crate) static BAN_FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, 0);

/// List entries of one address, of the policy in force or the other one.
#[map]
pub(crate) static EXACT_FIRST: HashMap<[u64; 2], u64> =
    HashMap::with_max_entries(1_048_576, BPF_F_NO_PREALLOC);

/// List entries of one address, of the policy in force or the other one.
#[map]
pub(crate) static EXACT_SECOND: HashMap<[u64; 2], u64> =
    HashMap::with_max_entries(1_048_576, BPF_F_NO_PREALLOC);

/// List entries of prefixes, of the policy in force or the other one.
#[map]
pub(crate) static LISTS_FIRST: LpmTrie<[u8; 16], u64> = LpmTrie::with_max_entries(1_048_576, 0);

/// List entries of prefixes, of the policy in force or the other one.
#[map]
pub(crate) static LISTS_SECOND: LpmTrie<[u8; 16], u64> = LpmTrie::with_max_entries(1_048_576, 0);

/// The filter before exact entries and IPv6 prefixes, for the first and the second half.
#[map]
pub(crate) static LIST_FILTER: Array<u64> =
    Array::with_max_entries(2 * LIST_FILTER_WORDS, BPF_F_MMAPABLE);

/// The bitmap before IPv4 prefixes, for the first and the second half.
#[map]
pub(crate) static LIST_BITMAP: Array<u64> =
    Array::with_max_entries(2 * LIST_BITMAP_WORDS, BPF_F_MMAPABLE);

/// Who may reach which service, of the policy in force or the other one.
#[map]
pub(crate) static ADMIT_FIRST: LpmTrie<[u8; ADMIT_KEY_BYTES], u64> =
    LpmTrie::with_max_entries(65_536, 0);

/// Who may reach which service, of the policy in force or the other one.
#[map]
pub(crate) static ADMIT_SECOND: LpmTrie<[u8; ADMIT_KEY_BYTES], u64> =
    LpmTrie::with_max_entries(65_536, 0);

/// Open connections by source, and by source and service, see `limiter_common::connection`.
#[map]
pub(crate) static CONNECTIONS: HashMap<u64, AtomicU64> =
    HashMap::with_max_entries(MAX_CONNECTIONS, BPF_F_NO_PREALLOC);

/// Open connections by service.
#[map]
pub(crate) static OPEN_TOTALS: Array<AtomicU64> = Array::with_max_entries(SERVICE_COUNT, 0);

/// Every TCP connection that a peer opened, by socket cookie.
#[map]
pub(crate) static SOCKETS: HashMap<u64, Connection> =
    HashMap::with_max_entries(MAX_CONNECTIONS, BPF_F_NO_PREALLOC);

/// What could not be counted.
#[map]
pub(crate) static OPEN_LOSSES: Array<AtomicU64> = Array::with_max_entries(losses::COUNT, 0);

/// Packets and bytes by interface, verdict and reason. One writer per CPU: no atomics needed.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

/// Malformed packets by what is wrong with them. One writer per CPU.
#[map]
pub(crate) static FLAWS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Flaw::ALL.len() as u32, 0);

/// Drops that gather. One writer per CPU: XDP runs to completion with softirqs off.
#[map]
pub(crate) static DROPS: PerCpuArray<DropSlot> = PerCpuArray::with_max_entries(DROP_SLOTS, 0);

/// Drops on their way to user space.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
