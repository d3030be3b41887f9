//! The stage of the demonstration: a network, mount and PID namespace for the server, a network
//! namespace for the clients, a veth pair between them, the agent and the sample API inside. All
//! of it lives by pipes that this process holds: when it ends, however, so does the rest.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{
    config::{self, Files},
    host,
    interrupt::Interrupt,
    process::{self, Running, program},
};
use crate::clock::Stopwatch;

const POLL: Duration = Duration::from_millis(50);
/// For what takes milliseconds on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(15);
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Lines of the agent's log that are shown when something went wrong.
const LOG_LINES: usize = 20;

/// Dropping it ends everything on it.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) files: Files,
    pub(super) limiter: PathBuf,
    this: PathBuf,
    /// `unshare`, whose child is the first process of the server's namespaces.
    host: Child,
    /// In the clients' namespace.
    clients: Child,
    interrupt: Interrupt,
}

impl Stage {
    /// Empties the directory, makes the namespaces, starts the agent and waits until it is ready.
    pub(super) fn set(limiter: &Path, directory: &Path, interrupt: &Interrupt) -> Result<Self> {
        let files = Files::new(directory);
        remove(&files)?;
        Self::build(limiter, files.clone(), interrupt).inspect_err(|_| {
            // What went wrong before is what matters; the next one begins by removing.
            drop(remove(&files));
        })
    }

    fn build(limiter: &Path, files: Files, interrupt: &Interrupt) -> Result<Self> {
        let stopwatch = Stopwatch::start();
        let directory = files.directory.as_path();
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        fs::write(files.config(), config::text(&files))?;
        let this = std::env::current_exe().context("cannot find xtask itself")?;
        let server = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
        let mut command = program("unshare");
        command.args(server).arg(&this).args(["demo", "host", "--limiter"]).arg(limiter);
        command.arg("--directory").arg(directory);
        let host = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let host = host.context("cannot start unshare")?;
        let mut command = program("unshare");
        command.args(["--net", "--"]).arg(&this).args(["demo", "hold"]);
        let clients = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut host = Unfinished(Some(host));
        let mut clients = Unfinished(Some(clients.context("cannot start unshare")?));
        for child in [&mut host, &mut clients] {
            child.wait_until_ready()?;
        }
        let (Some(host), Some(clients)) = (host.0.take(), clients.0.take()) else {
            bail!("the namespaces are gone");
        };
        let limiter = limiter.to_path_buf();
        let interrupt = interrupt.clone();
        let mut stage = Self { files, limiter, this, host, clients, interrupt };
        stage.connect()?;
        stage.make_key()?;
        stage.go()?;
        eprintln!(
            "xtask: agent, proxy and sample API run in a private network namespace \
             (ready in {})",
            stopwatch.text()
        );
        Ok(stage)
    }

    /// The wire, with the clients' addresses on its other end.
    fn connect(&self) -> Result<()> {
        let server = format!(
            "link set lo up\n\
             link add {} type veth peer name client0 netns {}\n\
             address add {}/24 dev {0}\n\
             address add {}/32 dev {0} nodad\n\
             link set {0} up\n\
             route add 198.51.100.0/24 dev {0}\n\
             route add 203.0.113.0/24 dev {0}\n",
            config::INTERFACE,
            self.clients.id(),
            config::SERVER_V4,
            config::SERVER_V6,
        );
        ip(&self.server_net(), &server)?;
        let v4 = [
            config::HONEST_V4,
            config::ANONYMOUS,
            config::SMUGGLER,
            config::GUESSER,
            config::VISITOR,
            config::DENIED,
            config::FLOODER,
        ];
        let v6 = [config::HONEST_V6, config::BROWSER, config::HASTY];
        let v4 = v4.map(|address| format!("address add {address}/24 dev client0"));
        let v6 = v6.map(|address| format!("address add {address}/32 dev client0 nodad"));
        let clients = [v4.join("\n"), v6.join("\n")].join("\n");
        let clients = format!("link set lo up\n{clients}\nlink set client0 up\n");
        ip(&self.clients_net(), &clients)
    }

    /// The honest client's key, for its eyes only.
    fn make_key(&self) -> Result<()> {
        let mut command = program(&self.limiter);
        command.args(["keys", "new", "--name", "honest", "--config"]).arg(self.files.config());
        let key = process::output(&mut command, COMMAND_LIMIT, &self.interrupt)?;
        let path = self.files.honest_key();
        let mut options = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
        options.open(&path).and_then(|mut file| file.write_all(key.as_bytes()))?;
        Ok(())
    }

