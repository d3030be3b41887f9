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
    /// Configuration file of the agent, to find its control socket
    #[arg(short, long, env = "LIMITER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Control socket of the agent [default: /run/limiter/control.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl AgentArgs {
    /// The agent behind `--socket`, else the one that the configuration describes.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let socket = match (&self.socket, &self.config) {
            (Some(socket), _) => socket.clone(),
            (None, Some(config)) => socket_from_config(config)?,
            (None, None) => PathBuf::from(DEFAULT_SOCKET),
        };
        Ok(Client::new(&socket))
    }
}

/// The control socket of the agent that this configuration describes.
fn socket_from_config(file: &Path) -> anyhow::Result<PathBuf> {
    let message = format!(
        "{}: finding the agent by its configuration is not supported by this version; use --socket",
        file.display()
    );
    Err(UsageError(message).into())
}
