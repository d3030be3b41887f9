//! Peers that were banned in the kernel, as one question: is this one of them?

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;

use super::stage::bans::one_client;
use crate::limits::AddressKey;

/// Peers whose connections are to end. Looked at once for each connection, however many they are.
#[derive(Debug, Default)]
pub(super) struct Peers {
    clients: HashSet<AddressKey>,
    networks: Vec<IpNet>,
}

impl Peers {
    /// Whether a connection of this peer is to end.
    pub(super) fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.clients.contains(&AddressKey::new(peer))
            || self.networks.iter().any(|network| network.contains(&peer))
    }
}

impl FromIterator<IpNet> for Peers {
    fn from_iter<T: IntoIterator<Item = IpNet>>(prefixes: T) -> Self {
        let mut peers = Self::default();
        for prefix in prefixes {
            match one_client(prefix) {
                Some(client) => drop(peers.clients.insert(client)),
                None => peers.networks.push(prefix),
            }
        }
        peers
    }
}
