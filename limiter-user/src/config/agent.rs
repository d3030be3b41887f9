//! `[agent]`: written -> checked.

use std::path::{Path, PathBuf};

use super::{
    Scope,
    document::{AgentDocument, Document, Text},
    error::Report,
};
use crate::policy::AgentPolicy;

/// Where the control socket is unless something is said.
const RUNTIME: &str = "/run/limiter";

/// Where what outlives the agent is kept unless something is said.
const STATE: &str = "/var/lib/limiter";

/// Where links and maps are pinned unless something is said.
const PINS: &str = "/sys/fs/bpf/limiter";

pub(super) fn check(
    written: &AgentDocument,
    scope: &Scope<'_>,
    report: &mut Report,
) -> AgentPolicy {
    let mut path = |written: Option<&Text>, default: &str| {
        written.map_or_else(|| PathBuf::from(default), |text| path(text, scope, report))
    };
    let (state, runtime, pins) = (
        path(written.state.as_ref(), STATE),
        path(written.runtime.as_ref(), RUNTIME),
        path(written.pins.as_ref(), PINS),
    );
    let user = written.user.as_ref().and_then(|user| {
        report.value(user, |user| {
            let ok = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if user.is_empty() || user.len() > 32 || !user.bytes().all(ok) {
                return Err("is not a user name".to_owned());
            }
            Ok(user.to_owned())
        })
    });
    if let (Some("root"), Some(place)) = (user.as_deref(), &written.user) {
        report.risk(place.span(), "the process that parses requests runs as root");
    }
    AgentPolicy { state, runtime, pins, user }
}

/// A path; relative ones start at the file's directory.
pub(super) fn path(written: &Text, scope: &Scope<'_>, report: &mut Report) -> PathBuf {
    if written.get_ref().is_empty() || written.get_ref().contains('\0') {
        report.refuse(written.span(), "not a path");
    }
    scope.base.join(written.get_ref())
}

/// The directory of pins alone, unchecked: for taking XDP off without an agent.
pub(super) fn pins(document: &Document, base: &Path) -> PathBuf {
    let written = document.agent.pins.as_ref();
    written.map_or_else(|| PathBuf::from(PINS), |text| base.join(text.get_ref()))
}

/// The state directory alone, unchecked: for undoing what an agent that is gone changed.
pub(super) fn state(document: &Document, base: &Path) -> PathBuf {
    let written = document.agent.state.as_ref();
    written.map_or_else(|| PathBuf::from(STATE), |text| base.join(text.get_ref()))
}

/// The runtime directory alone, unchecked: for commands that look for the agent.
pub(super) fn runtime(document: &Document, base: &Path) -> PathBuf {
    let written = document.agent.runtime.as_ref();
    written.map_or_else(|| PathBuf::from(RUNTIME), |text| base.join(text.get_ref()))
}
