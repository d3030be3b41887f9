//! What the machine must have: each need is checked by a file or command, and only what is
//! missing is installed, announced, as root. Distributions other than Debian's family get a list
//! of what is missing and why instead; nothing is ever installed there.

mod python;
mod services;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

pub(crate) use self::python::peers;
use crate::command::{as_root, find_program, run, step};

/// How to see that a need is met, without asking the package manager.
#[derive(Debug, Clone)]
pub(crate) enum Present {
    Program(&'static str),
    File(String),
}

/// One thing that must be there.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    pub(crate) present: Present,
    /// The package in Debian's family.
    pub(crate) package: String,
    /// Ends the sentence "... is needed ...".
    pub(crate) purpose: &'static str,
}

impl Need {
    pub(crate) fn program(
        name: &'static str,
        package: &'static str,
        purpose: &'static str,
    ) -> Self {
        Self { present: Present::Program(name), package: package.to_owned(), purpose }
    }

    pub(crate) fn file(path: String, package: String, purpose: &'static str) -> Self {
        Self { present: Present::File(path), package, purpose }
    }

    fn is_met(&self) -> bool {
        match &self.present {
            Present::Program(name) => find_program(name).is_some(),
            Present::File(path) => Path::new(path).exists(),
        }
    }

    fn describe(&self) -> String {
        let what: &str = match &self.present {
            Present::Program(name) => name,
            Present::File(path) => path,
        };
        format!("{what} (Debian package {}) is needed {}", self.package, self.purpose)
    }
}

/// What every build needs, beside Rust itself.
pub(crate) fn for_builds() -> Result<()> {
    ensure(&[
        Need::program("cc", "gcc", "to link programs and to compile the cryptography library"),
        Need::file(
            "/usr/include/stdlib.h".into(),
            "libc6-dev".into(),
            "to link programs and to compile the cryptography library",
        ),
    ])
}

/// What the tests and the demonstration need to make network namespaces.
pub(crate) fn for_namespaces() -> Result<()> {
    ensure(&[Need::program("ip", "iproute2", "to make private network namespaces")])
}

/// What the tests need: other people's clients beside namespaces.
pub(crate) fn for_tests() -> Result<()> {
    for_namespaces()?;
    for_stores()?;
    let purpose = "to test with clients that are not ours";
    ensure(&[
        Need::program("curl", "curl", purpose),
        Need::program("openssl", "openssl", purpose),
        Need::program("nghttp", "nghttp2-client", purpose),
        Need::file("/usr/bin/python3".into(), "python3".into(), purpose),
        Need::file(
            "/usr/lib/python3/dist-packages/h2/__init__.py".into(),
            "python3-h2".into(),
            purpose,
        ),
        Need::file(
            "/usr/lib/python3/dist-packages/jwt/__init__.py".into(),
            "python3-jwt".into(),
            purpose,
        ),
        Need::file(
            "/usr/lib/python3/dist-packages/cryptography/__init__.py".into(),
            "python3-cryptography".into(),
            purpose,
        ),
        Need::file(
            "/usr/lib/python3/dist-packages/pip/__init__.py".into(),
            "python3-pip".into(),
            purpose,
        ),
    ])
}

/// A real store for limits and bans that hosts share; each test starts its own.
fn for_stores() -> Result<()> {
    let purpose = "to test limits that hosts share, and nothing of it is left running";
    let servers = [Need::program("redis-server", "redis-server", purpose)];
    ensure_held_back(&servers, |need| need.package.as_str())
}

/// The peers that `cargo xtask bench` compares with, and what makes the load.
pub(crate) fn for_bench() -> Result<()> {
    for_namespaces()?;
    let purpose = "to compare with, and nothing of it is left running";
    let peers = [
        Need::program("nginx", "nginx-light", purpose),
        Need::program("haproxy", "haproxy", purpose),
    ];
    ensure_held_back(&peers, |need| need.package.trim_end_matches("-light"))?;
    ensure(&[
        Need::program("wrk", "wrk", "to make the load of the HTTP benchmark"),
        Need::program("taskset", "util-linux", "to bind what is measured to one CPU"),
    ])
}

