//! The first act of the proxy process: everything it does not need is given up, for good.
//!
//! In: `LIMITER_PROXY_UID` and `LIMITER_PROXY_GID`; out: a process that owns its link and nothing
//! else. Nothing of a peer is read before.

use std::{io, os::fd::RawFd};

use caps::CapSet;
use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
    },
    unistd::{Gid, Uid, getuid, setgid, setgroups, setuid},
};

/// User id to run as; without it the user stays as started.
pub const UID_VARIABLE: &str = "LIMITER_PROXY_UID";

/// Group id to run as; default: the user id.
pub const GID_VARIABLE: &str = "LIMITER_PROXY_GID";

/// Gives up all privileges. `keep` and the standard streams are the only descriptors left open.
pub(super) fn drop_all(keep: RawFd) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    close_from(keep.saturating_add(1))?;
    if let Some(uid) = number(UID_VARIABLE)? {
        let gid = number(GID_VARIABLE)?.unwrap_or(uid);
        // The bounding set needs a capability that goes with the user.
        caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
        caps::clear(None, CapSet::Bounding).map_err(io::Error::other)?;
        setgroups(&[])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))?;
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
            caps::clear(None, set).map_err(io::Error::other)?;
        }
        if uid == 0 || getuid().is_root() || setuid(Uid::from_raw(0)).is_ok() {
            return Err(io::Error::other("the proxy would run as root"));
        }
    }
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    Ok(())
}

fn number(variable: &str) -> io::Result<Option<u32>> {
    match std::env::var(variable) {
        Ok(text) => text.parse().map(Some).map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{variable}: not a number"))
        }),
        Err(_) => Ok(None),
    }
}

/// Closes every descriptor from `first` on (`close_range(2)`, Linux 5.9).
#[expect(unsafe_code, reason = "no safe interface to close_range")]
fn close_from(first: RawFd) -> io::Result<()> {
    let first = u32::try_from(first).map_err(io::Error::other)?;
    // SAFETY: called before anything else in this process opened a descriptor; nothing owns those
    // that are closed.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
