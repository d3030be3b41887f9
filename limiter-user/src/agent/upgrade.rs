//! Another version of the program takes over (SIGUSR2): tried first, then executed in place.
//!
//! In: the program at the path this one was started by; out: this process with that program in it,
//! or nothing changed and a sentence why. Process id, locks' holder and service unit stay. Packets
//! stay filtered by what is pinned; the proxy serves on without an agent for as long as the new
//! one needs to start, hands it listening sockets and limiter memory, and drains.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::time;

use super::{Agent, FINISH_PATIENCE};
use crate::{clock, events::Lifecycle, sys};

/// How long the other version may take to read the configuration.
const TRIAL: Duration = Duration::from_secs(30);

/// How much of what it says against it is told.
const MAX_SAID: u64 = 4 << 10;

/// Variables that are true of this start only: sockets of the service manager were taken then.
const OF_ONE_START: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The path by which this program was started, through links as they will be then: where its next
/// version is put. The program's own file, if that path leads elsewhere already.
pub(super) fn program() -> PathBuf {
    let own = Path::new("/proc/self/exe");
    let named = env::args_os().next().and_then(|name| find(&name));
    match named {
        Some(path) if is_same(&path, own) => path,
        _ => fs::read_link(own).unwrap_or_else(|_| own.to_owned()),
    }
}

fn find(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(env::current_dir().ok()?.join(name));
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    matches!((file(one), file(other)), (Ok(one), Ok(other)) if one == other)
}

impl Agent {
    /// Whether the program on disk starts and takes the configuration on disk. Says why not.
    pub(super) async fn try_successor(&self) -> bool {
        match self.successor().await {
            Ok(()) => true,
            Err(why) => {
                let detail = format!("{} does not take over: {why}", self.program.display());
                self.lifecycle(Lifecycle::ConfigRejected, detail);
                false
            }
        }
    }

    async fn successor(&self) -> Result<(), String> {
        if self.inner.borrow().trial.is_some() {
            // It would end with this program, and what is on trial would stay.
            return Err("a configuration is on trial".to_owned());
        }
        let child = Command::new(&self.program)
            .args(env::args_os().skip(1))
            .arg("--check-only")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.map_err(|error| error.to_string())?;
        let said = child.stderr.take();
        let reading = tokio::task::spawn_blocking(move || {
            let mut text = Vec::new();
            if let Some(mut said) = said {
                drop(said.by_ref().take(MAX_SAID).read_to_end(&mut text));
                drop(io::copy(&mut said, &mut io::sink()));
            }
            String::from_utf8_lossy(&text).trim().to_owned()
        });
        let ended = time::timeout(TRIAL, end_of(&mut child)).await;
        if ended.is_err() {
            drop(child.kill());
            drop(child.wait());
            return Err(format!("it did not read the configuration within {TRIAL:?}"));
        }
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("{status}: {}", reading.await.unwrap_or_default())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    }

    /// Writes what is still to be written and becomes the program on disk; returns only if that
    /// fails. Neither XDP nor the proxy is touched.
    pub(super) fn give_way(&self) -> io::Error {
        log::info!("{} takes over", self.program.display());
        self.notifier.reloading();
        self.collect_drops(true);
        let sums = {
            let mut inner = self.inner.borrow_mut();
            inner.book.close();
            inner.aggregate.tick(clock::unix_ns())
        };
        for event in sums {
            self.events.publish(event);
        }
        self.save_ledger();
        self.events.finish(FINISH_PATIENCE);
        // The new program has no handlers at first, and these would end it.
        for signal in [Signal::SIGHUP, Signal::SIGUSR2] {
            if let Err(error) = sys::ignore(signal) {
                log::warn!("{signal} cannot be ignored: {error}");
            }
        }
        if let Err(error) = sys::close_on_exec_from(3) {
            log::warn!("descriptors may stay open: {error}");
        }
        let mut command = Command::new(&self.program);
        for variable in OF_ONE_START {
            command.env_remove(variable);
        }
        command.args(env::args_os().skip(1)).exec()
    }
}

async fn end_of(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for a proxy that an earlier program in this process started, so that it does not stay as
/// a zombie. Of another agent's there is nothing to wait for.
pub(super) async fn reap(pid: u32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    loop {
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {
                time::sleep(Duration::from_millis(250)).await;
            }
            Ok(_) | Err(_) => return,
        }
    }
}
