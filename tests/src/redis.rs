//! A real Redis server in a namespace: paused, killed and started again as a test needs it.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{
    netns::{Namespace, signal},
    scratch::Scratch,
    wait::eventually,
};

/// How long it may take to start.
const START: Duration = Duration::from_secs(10);

/// The server, which keeps nothing on disk. Killed on drop.
#[derive(Debug)]
pub struct Redis {
    namespace: Namespace,
    address: SocketAddr,
    arguments: Vec<String>,
    /// Given to `redis-cli`, too.
    password: Option<String>,
    child: Option<Child>,
    // Last: removed after the process.
    scratch: Scratch,
}

impl Redis {
    /// On port 6379 of this address of the namespace.
    pub fn start(namespace: &Namespace, address: &str) -> Self {
        let address: Ipv4Addr = address.parse().expect("an address");
        let mut redis = Self {
            namespace: namespace.clone(),
            address: (address, 6379).into(),
            arguments: Vec::new(),
            password: None,
            child: None,
            scratch: Scratch::new(),
        };
        redis.launch();
        redis
    }

    /// With these further arguments and this password from the next start on; `redis-cli` knows the
    /// password at once.
    pub fn set_arguments(&mut self, arguments: &[&str], password: Option<&str>) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self.password = password.map(str::to_owned);
    }

    /// How it is reached at another address of its namespace.
    pub fn url_at(&self, address: &str) -> String {
        format!("redis://{address}:{}", self.address.port())
    }

    /// Its directory, for certificates.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Starts it again, empty.
    pub fn launch(&mut self) {
        let mut command = self.namespace.command("redis-server");
        command
            .args(["--bind", &self.address.ip().to_string(), "--port"])
            .arg(self.address.port().to_string())
            .args(["--save", "", "--appendonly", "no", "--protected-mode", "no", "--dir"])
            .arg(self.scratch.path())
            .args(&self.arguments);
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.child = Some(child.expect("redis-server starts (`cargo xtask test` installs it)"));
        eventually(START, "redis-server answers", || self.try_ask(&["PING"]).trim() == "PONG");
    }

    /// Kills it: connections break, and whoever connects is refused.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Stops it where it is: connections stay, nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// What `redis-cli` prints; panics if it fails.
    #[track_caller]
    pub fn ask<S: AsRef<OsStr>>(&self, words: &[S]) -> String {
        let output = self.cli(words).output().expect("redis-cli starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// How often a command was called, by `INFO commandstats`.
    #[track_caller]
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.ask(&["INFO", "commandstats"]);
        let line = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|text| text.strip_prefix(line.as_str()));
        calls.and_then(|text| text.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    fn try_ask(&self, words: &[&str]) -> String {
        let output = self.cli(words).output().expect("redis-cli starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn cli<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = self.namespace.command("redis-cli");
        command.args(["-h", &self.address.ip().to_string(), "--no-auth-warning"]);
        if let Some(password) = &self.password {
            command.args(["-a", password]);
        }
        command.args(words);
        command
    }

    fn signal(&self, which: Signal) {
        let child = self.child.as_ref().expect("it runs");
        assert!(signal(child.id(), which), "it runs");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
