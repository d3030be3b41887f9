//! What the agent needs to know of the host it runs on: interfaces, own addresses, gateways,
//! resolvers, sshd's ports. Read from the kernel and from files of the system, in the network
//! namespace of this process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};

use crate::{
    kernel::image::HostFacts,
    policy::{Policy, kernel::InterfaceSelection},
};

/// The port of sshd where its configuration names none.
const SSH_PORT: u16 = 22;

/// What the policy's interfaces come to at the moment.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    /// Wanted and there, by name and index.
    pub(crate) present: Vec<(String, u32)>,
    /// Named and not there.
    pub(crate) missing: Vec<String>,
    /// "auto" finds none.
    pub(crate) no_default_route: bool,
}

impl Selected {
    /// Looks at the host. `routed`: interfaces that "auto" found earlier, to which what it finds
    /// now is added: they stay while they are there, whether or not they lost their route.
    pub(crate) fn look(wanted: &[InterfaceSelection], routed: &mut BTreeSet<String>) -> Self {
        let mut selected = Self::default();
        let mut names: Vec<(String, bool)> = Vec::new();
        for selection in wanted {
            match selection {
                InterfaceSelection::Named(name) => names.push((name.clone(), true)),
                InterfaceSelection::Auto => {
                    routed.extend(default_route_interfaces());
                    routed.retain(|name| if_nametoindex(name.as_str()).is_ok());
                    selected.no_default_route = routed.is_empty();
                    names.extend(routed.iter().map(|name| (name.clone(), false)));
                }
            }
        }
        let mut seen = BTreeSet::new();
        for (name, is_named) in names {
            if !seen.insert(name.clone()) {
                continue;
            }
            match if_nametoindex(name.as_str()) {
                Ok(index) => selected.present.push((name, index)),
                Err(_) if is_named => selected.missing.push(name),
                Err(_) => {}
            }
        }
        selected
    }

    /// Fails, saying what there is, unless all is there.
    pub(super) fn complete(&self) -> Result<(), String> {
        if let Some(name) = self.missing.first() {
            let names = interface_names().join(", ");
            return Err(format!("interface {name} does not exist; there are: {names}"));
        }
        if self.no_default_route {
            return Err(
                "kernel.interfaces: \"auto\" found no interface with a default route; name \
                        one"
                .to_owned(),
            );
        }
        Ok(())
    }

    /// A sentence for each that is not there.
    pub(crate) fn sentences(&self) -> Vec<String> {
        let missing = self.missing.iter().map(|name| {
            format!("interface {name} does not exist: its packets are filtered when it appears")
        });
        let unrouted = self.no_default_route.then(|| {
            "no interface has a default route: \"auto\" waits for one, nothing is filtered"
                .to_owned()
        });
        missing.chain(unrouted).collect()
    }
}

fn interface_names() -> Vec<String> {
    let Ok(interfaces) = nix::net::if_::if_nameindex() else { return Vec::new() };
    interfaces.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect()
}

/// Settings that decide how well the host and its kernel half do under attack.
const SYSCTLS: [&str; 6] = [
    "kernel.unprivileged_bpf_disabled",
    "net.core.bpf_jit_enable",
    "net.core.somaxconn",
    "net.ipv4.ip_forward",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_syncookies",
];

/// Those settings, as far as they can be read.
pub(super) fn sysctls() -> BTreeMap<String, String> {
    let value = |name: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        Some((name.to_owned(), fs::read_to_string(path).ok()?.trim().to_owned()))
    };
    SYSCTLS.into_iter().filter_map(value).collect()
}

/// What the kernel half needs to know of this host.
pub(super) fn host_facts(policy: &Policy, is_overloaded: bool) -> HostFacts {
    let listeners = policy.http.iter().flat_map(|http| &http.listeners);
    HostFacts {
        sshd_ports: sshd_ports(),
        listening_ports: listeners.filter_map(|listener| listener.address.port()).collect(),
        own_addresses: addresses_by_importance(),
        forwards: forwards(),
        is_overloaded,
        // The kernel half knows them.
        slots: Vec::new(),
    }
}

/// Addresses of this host's interfaces.
pub(super) fn own_addresses() -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    if let Ok(interfaces) = getifaddrs() {
        for address in interfaces.filter_map(|interface| interface.address) {
            if let Some(v4) = address.as_sockaddr_in() {
                addresses.insert(IpAddr::V4(v4.ip()));
            } else if let Some(v6) = address.as_sockaddr_in6() {
                addresses.insert(IpAddr::V6(v6.ip()));
            }
        }
    }
    addresses
}

/// Addresses of this host as the packet path has room for few of them: those that others reach,
/// IPv4 first, before those of a link only; none of the loopback interface.
pub(super) fn addresses_by_importance() -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> =
        own_addresses().into_iter().filter(|address| !address.is_loopback()).collect();
    addresses.sort_by_key(|address| match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => 2,
        IpAddr::V6(_) => 1,
    });
    addresses
}

/// Whether this host forwards packets of either family.
pub(super) fn forwards() -> bool {
    ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
        .into_iter()
        .any(|path| fs::read_to_string(path).is_ok_and(|text| text.trim() != "0"))
}

