//! Who is never banned in the kernel, whatever is observed or asked for.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use super::host;
use crate::{
    admin::view::ListKind,
    policy::{KernelPolicy, Networks, Policy},
};

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

/// Why a ban that somebody asks for is dangerous or impossible.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Objection {
    /// It would hit somebody who is never banned.
    Immune(Immunity),
    /// Trusted networks are inside: they are left out, all around them is not.
    AroundTrusted,
    /// Whoever asks would be banned.
    OwnSession,
    /// A network so large that it is most of a family, or all of it.
    Everybody,
}

impl Objection {
    /// Whether `--force` overrides it.
    pub(super) const fn can_be_forced(self) -> bool {
        !matches!(self, Self::Immune(Immunity::Trusted))
    }

    /// For people.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Immune(immunity) => immunity.reason(),
            Self::AroundTrusted => "it contains `trusted` networks, which alone would be left out",
            Self::OwnSession => "it contains the peer of this SSH session",
            Self::Everybody => "it is a large part of the internet",
        }
    }
}

/// IPv4 and IPv6 prefixes shorter than this are a large part of their family.
const LARGE: (u8, u8) = (8, 16);

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
    /// Whom this policy and this host make immune.
    pub(super) fn of(policy: &Policy) -> Self {
        let trusted = policy.kernel.iter().flat_map(KernelPolicy::trusted_networks);
        let http = policy.http.iter();
        let mut safety = Self {
            trusted: trusted.chain(http.clone().flat_map(|http| http.trusted.clone())).collect(),
            trusted_proxies: http.flat_map(|http| http.trusted_proxies.clone()).collect(),
            ..Self::default()
        };
        safety.look_at_host();
        safety
    }

    /// Addresses come and go.
    pub(super) fn look_at_host(&mut self) {
        self.own = host::own_addresses();
        self.infrastructure = host::gateways_and_resolvers();
    }

    /// Why this prefix should not be banned on the word of whoever asks from `session`.
    ///
    /// Trusted networks inside a larger prefix are left out of it wherever it is enforced; inside
    /// one that is banned as one source (an IPv6 /64) they cannot be.
    pub(super) fn objection(&self, prefix: IpNet, session: Option<IpAddr>) -> Option<Objection> {
        let is_source = ban_prefix(prefix.addr()) == prefix;
        let shortest = if prefix.addr().is_ipv4() { LARGE.0 } else { LARGE.1 };
        if session.is_some_and(|peer| prefix.contains(&peer.to_canonical())) {
            return Some(self.final_word(prefix).unwrap_or(Objection::OwnSession));
        }
        match self.immunity(prefix) {
            Some(Immunity::Trusted) if !is_source => {
                Some(self.final_word(prefix).unwrap_or(Objection::AroundTrusted))
            }
            Some(immunity) => Some(Objection::Immune(immunity)),
            None if prefix.prefix_len() < shortest => Some(Objection::Everybody),
            None => None,
        }
    }

    /// Why putting these on a list is dangerous. However many they are: who must be reached is
    /// looked for among them, not the other way round.
    pub(super) fn list_objection(
        &self,
        kind: ListKind,
        networks: &Networks,
        session: Option<IpAddr>,
    ) -> Option<String> {
        let is_large = |network: &&IpNet| {
            let shortest = if network.addr().is_ipv4() { LARGE.0 } else { LARGE.1 };
            network.prefix_len() < shortest
        };
        let denies = kind == ListKind::Deny;
        let said = |network: &IpNet, objection: Objection| {
            Some(format!("{network} on the list `{}`: {}", kind.key(), objection.reason()))
        };
        let session = session.map(|peer| peer.to_canonical());
        let needed = [
            (session.as_slice(), Objection::OwnSession),
            (&self.own.iter().copied().collect::<Vec<_>>(), Objection::Immune(Immunity::Own)),
            (
                &self.infrastructure.iter().copied().collect::<Vec<_>>(),
                Objection::Immune(Immunity::Infrastructure),
            ),
            (
                &self.trusted_proxies.iter().map(IpNet::addr).collect::<Vec<_>>(),
                Objection::Immune(Immunity::TrustedProxy),
            ),
        ];
        for (addresses, objection) in needed.iter().filter(|_| denies) {
            // Whoever is trusted is not denied.
            let is_trusted = |address: &IpAddr| self.trusted.iter().any(|it| it.contains(address));
            let mut met = addresses.iter().filter(|address| !is_trusted(address));
            if let Some(network) = met.find_map(|address| covering(networks, *address)) {
                return said(&network, *objection);
            }
        }
        let large = networks.iter().find(is_large).filter(|_| kind != ListKind::Allow)?;
        said(large, Objection::Everybody)
    }

    /// All of it is trusted: nothing would be left to ban.
    fn final_word(&self, prefix: IpNet) -> Option<Objection> {
        let is_trusted = self.trusted.iter().any(|network| network.contains(&prefix));
        is_trusted.then_some(Objection::Immune(Immunity::Trusted))
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

/// One of the networks, in order, that contains the address.
fn covering(networks: &Networks, address: IpAddr) -> Option<IpNet> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (0..=longest)
        .filter_map(|length| Some(IpNet::new(address, length).ok()?.trunc()))
        .find(|network| networks.binary_search(network).is_ok())
}

