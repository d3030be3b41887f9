//! System calls for which there is no safe interface.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command},
};

use nix::sys::signal::{SigHandler, Signal};

/// Starts a process that has `descriptor` as number `number`, and no other beside the standard
/// streams (everything here is opened close-on-exec).
#[expect(unsafe_code, reason = "a descriptor can be placed only between fork and exec")]
pub(crate) fn spawn_with_descriptor(
    command: &mut Command,
    descriptor: &OwnedFd,
    number: RawFd,
) -> io::Result<Child> {
    let source = descriptor.as_raw_fd();
    let place = move || {
        let result = if source == number {
            // SAFETY: plain system call on a descriptor that is open in the child.
            unsafe { libc::fcntl(source, libc::F_SETFD, 0) }
        } else {
            // SAFETY: as above; `dup2` leaves the copy open across exec.
            unsafe { libc::dup2(source, number) }
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes one async-signal-safe system call and allocates nothing.
    unsafe { command.pre_exec(place) };
    command.spawn()
}

/// Ignores a signal in this process and in what it executes.
#[expect(unsafe_code, reason = "handlers could do anything; this is none")]
pub(crate) fn ignore(signal: Signal) -> io::Result<()> {
    // SAFETY: no handler runs: the signal has no effect any more.
    let earlier = unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) };
    earlier.map(drop).map_err(io::Error::from)
}

/// Has every descriptor from `first` on closed by the next `exec` (`close_range(2)`, Linux 5.11).
#[expect(unsafe_code, reason = "no safe interface to close_range")]
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: sets a flag on descriptors; none is closed in this program.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What a socket says of its other side without being read: whether that has closed its half of the
/// connection (also behind bytes that are unread), and whether the connection is gone.
#[expect(unsafe_code, reason = "the safe interface to poll does not know POLLRDHUP")]
pub(crate) fn other_side(socket: BorrowedFd<'_>) -> (bool, bool) {
    let fd = socket.as_raw_fd();
    let mut asked = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one entry, which lives longer than the call; it does not wait.
    let count = unsafe { libc::poll(&raw mut asked, 1, 0) };
    let says = |what: libc::c_short| count > 0 && asked.revents & what != 0;
    (says(libc::POLLRDHUP), says(libc::POLLERR | libc::POLLHUP))
}
