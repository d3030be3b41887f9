//! `[agent]`: written -> checked.

use std::path::PathBuf;

use toml::de::DeTable;

use super::{
    Scope, base_of,
    document::{AgentDocument, Text},
    error::{self, ConfigError, Report, Written},
};
use crate::policy::AgentPolicy;

/// Where the control socket is unless something is said.
pub(super) const RUNTIME: &str = "/run/limiter";

/// Where what outlives the agent is kept unless something is said.
pub(super) const STATE: &str = "/var/lib/limiter";

/// Where links and maps are pinned unless something is said.
pub(super) const PINS: &str = "/sys/fs/bpf/limiter";

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
            if user == "root" {
                return Err("the process that parses requests never runs as root".to_owned());
            }
            Ok(user.to_owned())
        })
    });
    AgentPolicy { state, runtime, pins, user }
}

/// A path; relative ones start at the file's directory.
pub(super) fn path(written: &Text, scope: &Scope<'_>, report: &mut Report) -> PathBuf {
    if written.get_ref().is_empty() || written.get_ref().contains('\0') {
        report.refuse(written.span(), "not a path");
    }
    scope.base.join(written.get_ref())
}

/// One directory of `[agent]` alone, for commands that look for the agent or clean up after it.
/// Whatever else is wrong with the file, what can be read of it counts. Where its syntax is broken
/// and the key is not found it may be in the broken part: another agent's place is never guessed.
pub(super) fn directory(
    written: Option<&Written>,
    key: &str,
    default: &str,
) -> Result<PathBuf, ConfigError> {
    let Some(file) = written else {
        return Ok(PathBuf::from(default));
    };
    let (document, errors) = DeTable::parse_recoverable(&file.text);
    let section = document.get_ref().get("agent").and_then(|agent| agent.get_ref().as_table());
    let value = section.and_then(|agent| agent.get(key)).and_then(|value| value.get_ref().as_str());
    match (value, errors.first()) {
        (Some(text), _) => Ok(base_of(written).join(text)),
        (None, Some(why)) => Err(error::from_toml(why, file)),
        (None, None) => Ok(PathBuf::from(default)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn runtime_of(text: &str) -> Result<PathBuf, ConfigError> {
        let written = Written { path: "/etc/limiter/limiter.toml".into(), text: text.into() };
        directory(Some(&written), "runtime", RUNTIME)
    }

    #[test]
    fn an_agent_is_found_by_a_broken_file() {
        for broken in ["", "[kernel]\npacketz = 1\n", "[agent]\nuser = 7\n", "[http]\nx = = 1\n"] {
            let text = format!("agent.runtime = \"run\"\n{broken}");
            let text = text.replace("[agent]\nuser", "agent.user");
            let found = runtime_of(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found, Path::new("/etc/limiter/run"), "{text}");
        }
        assert_eq!(runtime_of("[kernel]\npacketz = 1\n").unwrap(), Path::new(RUNTIME));
    }

    #[test]
    fn no_other_agent_is_guessed_where_the_syntax_is_broken() {
        let error = runtime_of("[agent]\nruntime \"/run/other\"\n").unwrap_err().to_string();
        assert!(error.contains("limiter.toml:2"), "{error}");
    }
}
