//! `limiter allow`, `deny` and `trust`: what people put on the lists while the agent runs.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use ipnet::IpNet;

use super::{
    agent::AgentArgs,
    bans::session_peer,
    output::{self, Table},
};
use crate::{
    admin::{
        client::Target,
        view::{ListEntryRequest, ListEntryView, ListKind, ListsView, parse_prefix},
    },
    events::Source,
};

const PATH: &str = "/v1/lists";

#[derive(Args, Debug)]
pub(super) struct ListsArgs {
    #[command(subcommand)]
    command: ListsCommand,
}

#[derive(Debug, Subcommand)]
enum ListsCommand {
    /// Put addresses or prefixes on the list: at once, and until they are removed
    Add(ChangeArgs),
    /// Take addresses or prefixes off the list; those of the configuration stay
    Remove(ChangeArgs),
    /// Print the list, with where each entry comes from
    List(ListArgs),
}

#[derive(Args, Debug)]
struct ChangeArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Addresses or prefixes
    #[arg(value_name = "IP|CIDR", value_parser = parse_prefix, required = true)]
    prefixes: Vec<IpNet>,
    /// Not saved: gone when the agent ends. With `remove`: only such entries
    #[arg(long)]
    runtime: bool,
    /// Even if it is dangerous
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Print the JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(kind: ListKind, args: &ListsArgs) -> Result<ExitCode> {
    match &args.command {
        ListsCommand::Add(args) => change(kind, args, Method::POST, "added"),
        ListsCommand::Remove(args) => change(kind, args, Method::DELETE, "removed"),
        ListsCommand::List(args) => list(kind, args),
    }
}

fn change(kind: ListKind, args: &ChangeArgs, method: Method, done: &str) -> Result<ExitCode> {
    let mut body = Vec::new();
    for prefix in &args.prefixes {
        let entry = ListEntryRequest {
            list: kind,
            prefix: *prefix,
            runtime: args.runtime,
            force: args.force,
            session: session_peer(),
        };
        serde_json::to_writer(&mut body, &entry)?;
        body.push(b'\n');
    }
    let removes = method == Method::DELETE;
    let client = args.agent.client()?;
    let view = client.ask::<ListsView>(method, &Target::new(PATH), body)?.view;
    let rest = match (view.unchanged, removes) {
        (0, _) => String::new(),
        (count, false) => format!(" ({count} there already)"),
        (count, true) => {
            format!(" ({count} not there, or in the configuration: remove them in its file)")
        }
    };
    output::print(&format!("{done}: {}{rest}\n", view.changed))?;
    if let Some(why) = view.not_saved {
        log::warn!("{why}; it is tried again every second");
    }
    let found_nothing = removes && view.changed == 0;
    Ok(if found_nothing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn list(kind: ListKind, args: &ListArgs) -> Result<ExitCode> {
    let client = args.agent.client()?;
    let target = Target::new(PATH).with("list", kind.label());
    let document = client.ask::<Vec<ListEntryView>>(Method::GET, &target, Vec::new())?;
    if args.json {
        output::print_json(&document.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["SOURCE", "ORIGIN", "INTERFACE"]);
    for entry in &document.view {
        let interface = entry.interface.as_deref().unwrap_or("any");
        table.row([&Source::Prefix(entry.prefix), &entry.origin.label(), &interface]);
    }
    output::print(&table.to_string())?;
    Ok(ExitCode::SUCCESS)
}
