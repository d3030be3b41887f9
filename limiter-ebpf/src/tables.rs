//! `Tables` over the maps.

use aya_ebpf::{maps::lpm_trie::Key, programs::XdpContext};
use limiter_common::{
    address::Address,
    decide::Tables,
    headers::Headers,
    maps::control,
    settings::{ListVerdict, Settings, flags},
    source::SourceSet,
};

use crate::{
    cookies,
    machine::Kernel,
    maps::{BAN_FILTER, BANS, CONTROL, LISTS_FIRST, LISTS_SECOND, SETTINGS, SOURCES},
    sockets,
};

/// The maps, as one packet sees them: with the settings that held when it arrived.
pub(crate) struct KernelTables<'a> {
    ctx: &'a XdpContext,
    settings: &'static Settings,
}

impl<'a> KernelTables<'a> {
    #[inline]
    pub(crate) fn new(ctx: &'a XdpContext) -> Option<Self> {
        let active = *CONTROL.get(control::ACTIVE)?;
        let settings = SETTINGS.get(u32::from(active != 0))?;
        Some(Self { ctx, settings })
    }

    #[inline]
    pub(crate) fn settings(&self) -> &'static Settings {
        self.settings
    }
}

/// A trie key whose address lies on 8 bytes: the verifier wants stack accesses aligned, and packet
/// accesses not.
#[repr(C, align(8))]
struct AlignedKey {
    _pad: u32,
    key: Key<[u8; 16]>,
}

impl Tables for KernelTables<'_> {
    type Machine = Kernel;

    #[inline]
    fn settings(&self) -> &Settings {
        self.settings
    }

    #[inline]
    fn ban_filter(&self, word: u32) -> u64 {
        BAN_FILTER.get(word).copied().unwrap_or(u64::MAX)
    }

    #[inline]
    fn source_set(&self, index: u32) -> Option<&SourceSet> {
        SOURCES.get(index)
    }

    #[inline]
    fn ban_expiry_ns(&self, key: u64) -> Option<u64> {
        let ban = BANS.get_ptr_mut(key)?;
        // SAFETY: the verifier checked the pointer. Another CPU may add at the same time, and one
        // of the additions is lost: a statistic. The agent may remove the entry and reuse its
        // memory for another ban: the packet is then judged by that ban's expiry, once.
        let ban = unsafe { &mut *ban };
        ban.packets = ban.packets.wrapping_add(1);
        Some(ban.expires_ns)
    }

    #[inline]
    fn list(&self, address: Address) -> ListVerdict {
        let aligned = AlignedKey { _pad: 0, key: Key::new(128, address.to_bytes()) };
        let key = &aligned.key;
        let value = if self.settings.has(flags::LISTS_SECOND) {
            LISTS_SECOND.get(key)
        } else {
            LISTS_FIRST.get(key)
        };
        value.map_or(ListVerdict::None, |value| ListVerdict::from_value(*value))
    }

    #[inline]
    fn is_reply(&self, headers: &Headers) -> bool {
        sockets::is_reply(self.ctx, headers)
    }

    #[inline]
    fn answer(&self, headers: &Headers) -> bool {
        let is_on = CONTROL.get(control::SYN_COOKIES).is_some_and(|word| *word != 0);
        is_on && cookies::answer(self.ctx, headers)
    }
}
