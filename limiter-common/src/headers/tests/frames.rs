//! Frames byte by byte, from the inside out.

extern crate std;

use std::{vec, vec::Vec};

use crate::address::Address;

const V4: [u8; 4] = [192, 0, 2, 1];
const V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;

pub(super) fn source_v4() -> Address {
    Address::from_v4(V4)
}

pub(super) fn source_v6() -> Address {
    std::net::IpAddr::from(V6).into()
}

pub(super) fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend(ether_type.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(super) fn tagged(tags: &[u16], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut inner = Vec::new();
    for (index, _) in tags.iter().enumerate() {
        inner.extend([0, 7]);
        inner.extend(tags.get(index + 1).unwrap_or(&ether_type).to_be_bytes());
    }
    inner.extend(payload);
    ethernet(*tags.first().unwrap_or(&ether_type), &inner)
}

/// An IPv4 packet; `fragment` is the word of flags and offset.
pub(super) fn ipv4_with(protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let length = u16::try_from(words * 4 + payload.len()).unwrap();
    let mut bytes = vec![0x40 | u8::try_from(words).unwrap(), 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(V4);
    bytes.extend([198, 51, 100, 9]);
    bytes.extend(options);
    bytes.extend(payload);
    bytes
}

pub(super) fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV4, &ipv4_with(protocol, 0, &[], payload))
}

pub(super) fn ipv6_with(next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    bytes.extend([next, hop_limit]);
    bytes.extend(V6);
    bytes.extend(V6);
    bytes.extend(payload);
    bytes
}

pub(super) fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(IPV6, &ipv6_with(next, 64, payload))
}

pub(super) fn tcp(flags: u8) -> Vec<u8> {
    let mut bytes = vec![0x04, 0xd2, 0, 80];
    bytes.extend([0; 8]);
    bytes.extend([0x50, flags]);
    bytes.extend([0; 6]);
    bytes
}

pub(super) fn udp(source: u16, destination: u16, length: u16) -> Vec<u8> {
    [source, destination, length, 0].map(u16::to_be_bytes).concat()
}
