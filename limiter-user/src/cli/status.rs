//! `limiter status`.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write as _},
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;
use http::Method;

use super::{
    agent::AgentArgs,
    output::{self, Table},
};
use crate::{
    admin::{
        client::Target,
        view::{ConnectionsView, StatusView},
    },
    events::escape,
};

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Print the JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs) -> Result<ExitCode> {
    let target = Target::new("/v1/status");
    let document = args.agent.client()?.ask::<StatusView>(Method::GET, &target, Vec::new())?;
    if args.json {
        output::print_json(&document.json)?;
    } else {
        output::print(&text(&document.view)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(status: &StatusView) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let line = |out: &mut String, name: &str, value: &dyn Display| {
        let value = value.to_string();
        writeln!(out, "{name:<14}{}", escape::line(&value, 512))
    };
    line(&mut out, "state", &status.state)?;
    for sentence in &status.degraded {
        line(&mut out, "", sentence)?;
    }
    let uptime = output::seconds(status.uptime_seconds);
    let agent = format!("{}, pid {}, up {uptime}", status.version, status.agent_pid);
    line(&mut out, "agent", &agent)?;
    let proxy = match status.proxy_pid {
        Some(pid) => {
            let up = output::seconds(status.proxy_uptime_seconds.unwrap_or_default());
            format!("pid {pid}, up {up}, started {} times", status.proxy_starts)
        }
        None => format!("not running, started {} times", status.proxy_starts),
    };
    line(&mut out, "proxy", &proxy)?;
    let file = status.configuration.as_deref().unwrap_or("none");
    let configuration = format!("{file}, generation {}", status.policy_generation);
    line(&mut out, "configuration", &configuration)?;
    if let Some(seconds) = status.confirm_seconds {
        let left = output::seconds(seconds);
        let text = format!("undone in {left} unless confirmed: `limiter reload --confirmed`");
        line(&mut out, "", &text)?;
    }
    line(&mut out, "kernel", &status.kernel_mode)?;
    for interface in &status.interfaces {
        let taken_over = if interface.taken_over { ", taken over" } else { "" };
        let colon = if interface.note.is_empty() { "" } else { ": " };
        let (name, mode, note) = (&interface.name, &interface.mode, &interface.note);
        let text = format!("{name} ({mode}{taken_over}{colon}{note})");
        line(&mut out, "interface", &text)?;
    }
    line(&mut out, "listeners", &list(&status.listeners))?;
    line(&mut out, "upstreams", &list(&status.upstreams))?;
    let requests = format!(
        "{}, {} sent upstream, {} connections open",
        status.requests, status.forwarded, status.connections_open
    );
    line(&mut out, "requests", &requests)?;
    line(&mut out, "refused", &counts(&status.refused))?;
    if !status.monitored.is_empty() {
        line(&mut out, "monitored", &counts(&status.monitored))?;
    }
    if let Some(connections) = &status.connections {
        line(&mut out, "connections", &connections_text(connections)?)?;
    }
    if let Some(store) = &status.store {
        let text = format!("{} {}: {}", store.url, store.state, counts(&store.requests));
        line(&mut out, "store", &text)?;
    }
    line(&mut out, "bans", &counts(&status.bans))?;
    if !status.bans_refused.is_empty() {
        line(&mut out, "bans refused", &counts(&status.bans_refused))?;
    }
    if !status.malformed.is_empty() {
        line(&mut out, "malformed", &counts(&status.malformed))?;
    }
    line(&mut out, "events lost", &counts(&status.events_lost))?;
    let sysctls = status.sysctls.iter().map(|(name, value)| format!("{name} {value}"));
    line(&mut out, "sysctls", &list(&sysctls.collect::<Vec<_>>()))?;
    for table in tables(status) {
        if !table.is_empty() {
            write!(out, "\n{table}")?;
        }
    }
    Ok(out)
}

/// Servers, packets and maps.
fn tables(status: &StatusView) -> [Table; 3] {
    let mut packets = Table::new(&["INTERFACE", "VERDICT", "REASON", ">PACKETS", ">BYTES"]);
    for count in status.packets.iter().filter(|count| count.packets > 0) {
        let bytes = output::bytes(count.bytes);
        packets.row([&count.interface, &count.verdict, &count.reason, &count.packets, &bytes]);
    }
    let mut maps = Table::new(&["MAP", ">ENTRIES", ">CAPACITY", ">FULL"]);
    for (name, fill) in &status.maps {
        let full = fill.entries.saturating_mul(100) / fill.capacity.max(1);
        maps.row([name, &fill.entries, &fill.capacity, &format!("{full} %")]);
    }
    let mut servers = Table::new(&[
        "UPSTREAM",
        "SERVER",
        "STATE",
        ">REQUESTS",
        ">FAILURES",
        ">RETRIES",
        ">ACTIVE",
    ]);
    for one in &status.servers {
        let (requests, failures) = (&one.requests, &one.failures);
        servers.row([
            &one.upstream,
            &one.server,
            &one.state,
            requests,
            failures,
            &one.retries,
            &one.active,
        ]);
    }
    [servers, packets, maps]
}

fn connections_text(connections: &ConnectionsView) -> Result<String, fmt::Error> {
    if let Some(why) = &connections.off {
        return Ok(format!("not counted: {why}"));
    }
    let ConnectionsView { open, tracked, capacity, drift_corrected, untracked, .. } = connections;
    let mut text = format!("{open} open, {tracked} of {capacity} tracked");
    for (count, what) in [
        (drift_corrected, "corrected"),
        (untracked, "not counted (table full)"),
        (&connections.ended_by_bans, "ended by bans"),
        (&connections.bans_skipped, "bans too many at once to end any"),
    ] {
        if *count > 0 {
            write!(text, ", {count} {what}")?;
        }
    }
    Ok(text)
}

fn list(values: &[String]) -> String {
    if values.is_empty() {
        return "none".into();
    }
    values.join(", ")
}

/// `label 3, label 4` of those that are not zero.
pub(super) fn counts(counts: &BTreeMap<String, u64>) -> String {
    let counts = counts.iter().filter(|(_, count)| **count > 0);
    let parts: Vec<_> = counts.map(|(label, count)| format!("{label} {count}")).collect();
    list(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{InterfaceView, PacketCountView};

    #[test]
    fn a_status_is_short_and_aligned() {
        let status = StatusView {
            state: "degraded".into(),
            degraded: vec!["the proxy is not running".into()],
            version: "0.1.0".into(),
            agent_pid: 7,
            interfaces: vec![InterfaceView {
                name: "eth0".into(),
                mode: "native".into(),
                ..InterfaceView::default()
            }],
            packets: vec![PacketCountView {
                interface: "eth0".into(),
                verdict: "drop".into(),
                reason: "banned".into(),
                packets: 10,
                bytes: 6000,
            }],
            refused: BTreeMap::from([("rate_limited".into(), 3), ("timeout".into(), 0)]),
            ..StatusView::default()
        };
        let text = text(&status).unwrap();
        assert!(text.starts_with("state         degraded\n              the proxy is"), "{text}");
        assert!(text.contains("\nrefused       rate_limited 3\n"), "{text}");
        assert!(text.contains("\ninterface     eth0 (native)\n"), "{text}");
        assert!(text.ends_with("eth0       drop     banned       10  6.0 kB\n"), "{text}");
    }
}
