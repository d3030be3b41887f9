//! What a driver says that it can do with XDP, without trying it: the `netdev` family of generic
//! netlink (kernel 6.3).

use nix::{errno::Errno, sys::socket::SockProtocol};

use super::netlink::{ask, attribute, u16_at};

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
/// `nlmsghdr`, `genlmsghdr`.
const HEADERS_BYTES: usize = 16 + 4;

/// `enum netdev_xdp_act`.
const XDP_BASIC: u64 = 1;
const XDP_RX_SG: u64 = 1 << 5;

/// What a driver can do natively.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct XdpFeatures {
    /// Run a program at all.
    pub native: bool,
    /// Run one on packets of several buffers: large MTUs.
    pub several_buffers: bool,
}

/// What the driver of this interface can do. `ENOENT`: the kernel does not tell (before 6.3).
pub fn xdp_features(index: u32) -> Result<XdpFeatures, Errno> {
    let name = attribute_bytes(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
    let answer = generic(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name)?;
    let id = find(&answer, CTRL_ATTR_FAMILY_ID).and_then(|value| u16_at(value, 0));
    let index = attribute_bytes(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    let answer = generic(id.ok_or(Errno::EPROTO)?, NETDEV_CMD_DEV_GET, &index)?;
    let features = find(&answer, NETDEV_A_DEV_XDP_FEATURES)
        .and_then(|value| value.first_chunk())
        .map(|bytes| u64::from_ne_bytes(*bytes))
        .ok_or(Errno::EPROTO)?;
    Ok(XdpFeatures {
        native: features & XDP_BASIC != 0,
        several_buffers: features & XDP_RX_SG != 0,
    })
}

fn generic(family: u16, command: u8, attributes: &[u8]) -> Result<Vec<u8>, Errno> {
    let payload = [&[command, 1, 0, 0], attributes].concat();
    ask(SockProtocol::NetlinkGeneric, family, &payload)
}

fn find(message: &[u8], wanted: u16) -> Option<&[u8]> {
    attribute(message.get(HEADERS_BYTES..)?, wanted)
}

fn attribute_bytes(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_native_xdp() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        match xdp_features(index) {
            Ok(features) => assert!(!features.native, "{features:?}"),
            Err(error) => assert_eq!(error, Errno::ENOENT, "before 6.3"),
        }
    }
}
