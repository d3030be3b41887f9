//! `limiter why` and `limiter explain`: what happens to a source, and by which rule.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    process::ExitCode,
};

use anyhow::Result;
use clap::Args;
use http::Method;

use super::{UsageError, agent::AgentArgs, output, status::counts};
use crate::{
    admin::{
        client::{Document, Target},
        view::{RequestQuery, WhyView},
    },
    events::escape,
};

#[derive(Args, Debug)]
pub(super) struct WhyArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Address
    #[arg(value_name = "IP")]
    source: IpAddr,
    /// Print the JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Where it comes from
    #[arg(long, value_name = "IP")]
    source: IpAddr,
    /// Protocol of the packet
    #[arg(long, value_parser = ["tcp", "udp", "icmp"])]
    proto: Option<String>,
    /// Destination port of the packet
    #[arg(long, requires = "proto", conflicts_with = "request")]
    port: Option<u16>,
    /// A request, e.g. 'GET /x'; limits are taken as unused
    #[arg(long, value_name = "REQUEST")]
    request: Option<String>,
    /// A header field of the request (repeatable)
    #[arg(short = 'H', long = "header", requires = "request", value_name = "FIELD")]
    headers: Vec<String>,
    /// Print the JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn why(args: &WhyArgs) -> Result<ExitCode> {
    let target = Target::new("/v1/why").with("source", &args.source.to_string());
    show(&args.agent, &target, args.json)
}

pub(super) fn explain(args: &ExplainArgs) -> Result<ExitCode> {
    if let Some(line) = &args.request {
        let asked = request(args.source, line, &args.headers)?;
        let body = serde_json::to_vec(&asked)?;
        let target = Target::new("/v1/explain");
        let document = args.agent.client()?.ask::<WhyView>(Method::POST, &target, body)?;
        return print(&document, args.json);
    }
    let mut target = Target::new("/v1/why").with("source", &args.source.to_string());
    if let Some(protocol) = &args.proto {
        target = target.with("proto", protocol);
    }
    if let Some(port) = args.port {
        target = target.with("port", &port.to_string());
    }
    show(&args.agent, &target, args.json)
}

fn show(agent: &AgentArgs, target: &Target, json: bool) -> Result<ExitCode> {
    let document = agent.client()?.ask::<WhyView>(Method::GET, target, Vec::new())?;
    print(&document, json)
}

/// `GET /x` and `name: value` fields.
fn request(source: IpAddr, line: &str, headers: &[String]) -> Result<RequestQuery, UsageError> {
    let (method, target) = line
        .split_once(' ')
        .ok_or_else(|| UsageError(format!("not a request: `{line}`, expected e.g. `GET /x`")))?;
    let headers = headers.iter().map(|field| {
        let (name, value) = field
            .split_once(':')
            .ok_or_else(|| UsageError("a header field is `name: value`".to_owned()))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    });
    let headers = headers.collect::<Result<_, UsageError>>()?;
    Ok(RequestQuery { source, method: method.into(), target: target.trim().into(), headers })
}

fn print(document: &Document<WhyView>, json: bool) -> Result<ExitCode> {
    if json {
        output::print_json(&document.json)?;
    } else {
        output::print(&text(&document.view)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(why: &WhyView) -> Result<String, fmt::Error> {
    let mut out = String::new();
    writeln!(out, "{}: {} ({})", why.source, why.verdict, why.reason)?;
    for sentence in &why.explanation {
        writeln!(out, "  {}", escape::line(sentence, 512))?;
    }
    if let Some(ban) = &why.ban {
        let left = output::seconds(ban.seconds_left);
        let (scope, origin) = (ban.scope.label(), &ban.origin);
        writeln!(
            out,
            "  ban: {} ({scope}, {origin}), {left} left, {} packets dropped: {}",
            ban.prefix,
            ban.packets,
            escape::line(&ban.reason, 512)
        )?;
    }
    let findings = counts(&why.findings);
    writeln!(out, "  score: {} of {}; findings: {findings}", why.score, why.threshold)?;
    if let Some(record) = &why.record {
        writeln!(
            out,
            "  seen: {} packets, {}, {} new connections, {} open, {} dropped, list {}, idle {}",
            record.packets,
            output::bytes(record.bytes),
            record.connections,
            record.open_connections,
            record.dropped,
            record.list,
            output::seconds(record.idle_milliseconds / 1000)
        )?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_verdict_comes_first() {
        let why = WhyView {
            source: IpAddr::from([203, 0, 113, 7]),
            verdict: "drop".into(),
            reason: "banned".into(),
            explanation: vec!["It is banned.".into()],
            ban: None,
            score: 10,
            threshold: 50,
            findings: BTreeMap::from([("invalid_credential".into(), 2)]),
            record: None,
        };
        assert_eq!(
            text(&why).unwrap(),
            "203.0.113.7: drop (banned)\n  It is banned.\n  \
             score: 10 of 50; findings: invalid_credential 2\n"
        );
    }
}
