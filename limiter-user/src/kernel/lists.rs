//! Three lists merged into one whose longest match is the whole answer, and the filters that let
//! the kernel answer for everybody else without a look at it: pure.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use limiter_common::{
    address::Address,
    lists::{
        FilterBits, LIST_BITMAP_WORDS, ListValue, ListVerdict, V6_LEVELS, bitmap_bit, filter_words,
        summary_bit,
    },
    settings::flags,
};

/// Bits of a v4-mapped address before the IPv4 one.
const MAPPED_BITS: u8 = 96;

/// An IPv6 prefix is spread over as many longer ones as this power of two, where that gives the
/// filter a length that it knows.
const MOST_SPREAD: u8 = 8;

/// A prefix as the kernel has it, over the v4-mapped address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Prefix {
    /// First address, big-endian.
    pub(super) bits: u128,
    /// Length, 0 to 128.
    pub(super) length: u8,
}

/// One entry of the merged lists.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ListEntry {
    pub(super) prefix: Prefix,
    pub(super) value: ListValue,
}

/// What a prefix is listed as, before the lists are merged.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Listing {
    /// Nothing: cuts an address space off from what covers it by accident.
    Nothing,
    /// May enter under default deny.
    Allow,
    /// May not enter.
    Deny,
    /// Trusted on these interfaces, a bit for each slot.
    Trusted(u16),
}

/// The merged lists, in order of address and length; a copy costs nothing.
#[derive(Clone, Debug)]
pub(super) struct Lists(Arc<[ListEntry]>);

impl PartialEq for Lists {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for Lists {}

impl Default for Lists {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

/// The filters in front of the lists, as the kernel has them.
#[derive(Debug)]
pub(super) struct Filters {
    /// Before exact entries and IPv6 prefixes: a power of two of words.
    pub(super) filter: Vec<u64>,
    /// A bit for each IPv4 /16, then one for each /24.
    pub(super) bitmap: Vec<u64>,
}

impl Prefix {
    pub(super) fn new(network: IpNet) -> Self {
        let mapped = match network {
            IpNet::V4(_) => MAPPED_BITS,
            IpNet::V6(_) => 0,
        };
        let bits = u128::from_be_bytes(Address::from(network.network()).to_bytes());
        Self { bits, length: mapped + network.prefix_len() }
    }

    /// Exactly this address.
    pub(super) fn exact(address: IpAddr) -> Self {
        Self { bits: u128::from_be_bytes(Address::from(address).to_bytes()), length: 128 }
    }

    /// The 16 bytes of the first address.
    pub(super) const fn bytes(self) -> [u8; 16] {
        self.bits.to_be_bytes()
    }

    pub(super) const fn address(self) -> Address {
        Address { high: (self.bits >> 64) as u64, low: lower_half(self.bits) }
    }

    pub(super) fn covers(self, other: Self) -> bool {
        self.length <= other.length && masked(other.bits, self.length) == self.bits
    }

    const fn is_v4(self) -> bool {
        self.length >= MAPPED_BITS && self.address().is_v4()
    }
}

impl Lists {
    /// Merges: trusted wins whatever its length; of the others the longest; deny wins a tie. An
    /// IPv6 prefix never covers an IPv4 address, although the mapped ones lie in `::/0`.
    pub(super) fn merge(mut listed: Vec<(Prefix, Listing)>) -> Self {
        // Each list is in order already: the stable sort merges such runs.
        listed.sort();
        let v4_space = Prefix { bits: 0xffff << 32, length: MAPPED_BITS };
        let reaches_v4 = |prefix: &Prefix| prefix.length < MAPPED_BITS && prefix.covers(v4_space);
        let mut entries: Vec<ListEntry> = Vec::with_capacity(listed.len() + 1);
        // What covers the entry at hand, the shortest first.
        let mut covering: Vec<ListEntry> = Vec::new();
        if listed.iter().any(|(prefix, _)| reaches_v4(prefix)) {
            listed.push((v4_space, Listing::Nothing));
            listed.sort();
        }
        let mut rest = listed.as_slice();
        while let Some(((prefix, _), _)) = rest.split_first() {
            let same = rest.iter().take_while(|(other, _)| other == prefix).count();
            let (here, others) = rest.split_at(same);
            rest = others;
            while covering.last().is_some_and(|entry| !entry.prefix.covers(*prefix)) {
                covering.pop();
            }
            let above = covering.last().filter(|_| *prefix != v4_space);
            let above = above.map_or(ListValue::NONE, |entry| entry.value);
            let entry = ListEntry { prefix: *prefix, value: own_value(here, above) };
            covering.push(entry);
            entries.push(entry);
        }
        Self(entries.into())
    }

