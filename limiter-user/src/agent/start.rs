//! What the agent does before its loop: directories, lock, privileges.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use caps::{CapSet, Capability};
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::{User, geteuid},
};

use crate::{
    cli::run::RunArgs,
    config::{self, Loaded, Sources},
    policy::AgentPolicy,
};

/// What the agent still needs once it runs: maps and programs, the proxy's user, its listeners.
const KEPT: [Capability; 8] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
];

/// One agent for each directory, for as long as this is held. The lock goes with the process,
/// however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _files: Vec<Flock<File>>,
}

/// Reads and checks the configuration.
pub(super) fn load(args: &RunArgs) -> Result<Loaded, config::ConfigError> {
    config::load(&Sources {
        file: args.config.clone(),
        preset: args.preset.clone(),
        interfaces: args.interface.clone(),
        listen: args.listen.clone(),
        upstream: args.upstream.clone(),
        allow_unauthenticated: args.allow_unauthenticated,
        ..Sources::new(&config::process_environment)
    })
}

/// Makes the directories and takes the lock.
pub(super) fn lock(policy: &AgentPolicy) -> Result<Lock> {
    for directory in [&policy.state, &policy.runtime] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    }
    let path = policy.state.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(Lock { _files: vec![file, directory(&policy.runtime, "runtime")?] }),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
            "another agent runs with the state directory {} (it holds {})",
            policy.state.display(),
            path.display(),
        ),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Locks the directory of the pins, if there is one: whoever holds it decides about XDP.
pub(super) fn lock_pins(pins: &Path) -> Result<Option<Lock>> {
    if pins.exists() { Ok(Some(Lock { _files: vec![directory(pins, "pins")?] })) } else { Ok(None) }
}

fn directory(path: &Path, what: &str) -> Result<Flock<File>> {
    let opened = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(locked) => Ok(locked),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            bail!("another agent runs with the {what} directory {}", path.display())
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Gives up, in this thread and those it will start, every capability that is not needed any more.
pub(super) fn keep_least_privilege() -> Result<()> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let kept: caps::CapsHashSet = caps::read(None, CapSet::Permitted)?
        .into_iter()
        .filter(|capability| KEPT.contains(capability))
        .collect();
    for capability in caps::read(None, CapSet::Bounding)? {
        if !kept.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    caps::set(None, CapSet::Inheritable, &caps::CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    Ok(())
}

/// User and group of the proxy. `None`: this process is not root, and the proxy runs as it does.
pub(super) fn proxy_user(name: Option<&str>) -> Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let found = match name {
        Some(name) => match User::from_name(name)? {
            Some(user) => user,
            None => bail!("agent.user: there is no user {name}"),
        },
        None => match User::from_name("limiter")? {
            Some(user) => user,
            None => User::from_name("nobody")?
                .context("there is neither a user `limiter` nor `nobody`; set agent.user")?,
        },
    };
    Ok(Some((found.uid.as_raw(), found.gid.as_raw())))
}

/// A Unix socket on which a later agent may reach the proxy, replacing that of an earlier one.
pub(super) fn rendezvous(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_refused_and_a_third_may_come_when_the_first_is_gone() {
        let base = std::env::temp_dir().join(format!("limiter-lock-{}", std::process::id()));
        let policy = AgentPolicy {
            state: base.join("state"),
            runtime: base.join("run"),
            pins: base.join("pins"),
            user: None,
        };
        let first = lock(&policy).unwrap();
        let refused = lock(&policy).unwrap_err().to_string();
        assert!(refused.contains("another agent"), "{refused}");
        drop(first);
        lock(&policy).unwrap();
        fs::remove_dir_all(base).unwrap();
    }
}
