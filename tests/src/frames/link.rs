//! Layers next to the wire: Ethernet, VLAN tags, ARP.

use std::net::Ipv4Addr;

use super::{Context, Layer};

/// Ethernet types.
pub mod ether_type {
    #![expect(missing_docs, reason = "the names are those of the registry")]
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const IPV6: u16 = 0x86dd;
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// The Ethernet header. By default from the MAC address of a [`crate::veth::Veth`]'s client end to
/// its server end.
#[derive(Clone, Debug)]
pub struct Ethernet {
    /// From.
    pub source: [u8; 6],
    /// To.
    pub destination: [u8; 6],
    /// Overrides the type of the next layer.
    pub ether_type: Option<u16>,
}

impl Default for Ethernet {
    fn default() -> Self {
        Self {
            source: [0x02, 0, 0, 0, 0, 0x01],
            destination: [0x02, 0, 0, 0, 0, 0x02],
            ether_type: None,
        }
    }
}

impl Layer for Ethernet {
    fn header(&self, context: &Context<'_>) -> Vec<u8> {
        let mut bytes = [self.destination, self.source].concat();
        let ether_type = self.ether_type.unwrap_or(context.next_ether_type);
        bytes.extend(ether_type.to_be_bytes());
        bytes
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// An 802.1Q tag, or the outer one of `QinQ`.
#[derive(Clone, Debug)]
pub struct Vlan {
    /// Type by which the layer before announces it: [`ether_type::VLAN`] or
    /// [`ether_type::SERVICE_VLAN`].
    pub tag_type: u16,
    /// Priority (3 bits), drop eligibility (1 bit) and VLAN id (12 bits).
    pub control: u16,
    /// Overrides the type of the next layer.
    pub ether_type: Option<u16>,
}

impl Vlan {
    /// A customer tag (802.1Q).
    pub fn new(id: u16) -> Self {
        Self { tag_type: ether_type::VLAN, control: id & 0x0fff, ether_type: None }
    }

    /// A service tag (802.1ad), outside a customer tag.
    pub fn service(id: u16) -> Self {
        Self { tag_type: ether_type::SERVICE_VLAN, ..Self::new(id) }
    }
}

impl Layer for Vlan {
    fn header(&self, context: &Context<'_>) -> Vec<u8> {
        let ether_type = self.ether_type.unwrap_or(context.next_ether_type);
        [self.control.to_be_bytes(), ether_type.to_be_bytes()].concat()
    }

    fn ether_type(&self) -> u16 {
        self.tag_type
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

/// ARP for IPv4 over Ethernet.
#[derive(Clone, Debug)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    /// Sender's MAC address.
    pub sender_mac: [u8; 6],
    /// Sender's address.
    pub sender: Ipv4Addr,
    /// Target's MAC address.
    pub target_mac: [u8; 6],
    /// Target's address.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Who has `target`?
    pub fn request(sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            operation: 1,
            sender_mac: Ethernet::default().source,
            sender,
            target_mac: [0; 6],
            target,
        }
    }
}

impl Layer for Arp {
    fn header(&self, _context: &Context<'_>) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0x08, 0, 6, 4];
        bytes.extend(self.operation.to_be_bytes());
        bytes.extend(self.sender_mac);
        bytes.extend(self.sender.octets());
        bytes.extend(self.target_mac);
        bytes.extend(self.target.octets());
        bytes
    }

    fn ether_type(&self) -> u16 {
        ether_type::ARP
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