    /// Of entries in any order, each of another prefix.
    pub(super) fn sorted(mut entries: Vec<ListEntry>) -> Self {
        entries.sort_unstable_by_key(|entry| entry.prefix);
        Self(entries.into())
    }

    /// The entries whose prefix the other does not have.
    pub(super) fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a ListEntry> {
        self.0.iter().zip(matches(&self.0, &other.0)).filter_map(|(entry, found)| {
            let is_gone = found.is_none();
            is_gone.then_some(entry)
        })
    }

    /// The entries that the other does not have, or has with another value.
    pub(super) fn changed_from<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = &'a ListEntry> {
        self.0.iter().zip(matches(&self.0, &other.0)).filter_map(|(entry, found)| {
            let is_same = found.is_some_and(|found| found.value == entry.value);
            (!is_same).then_some(entry)
        })
    }

    pub(super) fn entries(&self) -> &[ListEntry] {
        &self.0
    }

    /// The entries that say something.
    fn telling(&self) -> impl Iterator<Item = &ListEntry> {
        self.0.iter().filter(|entry| entry.value != ListValue::NONE)
    }

    /// How many single addresses, and how many networks, say something.
    pub(super) fn counts(&self) -> [usize; 2] {
        let (exact, all) = self.telling().fold((0, 0), |(exact, all), entry| {
            (exact + usize::from(entry.prefix.length == 128), all + 1)
        });
        [exact, all - exact]
    }

    /// What the kernel has of an address.
    pub(super) fn value(&self, address: IpAddr) -> ListValue {
        let wanted = Prefix::exact(address);
        let (mut end, mut length) = (self.0.len(), 128);
        // Of the entries up to the address the last that covers it is the longest; else nothing
        // between it and the address does, and the common part of both only gets shorter.
        loop {
            let bits = masked(wanted.bits, length);
            end = self.0[..end].partition_point(|entry| entry.prefix <= Prefix { bits, length });
            let Some(entry) = end.checked_sub(1).map(|last| &self.0[last]) else {
                return ListValue::NONE;
            };
            if entry.prefix.covers(wanted) {
                return entry.value;
            }
            let common = (entry.prefix.bits ^ wanted.bits).leading_zeros();
            length = u8::try_from(common).unwrap_or(128).min(entry.prefix.length);
        }
    }

    /// Bits of `Settings::flags` that say which kinds of entries there are.
    pub(super) fn flags(&self, ipv4_prefix: u8, ipv6_prefix: u8) -> u64 {
        let mut found = 0;
        for ListEntry { prefix, .. } in self.telling() {
            let source = if prefix.is_v4() { MAPPED_BITS + ipv4_prefix } else { ipv6_prefix };
            found |= match (prefix.is_v4(), prefix.length == 128) {
                (true, true) => flags::LISTS_EXACT_V4,
                (true, false) => flags::LISTS_PREFIX_V4,
                (false, true) => flags::LISTS_EXACT_V6,
                (false, false) if level(*prefix).is_none() => flags::LISTS_SHORT_V6,
                (false, false) => flags::LISTS_PREFIX_V6,
            };
            if prefix.length > source {
                found |= if prefix.is_v4() { flags::FINE_V4 } else { flags::FINE_V6 };
            }
        }
        found
    }

    /// How many words the filter has.
    pub(super) fn filter_words(&self) -> u32 {
        let keys: usize = self.entries().iter().map(|entry| filter_keys(entry.prefix)).sum();
        filter_words(u32::try_from(keys).unwrap_or(u32::MAX))
    }

