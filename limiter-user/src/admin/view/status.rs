//! What `status` shows: everything about the running agent, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /v1/status`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StatusView {
    /// Version and build id of the agent.
    pub version: String,
    /// Agent's process id.
    pub agent_pid: u32,
    /// Proxy's process id; `None`: not running.
    pub proxy_pid: Option<u32>,
    /// How often the proxy was started by this agent.
    pub proxy_starts: u64,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Seconds since the proxy was started; `None`: not running.
    #[serde(default)]
    pub proxy_uptime_seconds: Option<u64>,
    /// Path of the configuration file, if any.
    pub configuration: Option<String>,
    /// Generation of the policy in force (rises with each reload).
    pub policy_generation: u64,
    /// `ready`, `degraded` or `starting`.
    pub state: String,
    /// What is not working, a sentence each.
    pub degraded: Vec<String>,
    /// Seconds until the policy in force is undone unless confirmed; `null`: it stays.
    #[serde(default)]
    pub confirm_seconds: Option<u64>,
    /// `enforce`, `monitor`, or `off` (HTTP only).
    pub kernel_mode: String,
    /// Interfaces with XDP.
    pub interfaces: Vec<InterfaceView>,
    /// Addresses that the proxy listens on.
    pub listeners: Vec<String>,
    /// Upstream servers by name.
    pub upstreams: Vec<String>,
    /// The same servers: how they are, and what they were sent.
    #[serde(default)]
    pub servers: Vec<ServerView>,
    /// What limits and bans are shared through; `null`: nothing.
    #[serde(default)]
    pub store: Option<StoreView>,
    /// Packets by verdict (`pass`, `drop`, `monitor`, `tx`) and reason.
    pub packets: Vec<PacketCountView>,
    /// Malformed packets by what was wrong with them.
    #[serde(default)]
    pub malformed: BTreeMap<String, u64>,
    /// Entries and capacity by map.
    pub maps: BTreeMap<String, MapFillView>,
    /// Losses by stage; all of them counted, none silent.
    pub events_lost: BTreeMap<String, u64>,
    /// Requests since the proxy started.
    pub requests: u64,
    /// Requests sent upstream since the proxy started.
    pub forwarded: u64,
    /// Refused requests by label.
    pub refused: BTreeMap<String, u64>,
    /// Findings in monitor mode by label.
    pub monitored: BTreeMap<String, u64>,
    /// Answered requests by route, status and refusal.
    #[serde(default)]
    pub outcomes: Vec<OutcomeView>,
    /// How long requests took, by route.
    #[serde(default)]
    pub durations: Vec<DurationView>,
    /// Open client connections.
    pub connections_open: u64,
    /// TLS handshakes with clients: `full`, `resumed`, `failed`.
    #[serde(default)]
    pub tls_handshakes: BTreeMap<String, u64>,
    /// Signed messages that are remembered, so that none is accepted twice: `remembered`,
    /// `capacity`; empty where no scheme signs.
    #[serde(default)]
    pub signed_messages: BTreeMap<String, u64>,
    /// Signed messages that were refused: `full`, `repeated`, `unknown`.
    #[serde(default)]
    pub signed_refused: BTreeMap<String, u64>,
    /// TCP connections that peers opened, to any port; `None`: the kernel half is off.
    pub connections: Option<ConnectionsView>,
    /// Bans in force by scope.
    pub bans: BTreeMap<String, u64>,
    /// Bans in force that the agent found when it started, in the kernel or on disk.
    #[serde(default)]
    pub bans_restored: u64,
    /// How long it took to have them in force.
    #[serde(default)]
    pub bans_restored_milliseconds: u64,
    /// Bans that found no room since the agent started, by table (`bans`, `prefix_bans`, `http`).
    #[serde(default)]
    pub bans_refused: BTreeMap<String, u64>,
    /// Settings of the host that matter here, as found.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
}

/// One server of an upstream.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ServerView {
    /// Name of the upstream.
    pub upstream: String,
    /// URL of the server.
    pub server: String,
    /// `up`, `down` (its health requests say so), `open` (its breaker) or `unknown` (no proxy).
    pub state: String,
    /// Requests sent, repeated ones too.
    pub requests: u64,
    /// Requests that it did not answer, or with 502, 503 or 504.
    pub failures: u64,
    /// Requests that were sent once more after it failed.
    pub retries: u64,
    /// Connections open now.
    pub connections: u64,
    /// Requests in flight now.
    pub active: u64,
}

/// The store that hosts share.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StoreView {
    /// Where it is.
    pub url: String,
    /// `up`, `connecting` (for the first time), `lost`, or `unknown` (no proxy).
    pub state: String,
    /// What holds for limits while it is lost: `local`, `open` or `closed`.
    pub on_failure: String,
    /// Requests that it was asked about: `answered`, `failed` (no answer, or none in time); and
    /// those that it was not asked about: `absent` (it was lost), `remembered` (it refused the same
    /// a moment ago).
    pub requests: BTreeMap<String, u64>,
    /// Values in the store that nobody who counts wrote; each was taken for nothing.
    pub unreadable: u64,
    /// Connections made since the proxy started.
    pub connected: u64,
    /// Bans since the agent started: `said` to others, `followed` (others made or lifted them),
    /// `refused` (others made them, and they are not enforced here), `left_out` (the store has no
    /// room), `unreadable`.
    pub bans: BTreeMap<String, u64>,
}

/// Requests that were answered alike, since the proxy started.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct OutcomeView {
    /// Name of the route; empty before routing.
    pub route: String,
    /// Status of the answer.
    pub code: String,
    /// Label of the refusal; empty: answered.
    pub refusal: String,
    /// How many.
    pub count: u64,
}

/// Requests of one route by how long they took, since the proxy started.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct DurationView {
    /// Name of the route; empty before routing.
    pub route: String,
    /// How many took at most so many seconds and more than the bound before; no bound: the rest.
    pub buckets: Vec<(Option<f64>, u64)>,
    /// All of them together.
    pub sum_seconds: f64,
}

/// TCP connections that peers opened, as the stack tells of them.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConnectionsView {
    /// Why they are not counted at all.
    pub off: Option<String>,
    /// How many are open.
    pub open: u64,
    /// Sockets in the table.
    pub tracked: u64,
    /// How many fit.
    pub capacity: u64,
    /// Counts and records found wrong and put right since the agent started.
    pub drift_corrected: u64,
    /// Connections that were not counted because a table was full.
    pub untracked: u64,
    /// Connections that bans ended since the agent started.
    pub ended_by_bans: u64,
    /// Bans whose connections were not ended, because too many bans came at once.
    pub bans_skipped: u64,
}

/// One interface.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct InterfaceView {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// `native` or `generic`.
    pub mode: String,
    /// Whether the link was taken over from an earlier agent.
    pub taken_over: bool,
    /// Why the mode is generic although native was wanted; else empty.
    #[serde(default)]
    pub note: String,
}

/// One counter of the packet path.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PacketCountView {
    /// Interface name.
    pub interface: String,
    /// `pass`, `drop`, `monitor` or `tx`.
    pub verdict: String,
    /// Reason label.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// How full a map is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct MapFillView {
    /// Entries in use.
    pub entries: u64,
    /// How many fit.
    pub capacity: u64,
}
