//! Bytes and file descriptors through one Unix stream socket (`unix(7)`, `SCM_RIGHTS`).
//!
//! The only place that turns received descriptor numbers into owned descriptors. Never blocks:
//! every call is made with `MSG_DONTWAIT`.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Most descriptors beside one frame (the kernel's `SCM_MAX_FD` is 253).
pub const MAX_DESCRIPTORS: usize = 128;

/// Sends some of `bytes`, with `descriptors` beside the first of them; how many bytes went.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control: &[ControlMessage<'_>] = if numbers.is_empty() { &[] } else { &rights };
    Ok(sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        None,
    )?)
}

/// Receives at most `buffer.len()` bytes; descriptors that came with them are added to `into`.
/// Zero bytes: the peer closed. Truncated descriptors are an error (they are closed).
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    into: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            into.extend(numbers.into_iter().map(adopt));
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "more descriptors than a frame may carry",
        ));
    }
    Ok(message.bytes)
}

/// Takes ownership of a descriptor inherited at start under a fixed number.
///
/// Fails if nothing is open there. To be called once, before anything else opens files.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    nix::fcntl::fcntl(borrow(number), nix::fcntl::FcntlArg::F_GETFD)?;
    Ok(adopt(number))
}

#[expect(unsafe_code, reason = "the one place where a number becomes a borrowed descriptor")]
fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: only used for F_GETFD, which reports EBADF for a number that is not open.
    unsafe { BorrowedFd::borrow_raw(number) }
}

#[expect(unsafe_code, reason = "the one place where a number becomes an owned descriptor")]
fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: the number was just made by the kernel for this process (SCM_RIGHTS), or handed
    // down by the parent for this sole owner, and was checked to be open.
    unsafe { OwnedFd::from_raw_fd(number) }
}