    /// The filters before these lists.
    pub(super) fn filters(&self) -> Filters {
        let words = self.filter_words();
        let mask = u64::from(words) - 1;
        let mut filters = Filters {
            filter: vec![0; words as usize],
            bitmap: vec![0; LIST_BITMAP_WORDS as usize],
        };
        for ListEntry { prefix, .. } in self.telling() {
            if prefix.length == 128 {
                let bits = FilterBits::of_address(prefix.address(), mask);
                filters.filter[bits.word as usize] |= bits.mask;
            } else if prefix.is_v4() {
                filters.mark_v4(*prefix);
            } else if let Some(level) = level(*prefix) {
                for number in 0..1_u64 << level.saturating_sub(prefix.length) {
                    let mut address = prefix.address();
                    address.high |= number << (64 - level);
                    let bits = FilterBits::of_v6_level(address, level, mask);
                    filters.filter[bits.word as usize] |= bits.mask;
                }
            }
        }
        filters
    }
}

impl Filters {
    fn mark_v4(&mut self, prefix: Prefix) {
        let address = prefix.address();
        let mut mark = |length: u8, (word, bit): (u32, u64)| {
            let networks = 1_u64 << (MAPPED_BITS + length).saturating_sub(prefix.length);
            if networks < 64 {
                self.bitmap[word as usize] |= ((1 << networks) - 1) << bit.trailing_zeros();
                return;
            }
            let words = usize::try_from(networks / 64).unwrap_or(usize::MAX);
            for word in self.bitmap.iter_mut().skip(word as usize).take(words) {
                *word = u64::MAX;
            }
        };
        mark(16, summary_bit(address));
        mark(24, bitmap_bit(address));
    }
}

/// For each of these the entry of the same prefix among the others; both are in order.
fn matches<'a>(
    entries: &'a [ListEntry],
    others: &'a [ListEntry],
) -> impl Iterator<Item = Option<&'a ListEntry>> {
    let mut rest = others.iter().peekable();
    entries.iter().map(move |entry| {
        while rest.next_if(|other| other.prefix < entry.prefix).is_some() {}
        rest.next_if(|other| other.prefix == entry.prefix)
    })
}

/// What holds for a prefix that is listed as all of these, in what is above it.
fn own_value(listed: &[(Prefix, Listing)], above: ListValue) -> ListValue {
    let mut interfaces = above.interfaces();
    let mut verdict = None;
    for (_, listing) in listed {
        match listing {
            Listing::Trusted(on) => interfaces |= on,
            Listing::Deny => verdict = Some(ListValue::DENY),
            Listing::Allow => verdict = verdict.or(Some(ListValue::ALLOW)),
            Listing::Nothing => {}
        }
    }
    let base = verdict.unwrap_or(match without_interfaces(above) {
        ListVerdict::Allow => ListValue::ALLOW,
        ListVerdict::Deny => ListValue::DENY,
        ListVerdict::None | ListVerdict::Trusted => ListValue::NONE,
    });
    base.trusted_on(interfaces)
}

fn without_interfaces(value: ListValue) -> ListVerdict {
    ListValue::from_word(value.word() & 0xffff).on(0)
}

/// How many keys of the filter a prefix has.
fn filter_keys(prefix: Prefix) -> usize {
    match level(prefix) {
        _ if prefix.length == 128 => 1,
        _ if prefix.is_v4() => 0,
        Some(level) => 1 << level.saturating_sub(prefix.length),
        None => 0,
    }
}

/// The length for which the filter is asked about an IPv6 prefix: its own or the next longer one,
/// if that is not far, else the next shorter one. `None`: it is shorter than all.
fn level(prefix: Prefix) -> Option<u8> {
    let length = prefix.length;
    let near = V6_LEVELS
        .into_iter()
        .find(|level| (length..=length.saturating_add(MOST_SPREAD)).contains(level));
    near.or_else(|| V6_LEVELS.into_iter().rev().find(|level| *level <= length))
}

const fn masked(bits: u128, length: u8) -> u128 {
    if length == 0 { 0 } else { bits & (u128::MAX << (128 - length)) }
}

#[expect(clippy::cast_possible_truncation, reason = "the cut is the purpose")]
const fn lower_half(bits: u128) -> u64 {
    bits as u64
}

#[cfg(test)]
mod tests;