/// Gateways of the default routes and name servers.
pub(super) fn gateways_and_resolvers() -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    addresses.extend(ipv4_routes().into_iter().map(|route| IpAddr::V4(route.gateway)));
    addresses.extend(ipv6_routes().into_iter().map(|(_, gateway)| IpAddr::V6(gateway)));
    if let Ok(text) = fs::read_to_string("/etc/resolv.conf") {
        addresses.extend(resolvers(&text));
    }
    addresses.retain(|address| !address.is_unspecified());
    addresses
}

fn resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next())
        .filter_map(|address| address.split('%').next()?.parse().ok())
        .collect()
}

fn default_route_interfaces() -> BTreeSet<String> {
    let mut names: BTreeSet<String> =
        ipv4_routes().into_iter().map(|route| route.interface).collect();
    names.extend(ipv6_routes().into_iter().map(|(interface, _)| interface));
    names.remove("lo");
    names
}

struct Ipv4Route {
    interface: String,
    gateway: Ipv4Addr,
}

/// Default routes of `/proc/net/route` (`fib_trie` in the kernel), of this thread's namespace.
fn ipv4_routes() -> Vec<Ipv4Route> {
    fs::read_to_string("/proc/thread-self/net/route")
        .map(|text| parse_ipv4_routes(&text))
        .unwrap_or_default()
}

fn parse_ipv4_routes(text: &str) -> Vec<Ipv4Route> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [interface, "00000000", gateway, _, _, _, _, "00000000", ..] = fields[..] else {
                return None;
            };
            // Printed as one host-order number of the bytes in network order.
            let gateway = u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes();
            Some(Ipv4Route { interface: interface.to_owned(), gateway: gateway.into() })
        })
        .collect()
}

/// Default routes of `/proc/net/ipv6_route`: interface and gateway.
fn ipv6_routes() -> Vec<(String, Ipv6Addr)> {
    fs::read_to_string("/proc/thread-self/net/ipv6_route")
        .map(|text| parse_ipv6_routes(&text))
        .unwrap_or_default()
}

fn parse_ipv6_routes(text: &str) -> Vec<(String, Ipv6Addr)> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [destination, "00", _, _, gateway, .., interface] = fields[..] else {
                return None;
            };
            let is_default = destination.bytes().all(|byte| byte == b'0');
            // The kernel's own "unreachable" default is on lo.
            (is_default && interface != "lo").then_some(())?;
            let gateway = u128::from_str_radix(gateway, 16).ok()?;
            Some((interface.to_owned(), gateway.into()))
        })
        .collect()
}

/// Ports that sshd listens on, by its configuration and the files beside it (Debian's includes
/// `sshd_config.d`, and of several values of `Port` all hold).
pub(super) fn sshd_ports() -> Vec<u16> {
    let mut texts = vec![fs::read_to_string("/etc/ssh/sshd_config").unwrap_or_default()];
    if let Ok(entries) = fs::read_dir("/etc/ssh/sshd_config.d") {
        let files = entries.flatten().map(|entry| entry.path());
        texts.extend(
            files
                .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
                .map(|path| fs::read_to_string(path).unwrap_or_default()),
        );
    }
    let mut ports: Vec<u16> = texts.iter().flat_map(|text| parse_sshd_ports(text)).collect();
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() { vec![SSH_PORT] } else { ports }
}

/// `Port 2222`, and the port of `ListenAddress 192.0.2.1:2222` or `[::]:2222`.
fn parse_sshd_ports(text: &str) -> Vec<u16> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let keyword = words.next()?;
            let value = words.next()?;
            if keyword.eq_ignore_ascii_case("port") {
                return value.parse().ok();
            }
            let with_port = keyword.eq_ignore_ascii_case("listenaddress")
                && (value.contains("]:") || value.matches(':').count() == 1);
            with_port.then(|| value.rsplit(':').next()?.parse().ok())?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_the_kernel_prints_them() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
                    eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\n\
                    eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\n";
        let routes = parse_ipv4_routes(text);
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].interface, "eth0");
        assert_eq!(routes[0].gateway, Ipv4Addr::new(172, 17, 0, 1));
        let zero = "0".repeat(32);
        let text = format!(
            "{zero} 00 {zero} 00 20010db8000000000000000000000001 00000400 00000001 00000000 \
             00000003     eth1\n{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(parse_ipv6_routes(&text), [("eth1".to_owned(), "2001:db8::1".parse().unwrap())],);
    }

    #[test]
    fn ports_and_resolvers_are_read() {
        assert_eq!(parse_sshd_ports("#Port 1\nPort 2222\n port 22 # two\nPorts 9\n"), [2222, 22]);
        let text = "ListenAddress 192.0.2.1:2200\nListenAddress [::]:2201\nListenAddress ::1\n";
        assert_eq!(parse_sshd_ports(text), [2200, 2201]);
        let text = "search x\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\noptions\n";
        let expected: Vec<IpAddr> = vec!["192.0.2.53".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(resolvers(text), expected);
    }

    #[test]
    fn an_unknown_interface_is_named_with_those_there_are() {
        let wanted = [InterfaceSelection::Named("nosuch0".to_owned())];
        let selected = Selected::look(&wanted, &mut BTreeSet::new());
        let error = selected.complete().unwrap_err();
        assert!(error.contains("nosuch0") && error.contains("lo"), "{error}");
        let both = ["lo", "nosuch0", "lo"].map(|name| InterfaceSelection::Named(name.to_owned()));
        let selected = Selected::look(&both, &mut BTreeSet::new());
        assert_eq!((selected.present.len(), selected.missing.len()), (1, 1));
        assert_eq!(selected.sentences().len(), 1);
    }
}
