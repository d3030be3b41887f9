//! What the agent and the proxy process say to each other over one socketpair.
//!
//! Frames are a 4-byte little-endian length and a postcard body of at most [`MAX_FRAME_BYTES`];
//! the first frame each way is a `Hello`, and a peer of another protocol version is refused.
//! Listening sockets travel beside the frame that announces them (`SCM_RIGHTS`). Neither side
//! trusts the other's lengths or counts.

pub mod codec;
pub mod descriptors;
pub mod room;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    policy::{HttpPolicy, listener::ListenAddress},
    refusal::Refusal,
};

/// Version of the messages below; both sides must have the same. An agent says no more than
/// `Hello`, `HandOver` and `Drain` to a proxy that it did not start itself: messages other than
/// those may change with the build, and these keep their places.
pub const PROTOCOL_VERSION: u32 = 4;

/// Longest frame body. The largest message is a policy with its keys.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// File descriptor of the proxy's end of the socketpair, as inherited.
pub const LINK_FD: i32 = 3;

/// From the agent to the proxy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum ToProxy {
    /// First frame.
    Hello(Hello),
    /// Listening sockets, in this order, as file descriptors beside the frame.
    Listeners(Vec<ListenAddress>),
    /// A socket on which a later agent may reach a proxy whose agent died, beside the frame.
    Rendezvous,
    /// The policy to act on from now on.
    Policy {
        /// Rises with each policy.
        generation: u64,
        /// The policy.
        policy: Box<HttpPolicy>,
    },
    /// Replaces the whole list of bans of scope `http`.
    HttpBans(Vec<HttpBan>),
    /// Adds or replaces bans of scope `http`, in this order.
    AddHttpBans(Vec<HttpBan>),
    /// Ends live connections whose socket peer is in one of these prefixes (they were banned in
    /// the kernel).
    CloseConnections(Vec<IpNet>),
    /// A later agent asks for the listening sockets (answered by `FromProxy::HandOver`).
    HandOver,
    /// Stop accepting, finish what is in flight within the policy's drain time, then exit.
    Drain,
    /// The memory that limits are counted in ([`crate::limits::arena`]), beside the frame; before
    /// the first policy.
    LimiterMemory,
    /// The file of the access log from now on, beside the frame; none beside it: there is none.
    AccessLog,
}

/// From the proxy to the agent.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum FromProxy {
    /// First frame.
    Hello(Hello),
    /// The policy of this generation is in force on every core and sockets are being accepted.
    PolicyApplied {
        /// As sent.
        generation: u64,
    },
    /// What happened to requests since the last frame.
    Observations {
        /// In order of first occurrence; repeated ones aggregated.
        observations: Vec<Observation>,
        /// Observations that found no room and are only in the counters.
        lost: u64,
    },
    /// Totals since the proxy started; sent at most once a second, when changed.
    Counters(Box<ProxyCounters>),
    /// The listening sockets, in this order, as file descriptors beside the frame; behind them the
    /// limiter memory, if there is one.
    HandOver(Vec<ListenAddress>),
    /// Unknown clients are refused from now on, for this reason; `None`: no more.
    Overload(Option<Strain>),
    /// An upstream's server is no longer, or again, sent requests.
    Server(ServerNotice),
    /// The shared store is lost, or back.
    Store(StoreNotice),
}

/// What there is too much of, or too little.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Strain {
    /// Requests wait for a core.
    Delay,
    /// Requests in flight.
    Requests,
    /// Open connections.
    Connections,
    /// Memory.
    Memory,
}

/// A change in the state of an upstream's server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServerNotice {
    /// Name of the upstream.
    pub upstream: String,
    /// URL of the server.
    pub server: String,
    /// What changed.
    pub change: ServerChange,
}

/// What can change about a server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ServerChange {
    /// It failed too often and is left alone for a while.
    BreakerOpened,
    /// A request that tried was answered.
    BreakerClosed,
    /// It does not say that it is well; why.
    Down(String),
    /// It says that it is well again.
    Up,
}

/// A change in what limits and bans are shared through.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum StoreNotice {
    /// Some core cannot use it; why.
    Lost(String),
    /// Every core can.
    Back,
}

/// How often the shared store was asked about requests.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct StoreCounts {
    /// Asked.
    pub asked: u64,
    /// Not asked, because it refused the same a moment ago.
    pub remembered: u64,
    /// Asked, and no answer, or none in time, or none that helps.
    pub failed: u64,
    /// Not asked, because it was lost.
    pub absent: u64,
    /// Connections made.
    pub connected: u64,
    /// Values there that nobody who counts wrote; each was taken for nothing.
    pub unreadable: u64,
    /// Every core can use it now.
    pub is_usable: bool,
}

/// Who is speaking.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Build id of the binary.
    pub build: String,
    /// Process id.
    pub pid: u32,
}

