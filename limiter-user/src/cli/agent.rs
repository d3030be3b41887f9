//! Finds the agent that a command is for.

use std::path::{Path, PathBuf};

use clap::Args;

use super::UsageError;
use crate::admin::client::Client;

/// Where an agent with the default configuration listens.
const DEFAULT_SOCKET: &str = "/run/limiter/control.sock";

/// Which agent.
#[derive(Args, Debug)]
pub(super) struct AgentArgs {
    /// Configuration file of the agent, to find its control socket; else `LIMITER_CONFIG`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Control socket of the agent [default: /run/limiter/control.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl AgentArgs {
    /// The agent behind `--socket`, else the one that the configuration describes.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        match &self.socket {
            Some(socket) => Ok(Client::new(socket)),
            None => client(self.config.as_deref()),
        }
    }
}

/// The agent that this configuration describes, or that of `LIMITER_CONFIG`, or the default one.
pub(super) fn client(config: Option<&Path>) -> anyhow::Result<Client> {
    let variable = std::env::var_os("LIMITER_CONFIG").filter(|path| !path.is_empty());
    let socket = match config.or(variable.as_deref().map(Path::new)) {
        Some(config) => socket_from_config(config)?,
        None => PathBuf::from(DEFAULT_SOCKET),
    };
    Ok(Client::new(&socket))
}

/// `admin::SOCKET_NAME` in the `agent.runtime` that this configuration names.
fn socket_from_config(file: &Path) -> anyhow::Result<PathBuf> {
    let message = format!(
        "{}: finding the agent by its configuration is not supported by this version; use --socket",
        file.display()
    );
    Err(UsageError(message).into())
}
