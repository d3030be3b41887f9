//! `Tables` over the maps.

use aya_ebpf::{
    Global,
    helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id},
    maps::{LpmTrie, lpm_trie::Key},
    programs::XdpContext,
};
use limiter_common::{
    address::Address,
    ban::Ban,
    connection::count_in,
    decide::Tables,
    headers::Headers,
    limits::Buckets,
    lists::{LIST_BITMAP_WORDS, LIST_FILTER_WORDS, ListValue},
    machine::Machine,
    maps::{ADMIT_KEY_BYTES, SERVICE_COUNT, control},
    ports::PORT_WORDS,
    settings::{ServiceSettings, Settings, flags},
    source::{ClaimBudget, KeySet, SlotSet},
};

use crate::{
    clock, cookies,
    machine::Kernel,
    maps::{
        ADMIT_FIRST, ADMIT_SECOND, BAN_FILTER, BAN_PREFIXES, BANS, CLAIMS, CONNECTIONS, CONTROL,
        EXACT_FIRST, EXACT_SECOND, KEYS, LIST_BITMAP, LIST_FILTER, LISTS_FIRST, LISTS_SECOND,
        OPEN_TOTALS, PENDING, PORTS, SERVICES, SETTINGS, SLOTS, TOTALS,
    },
    routes, sockets,
};

/// Which counters are this interface's: the program is loaded once for each.
#[unsafe(no_mangle)]
pub(crate) static INTERFACE: Global<u32> = Global::new(0);

/// Not 0: the interface is the loopback one.
#[unsafe(no_mangle)]
static LOOPBACK: Global<u32> = Global::new(0);

/// The maps, as one packet sees them: with the settings that held when it arrived.
pub(crate) struct KernelTables<'a> {
    ctx: &'a XdpContext,
    control: &'static [u64; control::WORDS],
    settings: &'static Settings,
    active: u32,
}

impl<'a> KernelTables<'a> {
    #[inline]
    pub(crate) fn new(ctx: &'a XdpContext) -> Option<Self> {
        let control = CONTROL.get(0)?;
        let active = u32::from(control[control::ACTIVE] != 0);
        let settings = SETTINGS.get(active)?;
        Some(Self { ctx, control, settings, active })
    }

    #[inline]
    pub(crate) fn settings(&self) -> &'static Settings {
        self.settings
    }

    /// 0 or 1: which half of the list maps holds.
    #[inline]
    fn lists(&self) -> u32 {
        u32::from(self.settings.has(flags::LISTS_SECOND))
    }
}

/// A trie key whose address lies on 8 bytes: the verifier wants stack accesses aligned, and packet
/// accesses not.
#[repr(C, align(8))]
struct AlignedKey {
    _pad: u32,
    key: Key<[u8; 16]>,
}

/// As [`AlignedKey`], with the number of a service before the address.
#[repr(C, align(8))]
struct AdmitKey {
    key: Key<[u8; ADMIT_KEY_BYTES]>,
}

#[inline]
fn longest<V>(trie: &LpmTrie<[u8; 16], V>, address: Address) -> Option<&V> {
    let aligned = AlignedKey { _pad: 0, key: Key::new(128, address.to_bytes()) };
    trie.get(&aligned.key)
}

/// Counts a packet that met a ban; when the ban ends.
#[inline]
fn hit(ban: *mut Ban) -> u64 {
    // SAFETY: the verifier checked the pointer. Another CPU may add at the same time, and one of
    // the additions is lost: a statistic. The agent may remove the entry and reuse its memory for
    // another ban: the packet is then judged by that ban's expiry, once.
    let ban = unsafe { &mut *ban };
    ban.packets = ban.packets.wrapping_add(1);
    ban.expires_ns
}

