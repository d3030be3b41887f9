//! `limiter doctor`: what this kernel, its drivers, mounts and settings allow, and what is off
//! because of it. Reads, loads and forgets; attaches and changes nothing. Needs no agent, and asks
//! one where there is one.

mod features;
mod host;
mod interfaces;

use std::{fmt::Write as _, process::ExitCode};

use anyhow::Result;
use clap::Args;
use http::Method;
use serde::Serialize;

use super::{agent::AgentArgs, output};
use crate::{
    admin::{
        client::{ClientError, Target},
        view::StatusView,
    },
    config::{self, Sources},
    events::escape,
    policy::Policy,
};

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Print the JSON document
    #[arg(long)]
    json: bool,
}

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// Something is off, or less good than it could be; the rest works.
    Off,
    /// Something that is needed is missing.
    Problem,
}

impl State {
    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Off => "off",
            Self::Problem => "problem",
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    /// `kernel`, `host`, `interfaces`, `agent`, `configuration`.
    area: &'static str,
    /// What was looked at.
    check: String,
    /// How it stands.
    state: State,
    /// What was found.
    found: String,
    /// What to do about it; empty where nothing needs to be done.
    advice: String,
}

impl Finding {
    fn ok(area: &'static str, check: impl Into<String>, found: impl Into<String>) -> Self {
        let (check, found) = (check.into(), found.into());
        Self { area, check, state: State::Ok, found, advice: String::new() }
    }

    /// With what is to be done.
    fn but(mut self, state: State, advice: impl Into<String>) -> Self {
        self.state = state;
        self.advice = advice.into();
        self
    }
}

/// The whole document.
#[derive(Debug, Serialize)]
struct Document {
    version: &'static str,
    /// Nothing that is needed is missing.
    ok: bool,
    findings: Vec<Finding>,
}

/// Exit code 0, or 1 if something that is needed is missing.
pub(super) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let mut findings = Vec::new();
    let policy = configuration(&args.agent, &mut findings);
    // Without a policy that says otherwise the packet half is what somebody asks about.
    let kernel = policy.as_ref().map_or(Some(None), |policy| policy.kernel.as_ref().map(Some));
    let missing = match kernel {
        Some(policy) if policy.is_none_or(|policy| policy.required) => State::Problem,
        _ => State::Off,
    };
    features::look(missing, &mut findings);
    host::look(policy.as_ref(), missing, &mut findings);
    if let Some(kernel) = kernel {
        interfaces::look(kernel, missing, &args.agent, &mut findings);
    }
    agent(&args.agent, &mut findings);
    let ok = findings.iter().all(|finding| finding.state != State::Problem);
    if args.json {
        let document = Document { version: super::version(), ok, findings };
        output::print_json(&serde_json::to_vec(&document)?)?;
    } else {
        output::print(&text(&findings))?;
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            // Writing to a string cannot fail.
            writeln!(out, "{area}").unwrap_or(());
        }
        let Finding { check, state, found, advice, .. } = finding;
        let (check, found) = (escape::line(check, 64), escape::line(found, 512));
        writeln!(out, "  {:<8} {check}: {found}", state.label()).unwrap_or(());
        if !advice.is_empty() {
            writeln!(out, "           {}", escape::line(advice, 512)).unwrap_or(());
        }
    }
    out
}

/// What the agent would run with. `None`: nothing that can be used.
fn configuration(args: &AgentArgs, findings: &mut Vec<Finding>) -> Option<Policy> {
    const AREA: &str = "configuration";
    let named = args.config_file();
    let sources = Sources { file: named.clone(), ..Sources::new(&config::process_environment) };
    match config::load(&sources) {
        Ok(loaded) => {
            let file = loaded
                .file
                .map_or_else(|| "the environment".to_owned(), |file| file.display().to_string());
            findings.push(Finding::ok(AREA, file, "valid"));
            Some(loaded.policy)
        }
        // Nobody has written one yet.
        Err(_) if named.is_none() && !config::is_there(&sources) => {
            let finding = Finding::ok(AREA, "file", "none");
            findings.push(finding.but(State::Off, "write one with `limiter init`"));
            None
        }
        Err(error) => {
            let finding = Finding::ok(AREA, "file", error.brief());
            findings.push(finding.but(State::Problem, "`limiter check` shows every error"));
            None
        }
    }
}

/// What the running agent says of itself.
fn agent(args: &AgentArgs, findings: &mut Vec<Finding>) {
    const AREA: &str = "agent";
    let asked = args.client().and_then(|client| {
        let target = Target::new("/v1/status");
        Ok(client.ask::<StatusView>(Method::GET, &target, Vec::new())?.view)
    });
    let status = match asked {
        Ok(status) => status,
        Err(error) => {
            let (found, advice) = match error.downcast_ref::<ClientError>() {
                Some(ClientError::NoAgent(..)) | None => {
                    ("not running".to_owned(), "start it with `limiter run`")
                }
                Some(error) => (error.to_string(), "ask as root"),
            };
            findings.push(Finding::ok(AREA, "state", found).but(State::Off, advice));
            return;
        }
    };
    let found = format!("{}, pid {}", status.state, status.agent_pid);
    findings.push(Finding::ok(AREA, "state", found));
    for sentence in status.degraded {
        let finding = Finding::ok(AREA, "degraded", sentence);
        findings.push(finding.but(State::Problem, "`limiter events` tells since when"));
    }
    for interface in status.interfaces.into_iter().filter(|one| !one.note.is_empty()) {
        let found = format!("{}: {}", interface.mode, interface.note);
        let advice = "each packet costs a socket buffer before it is decided about";
        findings.push(Finding::ok(AREA, interface.name, found).but(State::Off, advice));
    }
    let lost: u64 = status.events_lost.values().sum();
    if lost > 0 {
        let found = format!("{lost} so far");
        let advice = "`limiter status` says where; decisions are not affected";
        findings.push(Finding::ok(AREA, "events lost", found).but(State::Off, advice));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_its_advice_another() {
        let findings = [
            Finding::ok("kernel", "version", "6.18"),
            Finding::ok("kernel", "JIT", "0").but(State::Off, "switch it on"),
            Finding::ok("host", "odd\x1bname", "x").but(State::Problem, "y"),
        ];
        assert_eq!(
            text(&findings),
            "kernel\n  ok       version: 6.18\n  off      JIT: 0\n           switch it on\n\
             host\n  problem  odd\\x1bname: x\n           y\n"
        );
    }
}
