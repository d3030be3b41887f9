//! Which rule speaks of a source: the entry of the lists that decides, and the service that its
//! packet is for. For people; the verdict itself comes from `decide`.

use std::net::IpAddr;

use ipnet::IpNet;
use limiter_common::lists::ListVerdict;

use super::Inner;
use crate::{
    admin::view::{ListKind, ListOrigin, PacketProtocol, PacketQuery},
    policy::{
        KernelPolicy, Networks,
        kernel::{DefaultVerdict, Protocol, Service},
    },
};

/// What the lists say, with the entry that says it and where it was made.
pub(super) fn of_lists(inner: &Inner, source: IpAddr, said: ListVerdict) -> String {
    let label = said.label();
    let Some(policy) = &inner.configured.kernel else {
        return format!("the lists say: {label}");
    };
    let kind = match said {
        ListVerdict::None => {
            let default = match policy.default {
                DefaultVerdict::Allow => "allow",
                DefaultVerdict::Deny => "deny",
            };
            return format!("the lists say: {label} ({default})");
        }
        ListVerdict::Trusted => ListKind::Trust,
        ListVerdict::Allow => ListKind::Allow,
        ListVerdict::Deny => ListKind::Deny,
    };
    let configured = match kind {
        ListKind::Trust => policy.trusted_networks().collect(),
        ListKind::Allow => policy.allow.clone(),
        ListKind::Deny => policy.deny.clone(),
    };
    let lists = [
        (ListOrigin::Configuration, configured),
        (ListOrigin::Saved, inner.lists.get(kind, ListOrigin::Saved)),
        (ListOrigin::Runtime, inner.lists.get(kind, ListOrigin::Runtime)),
    ];
    let entries = lists.iter().filter_map(|(origin, list)| Some((longest(list, source)?, origin)));
    // Of equal ones the first: whoever removes it finds the next.
    match entries.rev().max_by_key(|(network, _)| network.prefix_len()) {
        Some((network, origin)) => {
            format!("the lists say: {label} ({network}, {})", origin.label())
        }
        None => format!("the lists say: {label}"),
    }
}

/// The service that a packet is for, and what its list says of the source.
pub(super) fn of_service(
    policy: &KernelPolicy,
    source: IpAddr,
    packet: PacketQuery,
) -> Option<String> {
    let protocol = match packet.protocol {
        PacketProtocol::Tcp => Protocol::Tcp,
        PacketProtocol::Udp => Protocol::Udp,
        PacketProtocol::Icmp => return None,
    };
    let has_port = |service: &&Service| {
        let mut ports = service.ports.iter().filter(|range| range.protocol == protocol);
        ports.any(|range| (range.first..=range.last).contains(&packet.port))
    };
    let service = policy.services.iter().find(has_port)?;
    let said = match &service.allow {
        None => "which has no list of its own".to_owned(),
        Some(allow) => longest(allow, source).map_or_else(
            || "whose list does not name it".to_owned(),
            |network| format!("whose list names it ({network})"),
        ),
    };
    Some(format!("its port belongs to the service `{}`, {said}", service.name))
}

/// The longest network of a list that covers the address: a look-up for each length there is.
fn longest(list: &Networks, address: IpAddr) -> Option<IpNet> {
    let whole = IpNet::from(address);
    (0..=whole.max_prefix_len()).rev().find_map(|length| {
        let network = IpNet::new(address, length).ok()?.trunc();
        list.binary_search(&network).is_ok().then_some(network)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_network_that_covers_an_address_is_found() {
        let list = ["10.0.0.0/8", "10.9.0.0/16", "10.9.0.3/32", "2001:db8::/48", "::/0"];
        let list: Networks = list.iter().map(|text| text.parse::<IpNet>().unwrap()).collect();
        for (address, expected) in [
            ("10.9.0.3", Some("10.9.0.3/32")),
            ("10.9.0.4", Some("10.9.0.0/16")),
            ("10.8.0.4", Some("10.0.0.0/8")),
            ("192.0.2.1", None),
            ("2001:db8::1", Some("2001:db8::/48")),
            ("2001:db9::1", Some("::/0")),
        ] {
            let found = longest(&list, address.parse().unwrap());
            assert_eq!(found, expected.map(|text| text.parse().unwrap()), "{address}");
        }
    }
}
