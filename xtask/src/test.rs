//! Every test of the workspace, in groups: host tests as whoever runs this, tests that cross a
//! boundary (kernel, namespaces, processes) as root. Output streams through; what libtest says at
//! the end of each binary is added up. A group that fails does not keep the next from running.

use std::{
    env,
    ffi::OsString,
    io::{BufRead, BufReader},
    ops::AddAssign,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    clock::Stopwatch,
    command::{as_root, cargo, line},
    ebpf::{self, Executable},
    setup,
    workspace::Workspace,
};

/// The package whose tests cross a boundary.
const BOUNDARY: &str = "limiter-tests";
/// Namespaces, sockets and a kernel that is shared: more at once only makes them wait.
const BOUNDARY_THREADS: &str = "2";

/// Tests by their end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Sets up, builds, runs everything, prints counts per group and in all.
pub(crate) fn all(workspace: &Workspace, filter: &[String]) -> Result<()> {
    setup::for_tests()?;
    let limiter = ebpf::build_limiter(workspace, false)?;
    run(workspace, &limiter, filter)
}

/// As [`all`], when everything but the tests has been built.
pub(crate) fn run(workspace: &Workspace, limiter: &Path, filter: &[String]) -> Result<()> {
    eprintln!("xtask: building the tests");
    let stopwatch = Stopwatch::start();
    let host =
        binaries(workspace, &["--workspace", "--exclude", "limiter-ebpf", "--exclude", BOUNDARY])?;
    let boundary = binaries(workspace, &["--package", BOUNDARY])?;
    eprintln!("xtask: building the tests: done in {}", stopwatch.text());

    let peers = setup::peers(workspace)?;
    let mut groups: Vec<(String, Counts)> = Vec::new();
    for binary in &host {
        let mut command = crate::command::command(&binary.path);
        set_place(&mut command, binary);
        command.args(filter);
        groups.push((title(binary), stream(&mut command)?));
    }
    let mut documentation = cargo(workspace);
    documentation.args(["test", "--doc", "--workspace", "--quiet"]);
    for package in ["limiter-ebpf", BOUNDARY] {
        documentation.args(["--exclude", package]);
    }
    documentation.arg("--").args(filter);
    groups.push(("documentation examples".to_owned(), stream(&mut documentation)?));
    for binary in &boundary {
        let mut command = boundary_command(workspace, binary, (limiter, &peers))?;
        command.args(["--test-threads", BOUNDARY_THREADS]).args(filter);
        groups.push((title(binary), stream(&mut command)?));
    }

    let total = groups.iter().fold(Counts::default(), |mut total, (_, counts)| {
        total += *counts;
        total
    });
    println!();
    for (name, counts) in &groups {
        let ignored = if counts.ignored > 0 {
            format!(", {} ignored", counts.ignored)
        } else {
            String::new()
        };
        println!("{name}: {} passed, {} failed{ignored}", counts.passed, counts.failed);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}

/// Builds the tests that `selection` names; cargo says what it built.
fn binaries(workspace: &Workspace, selection: &[&str]) -> Result<Vec<Executable>> {
    let mut cargo = cargo(workspace);
    cargo
        .args(["test", "--no-run", "--lib", "--bins", "--tests"])
        .args(selection)
        .arg("--message-format=json-render-diagnostics");
    let mut binaries = ebpf::executables(&mut cargo)?;
    // Programs that tests start are announced too, under target/debug itself.
    binaries.retain(|binary| binary.path.parent().is_some_and(|parent| parent.ends_with("deps")));
    binaries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(binaries)
}

fn title(binary: &Executable) -> String {
    let package = binary.manifest.parent().and_then(Path::file_name).unwrap_or_default();
    format!("{} {} {}", package.to_string_lossy(), binary.kind, binary.name)
}

/// The directory and variables that `cargo test` gives its binaries.
fn set_place(command: &mut Command, binary: &Executable) {
    if let Some(package) = binary.manifest.parent() {
        command.current_dir(package).env("CARGO_MANIFEST_DIR", package);
    }
}

fn boundary_command(
    workspace: &Workspace,
    binary: &Executable,
    (limiter, peers): (&Path, &Path),
) -> Result<Command> {
    let package = binary.manifest.parent().unwrap_or(&workspace.root);
    let mut environment: Vec<(&str, OsString)> = vec![
        ("CARGO_MANIFEST_DIR", package.into()),
        ("LIMITER_BINARY", limiter.into()),
        ("LIMITER_EBPF_OBJECT", workspace.ebpf_object().into()),
        ("LIMITER_PEERS", peers.into()),
    ];
    for name in ["PATH", "RUST_BACKTRACE"] {
        environment.extend(env::var_os(name).map(|value| (name, value)));
    }
    let mut command =
        as_root(&binary.path, &environment, "for tests that use the kernel and namespaces")?;
    command.current_dir(package);
    Ok(command)
}

/// Runs one test program, passing its output on, and adds up its results. A program that ends
/// badly without saying so (a crash) counts as one failed test.
fn stream(command: &mut Command) -> Result<Counts> {
    eprintln!("xtask: running {}", line(command));
    let mut child = command
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    let output = child.stdout.take().context("no output to read")?;
    let mut counts = Counts::default();
    for text in BufReader::new(output).split(b'\n') {
        let text = text?;
        let text = String::from_utf8_lossy(&text);
        println!("{text}");
        if let Some(result) = test_result(&text) {
            counts += result;
        }
    }
    let status = child.wait()?;
    if !status.success() && counts.failed == 0 {
        println!("`{}` ended with {status}: counted as one failed test", line(command));
        counts.failed = 1;
    }
    Ok(counts)
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; ...`
fn test_result(text: &str) -> Option<Counts> {
    let (_, numbers) = text.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in numbers.split(';') {
        let Some((number, what)) = part.trim().split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        match what {
            "passed" => counts.passed = number,
            "failed" => counts.failed = number,
            "ignored" => counts.ignored = number,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let text = "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; \
                    3 filtered out; finished in 0.52s";
        let counts = Counts { passed: 12, failed: 2, ignored: 1 };
        assert_eq!(test_result(text), Some(counts));
        let text = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(test_result(text), Some(Counts::default()));
        assert_eq!(test_result("test results::are_read ... ok"), None);
        assert_eq!(test_result("running 2 tests"), None);
    }

    #[test]
    fn a_crash_counts_as_a_failed_test() {
        let counts = stream(Command::new("sh").args(["-c", "kill -ABRT $$"])).unwrap();
        assert_eq!(counts, Counts { passed: 0, failed: 1, ignored: 0 });
        let script = "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored'; exit 101";
        let counts = stream(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(counts, Counts { passed: 1, failed: 2, ignored: 0 });
    }
}
