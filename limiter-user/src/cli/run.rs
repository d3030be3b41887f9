//! `limiter run` and the hidden `limiter proxy`: the two processes.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::Args;

/// What the command line and the environment say about the agent; all of it overrides the file.
#[derive(Args, Clone, Debug, Default, Eq, PartialEq)]
pub struct RunArgs {
    /// Configuration file [default: /etc/limiter/limiter.toml, if it exists]
    #[arg(short, long, env = "LIMITER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Interface to protect (repeatable)
    #[arg(long, env = "LIMITER_INTERFACE", value_delimiter = ',', value_name = "IF")]
    pub interface: Vec<String>,
    /// Address to serve HTTP on (repeatable)
    #[arg(long, env = "LIMITER_LISTEN", value_delimiter = ',', value_name = "ADDR")]
    pub listen: Vec<SocketAddr>,
    /// Server that requests go to
    #[arg(long, env = "LIMITER_UPSTREAM", hide_env_values = true, value_name = "URL")]
    pub upstream: Option<String>,
    /// What the file leaves out: public, private, internal or elizaos
    #[arg(long, value_name = "NAME")]
    pub preset: Option<String>,
    /// Serve others than loopback even where nothing asks for a credential
    #[arg(long)]
    pub allow_unauthenticated: bool,
}

pub(super) fn run(_args: &RunArgs) -> Result<ExitCode> {
    bail!("`run` is not supported by this version")
}

pub(super) fn proxy() -> Result<ExitCode> {
    bail!("`proxy` is not supported by this version")
}
