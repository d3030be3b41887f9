//! Who is never banned in the kernel, whatever is observed or asked for.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::host;

/// Why an address is not banned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Immunity {
    /// On the `trusted` list.
    Trusted,
    /// A trusted proxy: it stands for all its clients.
    TrustedProxy,
    /// An address of this host.
    Own,
    /// A gateway or name server of this host.
    Infrastructure,
}

impl Immunity {
    /// For people.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Trusted => "it is on the `trusted` list",
            Self::TrustedProxy => "it is a trusted proxy, which stands for all its clients",
            Self::Own => "it is an address of this host",
            Self::Infrastructure => "it is a gateway or name server of this host",
        }
    }
}

/// The addresses that the policy and the host make immune.
#[derive(Clone, Debug, Default)]
pub(super) struct Safety {
    pub(super) trusted: Vec<IpNet>,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) own: BTreeSet<IpAddr>,
    pub(super) infrastructure: BTreeSet<IpAddr>,
}

impl Safety {
    /// Addresses come and go.
    pub(super) fn look_at_host(&mut self) {
        self.own = host::own_addresses();
        self.infrastructure = host::gateways_and_resolvers();
    }

    /// Why banning this prefix would hit somebody who is never banned; `None`: it may be.
    pub(super) fn immunity(&self, prefix: IpNet) -> Option<Immunity> {
        let meets = |other: &IpNet| other.contains(&prefix) || prefix.contains(other);
        if self.trusted.iter().any(meets) {
            Some(Immunity::Trusted)
        } else if self.trusted_proxies.iter().any(meets) {
            Some(Immunity::TrustedProxy)
        } else if self.own.iter().any(|own| prefix.contains(own)) {
            Some(Immunity::Own)
        } else if self.infrastructure.iter().any(|address| prefix.contains(address)) {
            Some(Immunity::Infrastructure)
        } else {
            None
        }
    }
}

/// The prefix under which an address is banned and counted: IPv4 exactly, IPv6 by /64.
pub(super) fn ban_prefix(address: IpAddr) -> IpNet {
    let length = if address.is_ipv4() { 32 } else { 64 };
    IpNet::new(address, length).map_or_else(|_| address.into(), |prefix| prefix.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_the_host_needs_is_immune() {
        let safety = Safety {
            trusted: vec!["10.0.0.0/8".parse().unwrap()],
            trusted_proxies: vec!["192.0.2.7/32".parse().unwrap()],
            own: BTreeSet::from(["198.51.100.1".parse().unwrap()]),
            infrastructure: BTreeSet::from(["2001:db8::1".parse().unwrap()]),
        };
        let immunity = |text: &str| safety.immunity(ban_prefix(text.parse().unwrap()));
        assert_eq!(immunity("10.1.2.3"), Some(Immunity::Trusted));
        assert_eq!(immunity("192.0.2.7"), Some(Immunity::TrustedProxy));
        assert_eq!(immunity("198.51.100.1"), Some(Immunity::Own));
        assert_eq!(immunity("2001:db8::2"), Some(Immunity::Infrastructure), "the same /64");
        assert_eq!(immunity("203.0.113.1"), None);
        assert_eq!(safety.immunity("0.0.0.0/0".parse().unwrap()), Some(Immunity::Trusted));
    }
}