impl Tables for KernelTables<'_> {
    type Machine = Kernel;

    #[inline]
    fn settings(&self) -> &Settings {
        self.settings
    }

    #[inline]
    fn interface(&self) -> u32 {
        INTERFACE.load()
    }

    #[inline]
    fn is_loopback(&self) -> bool {
        LOOPBACK.load() != 0
    }

    #[inline]
    fn cpu(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_smp_processor_id() }
    }

    #[inline]
    fn random(&self) -> u32 {
        if clock::is_fixed() {
            return self.settings.fixed_now_ns as u32;
        }
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline]
    fn port_word(&self, word: u32) -> u64 {
        PORTS.get(self.active * PORT_WORDS + word).copied().unwrap_or(0)
    }

    #[inline]
    fn service(&self, number: u32) -> Option<&ServiceSettings> {
        SERVICES.get(self.active * SERVICE_COUNT + number)
    }

    #[inline]
    fn ban_filter(&self, word: u32) -> u64 {
        BAN_FILTER.get(word).copied().unwrap_or(u64::MAX)
    }

    #[inline]
    fn ban_expiry_ns(&self, key: u64) -> Option<u64> {
        BANS.get_ptr_mut(key).map(hit)
    }

    #[inline]
    fn has_prefix_bans(&self) -> bool {
        self.control[control::PREFIX_BANS] != 0
    }

    #[inline]
    fn prefix_ban_expiry_ns(&self, address: Address) -> Option<u64> {
        longest(&BAN_PREFIXES, address).map(|ban| hit((&raw const *ban).cast_mut()))
    }

    #[inline]
    fn list_filter(&self, word: u32) -> u64 {
        LIST_FILTER.get(self.lists() * LIST_FILTER_WORDS + word).copied().unwrap_or(u64::MAX)
    }

    #[inline]
    fn list_bitmap(&self, word: u32) -> u64 {
        LIST_BITMAP.get(self.lists() * LIST_BITMAP_WORDS + word).copied().unwrap_or(u64::MAX)
    }

    #[inline]
    fn list_exact(&self, address: Address) -> Option<ListValue> {
        let key = [address.high.to_be(), address.low.to_be()];
        let map = if self.lists() == 0 { &EXACT_FIRST } else { &EXACT_SECOND };
        // SAFETY: entries are removed only from the half that does not hold.
        let value = unsafe { map.get(key) }?;
        Some(ListValue::from_word(*value))
    }

    #[inline]
    fn list_prefix(&self, address: Address) -> Option<ListValue> {
        let trie = if self.lists() == 0 { &LISTS_FIRST } else { &LISTS_SECOND };
        longest(trie, address).map(|value| ListValue::from_word(*value))
    }

    #[inline]
    fn is_listed(&self, service: u32, address: Address) -> bool {
        let [s0, s1, s2, s3] = service.to_be_bytes();
        let [a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15] =
            address.to_bytes();
        let bytes =
            [s0, s1, s2, s3, a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15];
        let aligned = AdmitKey { key: Key::new(32 + 128, bytes) };
        let trie = if self.lists() == 0 { &ADMIT_FIRST } else { &ADMIT_SECOND };
        trie.get(&aligned.key).is_some()
    }

    #[inline]
    fn keys(&self, set: u32) -> Option<&KeySet> {
        KEYS.get(set)
    }

    #[inline]
    fn slots(&self, set: u32) -> Option<&SlotSet> {
        SLOTS.get(set)
    }

    #[inline]
    fn claim_budget(&self) -> Option<&ClaimBudget> {
        CLAIMS.get(0)
    }

    #[inline]
    fn totals(&self, service: u32) -> Option<&Buckets> {
        TOTALS.get(service)
    }

    #[inline]
    fn pending(&self, service: u32) -> Option<&Buckets> {
        PENDING.get(service)
    }

    #[inline]
    fn open_connections(&self, key: u64) -> u64 {
        // SAFETY: whoever removes the entry does so when its count is 0, and the memory it may be
        // reused for is another count: the packet is judged by that, once.
        unsafe { CONNECTIONS.get(key) }.map_or(0, |word| count_in(Kernel::read(word)))
    }

    #[inline]
    fn open_total(&self, service: u32) -> u64 {
        OPEN_TOTALS.get(service).map_or(0, |word| count_in(Kernel::read(word)))
    }

    #[inline]
    fn is_reply(&self, headers: &Headers) -> bool {
        sockets::is_reply(self.ctx, headers)
    }

    #[inline]
    fn is_forwarded(&self, headers: &Headers) -> bool {
        routes::is_forwarded(self.ctx, headers)
    }

    #[inline]
    fn has_syn_cookies(&self) -> bool {
        self.control[control::SYN_COOKIES] != 0
    }

    #[inline]
    fn answer(&self, headers: &Headers) -> bool {
        cookies::answer(self.ctx, headers)
    }
}
