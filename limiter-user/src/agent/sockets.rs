//! Listening sockets: bound once, by the agent; the proxy's cores share them.
//!
//! In: addresses, and what systemd passed; out: descriptors. A Unix socket that somebody listens on
//! is never taken away from him.

use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{FileTypeExt as _, PermissionsExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockopt,
        listen, setsockopt, socket, sockopt,
    },
    unistd::{Gid, setfsgid},
};

use crate::{link::descriptors, policy::listener::ListenAddress};

/// Connections that may wait for a core (the kernel caps it at `net.core.somaxconn`).
const BACKLOG: i32 = 4_096;

/// Who may connect to a Unix socket: its owner, and the proxy's group.
const UNIX_MODE: u32 = 0o660;

/// Sockets that systemd passed, by name.
pub(super) type Passed = Vec<(String, OwnedFd)>;

/// What systemd passed (`sd_listen_fds_with_names(3)`); nothing where it did not start the agent.
/// To be called once.
pub(super) fn from_systemd() -> Passed {
    let Ok(passed) = sd_notify::listen_fds_with_names() else {
        return Passed::new();
    };
    let mut sockets = Passed::new();
    for (number, name) in passed {
        match descriptors::inherited(number) {
            Ok(socket) => sockets.push((name, socket)),
            Err(error) => log::warn!("systemd passed a descriptor that is not open: {error}"),
        }
    }
    sockets
}

/// The sockets of one listener: one, or as many as systemd has by that name. `group`: the proxy's.
pub(super) fn open(
    address: &ListenAddress,
    passed: &mut Passed,
    group: Option<u32>,
) -> Result<Vec<OwnedFd>> {
    match address {
        ListenAddress::Tcp(address) => Ok(vec![listen_on(*address)?]),
        ListenAddress::Unix(path) => bind_unix(path, group)
            .map(|socket| vec![socket])
            .with_context(|| format!("cannot listen on unix:{}", path.display())),
        ListenAddress::Systemd(name) => take_passed(name, passed),
    }
}

fn take_passed(name: &str, passed: &mut Passed) -> Result<Vec<OwnedFd>> {
    let (ours, others): (Passed, Passed) =
        std::mem::take(passed).into_iter().partition(|(known, _)| known == name);
    *passed = others;
    ensure!(
        !ours.is_empty(),
        "systemd passed no socket named {name}: is its unit started, with `FileDescriptorName={name}`?"
    );
    for (_, socket) in &ours {
        let listens = getsockopt(socket, sockopt::AcceptConn).is_ok_and(|listens| listens);
        let stream =
            getsockopt(socket, sockopt::SockType).is_ok_and(|kind| kind == SockType::Stream);
        ensure!(
            listens && stream,
            "what systemd passed as {name} is not a listening stream socket"
        );
    }
    Ok(ours.into_iter().map(|(_, socket)| socket).collect())
}

fn listen_on(address: SocketAddr) -> Result<OwnedFd> {
    bind_tcp(address).map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => " (another program listens there)",
            io::ErrorKind::AddrNotAvailable => " (no interface has this address)",
            io::ErrorKind::PermissionDenied => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
            _ => "",
        };
        anyhow!("cannot listen on {address}: {error}{hint}")
    })
}

fn bind_tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&descriptor, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        // One family per listener, so that "0.0.0.0:80" and "[::]:80" can stand side by side.
        setsockopt(&descriptor, sockopt::Ipv6V6Only, &true)?;
    }
    let storage = SockaddrStorage::from(address);
    bind(descriptor.as_raw_fd(), &storage)?;
    listen(&descriptor, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
    Ok(descriptor)
}

/// Listens under a name of its own first and takes the path over then: whoever connects finds the
/// socket of before or this one, with its mode and group.
fn bind_unix(path: &Path, group: Option<u32>) -> Result<OwnedFd> {
    refuse_taken(path)?;
    let beside = beside(path);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let bound = in_group(group, || bind(descriptor.as_raw_fd(), &UnixAddr::new(&beside)?));
    bound.map_err(io::Error::from)?;
    let placed = fs::set_permissions(&beside, fs::Permissions::from_mode(UNIX_MODE))
        .and_then(|()| {
            let backlog = Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN);
            listen(&descriptor, backlog).map_err(io::Error::from)
        })
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = placed {
        drop(fs::remove_file(&beside));
        return Err(error.into());
    }
    Ok(descriptor)
}

/// Fails unless there is nothing at `path`, or a socket that nobody listens on any more.
fn refuse_taken(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    ensure!(metadata.file_type().is_socket(), "there is something that is not a socket");
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(anyhow!("another program listens there")),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    PathBuf::from(name)
}

/// Makes files of this group meanwhile: without the right to give files away, a process may still
/// choose among groups by `CAP_SETGID`.
fn in_group<T>(group: Option<u32>, work: impl FnOnce() -> T) -> T {
    let Some(group) = group else {
        return work();
    };
    let before = setfsgid(Gid::from_raw(group));
    let output = work();
    setfsgid(before);
    output
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn what_is_in_the_way_of_listening_is_said() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = listen_on(taken.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains("another program listens there"), "{error}");
        let error = listen_on("192.0.2.1:0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("no interface has this address"), "{error}");
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_nothing_else() {
        let base = std::env::temp_dir().join(format!("limiter-unix-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let path = base.join("proxy");
        let first = bind_unix(&path, None).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = bind_unix(&path, None).unwrap_err().to_string();
        assert!(error.contains("another program"), "{error}");
        drop(first);
        let second = UnixListener::from(bind_unix(&path, None).unwrap());
        drop(UnixStream::connect(&path).unwrap());
        drop(second);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "data").unwrap();
        let error = bind_unix(&path, None).unwrap_err().to_string();
        assert!(error.contains("not a socket"), "{error}");
        assert_eq!(fs::read_dir(&base).unwrap().count(), 1, "nothing is left beside it");
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_socket_that_systemd_did_not_pass_is_missed() {
        let error = take_passed("limiter.socket", &mut Passed::new()).unwrap_err().to_string();
        assert!(error.contains("limiter.socket"), "{error}");
    }
}
