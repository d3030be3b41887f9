//! Commands that run to their end, with a timeout, and what they said.

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use crate::{scratch::Scratch, wait::Deadline};

/// A command that ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit code; `None`: ended by a signal.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Finished {
    /// Itself; panics with what it said unless the exit code is 0.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "checking is most of the use")]
    pub fn succeeded(self) -> Self {
        self.ended_with(0)
    }

    /// Itself; panics with what it said unless this is the exit code.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "checking is most of the use")]
    pub fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Its stdout as JSON; panics with it if it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in stdout {:?}", self.stdout))
    }
}

/// Runs a command to its end; kills it and panics with what it said when it takes longer than
/// `timeout`. Output goes to files: a child that it leaves behind cannot hold a pipe open.
#[track_caller]
pub fn finish(command: &mut Command, scratch: &Scratch, timeout: Duration) -> Finished {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = |name: &str| scratch.path().join(format!("command-{number}.{name}"));
    let (stdout, stderr) = (path("stdout"), path("stderr"));
    let create = |path| File::create(path).expect("an output file in the scratch directory");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(create(&stdout))
        .stderr(create(&stderr))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = wait(&mut child, timeout);
    let read = |path| {
        let text = fs::read(&path).unwrap_or_default();
        fs::remove_file(&path).ok();
        String::from_utf8_lossy(&text).into_owned()
    };
    let (stdout, stderr) = (read(stdout), read(stderr));
    let status = status.unwrap_or_else(|| {
        panic!("{command:?} runs after {timeout:?}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    });
    Finished { code: status.code(), stdout, stderr }
}

/// Runs a command for its effect, whatever comes of it.
pub(super) fn end_quietly(command: &mut Command, timeout: Duration) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Ok(mut child) = command.spawn() {
        wait(&mut child, timeout);
    }
}

/// The exit status, or `None` after killing what took too long.
fn wait(child: &mut Child, timeout: Duration) -> Option<std::process::ExitStatus> {
    let deadline = Deadline::after(timeout);
    loop {
        let last = deadline.is_over();
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if last {
            child.kill().ok();
            child.wait().ok();
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}
