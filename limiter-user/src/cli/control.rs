//! `limiter reload` and `limiter detach`.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Args;
use http::Method;

use super::{agent::AgentArgs, output};
use crate::{
    admin::{
        client::{ClientError, Target},
        view::{DetachView, ReloadView},
    },
    agent,
    events::escape,
    kernel,
};

#[derive(Args, Debug)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    agent: AgentArgs,
}

#[derive(Args, Debug)]
pub(super) struct DetachArgs {
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn reload(args: &ReloadArgs) -> Result<ExitCode> {
    let target = Target::new("/v1/reload");
    let view = args.agent.client()?.ask::<ReloadView>(Method::POST, &target, Vec::new())?.view;
    let mut text = format!("generation {} is in force\n", view.generation);
    let changes = view.changes.iter().map(|change| (change, ""));
    let later = view.needs_restart.iter().map(|change| (change, " (at the next restart)"));
    for (change, when) in changes.chain(later) {
        writeln!(text, "  {}{when}", escape::line(change, 512))?;
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the agent; without one, removes what an earlier one pinned.
pub(super) fn detach(args: &DetachArgs) -> Result<ExitCode> {
    let target = Target::new("/v1/detach");
    let asked = args.agent.client()?.ask::<DetachView>(Method::POST, &target, Vec::new());
    let interfaces = match asked {
        Ok(document) => document.view.interfaces,
        Err(error @ ClientError::NoAgent(..)) => {
            let Some(pins) = args.agent.pins()? else { return Err(error.into()) };
            let links = kernel::detach_pins(&pins)?;
            let mut text =
                format!("no agent runs; links removed from {}: {links}\n", pins.display());
            if let Some(told) = agent::restore_host(&args.agent.state()?)? {
                writeln!(text, "{told}")?;
            }
            output::print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error.into()),
    };
    let interfaces =
        if interfaces.is_empty() { "no interface".into() } else { interfaces.join(", ") };
    output::print(&format!("XDP taken off {interfaces}\n"))?;
    Ok(ExitCode::SUCCESS)
}
