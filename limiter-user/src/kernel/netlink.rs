//! rtnetlink: which XDP program an interface has, and that links have changed (`rtnetlink(7)`).
//!
//! What the kernel answers is parsed with every length checked; nothing is ever set through it.
//! Sees the network namespace of the calling thread.

use std::{
    fmt,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv,
            sendto, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use super::AttachMode;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// `RTMGRP_LINK` of `linux/rtnetlink.h`.
const GROUP_LINK: u32 = 1;

/// `nlmsghdr`, `ifinfomsg`.
const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;

const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
/// `NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`.
const TYPE_FLAGS: u16 = 0xc000;

/// One link with everything the kernel says of it, without virtual functions.
const MAX_MESSAGE_BYTES: usize = 32 << 10;

/// Notices taken in at one look: the rest waits for the next.
const MAX_NOTICES: usize = 256;

/// How long the kernel may take to answer: it answers within the request.
const ANSWER_SECONDS: i64 = 1;

/// An XDP program on an interface, as the kernel tells everybody.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct XdpOn {
    /// Id of the program.
    pub program: u32,
    /// Native (or offloaded), or generic.
    pub mode: AttachMode,
}

/// The XDP program on an interface of this namespace, if there is one.
pub fn xdp_on(index: u32) -> Result<Option<XdpOn>, Errno> {
    let socket = route_socket(SockFlag::SOCK_CLOEXEC)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &request(index), &kernel, MsgFlags::empty())?;
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    parse(buffer.get(..length).unwrap_or_default())
}

fn route_socket(flags: SockFlag) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)
}

/// `RTM_GETLINK` for one interface.
fn request(index: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + LINK_BYTES);
    let length = u32::try_from(HEADER_BYTES + LINK_BYTES).unwrap_or(0);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(RTM_GETLINK.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: one question, one answer.
    bytes.extend([0; 8]);
    // Family and padding, type.
    bytes.extend([0; 4]);
    bytes.extend(index.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes
}

fn parse(message: &[u8]) -> Result<Option<XdpOn>, Errno> {
    let kind = u16_at(message, 4).ok_or(Errno::EPROTO)?;
    if kind == NLMSG_ERROR {
        let code = u32_at(message, HEADER_BYTES).ok_or(Errno::EPROTO)?.cast_signed();
        return Err(Errno::from_raw(code.wrapping_neg()));
    }
    if kind != RTM_NEWLINK {
        return Err(Errno::EPROTO);
    }
    let length = u32_at(message, 0).and_then(|length| usize::try_from(length).ok());
    let link = message.get(..length.ok_or(Errno::EPROTO)?).ok_or(Errno::EPROTO)?;
    let attributes = link.get(HEADER_BYTES + LINK_BYTES..).ok_or(Errno::EPROTO)?;
    let Some(xdp) = attribute(attributes, IFLA_XDP) else { return Ok(None) };
    let id = |kind| attribute(xdp, kind).and_then(|value| u32_at(value, 0)).filter(|id| *id > 0);
    if attribute(xdp, IFLA_XDP_ATTACHED).and_then(|value| value.first()).is_none_or(|at| *at == 0) {
        return Ok(None);
    }
    let generic = id(IFLA_XDP_SKB_PROG_ID).map(|id| (id, AttachMode::Generic));
    let native = id(IFLA_XDP_DRV_PROG_ID).map(|id| (id, AttachMode::Native));
    // Whatever the mode (offloaded, several): some program decides.
    let any = id(IFLA_XDP_PROG_ID).map(|id| (id, AttachMode::Native));
    Ok(native.or(generic).or(any).map(|(program, mode)| XdpOn { program, mode }))
}

/// The value of the first attribute of this type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        let kind = u16_at(attributes, 2)? & !TYPE_FLAGS;
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Tells that interfaces came, went or changed. What exactly is asked of the kernel afterwards, so
/// that a lost notice costs nothing.
pub struct LinkMonitor(OwnedFd);

impl fmt::Debug for LinkMonitor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LinkMonitor")
    }
}

impl LinkMonitor {
    /// Hears what changes from now on.
    pub fn open() -> Result<Self, Errno> {
        let socket = route_socket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP_LINK))?;
        Ok(Self(socket))
    }

    /// Whether anything has changed since the last look. Never waits.
    pub fn has_news(&self) -> bool {
        let mut news = false;
        let mut buffer = [0; 64];
        for _ in 0..MAX_NOTICES {
            // Only that there is one counts: the rest of it is cut off.
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => news = true,
                Err(_) => break,
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute_bytes(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = request(7);
        bytes[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        bytes.extend(attributes);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_program_and_its_mode_are_found() {
        let name = attribute_bytes(3, b"eth0\0");
        let nested = |id: u16, attached: u8| {
            let mut inner = attribute_bytes(IFLA_XDP_ATTACHED, &[attached]);
            inner.extend(attribute_bytes(IFLA_XDP_PROG_ID, &9_u32.to_ne_bytes()));
            inner.extend(attribute_bytes(id, &9_u32.to_ne_bytes()));
            link(&[name.clone(), attribute_bytes(IFLA_XDP | 0x8000, &inner)].concat())
        };
        for (id, mode) in
            [(IFLA_XDP_SKB_PROG_ID, AttachMode::Generic), (IFLA_XDP_DRV_PROG_ID, AttachMode::Native)]
        {
            let found = parse(&nested(id, 2)).unwrap();
            assert_eq!(found, Some(XdpOn { program: 9, mode }));
        }
        assert_eq!(parse(&nested(IFLA_XDP_SKB_PROG_ID, 0)), Ok(None));
        assert_eq!(parse(&link(&name)), Ok(None));
    }

    #[test]
    fn nothing_cut_short_is_believed() {
        let inner = attribute_bytes(IFLA_XDP_ATTACHED, &[1]);
        let whole = link(&attribute_bytes(IFLA_XDP, &inner));
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Err(Errno::EPROTO), "{length}");
        }
        // An attribute that is longer than what holds it, or shorter than its own header.
        for length in [0_u16, 3, 200] {
            let mut bytes = attribute_bytes(IFLA_XDP, &inner);
            bytes[..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(parse(&link(&bytes)), Ok(None), "{length}");
        }
        let mut refused = request(7);
        refused[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        refused[16..20].copy_from_slice(&(-19_i32).to_ne_bytes());
        assert_eq!(parse(&refused), Err(Errno::ENODEV));
    }

    #[test]
    fn loopback_is_asked_about() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        assert!(xdp_on(index).is_ok());
        assert_eq!(xdp_on(u32::MAX >> 1), Err(Errno::ENODEV));
        LinkMonitor::open().unwrap();
    }
}
