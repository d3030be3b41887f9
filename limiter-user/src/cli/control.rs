//! `limiter reload` and `limiter detach`.

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Args;
use http::Method;

use super::{agent::AgentArgs, output};
use crate::{
    admin::{
        client::Target,
        view::{DetachView, ReloadView},
    },
    events::escape,
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

pub(super) fn detach(args: &DetachArgs) -> Result<ExitCode> {
    let target = Target::new("/v1/detach");
    let view = args.agent.client()?.ask::<DetachView>(Method::POST, &target, Vec::new())?.view;
    let interfaces =
        if view.interfaces.is_empty() { "no interface".into() } else { view.interfaces.join(", ") };
    output::print(&format!("XDP taken off {interfaces}\n"))?;
    Ok(ExitCode::SUCCESS)
}
