//! The `limiter` program as a user runs it: configuration file, processes, signals, control socket
//! and command line, in a directory and a namespace of its own.

mod finished;
mod lifecycle;
mod wall_clock;

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::Duration,
};

use limiter_user::admin::view::StatusView;
use nix::sys::signal::Signal;

pub use self::{
    finished::{Finished, finish},
    wall_clock::WallClock,
};
use crate::{
    http::{self, Connection, Response},
    netns::{Namespace, signal},
    scratch::Scratch,
    wait::Deadline,
};

/// How long a command line may take.
const COMMAND: Duration = Duration::from_secs(20);

/// How much of the agent's stderr a failure shows.
const SHOWN_STDERR_BYTES: usize = 8 << 10;

/// The program under test: `LIMITER_BINARY`, or `limiter` in the target directory that the running
/// test was built in.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("LIMITER_BINARY") {
        return path.into();
    }
    let test = env::current_exe().expect("a test knows its executable");
    let directory = test.parent().and_then(Path::parent);
    let path = directory.expect("target/PROFILE/deps/test").join("limiter");
    assert!(
        path.exists(),
        "{} is missing: build it (`cargo build -p limiter-user`) or set LIMITER_BINARY",
        path.display()
    );
    path
}

/// An agent with its proxy. Dropping it takes XDP off, kills both and removes their files.
#[derive(Debug)]
pub struct Limiter {
    namespace: Namespace,
    /// `None`: [`binary`].
    program: Option<PathBuf>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    user: String,
    pins: PathBuf,
    agent: Option<Child>,
    /// Proxies seen in the status: one outlives a killed agent.
    proxies: Vec<u32>,
    // Last: removed after the processes.
    scratch: Scratch,
}

impl Limiter {
    /// Starts with a configuration and waits until it is ready.
    ///
    /// `configuration` is a file without its `[agent]` section, which is put in behind the keys
    /// that belong to no section: state, runtime and pins in a directory of this test (relative
    /// paths of the file start there), the proxy as `nobody`.
    #[track_caller]
    pub fn start(namespace: &Namespace, configuration: &str) -> Self {
        let mut limiter = Self::prepare(namespace, configuration);
        limiter.launch();
        limiter.wait_ready();
        limiter
    }

    /// Everything but starting: directory, bpffs, configuration file.
    pub fn prepare(namespace: &Namespace, configuration: &str) -> Self {
        let scratch = Scratch::new();
        let pins = scratch.mount_bpffs("bpf").join("limiter");
        let limiter = Self {
            namespace: namespace.clone(),
            program: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            user: "nobody".to_owned(),
            pins,
            agent: None,
            proxies: Vec::new(),
            scratch,
        };
        limiter.configure(configuration);
        limiter
    }

    /// Runs this program instead of [`binary`] from the next start on: another version.
    pub fn set_program(&mut self, program: impl Into<PathBuf>) {
        self.program = Some(program.into());
    }

    /// Adds an argument to `limiter run -c FILE` from the next start on.
    pub fn argument(&mut self, argument: impl Into<OsString>) -> &mut Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable from the next start on.
    pub fn environment(
        &mut self,
        name: impl Into<OsString>,
        value: impl Into<OsString>,
    ) -> &mut Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Pins elsewhere than in the bpffs of this test; takes effect with [`Self::configure`].
    pub fn pin_at(&mut self, pins: impl Into<PathBuf>) -> &mut Self {
        self.pins = pins.into();
        self
    }

    /// Rewrites the configuration file (see [`Self::start`]); a reload or restart reads it.
    pub fn configure(&self, configuration: &str) {
        let split = if configuration.starts_with('[') {
            0
        } else {
            configuration.find("\n[").map_or(configuration.len(), |at| at + 1)
        };
        let (top, sections) = configuration.split_at(split);
        let directory = self.scratch.path().display();
        let agent = format!(
            "\n[agent]\nstate = \"{directory}/state\"\nruntime = \"{directory}/run\"\n\
             pins = \"{}\"\nuser = \"{}\"\n\n",
            self.pins.display(),
            self.user
        );
        self.scratch.write("limiter.toml", format!("{top}{agent}{sections}"));
    }

    /// Writes the configuration file exactly as given.
    pub fn configure_exactly(&self, text: &str) {
        self.scratch.write("limiter.toml", text);
    }

