//! Prefix bans as the trie must hold them: pure, what changes is returned as writes in order.
//!
//! A trie answers with its longest match only, so that an entry carries the latest expiry of all
//! the bans that cover it, and what is not banned inside a banned prefix has an entry of its own,
//! with expiry 0: trusted networks, and IPv4 inside an IPv6 prefix that covers the v4-mapped range.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Expiry of an entry that bans nobody.
pub(super) const HOLE: u64 = 0;

/// Somewhere in `::ffff:0:0/96`.
const MAPPED: IpAddr = IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0));

const ALL_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

/// One change of the trie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Write {
    /// Inserts an entry with this expiry.
    Insert(IpNet, u64),
    /// Gives an entry this expiry.
    Update(IpNet, u64),
    /// Removes an entry.
    Remove(IpNet),
}

/// Bans by prefix, what they spare, and the entries that the trie has.
#[derive(Debug, Default)]
pub(super) struct Carving {
    bans: BTreeMap<IpNet, u64>,
    spared: Vec<IpNet>,
    entries: BTreeMap<IpNet, u64>,
}

impl Carving {
    /// Takes over entries that lie in the trie: what their bans said by themselves is not known,
    /// so that it is what the entry says.
    pub(super) fn found(entries: impl Iterator<Item = (IpNet, u64)>) -> Self {
        let entries: BTreeMap<IpNet, u64> = entries.collect();
        let bans = entries.iter().filter(|(_, expires_ns)| **expires_ns != HOLE);
        Self {
            bans: bans.map(|(prefix, at)| (*prefix, *at)).collect(),
            spared: Vec::new(),
            entries,
        }
    }

    /// The bans, each with its own expiry.
    pub(super) const fn bans(&self) -> &BTreeMap<IpNet, u64> {
        &self.bans
    }

    /// Whether the trie has an entry of exactly this prefix.
    pub(super) fn is_entry(&self, prefix: IpNet) -> bool {
        self.entries.contains_key(&prefix)
    }

    /// Entries of the trie.
    pub(super) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// How many entries there would be beside those of bans if `prefix` were banned.
    pub(super) fn holes_with(&self, prefix: IpNet) -> usize {
        let known = self.entries.len().saturating_sub(self.bans.len());
        let inside = self.spared.iter().filter(|network| prefix.contains(*network));
        known + inside.filter(|network| !self.entries.contains_key(network)).count() + 1
    }

    /// Bans a prefix, or changes its expiry.
    pub(super) fn ban(&mut self, prefix: IpNet, expires_ns: u64) -> Vec<Write> {
        self.bans.insert(prefix, expires_ns);
        self.writes_within(prefix)
    }

    /// Lifts a ban.
    pub(super) fn unban(&mut self, prefix: IpNet) -> Vec<Write> {
        self.bans.remove(&prefix);
        self.writes_within(prefix)
    }

    /// Leaves these networks out of every ban from now on.
    pub(super) fn spare(&mut self, networks: &[IpNet]) -> Vec<Write> {
        self.spared = IpNet::aggregate(&networks.to_vec());
        self.spared.sort_unstable();
        let whole = [ALL_V4, IpNet::V6(Ipv6Net::default())];
        whole.into_iter().flat_map(|whole| self.writes_within(whole)).collect()
    }

    /// What makes the entries inside `prefix` those that the bans ask for.
    fn writes_within(&mut self, prefix: IpNet) -> Vec<Write> {
        let mut wanted = self.wanted_within(prefix);
        let mut had: BTreeMap<IpNet, u64> = inside(&self.entries, prefix).collect();
        if prefix == ALL_V4 || prefix.contains(&MAPPED) {
            had.extend(self.entries.get_key_value(&ALL_V4));
            wanted.remove(&ALL_V4);
            wanted.extend(self.all_v4().map(|expires_ns| (ALL_V4, expires_ns)));
        }
        let puts = wanted.iter().filter(|(prefix, at)| had.get(prefix) != Some(*at));
        // What is spared is out before the ban around it begins, and in only after it has ended.
        let put = |(prefix, at): (&IpNet, &u64)| {
            let is_known = had.contains_key(prefix);
            (*at != HOLE, if is_known { Write::Update } else { Write::Insert }(*prefix, *at))
        };
        let mut puts: Vec<(bool, Write)> = puts.map(put).collect();
        puts.sort_by_key(|(is_ban, _)| *is_ban);
        let mut writes: Vec<Write> = puts.into_iter().map(|(_, write)| write).collect();
        let gone = had.iter().filter(|(prefix, _)| !wanted.contains_key(prefix));
        let mut gone: Vec<(bool, IpNet)> =
            gone.map(|(prefix, at)| (*at == HOLE, *prefix)).collect();
        gone.sort_unstable();
        self.entries.extend(wanted);
        for (_, prefix) in &gone {
            self.entries.remove(prefix);
        }
        writes.extend(gone.into_iter().map(|(_, prefix)| Write::Remove(prefix)));
        writes
    }

