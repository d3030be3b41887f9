//! `limiter ban`, `unban` and `bans`.

use std::{net::IpAddr, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use ipnet::IpNet;

use super::{
    agent::AgentArgs,
    argument,
    output::{self, Table},
};
use crate::{
    admin::{
        client::Target,
        view::{BanRequest, BanView, UnbanView, parse_prefix},
    },
    events::Source,
    policy::BanScope,
};

const PATH: &str = "/v1/bans";

#[derive(Args, Debug)]
pub(super) struct BanArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Address or prefix
    #[arg(value_name = "IP|CIDR", value_parser = parse_prefix)]
    prefix: IpNet,
    /// How long
    #[arg(long = "for", default_value = "10m", value_name = "TIME", value_parser = argument::duration)]
    length: Duration,
    /// Where: packets of the peer, or requests of a client behind a trusted proxy
    #[arg(long, default_value = "kernel", value_parser = argument::scope())]
    scope: BanScope,
    /// Why, for people
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    reason: String,
    /// Even if it is dangerous
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
pub(super) struct UnbanArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Address or prefix: every ban inside it
    #[arg(value_name = "IP|CIDR", value_parser = parse_prefix, required_unless_present = "all", conflicts_with = "all")]
    prefix: Option<IpNet>,
    /// Every ban
    #[arg(long)]
    all: bool,
}

#[derive(Args, Debug)]
pub(super) struct BansArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Print the JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn ban(args: &BanArgs) -> Result<ExitCode> {
    let session = std::env::var("SSH_CONNECTION").unwrap_or_default();
    if !args.force && locks_out(&args.prefix, &session) {
        bail!(
            "{} contains the peer of this SSH session; use --force if that is meant",
            args.prefix
        );
    }
    let request = BanRequest {
        prefix: args.prefix,
        seconds: args.length.as_secs(),
        scope: args.scope,
        reason: args.reason.clone(),
        force: args.force,
    };
    let body = serde_json::to_vec(&request)?;
    let client = args.agent.client()?;
    let ban = client.ask::<BanView>(Method::POST, &Target::new(PATH), body)?.view;
    output::print(&format!(
        "banned {} for {} ({})\n",
        Source::Prefix(ban.prefix),
        output::seconds(ban.seconds_left),
        ban.scope.label()
    ))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn unban(args: &UnbanArgs) -> Result<ExitCode> {
    let target = match args.prefix {
        Some(prefix) => Target::new(PATH).with("prefix", &prefix.to_string()),
        None => Target::new(PATH).with("all", "true"),
    };
    let client = args.agent.client()?;
    let view = client.ask::<UnbanView>(Method::DELETE, &target, Vec::new())?.view;
    output::print(&format!("bans lifted: {}\n", view.lifted))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn list(args: &BansArgs) -> Result<ExitCode> {
    let client = args.agent.client()?;
    let document = client.ask::<Vec<BanView>>(Method::GET, &Target::new(PATH), Vec::new())?;
    if args.json {
        output::print_json(&document.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["SOURCE", "SCOPE", ">LEFT", "ORIGIN", ">PACKETS", "REASON"]);
    for ban in &document.view {
        table.row([
            &Source::Prefix(ban.prefix),
            &ban.scope.label(),
            &output::seconds(ban.seconds_left),
            &ban.origin,
            &ban.packets,
            &ban.reason,
        ]);
    }
    output::print(&table.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the ban would hit whoever types it: `session` is `SSH_CONNECTION`, the peer first.
/// Only this process knows that, the agent cannot.
fn locks_out(prefix: &IpNet, session: &str) -> bool {
    let peer = session.split(' ').next().unwrap_or_default();
    let peer = peer.split('%').next().unwrap_or_default();
    peer.parse::<IpAddr>().is_ok_and(|peer| prefix.contains(&peer.to_canonical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_session_is_not_banned_by_accident() {
        let prefix = "192.0.2.0/24".parse().unwrap();
        assert!(locks_out(&prefix, "192.0.2.7 50000 10.0.0.1 22"));
        assert!(locks_out(&prefix, "::ffff:192.0.2.7 50000 10.0.0.1 22"));
        assert!(!locks_out(&prefix, "192.0.3.7 50000 10.0.0.1 22"));
        assert!(!locks_out(&prefix, ""));
        let link_local = "fe80::/64".parse().unwrap();
        assert!(locks_out(&link_local, "fe80::1%eth0 50000 fe80::2%eth0 22"));
    }
}