/// As [`ensure`] for packages that bring services, named by `service`, which do not start.
fn ensure_held_back(needs: &[Need], service: impl Fn(&Need) -> &str) -> Result<()> {
    let brought: Vec<&str> = needs.iter().filter(|need| !need.is_met()).map(service).collect();
    services::held_back(&brought, || ensure(needs))
}

/// Meets every need that is not met yet, or says which cannot be.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = missing.iter().map(|need| format!("  {}", need.describe())).collect();
    let list = list.join("\n");
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian_family(&os_release) || find_program("apt-get").is_none() {
        bail!(
            "this distribution ({}) is not one that xtask can install packages on; missing:\n{list}",
            value(&os_release, "PRETTY_NAME").unwrap_or("unknown")
        );
    }
    eprintln!("xtask: installing with apt-get:\n{list}");
    let packages: Vec<&str> = missing.iter().map(|need| need.package.as_str()).collect();
    install(&packages).with_context(|| format!("missing:\n{list}"))?;
    let still: Vec<String> =
        missing.iter().filter(|need| !need.is_met()).map(|need| need.describe()).collect();
    if !still.is_empty() {
        bail!("installed, and still missing:\n  {}", still.join("\n  "));
    }
    Ok(())
}

/// The lists of a fresh machine are empty or out of date: they are fetched when an installation
/// does not succeed with those that are there.
fn install(packages: &[&str]) -> Result<()> {
    let why = "to install packages";
    let apt = || -> Result<std::process::Command> {
        let environment = [("DEBIAN_FRONTEND", "noninteractive".into())];
        let mut command = as_root("apt-get", &environment, why)?;
        command.args(["-o", "DPkg::Lock::Timeout=120"]);
        Ok(command)
    };
    let install_now = || -> Result<std::process::Command> {
        let mut command = apt()?;
        command.args(["install", "--yes", "--no-install-recommends"]).args(packages);
        Ok(command)
    };
    let known = {
        let mut simulated = crate::command::command("apt-get");
        simulated.args(["install", "--simulate", "--no-install-recommends"]).args(packages);
        crate::command::capture(&mut simulated).is_ok()
    };
    if known && run(&mut install_now()?).is_ok() {
        return Ok(());
    }
    step("apt-get update", apt()?.args(["update", "--quiet"]))?;
    step(&format!("apt-get install {}", packages.join(" ")), &mut install_now()?)
}

/// Whether `/etc/os-release` describes Debian or something made from it.
fn is_debian_family(os_release: &str) -> bool {
    let ids = value(os_release, "ID").into_iter().chain(value(os_release, "ID_LIKE"));
    ids.flat_map(str::split_whitespace).any(|id| id == "debian" || id == "ubuntu")
}

/// The value of `key` in os-release(5) text, without its quotes.
fn value<'text>(os_release: &'text str, key: &str) -> Option<&'text str> {
    os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_what_is_made_from_it() {
        assert!(is_debian_family("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n"));
        assert!(is_debian_family("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(is_debian_family("ID='ubuntu'\n"));
        assert!(!is_debian_family("ID=fedora\nPLATFORM_ID=\"platform:f42\"\n"));
        assert!(!is_debian_family("NAME=debian\n"));
        assert!(!is_debian_family(""));
    }

    #[test]
    fn values_lose_their_quotes_only() {
        let text = "NAME=\"A B\"\nID=arch\nBROKEN\n";
        assert_eq!(value(text, "NAME"), Some("A B"));
        assert_eq!(value(text, "ID"), Some("arch"));
        assert_eq!(value(text, "BROKEN"), None);
    }

    #[test]
    fn a_met_need_is_not_missing() {
        assert!(ensure(&[Need::program("sh", "dash", "to test")]).is_ok());
        let need = Need::file("/nonexistent/x".into(), "x".into(), "to test");
        assert!(!need.is_met());
        assert_eq!(need.describe(), "/nonexistent/x (Debian package x) is needed to test");
    }
}