pub(super) use crate::kernel::ban_prefix;

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

    #[test]
    fn larger_prefixes_can_be_forced_around_whoever_is_trusted() {
        let safety = Safety {
            trusted: vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::1/128".parse().unwrap()],
            ..Safety::default()
        };
        let objection = |text: &str, session: Option<&str>| {
            let session = session.map(|peer| peer.parse().unwrap());
            safety.objection(text.parse().unwrap(), session)
        };
        let trusted = Some(Objection::Immune(Immunity::Trusted));
        assert_eq!(objection("10.1.2.0/24", None), trusted);
        assert_eq!(objection("2001:db8::/64", None), trusted, "one source with it");
        for (text, session, expected) in [
            ("10.0.0.0/8", None, Some(Objection::AroundTrusted)),
            ("2001:db8::/48", None, Some(Objection::AroundTrusted)),
            ("198.51.100.0/24", None, None),
            ("198.51.100.0/24", Some("::ffff:198.51.100.9"), Some(Objection::OwnSession)),
            ("198.51.100.0/24", Some("203.0.113.9"), None),
            ("198.0.0.0/7", None, Some(Objection::Everybody)),
            ("2000::/3", None, Some(Objection::AroundTrusted)),
            ("::/0", None, Some(Objection::AroundTrusted)),
        ] {
            assert_eq!(objection(text, session), expected, "{text}");
            assert!(expected.is_none_or(Objection::can_be_forced));
        }
        let nobody = Safety::default();
        for text in ["0.0.0.0/0", "::/0"] {
            let everybody = nobody.objection(text.parse().unwrap(), None);
            assert_eq!(everybody, Some(Objection::Everybody));
        }
    }

    #[test]
    fn lists_that_lock_somebody_out_are_objected_to() {
        let safety = Safety {
            trusted: vec!["10.1.0.0/16".parse().unwrap()],
            own: BTreeSet::from(["198.51.100.1".parse().unwrap(), "10.1.0.1".parse().unwrap()]),
            infrastructure: BTreeSet::from(["2001:db8::1".parse().unwrap()]),
            ..Safety::default()
        };
        let objects = |kind, text: &str, session: Option<&str>| {
            let networks = [text.parse().unwrap()].into_iter().collect();
            let session = session.map(|peer| peer.parse().unwrap());
            safety.list_objection(kind, &networks, session).is_some()
        };
        let peer = Some("::ffff:203.0.113.9");
        for (text, session, expected) in [
            ("198.51.100.0/24", None, true),
            ("2001:db8::/64", None, true),
            ("203.0.113.0/24", peer, true),
            ("203.0.113.0/24", None, false),
            ("10.1.0.0/16", Some("10.1.2.3"), false),
            ("64.0.0.0/7", None, true),
            ("192.0.2.1/32", peer, false),
        ] {
            assert_eq!(objects(ListKind::Deny, text, session), expected, "{text}");
        }
        assert!(objects(ListKind::Trust, "::/0", None));
        assert!(!objects(ListKind::Trust, "198.51.100.0/24", peer));
        assert!(!objects(ListKind::Allow, "0.0.0.0/0", peer));
    }
}
