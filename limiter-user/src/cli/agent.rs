//! Finds the agent that a command is for.

use std::path::{Path, PathBuf};

use clap::Args;
use http::Method;

use super::{UsageError, keys::AgentNotice};
use crate::{
    admin::{
        SOCKET_NAME,
        client::{Client, ClientError, Target},
        view::ReloadView,
    },
    config::{self, Sources},
};

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

impl AgentArgs {
    /// The file that was named on the command line.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Where the agent that this means pins links and maps. `None`: only its socket was named.
    pub(super) fn pins(&self) -> anyhow::Result<Option<PathBuf>> {
        if self.socket.is_some() && self.config.is_none() {
            return Ok(None);
        }
        let sources =
            Sources { file: self.config.clone(), ..Sources::new(&config::process_environment) };
        let pins = config::pins_directory(&sources).map_err(|error| UsageError(error.to_string()));
        Ok(Some(pins?))
    }

    /// Where the agent that this means keeps its state.
    pub(super) fn state(&self) -> anyhow::Result<PathBuf> {
        let sources =
            Sources { file: self.config.clone(), ..Sources::new(&config::process_environment) };
        let state = config::state_directory(&sources);
        Ok(state.map_err(|error| UsageError(error.to_string()))?)
    }
}

/// The agent that this configuration describes, or that of `LIMITER_CONFIG`, or the default one.
pub(super) fn client(config: Option<&Path>) -> anyhow::Result<Client> {
    let sources = Sources {
        file: config.map(Path::to_path_buf),
        ..Sources::new(&config::process_environment)
    };
    let socket = match config::runtime_directory(&sources) {
        Ok(runtime) => runtime.join(SOCKET_NAME),
        // The default file may be for root's eyes only; its agent's socket says so better.
        Err(_) if config.is_none() && std::env::var_os("LIMITER_CONFIG").is_none() => {
            PathBuf::from(DEFAULT_SOCKET)
        }
        Err(error) => return Err(UsageError(error.to_string()).into()),
    };
    Ok(Client::new(&socket))
}

/// Has the running agent, if there is one, read its keys again.
pub(super) fn notify(config: Option<&Path>) -> anyhow::Result<AgentNotice> {
    match client(config)?.ask::<ReloadView>(Method::POST, &Target::new("/v1/reload"), Vec::new()) {
        Ok(_) => Ok(AgentNotice::Reloaded),
        Err(ClientError::NoAgent(..)) => Ok(AgentNotice::NotRunning),
        Err(error) => Err(error.into()),
    }
}
