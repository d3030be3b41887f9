//! The tables of bans in the kernel: exact ones, prefixes, and the filter before both.
//!
//! In: prefixes and expiries; out: map entries. The kernel ends bans by itself; here they are only
//! put in and taken out. A full table refuses.

use std::net::IpAddr;

use aya::maps::{HashMap, LpmTrie, MapData, MapError, lpm_trie::Key};
use ipnet::IpNet;
use limiter_common::{
    address::Address,
    ban::{Ban, FilterBit, PrefixBit, PrefixBits},
    maps::{self, control},
};

use super::{
    Kernel, KernelError,
    carve::{Carving, HOLE, Write},
    filter::BanFilter,
    pins::Pins,
    plain::Plain,
    tables::Maps,
};
use crate::{clock, policy::KernelPolicy};

/// Networks inside prefix bans that can be left out of them, beside the prefix bans.
pub(super) const MAX_SPARED: u32 = 1_024;

/// `BPF_NOEXIST`: only if there is none with this key.
const NO_EXIST: u64 = 1;

/// Both tables and their filter.
pub(super) struct BanTables {
    exact: HashMap<MapData, u64, Plain<Ban>>,
    exact_count: usize,
    trie: LpmTrie<MapData, [u8; 16], Plain<Ban>>,
    carving: Carving,
    filter: BanFilter,
    max_exact: u32,
    max_prefixes: u32,
}

impl BanTables {
    /// Opens the tables, adds what lies in those of earlier generations, and makes the filter
    /// theirs.
    pub(super) fn open(
        pins: &Pins,
        policy: &KernelPolicy,
        control: &Maps,
    ) -> Result<Self, KernelError> {
        let mut tables = Self {
            exact: pins.map(maps::BANS)?,
            exact_count: 0,
            trie: pins.map(maps::BAN_PREFIXES)?,
            carving: Carving::default(),
            filter: BanFilter::open(pins)?,
            max_exact: policy.max_bans,
            max_prefixes: policy.max_prefix_bans,
        };
        pins.copy_bans_of_other_generations(&mut tables.exact, &mut tables.trie)?;
        let found = tables.trie.iter().filter_map(Result::ok);
        let found = found.map(|(key, Plain(ban))| (network(key.prefix_len(), key.data()), ban));
        tables.carving = Carving::found(found.map(|(prefix, ban)| (prefix, ban.expires_ns)));
        tables.rebuild_filter()?;
        tables.announce(control);
        Ok(tables)
    }

    fn rebuild_filter(&mut self) -> Result<(), KernelError> {
        let keys: Vec<u64> = self.exact.keys().filter_map(Result::ok).collect();
        self.exact_count = keys.len();
        let prefixes = self.carving.bans().keys().flat_map(|prefix| prefix_bits(*prefix));
        let bits = keys.into_iter().map(FilterBit::of).chain(prefixes);
        self.filter.rebuild(bits)
    }

    /// Tells the packet path whether there is anything in the trie.
    fn announce(&self, control: &Maps) {
        let entries = self.carving.entry_count().try_into().unwrap_or(u64::MAX);
        control.set_word(control::PREFIX_BANS, entries);
    }

