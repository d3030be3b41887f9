//! `limiter events`: what happened lately, or with `-f` what happens, until interrupted.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use ipnet::IpNet;

use super::{agent::AgentArgs, output};
use crate::{
    admin::{client::Target, view::parse_prefix},
    clock,
    events::moment,
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
    /// Since when: how long ago (10m, 2h), RFC 3339, or as the log writes it; as far back as the
    /// agent remembers
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<String>,
}

/// Checked here, understood by the agent, whose clock it is.
fn moment(text: &str) -> Result<String, String> {
    match moment::parse(text, clock::unix_ns()) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("expected {}", moment::EXPECTED)),
    }
}

pub(super) fn run(args: &EventsArgs) -> Result<ExitCode> {
    let mut target = Target::new("/v1/events")
        .with("follow", if args.follow { "true" } else { "false" })
        .with("format", if args.json { "json" } else { "text" });
    for kind in &args.kind {
        target = target.with("kind", kind);
    }
    if let Some(source) = args.source {
        target = target.with("source", &source.to_string());
    }
    if let Some(since) = &args.since {
        target = target.with("since", since);
    }
    args.agent.client()?.stream(&target, output::print_bytes)?;
    Ok(ExitCode::SUCCESS)
}
