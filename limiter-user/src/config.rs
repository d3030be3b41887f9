//! The configuration flow: file -> `Document` (as written) -> [`Policy`] (checked, immutable).
//!
//! Options beat the environment, which beats the file, which beats the preset. Nothing half-checked
//! leaves this module: either a whole policy, or an error that explains everything found.

mod access_log;
mod agent;
mod auth;
mod cors;
mod document;
mod error;
mod escalation;
mod events;
mod headers;
mod http;
mod kernel;
mod limits;
mod listener;
mod locate;
mod preset;
mod reserved;
mod route;
mod secret;
mod store;
pub(crate) mod tls;
mod upstream;
mod values;

#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

pub(crate) use self::auth::{api_key, jwt};
use self::{
    document::Document,
    error::{Place, Report, Written},
    preset::{Preset, elizaos},
};
pub use self::{
    error::{ConfigError, Risk},
    preset::PRESETS,
};
use crate::{
    link::room,
    policy::{KernelPolicy, Policy},
};

/// Read if it exists and nothing else is named.
pub const DEFAULT_FILE: &str = "/etc/limiter/limiter.toml";
/// Where requests arrive unless something is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// Looks an environment variable up.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Everything a policy is made from.
#[derive(Clone)]
pub struct Sources<'a> {
    /// `--config`. `None`: `LIMITER_CONFIG`, else [`DEFAULT_FILE`] if it exists. An empty
    /// `LIMITER_CONFIG` means no file.
    pub file: Option<PathBuf>,
    /// `--preset`.
    pub preset: Option<String>,
    /// `--interface`, else `LIMITER_INTERFACE` (comma list).
    pub interfaces: Vec<String>,
    /// `--listen`, else `LIMITER_LISTEN` (comma list).
    pub listen: Vec<String>,
    /// `--upstream`, else `LIMITER_UPSTREAM`.
    pub upstream: Option<String>,
    /// `--allow-unauthenticated`.
    pub allow_unauthenticated: bool,
    /// Environment; [`process_environment`] outside of tests.
    pub environment: Environment<'a>,
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("preset", &self.preset)
            .field("interfaces", &self.interfaces)
            .field("listen", &self.listen)
            .field("allow_unauthenticated", &self.allow_unauthenticated)
            .finish_non_exhaustive()
    }
}

impl<'a> Sources<'a> {
    /// Nothing but an environment.
    pub fn new(environment: Environment<'a>) -> Self {
        Self {
            file: None,
            preset: None,
            interfaces: Vec::new(),
            listen: Vec::new(),
            upstream: None,
            allow_unauthenticated: false,
            environment,
        }
    }

    /// A variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|value| !value.is_empty())
    }

    /// Which file is read, if any.
    fn path(&self) -> Option<PathBuf> {
        if let Some(path) = &self.file {
            return Some(path.clone());
        }
        match (self.environment)("LIMITER_CONFIG") {
            Some(path) if path.is_empty() => None,
            Some(path) => Some(PathBuf::from(path)),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()),
        }
    }

    /// The option, else the variable's comma list, with where it came from.
    fn list(&self, option: &[String], flag: &str, variable: &str) -> Option<(Place, Vec<String>)> {
        if !option.is_empty() {
            return Some((flag.into(), option.to_vec()));
        }
        let value = self.variable(variable)?;
        let items = value.split(',').map(|item| item.trim().to_owned()).collect();
        Some((variable.into(), items))
    }
}

/// The environment of this process.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A policy, and what to know about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the agent acts on.
    pub policy: Policy,
    /// What works and may not be meant.
    pub risks: Vec<Risk>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// What every check may look at.
struct Scope<'a> {
    sources: &'a Sources<'a>,
    environment: Environment<'a>,
    /// Relative paths start here.
    base: PathBuf,
    preset: Option<Preset>,
    /// Of that preset only.
    elizaos: Option<elizaos::Settings>,
}

/// Reads and checks the configuration.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, ConfigError> {
    let written = read_file(sources)?;
    let document = parse(written.as_ref())?;
    let mut report = Report::default();
    let scope = scope_of(sources, &document, written.as_ref(), &mut report);
    warn_if_writable(written.as_ref(), &mut report);
    let policy = check(&document, &scope, &mut report);
    let risks = report.finish(written.as_ref())?;
    Ok(Loaded { policy, risks, file: written.map(|written| written.path) })
}

/// A `keys_file`, and the header for its keys if that is said.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct KeysPlace {
    /// Where the file is.
    pub path: PathBuf,
    /// As it is written.
    pub header: Option<String>,
}

/// Where `limiter keys` finds its file: that of each `[auth.NAME]`; `None`: there is no such table.
/// The rest of the file need not be right.
pub fn keys_files(sources: &Sources<'_>) -> Result<Option<Vec<KeysPlace>>, ConfigError> {
    let written = read_file(sources)?;
    let document = parse(written.as_ref())?;
    let base = base_of(written.as_ref());
    let files = document.auth.values().map(toml::Spanned::get_ref).filter_map(|auth| {
        let header = auth.header.as_ref().map(|header| header.get_ref().clone());
        Some(KeysPlace { path: base.join(auth.keys_file.as_ref()?.get_ref()), header })
    });
    Ok((!document.auth.is_empty()).then(|| files.collect()))
}

