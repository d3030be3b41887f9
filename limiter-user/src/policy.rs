//! What the configuration means: checked, immutable values that the agent acts on.
//!
//! Knows neither files nor maps nor the wire. `config` builds it, `kernel::image` and the link to
//! the proxy read it.

pub mod auth;
pub mod http;
pub mod kernel;
pub mod limits;
pub mod listener;
pub mod networks;
pub mod rate;
pub mod routing;
pub mod store;
pub mod upstream;

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    http::HttpPolicy,
    kernel::KernelPolicy,
    networks::Networks,
    rate::{ByteRateLimit, Rate, RateLimit},
    store::StorePolicy,
};

/// Whether a control acts, or only decides and counts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Refuse or drop.
    #[default]
    Enforce,
    /// Decide as if enforcing, count it as `monitor`, let it pass.
    Monitor,
}

/// The whole checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Paths and the proxy's user.
    pub agent: AgentPolicy,
    /// The packet half; `None`: HTTP only.
    pub kernel: Option<KernelPolicy>,
    /// The request half; `None`: packets only.
    pub http: Option<HttpPolicy>,
    /// Where limits and bans are kept that hosts share; `None`: nowhere.
    pub store: Option<StorePolicy>,
    /// How evidence becomes bans.
    pub escalation: EscalationPolicy,
    /// Where events go.
    pub sinks: Vec<SinkPolicy>,
}

/// Where the agent keeps its files and whom the proxy runs as.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgentPolicy {
    /// State directory (lock file, runtime lists, interface records).
    pub state: PathBuf,
    /// Runtime directory (control socket, proxy hand-over socket).
    pub runtime: PathBuf,
    /// Directory on a BPF file system for pinned links and maps.
    pub pins: PathBuf,
    /// User of the proxy process; `None`: `limiter` if it exists, else `nobody`.
    pub user: Option<String>,
}

/// Evidence to ban: scores by refusal, threshold within a window, ban length by repetition.
#[derive(Clone, Debug, PartialEq)]
pub struct EscalationPolicy {
    /// `false`: evidence is counted and nobody is banned.
    pub enabled: bool,
    /// `Monitor`: bans are decided and reported, none is made.
    pub mode: Mode,
    /// Points per observation, by HTTP refusal.
    pub scores: Vec<(crate::refusal::Refusal, u32)>,
    /// Points within `window` that make a ban.
    pub threshold: u32,
    /// How far back points count.
    pub window: Duration,
    /// Length of the first ban.
    pub first_ban: Duration,
    /// Each further ban within `decay` is this many times longer.
    pub factor: u32,
    /// No ban is longer.
    pub max_ban: Duration,
    /// After this long without a ban a source counts as new.
    pub decay: Duration,
    /// A client address that authenticated within this is throttled, never banned.
    pub shared_address_guard: Duration,
    /// Where a ban applies when the peer is the client.
    pub scope: BanScope,
}

/// Where a ban is enforced.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BanScope {
    /// By XDP: the socket peer.
    #[default]
    Kernel,
    /// By the proxy: a client address behind a trusted proxy.
    Http,
}

impl BanScope {
    /// Stable label, as in configuration, CLI and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Http => "http",
        }
    }
}

/// One destination of events.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SinkPolicy {
    /// Where to.
    pub kind: SinkKind,
    /// In which form.
    pub format: EventFormat,
    /// Label patterns (`*` at the end matches any rest); empty: all.
    pub kinds: Vec<String>,
}

/// Kinds of destination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SinkKind {
    /// The agent's standard error.
    Stderr,
    /// A file, appended to; reopened on SIGHUP.
    File {
        /// Absolute path.
        path: PathBuf,
        /// Rotate when the file would grow beyond this many bytes.
        rotate_bytes: u64,
        /// How many rotated files to keep.
        keep: u32,
    },
}

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// One line for people: `[time] WARN: [SECURITY] ...`.
    #[default]
    Text,
    /// One JSON object a line, Elastic Common Schema names.
    Json,
}
