//! System calls for which there is no safe interface.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command},
};

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
