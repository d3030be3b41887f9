//! The host: file systems, settings of the kernel, limits of processes, the proxy's user.

use std::{fs, path::Path};

use nix::{
    sys::{
        resource::{Resource, getrlimit},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::User,
};

use super::{Finding, State};
use crate::policy::Policy;

const AREA: &str = "host";

/// Connections that may wait for a core: what the agent asks for.
const BACKLOG: u64 = 4_096;

/// Files of the proxy that are neither a client nor a server.
const OTHER_FILES: u64 = 256;

/// Clocks that are read without asking the hypervisor or a device.
const FAST_CLOCKS: [&str; 4] =
    ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"];

pub(super) fn look(policy: Option<&Policy>, missing: State, findings: &mut Vec<Finding>) {
    let pins = policy.map_or(Path::new("/sys/fs/bpf/limiter"), |policy| &policy.agent.pins);
    findings.push(pins_mount(pins, missing));
    findings.push(types_of_the_kernel());
    for setting in &SETTINGS {
        findings.extend(setting.look());
    }
    findings.push(clock());
    findings.extend(policy.map(open_files));
    findings.push(user(policy));
}

fn pins_mount(pins: &Path, missing: State) -> Finding {
    let check = format!("BPF file system at {}", pins.display());
    let existing = pins.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if statfs(existing).is_ok_and(|info| info.filesystem_type() == BPF_FS_MAGIC) {
        return Finding::ok(AREA, check, "mounted");
    }
    let mounts = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SYS_ADMIN);
    if mounts.unwrap_or(false) {
        return Finding::ok(AREA, check, "not mounted yet: the agent does it");
    }
    let at = if pins.starts_with("/sys/fs/bpf") { Path::new("/sys/fs/bpf") } else { pins };
    let advice = format!("`mount -t bpf bpf {}`, or start as root", at.display());
    Finding::ok(AREA, check, "not mounted").but(missing, advice)
}

fn types_of_the_kernel() -> Finding {
    let check = "types of the kernel (BTF)";
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Finding::ok(AREA, check, "yes");
    }
    let advice = "limits of concurrent connections need a kernel with CONFIG_DEBUG_INFO_BTF";
    Finding::ok(AREA, check, "no").but(State::Off, advice)
}

/// One setting of the kernel.
struct Setting {
    /// Below `/proc/sys`, dots for slashes.
    name: &'static str,
    good: fn(u64) -> bool,
    advice: &'static str,
}

const SETTINGS: [Setting; 7] = [
    Setting {
        name: "net.core.bpf_jit_enable",
        good: |value| value > 0,
        advice: "programs are interpreted, many times slower: set it to 1",
    },
    Setting {
        name: "kernel.unprivileged_bpf_disabled",
        good: |value| value > 0,
        advice: "everybody may load programs: set it to 2",
    },
    Setting {
        name: "net.ipv4.tcp_syncookies",
        good: |value| value > 0,
        advice: "a SYN flood fills the queues of listeners: set it to 1",
    },
    Setting {
        name: "net.ipv4.tcp_timestamps",
        good: |value| value > 0,
        advice: "connections by SYN cookie have no window scaling nor SACK: set it to 1",
    },
    Setting {
        name: "net.core.somaxconn",
        good: |value| value >= BACKLOG,
        advice: "fewer than 4096 connections can wait to be accepted: set it to 4096",
    },
    Setting {
        name: "net.ipv4.ip_forward",
        good: |value| value == 0,
        advice: "this host forwards: what it forwards is not limited unless kernel.forwarded is set",
    },
    Setting {
        name: "net.ipv6.conf.all.forwarding",
        good: |value| value == 0,
        advice: "this host forwards: what it forwards is not limited unless kernel.forwarded is set",
    },
];

impl Setting {
    /// Nothing where the kernel has no such setting (IPv6 switched off, say).
    fn look(&self) -> Option<Finding> {
        let path = Path::new("/proc/sys").join(self.name.replace('.', "/"));
        let text = fs::read_to_string(path).ok()?;
        let value: u64 = text.trim().parse().ok()?;
        let finding = Finding::ok(AREA, self.name, value.to_string());
        Some(if (self.good)(value) { finding } else { finding.but(State::Off, self.advice) })
    }
}

fn clock() -> Finding {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let Ok(name) = fs::read_to_string(path) else {
        return Finding::ok(AREA, "clock", "not told");
    };
    let name = name.trim().to_owned();
    let is_fast = FAST_CLOCKS.contains(&name.as_str());
    let finding = Finding::ok(AREA, "clock", name);
    if is_fast {
        finding
    } else {
        finding.but(State::Off, "reading the time is slow: limits with small bursts cost more")
    }
}

/// A client and a server each take a file.
fn open_files(policy: &Policy) -> Finding {
    let connections = policy.http.as_ref().map_or(0, |http| http.bounds.max_connections);
    let needed = 2 * u64::try_from(connections).unwrap_or(u64::MAX / 4) + OTHER_FILES;
    let check = "open files (of this shell)";
    match getrlimit(Resource::RLIMIT_NOFILE) {
        // The soft limit may be raised to the hard one.
        Ok((_, most)) if most >= needed => Finding::ok(AREA, check, most.to_string()),
        Ok((_, most)) => Finding::ok(AREA, check, most.to_string()).but(
            State::Off,
            format!("http.max_connections = {connections} needs {needed}: raise LimitNOFILE"),
        ),
        Err(error) => Finding::ok(AREA, check, error.to_string()),
    }
}

fn user(policy: Option<&Policy>) -> Finding {
    let check = "user of the proxy";
    let exists = |name: &str| User::from_name(name).is_ok_and(|user| user.is_some());
    match policy.and_then(|policy| policy.agent.user.as_deref()) {
        Some(name) if exists(name) => Finding::ok(AREA, check, name),
        Some(name) => Finding::ok(AREA, check, format!("{name} does not exist"))
            .but(State::Problem, "`useradd --system` it, or change agent.user"),
        None if exists("limiter") => Finding::ok(AREA, check, "limiter"),
        None if exists("nobody") => Finding::ok(AREA, check, "nobody")
            .but(State::Off, "better a user of its own: `useradd --system limiter`"),
        None => Finding::ok(AREA, check, "neither `limiter` nor `nobody` exists")
            .but(State::Problem, "`useradd --system limiter`, or set agent.user"),
    }
}
