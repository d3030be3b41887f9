//! The first act of the proxy process: everything it does not need is given up, for good.
//!
//! In: `LIMITER_PROXY_UID` and `LIMITER_PROXY_GID`; out: a process without capabilities that owns
//! its link and nothing else. Nothing of a peer is read before.

use std::{ffi::CStr, io, os::fd::RawFd};

use caps::{CapSet, Capability};
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

/// What lists of processes call this one.
const NAME: &CStr = c"limiter-proxy";

/// Gives up all privileges. `keep` and the standard streams are the only descriptors left open.
pub(super) fn drop_all(keep: RawFd) -> io::Result<()> {
    // It was started as `/proc/self/exe`, which would be its name in `ps`.
    prctl::set_name(NAME)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    close_from(keep.saturating_add(1))?;
    let user = number(UID_VARIABLE)?;
    // The bounding set and the user need capabilities that are given up last.
    clear(CapSet::Ambient)?;
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(io::Error::other)? {
        clear(CapSet::Bounding)?;
    }
    if let Some(uid) = user {
        let gid = number(GID_VARIABLE)?.unwrap_or(uid);
        setgroups(&[])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))?;
    }
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        clear(set)?;
    }
    if user.is_some() && (getuid().is_root() || setuid(Uid::from_raw(0)).is_ok()) {
        return Err(io::Error::other("the proxy would run as root"));
    }
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    Ok(())
}

/// Whether the proxy was given a user of its own, which the agent does not run as.
pub(super) fn has_own_user() -> bool {
    std::env::var_os(UID_VARIABLE).is_some()
}

fn clear(set: CapSet) -> io::Result<()> {
    caps::clear(None, set).map_err(io::Error::other)
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