    /// The entry of all of IPv4: its ban, or the end of the reach of IPv6 prefixes around it.
    fn all_v4(&self) -> Option<u64> {
        let is_reached = || covering(IpNet::from(MAPPED)).any(|ban| self.bans.contains_key(&ban));
        match self.bans.get(&ALL_V4) {
            Some(expires_ns) if !self.spares(ALL_V4) => Some(*expires_ns),
            Some(_) => Some(HOLE),
            None => is_reached().then_some(HOLE),
        }
    }

    /// Whether all of this prefix is left out of bans.
    fn spares(&self, prefix: IpNet) -> bool {
        covering(prefix).any(|outer| self.spared.binary_search(&outer).is_ok())
    }

    /// Bans inside `prefix` with the latest expiry of all around them, and what they spare.
    fn wanted_within(&self, prefix: IpNet) -> BTreeMap<IpNet, u64> {
        let outer = covering(prefix).filter(|outer| *outer != prefix);
        let inherited = outer.filter_map(|outer| self.bans.get(&outer)).max().copied();
        let mut around: Vec<(IpNet, u64)> = Vec::new();
        let mut wanted = BTreeMap::new();
        for (ban, own) in inside(&self.bans, prefix) {
            while around.last().is_some_and(|(outer, _)| !outer.contains(&ban)) {
                around.pop();
            }
            let outer = around.last().map(|(_, expires_ns)| *expires_ns).or(inherited);
            let expires_ns = own.max(outer.unwrap_or(HOLE));
            around.push((ban, expires_ns));
            if !self.spares(ban) {
                wanted.insert(ban, expires_ns);
            }
        }
        let first = self.spared.partition_point(|network| *network < prefix);
        let spared = self.spared[first..].iter().take_while(|network| prefix.contains(*network));
        for network in spared {
            if covering(*network).any(|outer| self.bans.contains_key(&outer)) {
                wanted.insert(*network, HOLE);
            }
        }
        wanted
    }
}

/// Entries inside `prefix`, itself included: neighbours, since a prefix sorts before all in it.
fn inside(
    entries: &BTreeMap<IpNet, u64>,
    prefix: IpNet,
) -> impl Iterator<Item = (IpNet, u64)> + '_ {
    let entries = entries.range(prefix..).map(|(entry, expires_ns)| (*entry, *expires_ns));
    entries.take_while(move |(entry, _)| prefix.contains(entry))
}

