//! Builds what is measured, optimised, sets up what it is compared with, and runs the measurement
//! as root.

use std::{env, ffi::OsString};

use anyhow::Result;

use crate::{
    command::{as_root, cargo, run, step},
    ebpf, setup,
    workspace::Workspace,
};

/// Measurements beside other servers.
const PEERED: [&str; 3] = ["proxy", "connections", "latency"];

/// Everything is built by the same profile as what is shipped.
pub(crate) fn run_with(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    // Without a name everything is measured.
    let needs_peers = |name: &String| PEERED.contains(&name.as_str());
    if arguments.is_empty() || arguments.iter().any(needs_peers) {
        setup::for_bench()?;
    }
    let limiter = ebpf::build_limiter(workspace, true)?;
    let mut cargo = cargo(workspace);
    cargo.args(["build", "--release", "--package", "limiter-tests", "--bin", "bench"]);
    step("building the benchmark", &mut cargo)?;
    let environment: Vec<(&str, OsString)> = [
        ("LIMITER_BINARY", Some(limiter.into_os_string())),
        ("LIMITER_EBPF_OBJECT", Some(workspace.ebpf_object().into())),
        ("PATH", env::var_os("PATH")),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect();
    let bench = workspace.target.join("release/bench");
    run(as_root(bench, &environment, "to load programs and measure them")?
        .current_dir(&workspace.root)
        .args(arguments))
}
