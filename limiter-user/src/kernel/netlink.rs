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

const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_NUM_RX_QUEUES: u16 = 32;
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

/// What the kernel says of an interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LinkFacts {
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Receive queues that there can be.
    pub receive_queues: u32,
    /// `veth`, `bridge`, ...; none for hardware.
    pub kind: Option<String>,
    /// The XDP program on it.
    pub xdp: Option<XdpOn>,
}

/// The XDP program on an interface of this namespace, if there is one.
pub(super) fn xdp_on(index: u32) -> Result<Option<XdpOn>, Errno> {
    attributes_of_link(&ask_for_link(index)?).map(parse_xdp)
}

/// What the kernel says of an interface of this namespace.
pub fn link_facts(index: u32) -> Result<LinkFacts, Errno> {
    let message = ask_for_link(index)?;
    let attributes = attributes_of_link(&message)?;
    let number = |kind| attribute(attributes, kind).and_then(|value| u32_at(value, 0));
    let kind = attribute(attributes, IFLA_LINKINFO)
        .and_then(|info| attribute(info, IFLA_INFO_KIND))
        .map(|kind| String::from_utf8_lossy(kind).trim_end_matches('\0').to_owned());
    Ok(LinkFacts {
        mtu: number(IFLA_MTU).unwrap_or(0),
        receive_queues: number(IFLA_NUM_RX_QUEUES).unwrap_or(0),
        kind,
        xdp: parse_xdp(attributes),
    })
}

fn ask_for_link(index: u32) -> Result<Vec<u8>, Errno> {
    // Family and padding, type; index; flags and mask.
    let payload = [&[0; 4], &index.to_ne_bytes()[..], &[0; 8]].concat();
    ask(SockProtocol::NetlinkRoute, RTM_GETLINK, &payload)
}

/// One question to the kernel, one answer; an error that it answers is the error.
pub(super) fn ask(protocol: SockProtocol, kind: u16, payload: &[u8]) -> Result<Vec<u8>, Errno> {
    let socket = netlink_socket(SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
    let kernel = NetlinkAddr::new(0, 0);
    let request = message(kind, payload);
    sendto(socket.as_raw_fd(), &request, &kernel, MsgFlags::empty())?;
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    buffer.truncate(length);
    check(&buffer)?;
    Ok(buffer)
}

fn netlink_socket(flags: SockFlag, protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)
}

/// A request: one question, one answer, so that neither sequence number nor port matters.
fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_BYTES + payload.len()).unwrap_or(0);
    let header = [&kind.to_ne_bytes()[..], &NLM_F_REQUEST.to_ne_bytes(), &[0; 8]].concat();
    [&length.to_ne_bytes()[..], &header, payload].concat()
}

/// Whether this is a whole message and no error.
fn check(message: &[u8]) -> Result<(), Errno> {
    let length = u32_at(message, 0).and_then(|length| usize::try_from(length).ok());
    if length.is_none_or(|length| length > message.len()) {
        return Err(Errno::EPROTO);
    }
    if u16_at(message, 4) == Some(NLMSG_ERROR) {
        let code = u32_at(message, HEADER_BYTES).ok_or(Errno::EPROTO)?.cast_signed();
        return Err(Errno::from_raw(code.wrapping_neg()));
    }
    Ok(())
}

fn attributes_of_link(message: &[u8]) -> Result<&[u8], Errno> {
    if u16_at(message, 4) != Some(RTM_NEWLINK) {
        return Err(Errno::EPROTO);
    }
    let length = u32_at(message, 0).and_then(|length| usize::try_from(length).ok());
    let link = message.get(..length.ok_or(Errno::EPROTO)?).ok_or(Errno::EPROTO)?;
    link.get(HEADER_BYTES + LINK_BYTES..).ok_or(Errno::EPROTO)
}

fn parse_xdp(attributes: &[u8]) -> Option<XdpOn> {
    let xdp = attribute(attributes, IFLA_XDP)?;
    let id = |kind| attribute(xdp, kind).and_then(|value| u32_at(value, 0)).filter(|id| *id > 0);
    if attribute(xdp, IFLA_XDP_ATTACHED).and_then(|value| value.first()).is_none_or(|at| *at == 0) {
        return None;
    }
    let generic = id(IFLA_XDP_SKB_PROG_ID).map(|id| (id, AttachMode::Generic));
    let native = id(IFLA_XDP_DRV_PROG_ID).map(|id| (id, AttachMode::Native));
    // Whatever the mode (offloaded, several): some program decides.
    let any = id(IFLA_XDP_PROG_ID).map(|id| (id, AttachMode::Native));
    native.or(generic).or(any).map(|(program, mode)| XdpOn { program, mode })
}

/// The value of the first attribute of this type.
pub(super) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
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

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
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
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = netlink_socket(flags, SockProtocol::NetlinkRoute)?;
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

    fn parse(bytes: &[u8]) -> Result<Option<XdpOn>, Errno> {
        check(bytes)?;
        attributes_of_link(bytes).map(parse_xdp)
    }

    fn link(attributes: &[u8]) -> Vec<u8> {
        message(RTM_NEWLINK, &[&[0; LINK_BYTES], attributes].concat())
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
        for (id, mode) in [
            (IFLA_XDP_SKB_PROG_ID, AttachMode::Generic),
            (IFLA_XDP_DRV_PROG_ID, AttachMode::Native),
        ] {
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
        let refused = message(NLMSG_ERROR, &(-19_i32).to_ne_bytes());
        assert_eq!(parse(&refused), Err(Errno::ENODEV));
    }

    #[test]
    fn loopback_is_asked_about() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        assert!(xdp_on(index).is_ok());
        assert_eq!(xdp_on(u32::MAX >> 1), Err(Errno::ENODEV));
        let facts = link_facts(index).unwrap();
        assert!(facts.mtu > 0 && facts.receive_queues > 0, "{facts:?}");
        LinkMonitor::open().unwrap();
    }
}
