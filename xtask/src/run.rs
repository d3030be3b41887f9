//! `cargo xtask run`: builds `limiter`, then shows it at work between private network namespaces,
//! or, given arguments, runs it on this host. The demonstration is checked step by step. It never
//! changes the host's network; all it makes ends with its processes, however they end.

mod answers;
mod client;
mod config;
mod host;
mod interrupt;
mod lines;
mod lock;
mod process;
mod sample;
mod stage;
mod steps;
mod tables;
mod wire;

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::{
    command::{as_root, command, find_program, is_root, line},
    ebpf,
    setup::{self, Need},
    workspace::Workspace,
};

/// The processes of the demonstration.
#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// As root: makes the namespaces, drives the clients, prints what happens
    Show {
        #[arg(long)]
        limiter: PathBuf,
        /// Emptied at the start and removed at the end
        #[arg(long)]
        directory: PathBuf,
        #[arg(long)]
        once: bool,
    },
    /// First process of the server's namespaces: sample API and agent, until its input ends
    Host {
        #[arg(long)]
        limiter: PathBuf,
        #[arg(long)]
        directory: PathBuf,
    },
    /// Keeps the clients' namespace until its input ends
    Hold,
    /// One HTTP client
    Http(client::HttpArgs),
    /// One sender of datagrams
    Udp(client::UdpArgs),
}

/// Builds, then becomes the demonstration.
pub(crate) fn show(workspace: &Workspace, once: bool) -> Result<()> {
    for_demonstration()?;
    let limiter = ebpf::build_limiter(workspace, true)?;
    let mut command = demonstration(workspace, &limiter, once)?;
    Err(command.exec()).with_context(|| format!("cannot start `{}`", line(&command)))
}

/// The checked demonstration of a `limiter` that is built, as a step of something longer.
pub(crate) fn check(workspace: &Workspace, limiter: &Path) -> Result<()> {
    for_demonstration()?;
    crate::command::run(&mut demonstration(workspace, limiter, true)?)
}

fn for_demonstration() -> Result<()> {
    setup::for_namespaces()?;
    let purpose = "to make and enter private network namespaces";
    setup::ensure(&[
        Need::program("unshare", "util-linux", purpose),
        Need::program("nsenter", "util-linux", purpose),
    ])
}

fn demonstration(workspace: &Workspace, limiter: &Path, once: bool) -> Result<Command> {
    let this = std::env::current_exe().context("cannot find xtask itself")?;
    let environment: Vec<(&str, OsString)> =
        std::env::var_os("PATH").map(|path| ("PATH", path)).into_iter().collect();
    let mut command = as_root(this, &environment, "to make private network namespaces")?;
    command.args(["demo", "show", "--limiter"]).arg(limiter);
    command.arg("--directory").arg(workspace.state().join("demo"));
    if once {
        command.arg("--once");
    }
    Ok(command)
}

/// Builds, then becomes `limiter run ARGUMENTS` as root on this host.
pub(crate) fn real(workspace: &Workspace, arguments: &[OsString]) -> Result<()> {
    let limiter = ebpf::build_limiter(workspace, true)?;
    let mut command = if is_root() {
        command(limiter)
    } else {
        let Some(sudo) = find_program("sudo") else {
            bail!("root is needed to load programs; this is not root and there is no sudo");
        };
        let mut command = command(sudo);
        // By name: values would show in the list of processes, and one may be a token.
        let names = limiter_variables().collect::<Vec<_>>().join(",");
        if !names.is_empty() {
            command.arg(format!("--preserve-env={names}"));
        }
        command.arg(limiter);
        command
    };
    command.arg("run").args(arguments);
    eprintln!("xtask: starting `{}`", line(&command));
    Err(command.exec()).with_context(|| format!("cannot start `{}`", line(&command)))
}

/// Names of the environment variables that configure the product.
fn limiter_variables() -> impl Iterator<Item = String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("LIMITER_"))
}

/// One process of the demonstration.
pub(crate) fn part(part: &Part) -> Result<()> {
    match part {
        Part::Show { limiter, directory, once } => perform(limiter, directory, *once),
        Part::Host { limiter, directory } => host::run(limiter, directory),
        Part::Hold => host::hold(),
        Part::Http(args) => client::http(args),
        Part::Udp(args) => client::udp(args),
    }
}

/// Sets the stage, shows the steps, prints the tables, and without `once` waits for a signal.
fn perform(limiter: &Path, directory: &Path, once: bool) -> Result<()> {
    let interrupt = interrupt::Interrupt::register()?;
    let _lock = lock::take(directory, &interrupt)?;
    let mut stage = stage::Stage::set(limiter, directory, &interrupt)?;
    let result = steps::all(&stage, &interrupt).and_then(|failed| {
        tables::print(&stage)?;
        if !once {
            lines::print(&stage)?;
            stage.wait(&interrupt)?;
        }
        Ok(failed)
    });
    if result.as_ref().map_or(!interrupt.is_raised(), |failed| *failed > 0) {
        stage.print_log();
    }
    drop(stage);
    let failed = result?;
    if failed > 0 {
        bail!("{failed} steps did not do what they say");
    }
    if once {
        println!("Every step did what it says.");
    }
    Ok(())
}