/// Where the agent of this configuration keeps its control socket. The rest of the file need not
/// be right, nor its secrets readable: whoever has just broken it still reaches the agent.
pub fn runtime_directory(sources: &Sources<'_>) -> Result<PathBuf, ConfigError> {
    agent::directory(read_file(sources)?.as_ref(), "runtime", agent::RUNTIME)
}

/// Where the agent of this configuration pins links and maps. As [`runtime_directory`].
pub fn pins_directory(sources: &Sources<'_>) -> Result<PathBuf, ConfigError> {
    agent::directory(read_file(sources)?.as_ref(), "pins", agent::PINS)
}

/// Where the agent of this configuration keeps its state. As [`runtime_directory`].
pub fn state_directory(sources: &Sources<'_>) -> Result<PathBuf, ConfigError> {
    agent::directory(read_file(sources)?.as_ref(), "state", agent::STATE)
}

/// Whether there is anything to read: a file, or a variable that switches one of the halves on.
pub fn is_there(sources: &Sources<'_>) -> bool {
    let switches = ["LIMITER_UPSTREAM", "LIMITER_INTERFACE"];
    sources.path().is_some() || switches.iter().any(|name| sources.variable(name).is_some())
}

/// A duration as the configuration writes it, for the command line.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    values::duration(text)
}

/// A network or address as the configuration writes it, for the command line.
pub fn parse_network(text: &str) -> Result<ipnet::IpNet, String> {
    values::network(text)
}

fn read_file(sources: &Sources<'_>) -> Result<Option<Written>, ConfigError> {
    let Some(path) = sources.path() else {
        return Ok(None);
    };
    let text = fs::read_to_string(&path).map_err(|why| error::unreadable(&path, why))?;
    Ok(Some(Written { path, text }))
}

fn parse(written: Option<&Written>) -> Result<Document, ConfigError> {
    written.map_or_else(
        || Ok(Document::default()),
        |file| toml::from_str(&file.text).map_err(|why| error::from_toml(&why, file)),
    )
}

fn base_of(written: Option<&Written>) -> PathBuf {
    // The parent of a bare file name is empty.
    let directory = written
        .and_then(|file| file.path.parent())
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf())
}

fn scope_of<'a>(
    sources: &'a Sources<'a>,
    document: &Document,
    written: Option<&Written>,
    report: &mut Report,
) -> Scope<'a> {
    let preset = match (&sources.preset, &document.preset) {
        (Some(option), _) => report.parsed("--preset", option, preset::parse),
        (None, Some(key)) => report.value(key, preset::parse),
        (None, None) => None,
    };
    let elizaos = (preset == Some(Preset::ElizaOs)).then(|| elizaos::read(sources, report));
    Scope { sources, environment: sources.environment, base: base_of(written), preset, elizaos }
}

fn warn_if_writable(written: Option<&Written>, report: &mut Report) {
    let Some(path) = written.map(|file| &file.path) else {
        return;
    };
    let mode = fs::metadata(path).map_or(0, |metadata| metadata.mode() & 0o7777);
    if mode & 0o002 != 0 {
        let sentence = format!("mode {mode:04o}: everybody can change what is enforced");
        report.risk(path.display().to_string().as_str(), sentence);
    }
}

fn check(document: &Document, scope: &Scope<'_>, report: &mut Report) -> Policy {
    report.later(&[&document.validate, &document.detect, &document.feeds], "none of it");
    let store = store::check(&document.store, scope, report);
    report.later(&[&document.admin.listen, &document.admin.token], "the control socket");
    let kernel = kernel::check(document.kernel.as_ref(), scope, report);
    let escalation = escalation::check(&document.escalation, scope, report);
    // The proxy cannot tell on which interface a request came.
    let trusted = kernel.iter().flat_map(KernelPolicy::trusted_everywhere).collect();
    let mut http = http::check(document, &escalation, trusted, scope, report);
    if let Some(http) = &mut http {
        http.store.clone_from(&store);
        if let Err(why) = room::check(http) {
            report.refuse(auth::largest(&document.auth, http), why);
        }
    }
    if kernel.is_none() && http.is_none() && report.is_clean() {
        report.refuse_with(
            "configuration",
            "there is nothing to protect",
            "set LIMITER_UPSTREAM (or --upstream) to serve HTTP, LIMITER_INTERFACE (or \
             --interface) to filter packets, or write a file: `limiter init`",
        );
    }
    Policy {
        agent: agent::check(&document.agent, scope, report),
        kernel,
        http,
        store,
        escalation,
        sinks: events::check(&document.events, scope, report),
    }
}
