//! Raw frames in and out of an interface (`AF_PACKET`), at a bounded rate and with timeouts.
//!
//! The kernel takes the outermost VLAN tag off a frame before a capture sees it.

use std::{
    io::IoSlice,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType,
            bind, sendmmsg, sendmsg, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::{veth::End, wait::Deadline};

/// Most frames sent per second by [`Port::send_many`] if the caller asks for more.
pub const MAX_FRAMES_PER_SECOND: u32 = 1_000_000;

/// Value of `sll_pkttype` for frames that this host sent (`if_packet.h`).
const OUTGOING: u8 = 4;

/// A raw socket on one interface.
#[derive(Debug)]
pub struct Port {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Port {
    /// Opens an interface to send and to capture what arrives from now on.
    pub fn open(end: &End) -> Self {
        let name = end.name.clone();
        end.namespace.run(|| Self::open_here(&name))
    }

    /// Opens an interface of the namespace that this thread is in.
    pub fn open_here(interface: &str) -> Self {
        // The address is taken from the list of interfaces: it cannot be built without `unsafe`.
        let address: LinkAddr = getifaddrs()
            .expect("the interfaces can be listed")
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .unwrap_or_else(|| panic!("no interface {interface}"));
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .expect("a packet socket (root)");
        bind(socket.as_raw_fd(), &address)
            .unwrap_or_else(|error| panic!("bind to {interface}: {error}"));
        setsockopt(&socket, sockopt::RcvBuf, &(8 << 20)).expect("a receive buffer");
        let port = Self { socket, buffer: vec![0; 1 << 16] };
        // Between socket() and bind() it heard every interface.
        while port.receive_into(&mut [0; 64], MsgFlags::MSG_DONTWAIT).is_ok() {}
        port
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) {
        let deadline = Deadline::after(Duration::from_secs(5));
        loop {
            let slices = [IoSlice::new(frame)];
            let sent =
                sendmsg::<()>(self.socket.as_raw_fd(), &slices, &[], MsgFlags::empty(), None);
            match sent {
                Ok(bytes) => {
                    assert_eq!(bytes, frame.len(), "a frame is sent whole");
                    return;
                }
                Err(Errno::ENOBUFS | Errno::EINTR) if !deadline.is_over() => {
                    thread::sleep(Duration::from_micros(50));
                }
                Err(error) => panic!("send a frame of {} bytes: {error}", frame.len()),
            }
        }
    }

    /// Sends frames by as few system calls as possible; what the interface has no room for is left
    /// out.
    pub fn send_batch(&self, frames: &[Vec<u8>]) {
        let slices: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let nowhere = vec![None::<LinkAddr>; frames.len()];
        let mut headers = MultiHeaders::preallocate(frames.len(), None);
        let sent = sendmmsg(
            self.socket.as_raw_fd(),
            &mut headers,
            slices.iter(),
            nowhere,
            [],
            MsgFlags::empty(),
        );
        match sent {
            Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
            Err(error) => panic!("send {} frames: {error}", frames.len()),
        }
    }

    /// Sends `frame` `count` times, evenly, at most `per_second`.
    pub fn send_many(&self, frame: &[u8], count: u32, per_second: u32) {
        let per_second = per_second.clamp(1, MAX_FRAMES_PER_SECOND);
        let start = Deadline::after(Duration::ZERO);
        for sent in 0..count {
            let due = Duration::from_nanos(u64::from(sent) * 1_000_000_000 / u64::from(per_second));
            let early = due.saturating_sub(start.elapsed());
            // A sleep takes at least some 60 us: what is due sooner goes out in one burst.
            if early > Duration::from_micros(100) {
                thread::sleep(early);
            }
            self.send(frame);
        }
    }

    /// The next frame that arrives, or `None` if none does within `timeout`.
    pub fn receive(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        let deadline = Deadline::after(timeout);
        loop {
            let left = deadline.left().max(Duration::from_millis(1));
            let left = TimeVal::microseconds(i64::try_from(left.as_micros()).unwrap_or(i64::MAX));
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &left).expect("a timeout");
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.receive_into(&mut buffer, MsgFlags::empty());
            let frame = received.map(|(length, outgoing)| (buffer[..length].to_vec(), outgoing));
            self.buffer = buffer;
            match frame {
                Ok((frame, false)) => return Some(frame),
                Ok((_, true)) | Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(error) => panic!("capture: {error}"),
            }
            if deadline.is_over() {
                return None;
            }
        }
    }

    /// The next frame for which `wanted` holds; others are thrown away.
    pub fn receive_matching(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let deadline = Deadline::after(timeout);
        loop {
            let frame = self.receive(deadline.left())?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// How many frames for which `wanted` holds arrive until none has for `quiet`.
    pub fn count_matching(
        &mut self,
        quiet: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> usize {
        let mut count = 0;
        while self.receive_matching(quiet, &mut wanted).is_some() {
            count += 1;
        }
        count
    }

    fn receive_into(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<(usize, bool), Errno> {
        let mut slice = [std::io::IoSliceMut::new(buffer)];
        let message = nix::sys::socket::recvmsg::<LinkAddr>(
            self.socket.as_raw_fd(),
            &mut slice,
            None,
            flags,
        )?;
        let outgoing = message.address.is_some_and(|from| from.as_ref().sll_pkttype == OUTGOING);
        Ok((message.bytes, outgoing))
    }
}