    /// Bans an address, or renews its ban; whether there was none.
    fn ban_exact(&mut self, key: u64, expires_ns: u64) -> Result<bool, KernelError> {
        let fresh = Plain(Ban { expires_ns, packets: 0 });
        let inserted = match self.exact.insert(key, fresh, NO_EXIST) {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                let packets = self.exact.get(&key, 0).map_or(0, |Plain(known)| known.packets);
                return self
                    .exact
                    .insert(key, Plain(Ban { expires_ns, packets }), 0)
                    .map(|()| false)
                    .map_err(|error| KernelError::system("renewing a ban", &error));
            }
            inserted => inserted,
        };
        inserted.map_err(|error| {
            if self.exact_count >= self.max_exact as usize {
                let full = format!("({} bans): raise kernel.max_bans", self.max_exact);
                return KernelError::Full(format!("the ban table is full {full}"));
            }
            KernelError::system("inserting a ban", &error)
        })?;
        self.exact_count += 1;
        Ok(true)
    }

    fn unban_exact(&mut self, key: u64) -> Result<bool, KernelError> {
        if self.exact.remove(&key).is_err() {
            return Ok(false);
        }
        self.exact_count = self.exact_count.saturating_sub(1);
        self.filter.remove(std::iter::once(FilterBit::of(key)))?;
        Ok(true)
    }

    fn ban_prefix(&mut self, prefix: IpNet, expires_ns: u64) -> Result<(), KernelError> {
        let is_new = !self.carving.bans().contains_key(&prefix);
        if is_new && self.carving.bans().len() >= self.max_prefixes as usize {
            return Err(KernelError::Full(format!(
                "the table of prefix bans is full ({} bans): raise kernel.max_prefix_bans",
                self.max_prefixes,
            )));
        }
        if self.carving.holes_with(prefix) > MAX_SPARED as usize {
            return Err(KernelError::Full(format!(
                "{prefix} contains trusted networks, and at most {MAX_SPARED} can be left out of \
                 prefix bans: ban smaller prefixes",
            )));
        }
        let writes = self.carving.ban(prefix, expires_ns);
        if let Err(error) = self.carry_out(&writes) {
            let back = self.carving.unban(prefix);
            // What is not in the trie cannot be taken out of it.
            drop(self.carry_out(&back));
            return Err(error);
        }
        // After the insertion: a packet in between passes once.
        if is_new { self.filter.add(prefix_bits(prefix)) } else { Ok(()) }
    }

    fn unban_prefix(&mut self, prefix: IpNet) -> Result<bool, KernelError> {
        if !self.carving.bans().contains_key(&prefix) {
            return Ok(false);
        }
        let writes = self.carving.unban(prefix);
        self.filter.remove(prefix_bits(prefix))?;
        self.carry_out(&writes)?;
        Ok(true)
    }

    fn carry_out(&mut self, writes: &[Write]) -> Result<(), KernelError> {
        for write in writes {
            match *write {
                Write::Insert(prefix, expires_ns) => {
                    self.put(prefix, Ban { expires_ns, packets: 0 })?;
                }
                Write::Update(prefix, expires_ns) => {
                    let packets = self.prefix_packets(prefix);
                    self.put(prefix, Ban { expires_ns, packets })?;
                }
                // One that is gone already needs nothing.
                Write::Remove(prefix) => drop(self.trie.remove(&trie_key(prefix))),
            }
        }
        Ok(())
    }

    fn put(&mut self, prefix: IpNet, ban: Ban) -> Result<(), KernelError> {
        self.trie
            .insert(&trie_key(prefix), Plain(ban), 0)
            .map_err(|error| KernelError::system("inserting a prefix ban", &error))
    }

    /// A look-up with a prefix finds that prefix or a shorter one, which has other packets.
    fn prefix_packets(&self, prefix: IpNet) -> u64 {
        if !self.carving.is_entry(prefix) {
            return 0;
        }
        self.trie.get(&trie_key(prefix), 0).map_or(0, |Plain(ban)| ban.packets)
    }
}

impl Kernel {
    /// Bans a prefix until `expires_ns` (`CLOCK_MONOTONIC`): one IPv4 address or IPv6 /64, or a
    /// network, IPv6 up to /63. The expiry is the kernel's doing.
    pub fn ban(&mut self, prefix: IpNet, expires_ns: u64) -> Result<(), KernelError> {
        let Some(key) = exact_key(prefix) else {
            self.bans.ban_prefix(prefix, expires_ns)?;
            self.bans.announce(&self.maps);
            return Ok(());
        };
        if self.bans.ban_exact(key, expires_ns)? {
            // After the insertion: a packet in between passes once.
            self.bans.filter.add(std::iter::once(FilterBit::of(key)))?;
        }
        Ok(())
    }

    /// Bans many at once, the filter written at the end; those that found no room, and why the
    /// last of them did not.
    pub fn restore_bans(
        &mut self,
        bans: impl Iterator<Item = (IpNet, u64)>,
    ) -> Result<(Vec<IpNet>, Option<KernelError>), KernelError> {
        let (mut left_out, mut why) = (Vec::new(), None);
        let mut bits = Vec::new();
        for (prefix, expires_ns) in bans {
            let done = match exact_key(prefix) {
                Some(key) => self
                    .bans
                    .ban_exact(key, expires_ns)
                    .map(|is_new| bits.extend(is_new.then_some(FilterBit::of(key)))),
                None => self.bans.ban_prefix(prefix, expires_ns),
            };
            if let Err(error) = done {
                left_out.push(prefix);
                why = Some(error);
            }
        }
        // Neighbours are written at once.
        bits.sort_unstable_by_key(|bit| bit.word);
        self.bans.filter.add(bits.into_iter())?;
        self.bans.announce(&self.maps);
        Ok((left_out, why))
    }

    /// Lifts the ban of exactly this prefix; whether there was one.
    pub fn unban(&mut self, prefix: IpNet) -> Result<bool, KernelError> {
        if let Some(key) = exact_key(prefix) {
            return self.bans.unban_exact(key);
        }
        let removed = self.bans.unban_prefix(prefix);
        self.bans.announce(&self.maps);
        removed
    }

    /// Leaves these networks out of every prefix ban: the packet path relies on it, it never looks
    /// at the lists before the bans.
    pub fn spare(&mut self, networks: &[IpNet]) -> Result<(), KernelError> {
        let writes = self.bans.carving.spare(networks);
        let done = self.bans.carry_out(&writes);
        self.bans.announce(&self.maps);
        done
    }

