//! `limiter run` and the hidden `limiter proxy`: the two processes.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

/// What the command line says about the agent; it overrides the environment and the file, which
/// `config` reads.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct RunArgs {
    /// Configuration file; else `LIMITER_CONFIG` [default: /etc/limiter/limiter.toml, if it exists]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Interface to protect (repeatable); else `LIMITER_INTERFACE`
    #[arg(long, value_delimiter = ',', value_name = "IF")]
    pub interface: Vec<String>,
    /// Address to serve HTTP on (repeatable); else `LIMITER_LISTEN` [default: 127.0.0.1:8080]
    #[arg(long, value_delimiter = ',', value_name = "ADDR")]
    pub listen: Vec<String>,
    /// Server that requests go to; else `LIMITER_UPSTREAM`
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// What the file leaves out: public, private, internal or elizaos
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Serve others than loopback even where nothing asks for a credential
    #[arg(long)]
    pub allow_unauthenticated: bool,
    /// Read the configuration and exit: whether this program could take over
    #[arg(long, hide = true)]
    pub check_only: bool,
    /// Print the kernel program's own diagnostics (error, warn, info, debug, trace); costs time
    #[arg(long, value_name = "LEVEL", hide = true)]
    pub kernel_log: Option<log::LevelFilter>,
}

pub(super) fn run(args: &RunArgs) -> Result<ExitCode> {
    crate::agent::run(args)
}

pub(super) fn proxy() -> ExitCode {
    crate::proxy::run()
}
