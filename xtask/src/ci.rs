//! What continuous integration checks, in order, each part once.

use anyhow::Result;

use crate::{clock::Stopwatch, ebpf, lint, run, setup, test, workspace::Workspace};

/// Set-up, eBPF object, lint, build, tests, and the demonstration with what was built.
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    let stopwatch = Stopwatch::start();
    setup::for_builds()?;
    setup::for_tests()?;
    let toolchain = ebpf::build(workspace)?;
    lint::run(workspace, &toolchain)?;
    let limiter = ebpf::build_limiter_only(workspace, false)?;
    test::run(workspace, &limiter, &[])?;
    run::check(workspace, &limiter)?;
    eprintln!("xtask: ci: all good in {}", stopwatch.text());
    Ok(())
}
