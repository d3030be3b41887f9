//! The stack's own list of TCP sockets (`NETLINK_SOCK_DIAG`, kernel 3.3), and ending one of them
//! (`SOCK_DESTROY`, kernel 4.5). Sees the network namespace in which it was opened.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use limiter_common::address::Address;
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt,
            socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

/// Message types and flags: `uapi/linux/netlink.h`, `uapi/linux/sock_diag.h`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;

/// States of `net/tcp_states.h`: connections that a program has or had, and listeners.
const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << LISTEN | 1 << 11;
const LISTEN: u8 = 10;

/// The timer of what is left of a closed connection (`TIME_WAIT`, and `FIN_WAIT2` without a
/// socket): it was closed long ago for everybody but the stack.
const TIME_WAIT_TIMER: u8 = 3;

/// Sizes of `struct nlmsghdr` and `struct inet_diag_sockid` (`uapi/linux/inet_diag.h`).
const HEADER: usize = 16;
const ID: usize = 48;

/// How long the kernel may take for an answer.
const PATIENCE_SECONDS: i64 = 5;

/// Larger than any message of a dump.
const BUFFER: usize = 256 * 1024;

/// What names a socket to the kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SocketId {
    family: u8,
    id: [u8; ID],
}

/// One connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Socket {
    pub(super) id: SocketId,
    pub(super) local: Address,
    pub(super) local_port: u16,
    pub(super) remote: Address,
}

/// All TCP sockets of a moment.
#[derive(Debug, Default)]
pub(super) struct Dump {
    /// Connections by cookie.
    pub(super) connections: HashMap<u64, Socket>,
    /// Ports that are listened on, with the address; the empty one is any.
    listeners: HashSet<(u16, Address)>,
}

impl Dump {
    /// Whether the local port is a listener's, so that the peer opened the connection.
    pub(super) fn is_passive(&self, socket: &Socket) -> bool {
        let any_v4 = Address::from_v4([0; 4]);
        [socket.local, any_v4, Address::default()]
            .iter()
            .any(|address| self.listeners.contains(&(socket.local_port, *address)))
    }

    fn take(&mut self, message: &[u8]) {
        let (Some([family, state, timer, _]), Some(id)) =
            (message.first_chunk::<4>(), message.get(4..).and_then(<[u8]>::first_chunk::<ID>))
        else {
            return;
        };
        let port = u16::from_be_bytes([id[0], id[1]]);
        let (local, remote) = (address(*family, &id[4..20]), address(*family, &id[20..36]));
        let (Some(local), Some(remote)) = (local, remote) else { return };
        if *state == LISTEN {
            self.listeners.insert((port, local));
        } else if *timer != TIME_WAIT_TIMER {
            let (Some(low), Some(high)) = (word(id, ID - 8), word(id, ID - 4)) else { return };
            let cookie = u64::from(high) << 32 | u64::from(low);
            let id = SocketId { family: *family, id: *id };
            self.connections.insert(cookie, Socket { id, local, local_port: port, remote });
        }
    }
}

fn address(family: u8, bytes: &[u8]) -> Option<Address> {
    match family {
        INET => Some(Address::from_v4(*bytes.first_chunk()?)),
        INET6 => Some(Address::from_v6(*bytes.first_chunk()?, *bytes.last_chunk()?)),
        _ => None,
    }
}

/// A socket to ask.
#[derive(Debug)]
pub(super) struct SockDiag {
    socket: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl SockDiag {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
        Ok(Self { socket, buffer: vec![0; BUFFER], sequence: 0 })
    }

    /// Any socket of this namespace will do for asking about it.
    pub(super) const fn descriptor(&self) -> &OwnedFd {
        &self.socket
    }