    /// The directory with all its files.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The scratch directory, to put further files in.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.scratch.path().join("limiter.toml")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch.path().join("run/control.sock")
    }

    /// The directory of pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// The namespace it runs in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The command `limiter run` as it would be started, for tests that start it themselves.
    pub fn run_command(&self) -> Command {
        let mut command = self.namespace.command(self.program());
        command
            .args([OsStr::new("run"), OsStr::new("-c")])
            .arg(self.configuration())
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.scratch.path());
        command
    }

    /// Whether `/readyz` answers 200 now.
    pub fn is_ready(&self) -> bool {
        self.try_control("GET", "/readyz", b"").is_ok_and(|response| response.status == 200)
    }

    /// Runs `limiter run` until it ends by itself: for starts that must be refused.
    pub fn run_to_end(&self) -> Finished {
        finish(&mut self.run_command(), &self.scratch, COMMAND)
    }

    /// Runs a command of `limiter` against this agent's socket.
    pub fn cli<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        let mut command = self.cli_command(arguments);
        finish(&mut command, &self.scratch, COMMAND)
    }

    /// A command of `limiter` against this agent's socket, for one that follows (`events -f`).
    pub fn cli_command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(self.program());
        command.args(arguments).arg("--socket").arg(self.socket());
        command
    }

    /// Runs a command and reads its JSON; panics unless it succeeds.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> serde_json::Value {
        self.cli(arguments).succeeded().json()
    }

    /// `limiter status --json`.
    #[track_caller]
    pub fn status(&self) -> StatusView {
        let document = self.json(&["status", "--json"]);
        serde_json::from_value(document.clone())
            .unwrap_or_else(|error| panic!("{error} in {document:#}"))
    }

    /// A request to the control socket.
    #[track_caller]
    pub fn control(&self, method: &str, target: &str, body: &[u8]) -> Response {
        self.try_control(method, target, body)
            .unwrap_or_else(|failure| panic!("{method} {target}: {failure}"))
    }

    /// Everything that agents and proxies wrote to stderr so far.
    pub fn stderr(&self) -> String {
        let bytes = fs::read(self.scratch.path().join("stderr.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for a line on stderr that contains `part`, and returns it.
    #[track_caller]
    pub fn wait_for_line(&self, timeout: Duration, part: &str) -> String {
        let deadline = Deadline::after(timeout);
        loop {
            let last = deadline.is_over();
            let stderr = self.stderr();
            if let Some(line) = stderr.lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            assert!(!last, "no line with {part:?} within {timeout:?}:\n{}", self.shown_stderr());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lines of a file of this test, such as an event sink's; none while it does not exist.
    pub fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.scratch.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits for a line of `events.log` (see [`crate::world::SINKS`]) that ends in `end`, and
    /// returns it without its time.
    #[track_caller]
    pub fn event(&self, end: &str) -> String {
        let found = || self.events().into_iter().find(|line| line.ends_with(end));
        let deadline = Deadline::after(Duration::from_secs(5));
        loop {
            let last = deadline.is_over();
            if let Some(line) = found() {
                return line;
            }
            assert!(!last, "no event ends in {end:?}:\n{:#?}", self.events());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The lines of `events.log` without their times, whose form is checked.
    #[track_caller]
    pub fn events(&self) -> Vec<String> {
        let bare = |line: String| {
            let shape: String =
                line.chars().take(22).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert_eq!(shape, "[0000-00-00 00:00:00] ", "{line}");
            line[22..].to_owned()
        };
        self.lines("events.log").into_iter().map(bare).collect()
    }

    /// Runs a command of `limiter` with this agent's configuration file instead of its socket.
    pub fn with_file<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Finished {
        let mut command = Command::new(self.program());
        command.args(arguments).arg("-c").arg(self.configuration());
        finish(&mut command, &self.scratch, COMMAND)
    }

    fn try_control(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
    ) -> Result<Response, http::Failure> {
        let mut connection = Connection::open_unix(&self.socket(), Duration::from_secs(5))?;
        let json = ("Content-Type", "application/json");
        let headers: &[(&str, &str)] = if body.is_empty() { &[] } else { &[json] };
        connection.exchange(&http::request(method, target, headers, body))
    }

    fn program(&self) -> PathBuf {
        self.program.clone().unwrap_or_else(binary)
    }

    fn runs_here(&self, process: u32) -> bool {
        self.namespace.processes().contains(&process)
    }

    fn shown_stderr(&self) -> String {
        let stderr = self.stderr();
        let mut start = stderr.len().saturating_sub(SHOWN_STDERR_BYTES);
        while !stderr.is_char_boundary(start) {
            start += 1;
        }
        stderr[start..].to_owned()
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("stderr of the limiter:\n{}", self.shown_stderr());
        }
        self.proxy_pid();
        if self.is_running() {
            // Unmounting the bpffs removes pins anyway; this is for those elsewhere.
            let mut detach = self.cli_command(&["detach"]);
            finished::end_quietly(&mut detach, Duration::from_secs(5));
        }
        if let Some(mut agent) = self.agent.take() {
            agent.kill().ok();
            agent.wait().ok();
        }
        for proxy in std::mem::take(&mut self.proxies) {
            if self.runs_here(proxy) {
                signal(proxy, Signal::SIGKILL);
            }
        }
    }
}
