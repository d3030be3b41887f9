//! Short programs of the demonstration: own process group, no variable that would configure the
//! product, a time limit, output captured. A signal to end ends them too.

use std::{
    ffi::OsStr,
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{interrupt::Interrupt, limiter_variables};
use crate::{clock::Stopwatch, command};

const POLL: Duration = Duration::from_millis(5);
/// More than any of them says.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// `program` in a process group of its own, untouched by what configures the product.
pub(super) fn program(program: impl AsRef<OsStr>) -> Command {
    let mut command = command::command(program);
    for name in limiter_variables() {
        command.env_remove(name);
    }
    command.process_group(0).stdin(Stdio::null());
    command
}

/// A program under way. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    line: String,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let line = command::line(command);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        let stdout = child.stdout.take().map(gather);
        let stderr = child.stderr.take().map(gather);
        Ok(Self { child, line, stdout, stderr })
    }

    /// Its standard output, if it ends well within `limit`.
    pub(super) fn finish(mut self, limit: Duration, interrupt: &Interrupt) -> Result<String> {
        let stopwatch = Stopwatch::start();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            interrupt.check()?;
            if stopwatch.elapsed() > limit {
                bail!("`{}` takes longer than {} s", self.line, limit.as_secs());
            }
            thread::sleep(POLL);
        };
        let text = |reader: Option<JoinHandle<String>>| {
            reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
        };
        let (stdout, stderr) = (text(self.stdout.take()), text(self.stderr.take()));
        if !status.success() {
            bail!("`{}` failed ({status}): {}", self.line, stderr.trim());
        }
        Ok(stdout)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended; then neither has anything to do.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn gather(from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came until an error is still worth having.
        drop(from.take(OUTPUT_LIMIT).read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Starts and finishes.
pub(super) fn output(
    command: &mut Command,
    limit: Duration,
    interrupt: &Interrupt,
) -> Result<String> {
    Running::start(command)?.finish(limit, interrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_errors_and_time_limits() {
        let never = Interrupt::never();
        let run = |script: &str, limit| output(program("sh").args(["-c", script]), limit, &never);
        assert_eq!(run("echo x", Duration::from_mins(1)).unwrap(), "x\n");
        let failed = run("echo why >&2; exit 3", Duration::from_mins(1)).unwrap_err().to_string();
        assert!(failed.contains("why"), "{failed}");
        let late = run("exec sleep 60", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(late.contains("takes longer"), "{late}");
    }
}
