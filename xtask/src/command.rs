//! Runs other programs: with a clean environment, with their output passed through or captured,
//! with a time limit, as root where that is needed. Never hides why one failed.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{clock::Stopwatch, workspace::Workspace};

/// What cargo sets for the programs it runs. It describes the build of xtask and would mislead
/// the cargo (perhaps of another toolchain) that xtask starts.
const SET_BY_CARGO: [&str; 8] = [
    "CARGO",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
    "RUST_RECURSION_COUNT",
];

/// `program` without what cargo and rustup set for xtask itself.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        if SET_BY_CARGO.contains(&name_text.as_ref()) || name_text.starts_with("CARGO_PKG_") {
            command.env_remove(&name);
        }
    }
    match own_library_path() {
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    command
}

/// `LD_LIBRARY_PATH` without the directories that rustup's cargo put in front: they hold the
/// libLLVM and librustc of its own toolchain.
fn own_library_path() -> Option<OsString> {
    let path = env::var_os("LD_LIBRARY_PATH")?;
    let kept: Vec<PathBuf> = env::split_paths(&path)
        .filter(|entry| {
            !entry.components().any(|part| {
                matches!(part.as_os_str().to_str(), Some(".rustup" | "toolchains" | "target"))
            })
        })
        .collect();
    if kept.is_empty() { None } else { env::join_paths(kept).ok() }
}

/// The cargo that runs xtask, in the root of the workspace. What compiles `limiter-user` finds
/// the eBPF object through the environment.
pub(crate) fn cargo(workspace: &Workspace) -> Command {
    let mut command = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .env("LIMITER_EBPF_OBJECT", workspace.ebpf_object());
    command
}

/// The command line as one would type it, for messages.
pub(crate) fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs with output passed through; an error unless it exits with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    check(command, status)
}

/// As [`run`], announced, and followed by the time it took.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("xtask: {what}");
    let stopwatch = Stopwatch::start();
    run(command)?;
    eprintln!("xtask: {what}: done in {}", stopwatch.text());
    Ok(())
}

pub(crate) fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Standard output of a short command that must succeed; its standard error is part of the error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", line(command), output.status, message.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs without a word and gives up after `limit`. `Err` holds why, in its own words: for steps
/// that may fail because there is no network, and that something else replaces.
pub(crate) fn quietly(command: &mut Command, limit: Duration) -> Result<(), String> {
    let mut child = command
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stderr = child.stderr.take();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(stderr) = &mut stderr {
            // What was read until an error is still the best explanation there is.
            drop(stderr.read_to_end(&mut text));
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    let stopwatch = Stopwatch::start();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                let text = reader.join().unwrap_or_default();
                return Err(reason(&text).unwrap_or_else(|| status.to_string()));
            }
            Ok(None) if stopwatch.elapsed() > limit => {
                drop(child.kill());
                drop(child.wait());
                return Err(format!("no answer within {} s", limit.as_secs()));
            }
            Ok(None) => thread::sleep(Duration::from_millis(50)),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The line that says why something failed: the first that calls itself an error, else the last.
fn reason(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines.clone().find(|line| line.starts_with("error"));
    error.or_else(|| lines.next_back()).map(str::to_owned)
}

/// Whether this process has user id 0.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// `program` as root: itself if already root, else through `sudo` with `environment` passed on.
/// `why` ends the sentence "root is needed ...".
pub(crate) fn as_root(
    program: impl AsRef<OsStr>,
    environment: &[(&str, OsString)],
    why: &str,
) -> Result<Command> {
    if is_root() {
        let mut command = command(program);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        return Ok(command);
    }
    let Some(sudo) = find_program("sudo") else {
        bail!("root is needed {why}; this is not root and there is no sudo");
    };
    let mut command = command(sudo);
    if !environment.is_empty() {
        command.arg("env");
        for (name, value) in environment {
            let mut pair = OsString::from(format!("{name}="));
            pair.push(value);
            command.arg(pair);
        }
    }
    command.arg(program);
    Ok(command)
}

/// Looks `name` up in `PATH` and in the sbin directories that a plain user's `PATH` lacks.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_failures_say_why_and_end_in_time() {
        let failed = quietly(Command::new("sh").args(["-c", "echo no route >&2; exit 3"]), LONG);
        assert_eq!(failed, Err("no route".to_owned()));
        let late = quietly(Command::new("sleep").arg("60"), Duration::from_millis(100));
        assert!(late.is_err_and(|message| message.starts_with("no answer within")));
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn the_reason_is_the_error_not_the_backtrace() {
        let text = "info: downloading\nerror: no route\n\n  0: <unknown>\n";
        assert_eq!(reason(text).as_deref(), Some("error: no route"));
        assert_eq!(reason("a\nb\n").as_deref(), Some("b"));
        assert_eq!(reason(" \n"), None);
    }

    #[test]
    fn captured_output_and_errors() {
        assert_eq!(capture(Command::new("echo").arg("a b")).unwrap(), "a b\n");
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; false"])).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn programs_are_found_in_the_path_only_if_executable() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