    /// Has the server's side start, and waits until the agent says that it is ready.
    fn go(&mut self) -> Result<()> {
        let input = self.host.stdin.as_mut().context("no pipe to the server's side")?;
        writeln!(input, "{}", host::GO)?;
        let stopwatch = Stopwatch::start();
        loop {
            self.check_host()?;
            match self.ask(&["status"]) {
                Ok(status) if status["state"] == "ready" => return Ok(()),
                Ok(status) if stopwatch.elapsed() > START_LIMIT => {
                    bail!("limiter does not get ready: {}", status["degraded"]);
                }
                Err(error) if stopwatch.elapsed() > START_LIMIT => {
                    return Err(error.context("limiter does not get ready"));
                }
                Ok(_) | Err(_) => {}
            }
            self.interrupt.check()?;
            thread::sleep(POLL);
        }
    }

    fn check_host(&mut self) -> Result<()> {
        if let Some(status) = self.host.try_wait()? {
            self.print_log();
            bail!("the server's side ended ({status})");
        }
        Ok(())
    }

    /// Until a signal; an error if the server's side ends before.
    pub(super) fn wait(&mut self, interrupt: &Interrupt) -> Result<()> {
        while !interrupt.is_raised() {
            self.check_host()?;
            thread::sleep(POLL);
        }
        println!();
        Ok(())
    }

    /// What `limiter ARGUMENTS --json` answers.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = program(&self.limiter);
        command.args(arguments).args(["--json", "--socket"]).arg(self.files.socket());
        let text = process::output(&mut command, COMMAND_LIMIT, &self.interrupt)?;
        serde_json::from_str(&text).with_context(|| format!("no JSON from limiter: {text}"))
    }

    /// Starts one client, a part of this program, in the clients' namespace.
    pub(super) fn client<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Running> {
        let mut command = nsenter(&self.clients_net());
        Running::start(command.arg(&self.this).arg("demo").args(arguments))
    }

    /// Its network namespace as a file, for as long as the stage stands.
    pub(super) fn clients_net(&self) -> String {
        format!("/proc/{}/ns/net", self.clients.id())
    }

    fn server_net(&self) -> String {
        format!("/proc/{}/ns/net", self.host.id())
    }

    /// The process id that this namespace gives to one inside the server's.
    pub(super) fn outer_pid(&self, inner: u64) -> Option<u32> {
        let namespace =
            fs::read_link(format!("/proc/{}/ns/pid_for_children", self.host.id())).ok()?;
        fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let is_here = fs::read_link(entry.path().join("ns/pid")).ok()? == namespace;
            (is_here && innermost_pid(&status) == Some(inner)).then_some(pid)
        })
    }

    /// The end of what the agent wrote.
    pub(super) fn print_log(&self) {
        let log = fs::read_to_string(self.files.agent_log()).unwrap_or_default();
        for line in super::tables::tail(&log, LOG_LINES) {
            eprintln!("limiter: {line}");
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        end(&mut self.host);
        end(&mut self.clients);
        if let Err(error) = remove(&self.files) {
            eprintln!("xtask: {error:#}");
        }
    }
}

/// A child that is ended unless it is taken out.
struct Unfinished(Option<Child>);

impl Unfinished {
    fn wait_until_ready(&mut self) -> Result<()> {
        let output = self.0.as_mut().and_then(|child| child.stdout.take());
        let output = output.context("no pipe from the namespaces")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            drop(BufReader::new(output).read_line(&mut line));
            drop(sender.send(line));
        });
        match receiver.recv_timeout(START_LIMIT) {
            Ok(line) if line.trim() == host::READY => Ok(()),
            Ok(_) => bail!("private namespaces cannot be made here (see above)"),
            Err(_) => bail!("no private namespaces within {} s", START_LIMIT.as_secs()),
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

/// Closes its input, which asks it to end, and ends it with force if it does not.
fn end(child: &mut Child) {
    drop(child.stdin.take());
    let stopwatch = Stopwatch::start();
    while stopwatch.elapsed() < STOP_LIMIT {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(POLL);
    }
    // It may end at this very moment; `--kill-child` takes the rest with it.
    drop(child.kill());
    drop(child.wait());
}

fn nsenter(namespace: &str) -> Command {
    let mut command = program("nsenter");
    command.arg(format!("--net={namespace}")).arg("--");
    command
}

/// Feeds lines to `ip -batch` in a namespace.
fn ip(namespace: &str, lines: &str) -> Result<()> {
    let mut command = nsenter(namespace);
    let mut child = command
        .args(["ip", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start nsenter")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("the private network cannot be set up: {}", message.trim());
    }
    Ok(())
}

/// What this demonstration, or an earlier one that was killed, left in files.
fn remove(files: &Files) -> Result<()> {
    for directory in [files.directory.clone(), files.runtime()] {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error)
                    .with_context(|| format!("cannot remove {}", directory.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The last number of `NSpid:` in `/proc/PID/status`.
fn innermost_pid(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_ids_of_the_innermost_namespace() {
        assert_eq!(innermost_pid("Name:\tx\nNSpid:\t4711\t12\nNSpgid:\t1\n"), Some(12));
        assert_eq!(innermost_pid("NSpid:\t7\n"), Some(7));
        assert_eq!(innermost_pid("Name:\tx\n"), None);
    }
}
