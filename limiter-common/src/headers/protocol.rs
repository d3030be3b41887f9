//! Protocol numbers (IANA).

use network_types::ip::IpProto;

/// TCP.
pub const TCP: u8 = IpProto::Tcp as u8;
/// UDP.
pub const UDP: u8 = IpProto::Udp as u8;
/// ICMP for IPv4.
pub const ICMP: u8 = IpProto::Icmp as u8;
/// ICMP for IPv6.
pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
/// IGMP.
pub const IGMP: u8 = IpProto::Igmp as u8;
