//! `limiter reload` and `limiter detach`.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use http::Method;

use super::{agent::AgentArgs, output};
use crate::{
    admin::{
        client::{Client, ClientError, Target},
        view::{DetachView, ReloadView},
    },
    agent, config,
    events::escape,
    kernel,
};

#[derive(Args, Debug)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Undo it after so long, e.g. 60s, unless it is confirmed: by the answer to a question on the
    /// terminal, or with --confirmed
    #[arg(long, value_name = "DURATION", value_parser = config::parse_duration)]
    confirm: Option<Duration>,
    /// Keep what an earlier --confirm put in force; reads nothing
    #[arg(long, conflicts_with = "confirm")]
    confirmed: bool,
}

#[derive(Args, Debug)]
pub(super) struct DetachArgs {
    #[command(flatten)]
    agent: AgentArgs,
}

pub(super) fn reload(args: &ReloadArgs) -> Result<ExitCode> {
    let client = args.agent.client()?;
    if args.confirmed {
        let view = confirm(&client)?;
        output::print(&format!("generation {} stays in force\n", view.generation))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut target = Target::new("/v1/reload");
    if let Some(length) = args.confirm {
        // Part of a second is a second: never less than was asked for.
        let seconds = length.as_secs() + u64::from(length.subsec_nanos() > 0);
        target = target.with("confirm", &seconds.to_string());
    }
    let view = client.ask::<ReloadView>(Method::POST, &target, Vec::new())?.view;
    let mut text = format!("generation {} is in force\n", view.generation);
    let changes = view.changes.iter().map(|change| (change, ""));
    let later = view.needs_restart.iter().map(|change| (change, " (at the next restart)"));
    for (change, when) in changes.chain(later) {
        writeln!(text, "  {}{when}", escape::line(change, 512))?;
    }
    if let Some(seconds) = view.confirm_seconds {
        let left = output::seconds(seconds);
        writeln!(text, "undone in {left} unless confirmed: `limiter reload --confirmed`")?;
    }
    output::print(&text)?;
    if args.confirm.is_some() && io::stdin().is_terminal() && io::stdout().is_terminal() {
        return ask_whether_to_keep(&client);
    }
    Ok(ExitCode::SUCCESS)
}

fn confirm(client: &Client) -> Result<ReloadView, ClientError> {
    let target = Target::new("/v1/reload/confirm");
    Ok(client.ask::<ReloadView>(Method::POST, &target, Vec::new())?.view)
}

/// Whoever is cut off by the new policy cannot answer, and is let in again.
fn ask_whether_to_keep(client: &Client) -> Result<ExitCode> {
    output::print("keep it? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        output::print("not confirmed: it will be undone\n")?;
        return Ok(ExitCode::FAILURE);
    }
    let view = confirm(client)?;
    output::print(&format!("generation {} stays in force\n", view.generation))?;
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
