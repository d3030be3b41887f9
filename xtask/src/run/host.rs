//! First process of the server's namespaces: runs the sample API and the agent until its input
//! ends, which it does when the process that shows ends, however. When this process ends, the
//! kernel ends every other one in its PID namespace and takes the namespaces, the BPF file system
//! and what is pinned there away.
#![expect(clippy::print_stdout, reason = "one line on it tells that the process is there")]

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead, Read},
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{config::Files, lock, process::program, sample};
use crate::clock::Stopwatch;

/// Said when the namespaces are there.
pub(super) const READY: &str = "ready";
/// Heard when the network between them is there.
pub(super) const GO: &str = "go";

const POLL: Duration = Duration::from_millis(50);
/// Twice the agent's own patience with its proxy.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// An agent that keeps dying is not started for ever.
const RESTARTS: u32 = 20;

/// Waits for the network, then serves until the input ends.
pub(super) fn run(limiter: &Path, directory: &Path) -> Result<()> {
    let _lock = lock::take_as_host(directory)?;
    allow_ipv6();
    println!("{READY}");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.trim() != GO {
        // The process that shows is gone already.
        return Ok(());
    }
    let ended = input_end();
    let listener =
        TcpListener::bind(super::config::SAMPLE).context("cannot serve the sample API")?;
    thread::spawn(move || sample::serve(&listener));
    let files = Files::new(directory);
    let mut agent = start(limiter, &files)?;
    let result = keep(limiter, &files, &mut agent, &ended);
    stop(&mut agent);
    result
}

/// Keeps a network namespace until the input ends.
pub(super) fn hold() -> Result<()> {
    allow_ipv6();
    println!("{READY}");
    io::copy(&mut io::stdin().lock().take(1 << 20), &mut io::sink())?;
    Ok(())
}

/// New namespaces copy the host's choice. Where there is no IPv6 at all, configuring it says so.
fn allow_ipv6() {
    drop(fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0"));
}

/// Disconnects when standard input ends.
fn input_end() -> Receiver<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        drop(sender);
    });
    receiver
}

fn start(limiter: &Path, files: &Files) -> Result<Child> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(files.agent_log())
        .with_context(|| format!("cannot open {}", files.agent_log().display()))?;
    program(limiter)
        .args(["run", "--config"])
        .arg(files.config())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("cannot start limiter")
}

/// Replaces an agent that was killed, as an init system would. One that ends by itself is an
/// error.
fn keep(limiter: &Path, files: &Files, agent: &mut Child, ended: &Receiver<()>) -> Result<()> {
    let mut starts = 0;
    loop {
        match ended.recv_timeout(POLL) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let Some(status) = agent.try_wait()? else { continue };
        if status.code().is_some() || starts == RESTARTS {
            bail!("the agent ended by itself ({status})");
        }
        starts += 1;
        eprintln!(
            "xtask: the agent was killed ({status}): packets are filtered and requests answered \
             without it; starting another, which takes over"
        );
        *agent = start(limiter, files)?;
    }
}

fn stop(agent: &mut Child) {
    if !matches!(agent.try_wait(), Ok(None)) {
        return;
    }
    if let Ok(pid) = i32::try_from(agent.id())
        && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
    {
        eprintln!("xtask: the agent cannot be asked to end: {error}");
    }
    let stopwatch = Stopwatch::start();
    while stopwatch.elapsed() < STOP_LIMIT {
        if !matches!(agent.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(POLL);
    }
    eprintln!("xtask: the agent did not end within {} s; ending it", STOP_LIMIT.as_secs());
}
