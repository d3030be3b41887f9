//! Starting, signalling and ending the agent and its proxy, always by process id.

use std::{
    fs::{File, OpenOptions},
    process::{ExitStatus, Stdio},
    thread,
    time::Duration,
};

use limiter_user::admin::view::StatusView;
use nix::sys::signal::Signal;

use super::Limiter;
use crate::{
    netns::signal,
    wait::{Deadline, eventually, eventually_some},
};

/// How long a start may take, with loading the kernel program in a debug build.
const READY: Duration = Duration::from_secs(30);

impl Limiter {
    /// Starts the agent without waiting. Panics if one started here is running.
    pub fn launch(&mut self) {
        assert!(!self.is_running(), "the agent is running already");
        let log = |name: &str| -> File {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.scratch.path().join(name))
                .expect("a log file in the scratch directory")
        };
        let child = self
            .run_command()
            .stdin(Stdio::null())
            .stdout(log("stdout.log"))
            .stderr(log("stderr.log"))
            .spawn()
            .expect("nsenter (util-linux) starts");
        self.agent = Some(child);
    }

    /// Waits until `/readyz` answers 200; panics with the agent's stderr otherwise.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let deadline = Deadline::after(READY);
        loop {
            let ended = self
                .agent
                .as_mut()
                .and_then(|agent| agent.try_wait().expect("a child can be waited for"));
            assert!(
                ended.is_none(),
                "the agent ended with {ended:?} before it was ready:\n{}",
                self.shown_stderr()
            );
            if self.is_ready() {
                break;
            }
            assert!(
                !deadline.is_over(),
                "the agent is not ready after {READY:?}:\n{}",
                self.shown_stderr()
            );
            thread::sleep(Duration::from_millis(10));
        }
        self.proxy_pid();
    }

    /// Process id of the agent started last.
    #[track_caller]
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent was started").id()
    }

    /// Process id of the proxy that the agent reports; `None` while there is none.
    pub fn proxy_pid(&mut self) -> Option<u32> {
        let response = self.try_control("GET", "/v1/status", b"").ok()?;
        let status: StatusView = serde_json::from_slice(&response.body).ok()?;
        let proxy = status.proxy_pid?;
        if !self.proxies.contains(&proxy) {
            self.proxies.push(proxy);
        }
        Some(proxy)
    }

    /// Whether the agent started last runs.
    pub fn is_running(&mut self) -> bool {
        self.agent.as_mut().is_some_and(|agent| matches!(agent.try_wait(), Ok(None)))
    }

    /// Sends a signal to the agent.
    #[track_caller]
    pub fn signal(&self, which: Signal) {
        assert!(signal(self.agent_pid(), which), "no agent to signal");
    }

    /// SIGKILL to the agent alone, and waits for its end. The proxy stays.
    #[track_caller]
    pub fn kill_agent(&mut self) {
        self.proxy_pid();
        self.signal(Signal::SIGKILL);
        self.wait_end(Duration::from_secs(5));
    }

    /// SIGKILL to the proxy that the agent reports, or else to the last one known, and waits for
    /// its end.
    #[track_caller]
    pub fn kill_proxy(&mut self) {
        let reported = self.proxy_pid().or_else(|| self.proxies.last().copied());
        let proxy = reported.expect("a proxy was seen");
        assert!(self.runs_here(proxy), "proxy {proxy} runs");
        signal(proxy, Signal::SIGKILL);
        eventually(Duration::from_secs(5), "the killed proxy ends", || !self.runs_here(proxy));
    }

    /// SIGTERM to the agent, and its exit status.
    #[track_caller]
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        self.proxy_pid();
        self.signal(Signal::SIGTERM);
        self.wait_end(timeout)
    }

    /// Waits for the agent to end.
    #[track_caller]
    pub fn wait_end(&mut self, timeout: Duration) -> ExitStatus {
        let agent = self.agent.as_mut().expect("the agent was started");
        eventually_some(timeout, "the agent ends", || {
            agent.try_wait().expect("a child can be waited for")
        })
    }

    /// Starts the agent again and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.launch();
        self.wait_ready();
    }
}
