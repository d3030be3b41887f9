//! `limiter sources`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use http::Method;

use super::{
    agent::AgentArgs,
    argument,
    output::{self, Table},
};
use crate::{
    admin::{
        client::Target,
        view::{SourceSort, SourceView},
    },
    events::Source,
};

#[derive(Args, Debug)]
pub(super) struct SourcesArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Print the JSON document
    #[arg(long)]
    json: bool,
    /// Most of this first
    #[arg(long, default_value = "packets", value_parser = argument::sort())]
    sort: SourceSort,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
}

pub(super) fn run(args: &SourcesArgs) -> Result<ExitCode> {
    let target = Target::new("/v1/sources")
        .with("sort", args.sort.label())
        .with("limit", &args.limit.to_string());
    let client = args.agent.client()?;
    let document = client.ask::<Vec<SourceView>>(Method::GET, &target, Vec::new())?;
    if args.json {
        output::print_json(&document.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let headings =
        ["SOURCE", ">PACKETS", ">BYTES", ">CONNECTIONS", ">OPEN", ">DROPPED", "LIST", ">IDLE"];
    let mut table = Table::new(&headings);
    for source in &document.view {
        table.row([
            &Source::Prefix(source.source),
            &source.packets,
            &output::bytes(source.bytes),
            &source.connections,
            &source.open_connections,
            &source.dropped,
            &source.list,
            &output::seconds(source.idle_milliseconds / 1000),
        ]);
    }
    output::print(&table.to_string())?;
    Ok(ExitCode::SUCCESS)
}
