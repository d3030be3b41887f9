//! `cargo xtask`: everything that a person or CI does with this repository. Each subcommand sets
//! up what it needs, does one thing and ends with exit code 0 only if all of it succeeded. It
//! depends on no product crate, so that it builds when they do not.
#![expect(clippy::print_stdout, reason = "a command line tool speaks to whoever started it")]

mod bench;
mod ci;
mod clock;
mod command;
mod ebpf;
mod fuzz;
mod linker;
mod lint;
mod run;
mod setup;
mod stack;
mod test;
mod tidy;
mod toolchain;
mod verify;
mod workspace;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the eBPF object, load it, and check what the verifier says against the budget
    BuildEbpf,
    /// Build the eBPF object and the `limiter` binary that embeds it
    Build {
        /// Optimised, as shipped: target/release/limiter
        #[arg(long)]
        release: bool,
    },
    /// Format, clippy for host and BPF, tidy, licences and bans, documentation
    Lint,
    /// Show the limiter at work between private network namespaces; or run it, with `-- ARGUMENTS`
    Run {
        /// End after the demonstration, with exit code 0 only if every step did what it says
        #[arg(long, conflicts_with = "arguments")]
        once: bool,
        /// Given to `limiter run` on this host, instead of the demonstration
        #[arg(last = true)]
        arguments: Vec<OsString>,
    },
    /// Every test, those that need root and the kernel included
    Test {
        /// Given to every test binary, such as a part of a test's name
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Measure against the yardsticks
    Bench {
        /// Given to the bench binary
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fuzz what parses and decides, guided by coverage: one target, or each in turn
    Fuzz {
        /// Its name; a wrong one is answered with all of them
        target: Option<String>,
        /// How long each is fuzzed
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Everything that continuous integration checks
    Ci,
    /// The processes of the demonstration (started by `run`)
    #[command(hide = true)]
    Demo {
        #[command(subcommand)]
        part: run::Part,
    },
    /// Load these objects into the kernel and report on them (started as root by the others)
    #[command(hide = true)]
    VerifyEbpf {
        #[arg(required = true)]
        objects: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Demo { part } => run::part(&part),
        Task::BuildEbpf => ebpf::build(&workspace).map(drop),
        Task::Build { release } => ebpf::build_limiter(&workspace, release).map(drop),
        Task::Lint => lint::all(&workspace),
        Task::Run { once, arguments } if arguments.is_empty() => run::show(&workspace, once),
        Task::Run { arguments, .. } => run::real(&workspace, &arguments),
        Task::Test { filter } => test::all(&workspace, &filter),
        Task::Bench { arguments } => bench::run_with(&workspace, &arguments),
        Task::Fuzz { target, seconds } => fuzz::fuzz(&workspace, target.as_deref(), seconds),
        Task::Ci => ci::all(&workspace),
        Task::VerifyEbpf { objects } => verify::report(&objects),
    }
}