    /// Every ban in the tables, expired ones too.
    pub fn bans(&self) -> Vec<(IpNet, Ban)> {
        let exact = self.bans.exact.iter().filter_map(Result::ok);
        let exact = exact.map(|(key, Plain(ban))| (exact_prefix(key), ban));
        let prefixes = self.bans.carving.bans().iter().map(|(prefix, expires_ns)| {
            let packets = self.bans.prefix_packets(*prefix);
            (*prefix, Ban { expires_ns: *expires_ns, packets })
        });
        exact.chain(prefixes).collect()
    }

    /// The ban of exactly this prefix, expired or not.
    pub fn ban_of(&self, prefix: IpNet) -> Option<Ban> {
        let Some(key) = exact_key(prefix) else {
            let expires_ns = *self.bans.carving.bans().get(&prefix)?;
            return Some(Ban { expires_ns, packets: self.bans.prefix_packets(prefix) });
        };
        self.bans.exact.get(&key, 0).ok().map(|Plain(ban)| ban)
    }

    /// The entry that a packet from this address meets among the prefix bans, expired or not.
    pub fn prefix_ban_of(&self, address: IpAddr) -> Option<Ban> {
        let key = Key::new(128, Address::from(address).to_bytes());
        self.bans.trie.get(&key, 0).ok().map(|Plain(ban)| ban)
    }

    /// Entries of the tables of exact and of prefix bans, each with how many there can be.
    pub fn ban_fill(&self) -> [(usize, u32); 2] {
        let prefixes = self.bans.carving.bans().len();
        [(self.bans.exact_count, self.bans.max_exact), (prefixes, self.bans.max_prefixes)]
    }
}

/// Copies what is in force in an earlier trie, expired entries and holes left out; what is covered
/// by trusted networks is carved out again before anybody can rely on it.
pub(super) fn copy_prefixes(
    earlier: &LpmTrie<MapData, [u8; 16], Plain<Ban>>,
    prefixes: &mut LpmTrie<MapData, [u8; 16], Plain<Ban>>,
) {
    let now_ns = clock::monotonic_ns();
    for (key, Plain(ban)) in earlier.iter().filter_map(Result::ok) {
        let holds = ban.expires_ns == HOLE || ban.expires_ns > now_ns;
        if holds && let Err(error) = prefixes.insert(&key, Plain(ban), 0) {
            log::error!("prefix bans of the earlier, larger table are left out: {error}");
            return;
        }
    }
}

/// The key of a prefix that is banned exactly: an IPv4 address or an IPv6 /64.
fn exact_key(prefix: IpNet) -> Option<u64> {
    let length = if prefix.addr().is_ipv4() { 32 } else { 64 };
    (prefix.prefix_len() == length).then(|| Address::from(prefix.network()).ban_key())
}

fn exact_prefix(key: u64) -> IpNet {
    ban_prefix(Address::from_key(key).into())
}

/// The prefix under which an address is banned and counted: IPv4 exactly, IPv6 by /64.
pub fn ban_prefix(address: IpAddr) -> IpNet {
    let length = if address.is_ipv4() { 32 } else { 64 };
    IpNet::new(address, length).map_or_else(|_| address.into(), |prefix| prefix.trunc())
}

fn trie_key(prefix: IpNet) -> Key<[u8; 16]> {
    let (length, first) = place(prefix);
    Key::new(length, first.to_bytes())
}

fn prefix_bits(prefix: IpNet) -> impl Iterator<Item = FilterBit> {
    let (length, first) = place(prefix);
    PrefixBits::of(first, length).map(|PrefixBit { word, mask }| FilterBit { word, mask })
}

/// Length of a prefix, counted in the v4-mapped form, and its first address.
fn place(prefix: IpNet) -> (u32, Address) {
    let before = if prefix.addr().is_ipv4() { 96 } else { 0 };
    (before + u32::from(prefix.prefix_len()), prefix.network().into())
}

/// A key of the trie as the prefix it stands for.
fn network(length: u32, bytes: [u8; 16]) -> IpNet {
    let address = IpAddr::from(bytes);
    let length = u8::try_from(length).unwrap_or(128);
    let network = match (address.to_canonical(), length.checked_sub(96)) {
        (v4 @ IpAddr::V4(_), Some(length)) => IpNet::new(v4, length),
        _ => IpNet::new(address, length),
    };
    network.unwrap_or_else(|_| address.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_which_prefix_they_are() {
        for text in ["198.51.100.0/24", "0.0.0.0/0", "2001:db8::/32", "::/0", "::/64"] {
            let prefix: IpNet = text.parse().unwrap();
            let (length, first) = place(prefix);
            assert_eq!(network(length, first.to_bytes()), prefix);
        }
        for text in ["198.51.100.7/32", "2001:db8:1:2::/64", "::/64"] {
            let prefix: IpNet = text.parse().unwrap();
            assert_eq!(exact_prefix(exact_key(prefix).unwrap()), prefix);
        }
        for text in ["198.51.100.0/31", "2001:db8::/63", "::/0"] {
            assert_eq!(exact_key(text.parse().unwrap()), None);
        }
    }
}
