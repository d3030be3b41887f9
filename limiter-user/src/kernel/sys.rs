//! System calls for which there is no safe interface.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

/// The cookie of the network namespace that a socket is in (kernel 5.14): a number that no other
/// namespace has, or will have while the host is up.
#[expect(unsafe_code, reason = "no crate offers this socket option")]
pub(super) fn namespace_cookie(socket: &OwnedFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default();
    // SAFETY: the option is an unsigned 64-bit number, and both pointers are to live variables.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
