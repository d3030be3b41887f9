//! Whether a source may enter: what the lists say of it, or what its slot remembers of that.

use super::{Clock, Tables, View};
use crate::{
    address::Address,
    lists::{FilterBits, ListValue, ListVerdict, V6_LEVELS, bitmap_bit},
    machine::Machine,
    settings::flags,
    source::{CachedAccess, SourceSlot},
};

impl<T: Tables, C: Clock> View<'_, T, C> {
    /// What the lists say about the source of this packet, on the interface it came in on.
    #[inline]
    pub(super) fn list(&self, key: u64, slot: Option<&SourceSlot>) -> ListVerdict {
        let generation = self.settings.generation;
        if let Some(slot) = slot
            && let Some(value) = CachedAccess::read(T::Machine::read(&slot.access), key, generation)
        {
            return value.on(self.tables.interface());
        }
        let source = self.headers.source;
        let value = if source.is_v4() { self.list_v4(source) } else { self.list_v6(source) };
        // A slot cannot remember what holds for some of its addresses only.
        let fine = if source.is_v4() { flags::FINE_V4 } else { flags::FINE_V6 };
        if let Some(slot) = slot
            && !self.settings.has(fine)
        {
            let word = CachedAccess::new(value, key, generation).word();
            T::Machine::write(&slot.access, word);
        }
        value.on(self.tables.interface())
    }

    #[inline]
    fn list_v4(&self, source: Address) -> ListValue {
        if self.settings.has(flags::LISTS_EXACT_V4)
            && let Some(value) = self.list_exact(source)
        {
            return value;
        }
        if self.settings.has(flags::LISTS_PREFIX_V4) {
            let (word, bit) = bitmap_bit(source);
            if self.tables.list_bitmap(word) & bit != 0 {
                return self.tables.list_prefix(source).unwrap_or(ListValue::NONE);
            }
        }
        ListValue::NONE
    }

    #[inline]
    fn list_v6(&self, source: Address) -> ListValue {
        if self.settings.has(flags::LISTS_EXACT_V6)
            && let Some(value) = self.list_exact(source)
        {
            return value;
        }
        let mut is_possible = self.settings.has(flags::LISTS_SHORT_V6);
        if self.settings.has(flags::LISTS_PREFIX_V6) {
            for length in V6_LEVELS {
                let mask = self.settings.list_filter_mask;
                is_possible |= self.passes(FilterBits::of_v6_level(source, length, mask));
            }
        }
        if is_possible {
            return self.tables.list_prefix(source).unwrap_or(ListValue::NONE);
        }
        ListValue::NONE
    }

    #[inline]
    fn list_exact(&self, source: Address) -> Option<ListValue> {
        if !self.passes(FilterBits::of_address(source, self.settings.list_filter_mask)) {
            return None;
        }
        self.tables.list_exact(source)
    }

    #[inline]
    fn passes(&self, bits: FilterBits) -> bool {
        self.tables.list_filter(bits.word) & bits.mask == bits.mask
    }
}