/// The prefix and all that contain it, shortest first.
fn covering(prefix: IpNet) -> impl Iterator<Item = IpNet> {
    let lengths = 0..=prefix.prefix_len();
    lengths
        .filter_map(move |length| IpNet::new(prefix.addr(), length).ok().map(|outer| outer.trunc()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// A trie as the kernel has it.
    #[derive(Default)]
    struct Trie(HashMap<IpNet, u64>);

    impl Trie {
        fn write(&mut self, writes: Vec<Write>) {
            for write in writes {
                match write {
                    Write::Insert(prefix, expires_ns) => {
                        assert_eq!(self.0.insert(prefix, expires_ns), None, "{prefix}");
                    }
                    Write::Update(prefix, expires_ns) => {
                        assert!(self.0.insert(prefix, expires_ns).is_some(), "{prefix}");
                    }
                    Write::Remove(prefix) => assert!(self.0.remove(&prefix).is_some(), "{prefix}"),
                }
            }
        }

        /// As keys are v4-mapped, an IPv6 prefix can be the longest match of an IPv4 address.
        fn bans(&self, address: IpAddr, now_ns: u64) -> bool {
            let mapped = match address {
                IpAddr::V4(v4) => Some(IpAddr::V6(v4.to_ipv6_mapped())),
                IpAddr::V6(_) => None,
            };
            let of = |address: IpAddr| {
                let mut all: Vec<_> = covering(IpNet::from(address)).collect();
                all.reverse();
                all.into_iter().find_map(|prefix| self.0.get(&prefix))
            };
            of(address).or_else(|| mapped.and_then(of)).is_some_and(|at| now_ns < *at)
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_longer_ban_that_ends_first_hides_no_shorter_one() {
        let (mut carving, mut trie) = (Carving::default(), Trie::default());
        trie.write(carving.ban(net("198.51.100.0/24"), 100));
        trie.write(carving.ban(net("198.51.0.0/16"), 200));
        let address = "198.51.100.7".parse().unwrap();
        assert!(trie.bans(address, 150));
        trie.write(carving.unban(net("198.51.0.0/16")));
        assert!(!trie.bans(address, 150) && trie.bans(address, 99));
    }

    #[test]
    fn ipv4_is_no_part_of_an_ipv6_ban() {
        let (mut carving, mut trie) = (Carving::default(), Trie::default());
        trie.write(carving.ban(net("::/0"), 100));
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert!(trie.bans(v6, 1) && !trie.bans(v4, 1));
        trie.write(carving.ban(net("0.0.0.0/0"), 50));
        assert!(trie.bans(v4, 1) && !trie.bans(v4, 50));
        trie.write(carving.unban(net("0.0.0.0/0")));
        assert!(!trie.bans(v4, 1));
        trie.write(carving.unban(net("::/0")));
        assert!(trie.0.is_empty());
    }

    #[test]
    fn whatever_changes_the_trie_says_what_the_bans_mean() {
        let mut random = 7_u64;
        let mut next = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let (mut carving, mut trie) = (Carving::default(), Trie::default());
        let mut bans: HashMap<IpNet, u64> = HashMap::new();
        let mut spared: Vec<IpNet> = Vec::new();
        for _ in 0..3_000 {
            let any = |next: &mut dyn FnMut(u64) -> u64| {
                let bits = u32::try_from(next(16)).unwrap();
                if next(2) == 0 {
                    let address = IpAddr::from((bits << 28).to_be_bytes());
                    IpNet::new(address, u8::try_from(next(6)).unwrap()).unwrap().trunc()
                } else {
                    let address = Ipv6Addr::from_bits(u128::from(bits % 3) << 124);
                    IpNet::new(address.into(), u8::try_from(next(6)).unwrap()).unwrap().trunc()
                }
            };
            let prefix = any(&mut next);
            match next(8) {
                0 => {
                    spared = (0..next(4)).map(|_| any(&mut next)).collect();
                    spared.retain(|network| network.prefix_len() > 2);
                    trie.write(carving.spare(&spared));
                }
                1..=4 => {
                    let at = 1 + next(10);
                    bans.insert(prefix, at);
                    trie.write(carving.ban(prefix, at));
                }
                _ => {
                    bans.remove(&prefix);
                    trie.write(carving.unban(prefix));
                }
            }
            assert_eq!(trie.0.len(), carving.entry_count());
            for bits in 0..32_u32 {
                let v4 = IpAddr::from((bits << 27).to_be_bytes());
                let v6 = IpAddr::from(Ipv6Addr::from_bits(u128::from(bits) << 123 | 1));
                for address in [v4, v6] {
                    let now = next(12);
                    let is_spared = spared.iter().any(|network| network.contains(&address));
                    let mut held = bans.iter().filter(|(prefix, _)| prefix.contains(&address));
                    let expected = !is_spared && held.any(|(_, at)| now < *at);
                    assert_eq!(trie.bans(address, now), expected, "{address} at {now}: {bans:?}");
                }
            }
        }
        for prefix in bans.into_keys() {
            trie.write(carving.unban(prefix));
        }
        assert!(trie.0.is_empty(), "{:?}", trie.0);
    }
}