/// A client address that the proxy refuses before routing.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HttpBan {
    /// Client addresses.
    pub prefix: IpNet,
    /// `CLOCK_MONOTONIC` ns; in the past: removes the ban.
    pub expires_ns: u64,
}

/// One refusal (or finding in monitor mode, or success worth knowing), possibly of many requests.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Observation {
    /// Wall clock of the first, Unix ns.
    pub unix_ns: u64,
    /// Socket peer.
    pub peer: IpAddr,
    /// Client address by the policy's source; equals `peer` without a trusted proxy.
    pub client: IpAddr,
    /// What happened.
    pub outcome: ObservedOutcome,
    /// How many requests this stands for; details below are the first one's.
    pub count: u32,
    /// Head of the first request, for the event. `None` where no head was read.
    pub request: Option<Box<RequestFacts>>,
}

/// What an observation says.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum ObservedOutcome {
    /// Refused.
    Refused(Refusal),
    /// Would have been refused, in monitor mode.
    Monitored(Refusal),
    /// Authenticated successfully (sent when new for this client, then at most once a minute).
    Authenticated,
}

/// What an event says of a request. Untrusted text, bounded; never query values or bodies.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RequestFacts {
    /// Request id as echoed.
    pub id: String,
    /// Method, at most 32 bytes.
    pub method: String,
    /// Path without query, at most 256 bytes.
    pub path: String,
    /// `User-Agent`, at most 128 bytes.
    pub user_agent: String,
    /// Status of the answer.
    pub status: u16,
    /// Name of the route, empty before routing.
    pub route: String,
    /// Principal, if authenticated.
    pub principal: Option<String>,
    /// Name of the limit that refuses it, where the security log has a line for each.
    pub limit: Option<String>,
}

/// Totals since the proxy started.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProxyCounters {
    /// Requests whose head was read.
    pub requests: u64,
    /// Requests sent upstream.
    pub forwarded: u64,
    /// Refused requests, by refusal (index in `Refusal::ALL`).
    pub refused: Vec<u64>,
    /// Monitored findings, by refusal (index in `Refusal::ALL`).
    pub monitored: Vec<u64>,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections refused at a bound.
    pub connections_refused: u64,
    /// TLS handshakes that succeeded.
    pub tls_handshakes: u64,
    /// Those of them that resumed an earlier session.
    pub tls_resumed: u64,
    /// TLS handshakes that failed.
    pub tls_failed: u64,
    /// Limiter entries in use.
    pub limiter_entries: u64,
    /// Requests for which no limiter entry was left.
    pub limiter_full: u64,
    /// Responses by status class (1xx to 5xx).
    pub responses: [u64; 5],
    /// Requests by route, status and refusal.
    pub outcomes: Vec<OutcomeCount>,
    /// How long requests took, by route.
    pub durations: Vec<DurationCount>,
    /// Lines of the access log that found no room.
    pub access_lost: u64,
    /// The servers of the policy in force.
    pub servers: Vec<ServerCount>,
    /// How often the shared store was asked; `None`: there is none.
    pub store: Option<StoreCounts>,
    /// Signed messages.
    pub signed: SignedCount,
}

/// Signed messages, each of which is used once.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct SignedCount {
    /// Remembered now, about.
    pub remembered: u64,
    /// How many can be; 0: no scheme signs.
    pub capacity: u64,
    /// Refused for want of room to remember them.
    pub full: u64,
    /// Refused because they had been used before.
    pub repeated: u64,
    /// Refused because another copy of them was under way.
    pub under_way: u64,
    /// Refused because nobody knows whether they had been used.
    pub unknown: u64,
}

/// Upper bounds of the first buckets of durations, ns; one more has none.
pub const DURATION_BOUNDS_NS: [u64; 13] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Requests of one route by how long they took, from head to the end of the answer.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DurationCount {
    /// Name of the route; empty: as for [`OutcomeCount`].
    pub route: String,
    /// How many took at most each of [`DURATION_BOUNDS_NS`] and more than the one before, and how
    /// many took longer than all.
    pub buckets: [u64; DURATION_BOUNDS_NS.len() + 1],
    /// All of them together, ns.
    pub sum_ns: u64,
}

/// One server of an upstream.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ServerCount {
    /// Name of the upstream.
    pub upstream: String,
    /// URL of the server.
    pub server: String,
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
    /// Not found unwell by its health requests.
    pub up: bool,
    /// Left alone for a while.
    pub breaker_open: bool,
}

/// Requests that ended alike.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct OutcomeCount {
    /// Name of the route; empty: none was found, or too many combinations to tell apart.
    pub route: String,
    /// Status of the answer; 0: none was sent; below 10: its class.
    pub status: u16,
    /// Why it was refused, if it was.
    pub refusal: Option<Refusal>,
    /// How many.
    pub count: u64,
}
