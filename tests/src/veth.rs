//! A pair of veth interfaces between two namespaces: the wire of a test.
//!
//! Both ends have fixed MAC addresses, addresses without duplicate detection and permanent
//! neighbour entries, so that the only packets are those that a test sends (but for a few MLD
//! reports when an interface comes up).

use std::{fmt::Write as _, net::IpAddr, process::Command};

use crate::netns::Namespace;

/// The pair. Dropping it removes both ends.
#[derive(Debug)]
pub struct Veth {
    /// The end that clients use.
    pub client: End,
    /// The end that the limiter protects.
    pub server: End,
}

/// One end.
#[derive(Debug)]
pub struct End {
    /// Where it is.
    pub namespace: Namespace,
    /// Interface name.
    pub name: String,
    /// Interface index inside its namespace.
    pub index: u32,
    /// MAC address.
    pub mac: [u8; 6],
    /// Addresses in the order given.
    pub addresses: Vec<IpAddr>,
    /// Whether TCP and UDP checksums are really computed. If not (no `ethtool` on this machine),
    /// a capture on the other end shows partial ones for what the stack itself sends.
    pub checksums_computed: bool,
}

impl End {
    /// First IPv4 address.
    pub fn v4(&self) -> IpAddr {
        *self
            .addresses
            .iter()
            .find(|address| address.is_ipv4())
            .expect("this end was given an IPv4 address")
    }

    /// First IPv6 address.
    pub fn v6(&self) -> IpAddr {
        *self
            .addresses
            .iter()
            .find(|address| address.is_ipv6())
            .expect("this end was given an IPv6 address")
    }

    /// Routes `cidr` (or `default`) over this end to `gateway`, an address of the other end.
    pub fn route(&self, cidr: &str, gateway: IpAddr) {
        self.namespace.batch(&format!("route replace {cidr} via {gateway} dev {}\n", self.name));
    }

    /// Takes the link down or up.
    pub fn set_up(&self, up: bool) {
        let state = if up { "up" } else { "down" };
        self.namespace.batch(&format!("link set {} {state}\n", self.name));
    }
}

impl Veth {
    /// Connects two namespaces: `client0` in the one, `server0` in the other.
    ///
    /// Addresses are `ADDRESS/PREFIX`, any number on each side; each side gets permanent neighbour
    /// entries for all addresses of the other.
    pub fn between(
        client: &Namespace,
        client_addresses: &[&str],
        server: &Namespace,
        server_addresses: &[&str],
    ) -> Self {
        Self::named(("client0", client, client_addresses), ("server0", server, server_addresses))
    }

    /// Like [`Self::between`] with interface names (at most 15 bytes), for several pairs.
    pub fn named(
        (client_name, client, client_addresses): (&str, &Namespace, &[&str]),
        (server_name, server, server_addresses): (&str, &Namespace, &[&str]),
    ) -> Self {
        let client_mac = [0x02, 0, 0, 0, 0, 0x01];
        let server_mac = [0x02, 0, 0, 0, 0, 0x02];
        client.batch(&format!(
            "link add {client_name} address {} type veth peer name {server_name} address {} \
             netns {}\n",
            mac_text(client_mac),
            mac_text(server_mac),
            server.name()
        ));
        let ends = Self {
            client: End::new(client, client_name, client_mac, client_addresses),
            server: End::new(server, server_name, server_mac, server_addresses),
        };
        ends.client.configure(client_addresses);
        ends.server.configure(server_addresses);
        ends.client.know(&ends.server);
        ends.server.know(&ends.client);
        ends
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // Removing one end removes the other; it may be gone with its namespace already.
        drop(
            Command::new("ip")
                .args(["-n", self.client.namespace.name()])
                .args(["link", "del", &self.client.name])
                .output(),
        );
    }
}

impl End {
    fn new(namespace: &Namespace, name: &str, mac: [u8; 6], addresses: &[&str]) -> Self {
        let index = namespace.run(|| nix::net::if_::if_nametoindex(name));
        let features = ["tx", "off", "gso", "off", "tso", "off"];
        let ethtool = namespace.command("ethtool").args(["-K", name]).args(features).output();
        Self {
            namespace: namespace.clone(),
            name: name.to_owned(),
            index: index.expect("the interface just added has an index"),
            mac,
            addresses: addresses.iter().map(|text| address(text)).collect(),
            checksums_computed: ethtool.is_ok_and(|output| output.status.success()),
        }
    }

    fn configure(&self, addresses: &[&str]) {
        let mut lines = String::new();
        for text in addresses {
            let nodad = if address(text).is_ipv6() { "nodad" } else { "" };
            writeln!(lines, "address add {text} dev {} {nodad}", self.name)
                .expect("a string takes it");
        }
        writeln!(lines, "link set {} up", self.name).expect("a string takes it");
        self.namespace.batch(&lines);
    }

    fn know(&self, other: &Self) {
        let mut lines = String::new();
        for address in &other.addresses {
            writeln!(
                lines,
                "neighbour replace {address} lladdr {} dev {} nud permanent",
                mac_text(other.mac),
                self.name
            )
            .expect("a string takes it");
        }
        self.namespace.batch(&lines);
    }
}

fn address(cidr: &str) -> IpAddr {
    cidr.split('/')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{cidr} is ADDRESS/PREFIX"))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
