//! Installs packages that bring services without letting those run: Debian starts a service when
//! its package is installed and again at each start of the machine.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Result;

use crate::command::{as_root, find_program, run};

/// Asked before a package starts its service (`invoke-rc.d(8)`); 101 forbids it.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const FORBID: &str = "printf '#!/bin/sh\\nexit 101\\n' >\"$1\" && chmod 755 \"$1\"";

const WHY: &str = "to keep services from being started";

/// Runs `install`, which installs these services; afterwards none runs, now or later.
pub(super) fn held_back(services: &[&str], install: impl FnOnce() -> Result<()>) -> Result<()> {
    if services.is_empty() {
        return install();
    }
    let policy = Policy::forbid()?;
    let installed = install();
    drop(policy);
    for service in services {
        // What is not there, or runs without systemd, has nothing to be switched off.
        if let Some(systemctl) = find_program("systemctl") {
            let mut disable = as_root(systemctl, &[], WHY)?;
            disable.args(["disable", "--now", "--quiet", service]).stderr(Stdio::null());
            drop(disable.status());
        }
    }
    installed
}

/// The policy while packages are installed; one that was there before stays as it is.
struct Policy(Option<PathBuf>);

impl Policy {
    fn forbid() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self(None));
        }
        run(as_root("sh", &[], WHY)?.args(["-c", FORBID, "sh", POLICY]))?;
        Ok(Self(Some(POLICY.into())))
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let Some(path) = &self.0 else { return };
        let removed = as_root("rm", &[], WHY).and_then(|mut rm| run(rm.arg(path)));
        if let Err(error) = removed {
            eprintln!("xtask: {} forbids starting services and stays: {error:#}", path.display());
        }
    }
}
