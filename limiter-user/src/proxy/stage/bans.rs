//! Bans of scope `http`: client addresses that the agent told the proxy to refuse.
//!
//! In: bans with expiry from the link, and a client; out: whether it is banned now. Each core
//! keeps its own list; both kinds are bounded as the agent's are. What finds no room is counted
//! and said on standard error, since the agent still takes it for banned.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    limits::AddressKey,
    link::HttpBan,
    proxy::{proof::Client, reply::Reply},
    refusal::Refusal,
};

/// Most bans of one client each: an IPv4 address or an IPv6 /64.
const MAX_CLIENTS: usize = 1 << 16;

/// Most bans of prefixes of other lengths, which are walked for every request.
const MAX_PREFIXES: usize = 1 << 10;

/// The bans in force.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Bans {
    clients: HashMap<AddressKey, u64>,
    prefixes: Vec<HttpBan>,
    dropped: u64,
}

/// Refuses a banned client.
pub(in crate::proxy) fn check(bans: &Bans, client: &Client, now_ns: u64) -> Result<(), Reply> {
    if !client.trusted && bans.holds(client.key, client.address, now_ns) {
        return Err(Refusal::Banned.into());
    }
    Ok(())
}

impl Bans {
    /// Replaces the whole list.
    pub(in crate::proxy) fn replace(&mut self, bans: &[HttpBan], now_ns: u64) {
        self.clients.clear();
        self.prefixes.clear();
        for ban in bans {
            self.add(*ban, now_ns);
        }
    }

    /// Adds or replaces one; one that has expired removes it.
    pub(in crate::proxy) fn add(&mut self, ban: HttpBan, now_ns: u64) {
        if let Some(key) = one_client(ban.prefix) {
            if ban.expires_ns <= now_ns {
                self.clients.remove(&key);
                return;
            }
            if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&key) {
                self.clients.retain(|_, expires_ns| *expires_ns > now_ns);
                if self.clients.len() >= MAX_CLIENTS {
                    self.drop_one(MAX_CLIENTS);
                    return;
                }
            }
            self.clients.insert(key, ban.expires_ns);
        } else {
            let prefix = ban.prefix.trunc();
            self.prefixes.retain(|held| held.prefix != prefix && held.expires_ns > now_ns);
            if ban.expires_ns > now_ns {
                if self.prefixes.len() < MAX_PREFIXES {
                    self.prefixes.push(HttpBan { prefix, ..ban });
                } else {
                    self.drop_one(MAX_PREFIXES);
                }
            }
        }
    }

    /// Counts a ban that found no room; said ever more rarely, since there may be a flood of them.
    fn drop_one(&mut self, bound: usize) {
        self.dropped += 1;
        if self.dropped.is_power_of_two() {
            log::warn!("{} http bans are not in force: {bound} are the most", self.dropped);
        }
    }

    fn holds(&self, key: AddressKey, address: IpAddr, now_ns: u64) -> bool {
        (!self.clients.is_empty()
            && self.clients.get(&key).is_some_and(|expires_ns| *expires_ns > now_ns))
            || self
                .prefixes
                .iter()
                .any(|ban| ban.expires_ns > now_ns && ban.prefix.contains(&address))
    }
}

/// The key of a prefix that is one client: a whole IPv4 address or an IPv6 /64.
pub(in crate::proxy) fn one_client(prefix: IpNet) -> Option<AddressKey> {
    let length = match prefix {
        IpNet::V4(_) => 32,
        IpNet::V6(_) => 64,
    };
    (prefix.prefix_len() == length).then(|| AddressKey::new(prefix.network()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(prefix: &str, expires_ns: u64) -> HttpBan {
        HttpBan { prefix: prefix.parse().unwrap(), expires_ns }
    }

    fn holds(bans: &Bans, address: &str, now_ns: u64) -> bool {
        let address = address.parse().unwrap();
        bans.holds(AddressKey::new(address), address, now_ns)
    }

    #[test]
    fn bans_hold_until_they_expire() {
        let mut bans = Bans::default();
        bans.replace(&[ban("192.0.2.1/32", 100), ban("198.51.100.0/24", 100)], 0);
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

    #[test]
    fn many_ipv6_clients_are_held_and_what_is_beyond_the_bounds_is_counted() {
        let mut bans = Bans::default();
        let client = |number: usize| ban(&format!("2001:db8:{number:x}::/64"), 100);
        let other = |number: usize| ban(&format!("2001:db9:{number:x}::/48"), 100);
        for number in 0..MAX_CLIENTS {
            bans.add(client(number), 0);
        }
        assert!(holds(&bans, "2001:db8:0::5", 0) && holds(&bans, "2001:db8:ffff::5", 0));
        assert!(!holds(&bans, "2001:db8:0:1::5", 0));
        bans.add(ban("192.0.2.1/32", 100), 0);
        assert!(!holds(&bans, "192.0.2.1", 0));
        bans.add(HttpBan { expires_ns: 200, ..client(7) }, 0);
        assert!(holds(&bans, "2001:db8:7::5", 150), "renewed though full");
        for number in 0..=MAX_PREFIXES {
            bans.add(other(number), 0);
        }
        assert_eq!(bans.dropped, 2);
        bans.add(ban("192.0.2.1/32", 300), 120);
        assert!(holds(&bans, "192.0.2.1", 120), "what expired makes room");
        assert_eq!(bans.clients.len(), 2);
    }
}
