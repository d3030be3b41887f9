//! `limiter ban`, `unban` and `bans`.

use std::{
    fs, iter,
    net::IpAddr,
    process::{self, ExitCode},
    time::Duration,
};

use anyhow::Result;
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
        view::{BanRequest, BanView, UnbanView, WhyView, parse_prefix},
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
    let request = BanRequest {
        prefix: args.prefix,
        seconds: args.length.as_secs(),
        scope: args.scope,
        reason: args.reason.clone(),
        force: args.force,
        session: session_peer(),
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
    say_unsaved(ban.not_saved.as_deref());
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
    say_unsaved(view.not_saved.as_deref());
    if let Some(address) =
        args.prefix.filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len())
    {
        let target = Target::new("/v1/why").with("source", &address.addr().to_string());
        let why = client.ask::<WhyView>(Method::GET, &target, Vec::new())?.view;
        if let Some(ban) = why.ban {
            let (whole, scope) = (ban.prefix, ban.scope.label());
            log::warn!("it is still banned as part of {whole} ({scope}): `limiter unban {whole}`");
        }
    }
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

/// It holds, but not yet after a crash: the agent tries again.
fn say_unsaved(why: Option<&str>) {
    if let Some(why) = why {
        log::warn!("{why}; it is tried again every second");
    }
}

/// Processes between this one and the session's shell: `sudo`, scripts, shells in shells.
const MOST_ANCESTORS: usize = 32;

/// Peer of the SSH session this runs in: only this process knows it, the agent refuses to ban it
/// by accident. `sudo` takes the variables away, but not from the shell that it was called from.
pub(super) fn session_peer() -> Option<IpAddr> {
    let of_process = |process: u32| {
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        let variables = environment.split(|byte| *byte == 0);
        variables.filter_map(|variable| std::str::from_utf8(variable).ok()).find_map(peer_in)
    };
    let parent_of = |process: &u32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        parent.trim().parse::<u32>().ok().filter(|parent| *parent > 1)
    };
    let own = process::id();
    iter::successors(Some(own), parent_of).take(MOST_ANCESTORS).find_map(of_process)
}

/// The peer in one variable of an environment.
fn peer_in(variable: &str) -> Option<IpAddr> {
    let (name, session) = variable.split_once('=')?;
    matches!(name, "SSH_CONNECTION" | "SSH_CLIENT").then(|| peer_of(session)).flatten()
}

/// Both variables begin with the peer's address.
fn peer_of(session: &str) -> Option<IpAddr> {
    let peer = session.split([' ', '%']).next()?;
    peer.parse().map(|peer: IpAddr| peer.to_canonical()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_of_a_session_is_found() {
        for (session, peer) in [
            ("192.0.2.7 50000 10.0.0.1 22", Some("192.0.2.7")),
            ("::ffff:192.0.2.7 50000 10.0.0.1 22", Some("192.0.2.7")),
            ("fe80::1%eth0 50000 fe80::2%eth0 22", Some("fe80::1")),
            ("", None),
            ("nonsense", None),
        ] {
            assert_eq!(peer_of(session), peer.map(|peer| peer.parse().unwrap()), "{session}");
        }
    }
}
