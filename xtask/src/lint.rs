//! Everything that judges the source without running it. All checks run, then the ones that
//! failed are named; what a toolchain cannot check is said, never passed over.

use std::{
    ffi::OsString,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    command::{capture, cargo, check, command, find_program, quietly, step},
    ebpf, setup, tidy,
    toolchain::Toolchain,
    workspace::Workspace,
};

const COMPONENT_LIMIT: Duration = Duration::from_mins(2);
const DENY: &str = "0.20.2";

/// Builds the eBPF object first: the build of `limiter-user` embeds it. Needs no root.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    setup::for_builds()?;
    let (toolchain, _) = ebpf::compile(workspace)?;
    run(workspace, &toolchain)
}

/// As [`all`], when the eBPF object has just been built by `toolchain`.
pub(crate) fn run(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let mut failed = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            eprintln!("xtask: {what}: {error:#}");
            failed.push(what.to_owned());
        }
    };
    note("tidy", tidy::all(workspace));
    note("format", format(workspace));
    note("clippy", clippy(workspace));
    note("clippy of the eBPF programs", clippy_ebpf(workspace, toolchain));
    note("documentation", documentation(workspace));
    note("licences, bans and sources", deny(workspace));
    note("lock file of the fuzz targets", fuzz_lock(workspace));
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    eprintln!("xtask: lint: all good");
    Ok(())
}

fn format(workspace: &Workspace) -> Result<()> {
    component("fmt", "rustfmt")?;
    step("format", cargo(workspace).args(["fmt", "--all", "--", "--check"]))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    component("clippy", "clippy")?;
    let mut cargo = cargo(workspace);
    cargo.args(["clippy", "--workspace", "--exclude", "limiter-ebpf", "--all-targets", "--quiet"]);
    step("clippy", cargo.args(["--", "-D", "warnings"]))
}

/// With the toolchain that builds the programs, if that has a clippy. Debian's has none, and
/// rustup's cannot read the core that another compiler made: then clippy judges the programs as
/// the host sees them (same source, host's core), and rustc's own lints as BPF does.
fn clippy_ebpf(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let package = ["--package", "limiter-ebpf", "--bins", "--quiet"];
    let bpf = |subcommand| {
        let mut cargo = toolchain.cargo(&workspace.target.join("ebpf"), subcommand);
        cargo.current_dir(&workspace.root).args(package).args(["--profile", "bpf"]);
        cargo
    };
    if toolchain.has_clippy() {
        let mut clippy = bpf("clippy");
        return step("clippy for the BPF target", clippy.args(["--", "-D", "warnings"]));
    }
    eprintln!(
        "xtask: {} has no clippy: clippy sees the eBPF programs as compiled for the host, \
         and rustc's lints see them as compiled for BPF",
        toolchain.kind
    );
    let mut host = cargo(workspace);
    host.env("CARGO_TARGET_DIR", workspace.target.join("ebpf-lint"))
        // Without the unwinder, which a program without std does not have.
        .env("CARGO_PROFILE_DEV_PANIC", "abort")
        // They use features that only the toolchain of the BPF target has otherwise.
        .env("RUSTC_BOOTSTRAP", "1")
        .arg("clippy")
        .args(package)
        .args(["--", "-D", "warnings"]);
    step("clippy of the eBPF programs for the host", &mut host)?;
    eprintln!("xtask: rustc's lints of the eBPF programs for the BPF target");
    without_warnings(bpf("check").arg("--message-format=json"))
}

/// Runs a cargo that reports in JSON, shows what the compiler says, and fails if it says anything.
/// The flag `-D warnings` would have every dependency compiled anew.
fn without_warnings(cargo: &mut Command) -> Result<()> {
    let output = cargo.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said: Vec<String> = text.lines().filter_map(diagnostic).collect();
    for diagnostic in &said {
        eprintln!("{diagnostic}");
    }
    check(cargo, output.status)?;
    if !said.is_empty() {
        bail!("{} warnings", said.len());
    }
    Ok(())
}

/// What the compiler says in one line of cargo's messages, as it would print it.
fn diagnostic(message: &str) -> Option<String> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    Some(message.pointer("/message/rendered")?.as_str()?.to_owned())
}

fn documentation(workspace: &Workspace) -> Result<()> {
    let mut cargo = cargo(workspace);
    cargo.args(["doc", "--no-deps", "--workspace", "--exclude", "limiter-ebpf", "--quiet"]);
    step("documentation", cargo.env("RUSTDOCFLAGS", "-D warnings"))
}

fn deny(workspace: &Workspace) -> Result<()> {
    if capture(cargo(workspace).args(["deny", "--version"])).is_err() {
        let mut install = cargo(workspace);
        install.args(["install", "cargo-deny", "--version", DENY, "--locked", "--target-dir"]);
        install.arg(workspace.state().join("cargo-deny-build"));
        step(&format!("building cargo-deny {DENY} (once, some minutes)"), &mut install)?;
    }
    let mut deny: Command = cargo(workspace);
    deny.args(["deny", "--log-level", "warn", "check", "licenses", "bans", "sources"]);
    step("licences, bans and sources", &mut deny)
}

/// The targets are a workspace of their own, which no other build looks at: what the product
/// depends on changes without them.
fn fuzz_lock(workspace: &Workspace) -> Result<()> {
    let mut metadata = cargo(workspace);
    metadata.args(["metadata", "--locked", "--format-version", "1", "--manifest-path"]);
    capture(metadata.arg(workspace.root.join("fuzz/Cargo.toml"))).map(drop)
}

/// Sees to it that cargo has `subcommand`, which rustup calls `component`.
fn component(subcommand: &str, component: &str) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    if capture(command(cargo).args([subcommand, "--version"])).is_ok() {
        return Ok(());
    }
    let Some(rustup) = find_program("rustup") else {
        bail!("there is no `cargo {subcommand}`; install {component} for this Rust");
    };
    eprintln!("xtask: adding the component {component} with rustup");
    match quietly(command(rustup).args(["component", "add", component]), COMPONENT_LIMIT) {
        Ok(()) => Ok(()),
        Err(message) => bail!("there is no `cargo {subcommand}`, and rustup says: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostics_are_read_from_cargo_messages() {
        let warning = r#"{"reason":"compiler-message","message":{"rendered":"warning: unused"}}"#;
        assert_eq!(diagnostic(warning).as_deref(), Some("warning: unused"));
        assert_eq!(diagnostic(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
