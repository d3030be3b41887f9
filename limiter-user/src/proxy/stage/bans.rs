//! Bans of scope `http`: client addresses that the agent told the proxy to refuse.
//!
//! In: bans with expiry from the link, and a client; out: whether it is banned now. Each core
//! keeps its own list; both kinds are bounded, and the agent is the one that counts what is full.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    link::HttpBan,
    proxy::{proof::Client, reply::Reply},
    refusal::Refusal,
};

/// Most bans of one address each.
const MAX_ADDRESSES: usize = 1 << 17;

/// Most bans of longer prefixes.
const MAX_PREFIXES: usize = 1 << 10;

/// The bans in force.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Bans {
    addresses: HashMap<IpAddr, u64>,
    prefixes: Vec<HttpBan>,
}

/// Refuses a banned client.
pub(in crate::proxy) fn check(bans: &Bans, client: &Client, now_ns: u64) -> Result<(), Reply> {
    if !client.trusted && bans.holds(client.address, now_ns) {
        return Err(Refusal::Banned.into());
    }
    Ok(())
}

impl Bans {
    /// Replaces the whole list.
    pub(in crate::proxy) fn replace(&mut self, bans: &[HttpBan], now_ns: u64) {
        self.addresses.clear();
        self.prefixes.clear();
        for ban in bans {
            self.add(*ban, now_ns);
        }
    }

    /// Adds or replaces one; one that has expired removes it.
    pub(in crate::proxy) fn add(&mut self, ban: HttpBan, now_ns: u64) {
        let whole = ban.prefix.prefix_len() == ban.prefix.max_prefix_len();
        if whole {
            if self.addresses.len() >= MAX_ADDRESSES {
                self.addresses.retain(|_, expires_ns| *expires_ns > now_ns);
            }
            if ban.expires_ns <= now_ns {
                self.addresses.remove(&ban.prefix.addr());
            } else if self.addresses.len() < MAX_ADDRESSES {
                self.addresses.insert(ban.prefix.addr(), ban.expires_ns);
            }
        } else {
            let prefix = ban.prefix.trunc();
            self.prefixes.retain(|held| held.prefix != prefix && held.expires_ns > now_ns);
            if ban.expires_ns > now_ns && self.prefixes.len() < MAX_PREFIXES {
                self.prefixes.push(HttpBan { prefix, ..ban });
            }
        }
    }

    fn holds(&self, address: IpAddr, now_ns: u64) -> bool {
        (!self.addresses.is_empty()
            && self.addresses.get(&address).is_some_and(|expires_ns| *expires_ns > now_ns))
            || self
                .prefixes
                .iter()
                .any(|ban| ban.expires_ns > now_ns && ban.prefix.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(prefix: &str, expires_ns: u64) -> HttpBan {
        HttpBan { prefix: prefix.parse().unwrap(), expires_ns }
    }

    #[test]
    fn bans_hold_until_they_expire() {
        let mut bans = Bans::default();
        bans.replace(&[ban("192.0.2.1/32", 100), ban("198.51.100.0/24", 100)], 0);
        let holds = |bans: &Bans, address: &str, now| bans.holds(address.parse().unwrap(), now);
        assert!(holds(&bans, "192.0.2.1", 99) && !holds(&bans, "192.0.2.1", 100));
        assert!(holds(&bans, "198.51.100.7", 99) && !holds(&bans, "198.51.100.7", 100));
        assert!(!holds(&bans, "192.0.2.2", 0));
        bans.add(ban("192.0.2.1/32", 0), 50);
        bans.add(ban("198.51.100.0/24", 0), 50);
        assert!(!holds(&bans, "192.0.2.1", 50) && !holds(&bans, "198.51.100.7", 50));
        bans.add(ban("2001:db8::/64", 200), 50);
        assert!(holds(&bans, "2001:db8::5", 150));
        bans.replace(&[], 50);
        assert!(!holds(&bans, "2001:db8::5", 150));
    }
}