    /// Every TCP connection and listener. What opens, closes or moves meanwhile may be missing.
    pub(super) fn dump(&mut self) -> io::Result<Dump> {
        let mut dump = Dump::default();
        for family in [INET, INET6] {
            let asked = request(BY_FAMILY, REQUEST | DUMP, family, STATES, &[0; ID]);
            match self.ask(asked, |message| dump.take(message)) {
                Ok(()) => {}
                // A kernel without IPv6.
                Err(error) if family == INET6 && error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(dump)
    }

    /// Ends a connection with a reset; whether it was still there.
    pub(super) fn destroy(&mut self, SocketId { family, id }: SocketId) -> io::Result<bool> {
        match self.ask(request(DESTROY, REQUEST | ACK, family, STATES, &id), |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a request and hands on each message of the answer, without its header.
    fn ask(&mut self, mut request: Vec<u8>, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        if let Some(place) = request.get_mut(8..12) {
            place.copy_from_slice(&self.sequence.to_ne_bytes());
        }
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        loop {
            let received = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC);
            let length = match received {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = self
                .buffer
                .get(..length)
                .ok_or_else(|| io::Error::other("an answer of sock_diag was cut"))?;
            while let Some((kind, sequence, message, after)) = split(rest) {
                rest = after;
                if sequence != self.sequence {
                    // The end of an answer that was given up.
                    continue;
                }
                match kind {
                    DONE => return Ok(()),
                    ERROR => return outcome(message),
                    _ => each(message),
                }
            }
        }
    }
}

/// Type, sequence number and contents of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let length = usize::try_from(word(bytes, 0)?).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let sequence = word(bytes, 8)?;
    let message = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, sequence, message, after))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn outcome(message: &[u8]) -> io::Result<()> {
    match message.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("an answer of sock_diag that is none")),
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, family: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let length = u32::try_from(HEADER + 8 + ID).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEADER + 8 + ID);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, TCP, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn message(family: u8, state: u8, timer: u8, ports: [u16; 2], cookie: u64) -> Vec<u8> {
        let mut bytes = vec![family, state, timer, 0];
        bytes.extend(ports.into_iter().flat_map(u16::to_be_bytes));
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[192, 0, 2, 1]);
        bytes.extend(address);
        bytes.extend(address);
        bytes.extend([0; 4]);
        bytes.extend(cookie.to_le_bytes());
        bytes.resize(72, 0);
        bytes
    }

    #[test]
    fn messages_are_read() {
        let mut dump = Dump::default();
        dump.take(&message(INET, LISTEN, 0, [80, 0], 1));
        dump.take(&message(INET, 1, 0, [80, 4000], 0x1_0000_0002));
        dump.take(&message(INET, 1, 0, [81, 4000], 3));
        dump.take(&message(INET, 5, TIME_WAIT_TIMER, [80, 4000], 4));
        dump.take(&message(99, 1, 0, [80, 4000], 5));
        for length in 0..4 + ID {
            dump.take(&message(INET, 1, 0, [80, 4000], 6)[..length]);
        }
        let passive = |cookie: u64| dump.connections.get(&cookie).map(|one| dump.is_passive(one));
        assert_eq!(passive(0x1_0000_0002), Some(true));
        assert_eq!(passive(3), Some(false));
        assert_eq!(dump.connections.len(), 2);
    }

    #[test]
    fn whatever_arrives_is_split_without_a_panic() {
        let whole = request(DONE, 0, INET, 0, &[0; ID]);
        assert_eq!(split(&whole).map(|(kind, ..)| kind), Some(DONE));
        for length in 0..whole.len() {
            assert_eq!(split(&whole[..length]), None);
        }
        let mut short = whole;
        short[..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert_eq!(split(&short), None);
    }

    #[test]
    fn the_stack_names_both_ends_of_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let dump = SockDiag::open().unwrap().dump().unwrap();
        let of = |port: u16| dump.connections.values().find(|one| one.local_port == port).unwrap();
        let accepted = of(listener.local_addr().unwrap().port());
        assert!(dump.is_passive(accepted));
        assert_eq!(accepted.remote, Address::from_v4([127, 0, 0, 1]));
        assert!(!dump.is_passive(of(client.local_addr().unwrap().port())));
    }
}
