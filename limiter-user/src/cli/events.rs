//! `limiter events`: what happened lately, or with `-f` what happens, until interrupted.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ipnet::IpNet;

use super::{UsageError, agent::AgentArgs, output};
use crate::{
    admin::{client::Target, view::parse_prefix},
    events::stream::RECENT_EVENTS,
};

#[derive(Args, Debug)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// JSON lines
    #[arg(long)]
    json: bool,
    /// Only this label, or with `*` at the end those that begin so (repeatable)
    #[arg(long, value_name = "LABEL")]
    kind: Vec<String>,
    /// Only about this address or prefix
    #[arg(long, value_name = "CIDR", value_parser = parse_prefix)]
    source: Option<IpNet>,
    /// Not supported by this version
    #[arg(long, value_name = "TIME", hide = true)]
    since: Option<String>,
}

pub(super) fn run(args: &EventsArgs) -> Result<ExitCode> {
    if args.since.is_some() {
        let message = format!(
            "--since is not supported by this version: without it the last {RECENT_EVENTS} events \
             are shown; a file sink has those before"
        );
        return Err(UsageError(message).into());
    }
    let mut target = Target::new("/v1/events")
        .with("follow", if args.follow { "true" } else { "false" })
        .with("format", if args.json { "json" } else { "text" });
    for kind in &args.kind {
        target = target.with("kind", kind);
    }
    if let Some(source) = args.source {
        target = target.with("source", &source.to_string());
    }
    args.agent.client()?.stream(&target, output::print_bytes)?;
    Ok(ExitCode::SUCCESS)
}
