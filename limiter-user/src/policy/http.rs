//! The request half of the policy: what listens, what is required of a request, where it goes.
//!
//! Serialisable, because the agent sends it whole to the proxy process. Secrets are
//! SHA-256 digests where that is enough; those of listeners, webhooks, tokens and the store are
//! themselves, never shown and wiped when they are dropped.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Mode, Rate,
    listener::{ListenAddress, ListenerPolicy},
    store::StorePolicy,
};
pub use super::{
    auth::{ApiKeyPolicy, AuthKind, AuthPolicy, KeyRecord},
    limits::LimitPolicy,
    upstream::UpstreamPolicy,
};

/// Everything the proxy acts on. Indices refer to the vectors beside them and are checked.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HttpPolicy {
    /// Where requests arrive.
    pub listeners: Vec<ListenerPolicy>,
    /// Where the client's address comes from.
    pub client_address: ClientAddressSource,
    /// Peers whose word counts for `client_address`.
    pub trusted_proxies: Vec<IpNet>,
    /// Sources that no control applies to (the kernel's `trusted`): never banned nor guarded.
    pub trusted: Vec<IpNet>,
    /// Bounds on connections and messages.
    pub bounds: HttpBounds,
    /// A line for each request; `None`: none.
    pub access_log: Option<AccessLogPolicy>,
    /// How long each phase may take.
    pub timeouts: HttpTimeouts,
    /// Budget of failed attempts per client address.
    pub guard: GuardPolicy,
    /// Where requests go.
    pub upstreams: Vec<UpstreamPolicy>,
    /// Most specific first.
    pub routes: Vec<RoutePolicy>,
    /// Authentication schemes.
    pub auth: Vec<AuthPolicy>,
    /// Rate limits.
    pub limits: Vec<LimitPolicy>,
    /// Where limits are counted that hosts share; `None`: each host for itself.
    pub store: Option<StorePolicy>,
    /// CORS policies.
    pub cors: Vec<CorsPolicy>,
    /// Response header policies.
    pub headers: Vec<HeadersPolicy>,
    /// How refusals are worded.
    pub error_shape: ErrorShape,
    /// Paths lead to routes whatever their case, as they do at the upstream: else `/API` would
    /// pass by what `/api` requires. Patterns are then lower case.
    pub ignore_path_case: bool,
}

impl HttpPolicy {
    /// Whether the same sockets are listened on, whatever is expected there.
    pub fn listens_as(&self, other: &Self) -> bool {
        let addresses = |policy: &Self| -> HashSet<ListenAddress> {
            policy.listeners.iter().map(|listener| listener.address.clone()).collect()
        };
        addresses(self) == addresses(other)
    }
}

/// How refusals are worded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorShape {
    /// RFC 9457 problem documents.
    #[default]
    Problem,
    /// The JSON of an ElizaOS server, which its clients know. Limits have its codes by their names
    /// (`file-system`, `upload`, `authentication`, `channel-validation`, any other).
    ElizaOs,
}

/// Where the client's address comes from; exactly one, the other headers are stripped.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientAddressSource {
    /// The socket's peer.
    #[default]
    Peer,
    /// What the PROXY protocol says; the socket's peer where a listener does not expect it.
    Proxy,
    /// RFC 7239 `Forwarded`, the rightmost hop that is not a trusted proxy.
    Forwarded,
    /// `X-Forwarded-For`, the rightmost hop that is not a trusted proxy.
    XForwardedFor,
}

/// Bounds on connections and messages.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HttpBounds {
    /// Bytes of a request body, chunked ones counted too.
    pub max_body_bytes: u64,
    /// Bytes of a body that stages look at as a whole.
    pub max_inspected_body_bytes: usize,
    /// Header fields of a request.
    pub max_headers: usize,
    /// Bytes of a request head.
    pub max_header_bytes: usize,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections per client address (socket peer; IPv6 by /64).
    pub max_connections_per_client: usize,
    /// Requests in flight in all.
    pub max_requests: usize,
    /// Bytes of a body that a client sends or takes, at least on average: beside the time that
    /// `timeouts` give it.
    pub min_body_rate: Rate,
}

/// Where the access log is, and how it is written.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AccessLogPolicy {
    /// Form of a line.
    pub format: AccessFormat,
    /// Absolute path of the file, which the agent opens; reopened on SIGHUP.
    pub path: PathBuf,
    /// Rotated when the file is found larger than this many bytes.
    pub rotate_bytes: u64,
    /// How many rotated files to keep.
    pub keep: u32,
}

/// How a request is written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// One object a line, Elastic Common Schema names.
    Json,
    /// Apache's combined log format.
    Combined,
}

/// How long each phase may take.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HttpTimeouts {
    /// From the first wait for a request head to its end.
    pub header: Duration,
    /// Between two reads of a request body, and how far it may fall behind its rate.
    pub body: Duration,
    /// A kept-alive connection without a request; a response that is not taken.
    pub idle: Duration,
    /// To connect to an upstream.
    pub connect: Duration,
    /// Until an upstream's response head, and between two parts of its body.
    pub upstream: Duration,
    /// Of TLS.
    pub handshake: Duration,
    /// For requests in flight at shutdown.
    pub drain: Duration,
}

/// A client address's budget of failed attempts; beyond it, unknown credentials are refused
/// before they are checked. Known-good credentials go on being served.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GuardPolicy {
    /// Failed attempts allowed.
    pub failures: Rate,
    /// Whether no window of time has more of them (sliding window); else as a bucket fills.
    pub by_window: bool,
    /// Enforce, or only count.
    pub mode: Mode,
}

/// What is required of the requests that match, and where they go.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RoutePolicy {
    /// Label for metrics and events: the host and path pattern as written.
    pub name: String,
    /// Lower-case host without port, or `*.` and a domain for all hosts below it; `None`: any.
    pub host: Option<String>,
    /// Which paths.
    pub path: PathPattern,
    /// Allowed methods, upper case; empty: any.
    pub methods: Vec<String>,
    /// Index into `upstreams`.
    pub upstream: usize,
    /// Who may call.
    pub auth: RouteAuth,
    /// Who the caller must be beside that, and then counts as: whoever passes any of these (indices
    /// into `auth`). Empty: nobody.
    pub second_auth: Vec<usize>,
    /// What the caller must be allowed, all of it; empty on a public route.
    pub scopes: Vec<String>,
    /// Indices into `limits`.
    pub limits: Vec<usize>,
    /// What a request weighs in `limits`; `None`: what each of them says.
    pub cost: Option<u64>,
    /// Index into `cors`; `None`: no CORS headers, preflights go upstream.
    pub cors: Option<usize>,
    /// Index into `headers`.
    pub headers: Option<usize>,
    /// Client addresses that may call; `None`: any.
    pub allow: Option<Vec<IpNet>>,
    /// Edits of the request as the upstream gets it.
    pub request_headers: HeaderEdits,
    /// Edits of the response as the client gets it.
    pub response_headers: HeaderEdits,
    /// Whole segments that every path of the route begins with, taken off for the upstream.
    pub strip_prefix: Option<String>,
    /// Bytes of a request body; `None`: as [`HttpBounds::max_body_bytes`].
    pub max_body_bytes: Option<u64>,
    /// Media types that a body may have, lower case, without parameters; empty: any, or none said.
    pub content_types: Vec<String>,
}

impl RoutePolicy {
    /// Every path, open to everybody, without any control.
    pub fn open(upstream: usize) -> Self {
        Self {
            name: String::new(),
            host: None,
            path: PathPattern::Prefix("/".to_owned()),
            methods: Vec::new(),
            upstream,
            auth: RouteAuth::Public,
            second_auth: Vec::new(),
            scopes: Vec::new(),
            limits: Vec::new(),
            cost: None,
            cors: None,
            headers: None,
            allow: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            strip_prefix: None,
            max_body_bytes: None,
            content_types: Vec::new(),
        }
    }
}

/// Header fields to take out and to put in, in this order.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct HeaderEdits {
    /// Lower-case names.
    pub remove: Vec<String>,
    /// Lower-case name and value; replaces what was there.
    pub set: Vec<(String, String)>,
}

/// Which paths a route matches; which of several is `routing::Router`'s to say.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum PathPattern {
    /// Whole segments: `/api` matches `/api` and `/api/x`, not `/apix`. `/` matches all.
    Prefix(String),
    /// This path only.
    Exact(String),
    /// `*` stands for a segment or part of one, `**` for any number of segments.
    Glob(String),
}

impl PathPattern {
    /// The same in lower case.
    #[must_use]
    pub fn to_lowercase(&self) -> Self {
        match self {
            Self::Prefix(text) => Self::Prefix(text.to_ascii_lowercase()),
            Self::Exact(text) => Self::Exact(text.to_ascii_lowercase()),
            Self::Glob(text) => Self::Glob(text.to_ascii_lowercase()),
        }
    }

    /// As written.
    pub fn text(&self) -> &str {
        match self {
            Self::Prefix(text) | Self::Exact(text) | Self::Glob(text) => text,
        }
    }
}

/// Who may call a route.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum RouteAuth {
    /// Anybody; said explicitly (`auth = "none"`).
    Public,
    /// Whoever passes any of these (indices into `auth`); never empty.
    AnyOf(Vec<usize>),
    /// The same, and whoever presents nothing, as nobody (`auth = ["keys", "none"]`).
    Optional(Vec<usize>),
}

impl RouteAuth {
    /// The schemes that look at what is presented.
    pub fn schemes(&self) -> &[usize] {
        match self {
            Self::Public => &[],
            Self::AnyOf(schemes) | Self::Optional(schemes) => schemes,
        }
    }

    /// Whether it lets in who presents nothing.
    pub fn is_open(&self) -> bool {
        !matches!(self, Self::AnyOf(_))
    }
}

/// One CORS policy (Fetch standard, "CORS protocol").
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CorsPolicy {
    /// Its name in the configuration.
    pub name: String,
    /// Who may read responses.
    pub origins: CorsOrigins,
    /// Methods beyond the safelisted ones.
    pub methods: Vec<String>,
    /// Request headers, lower case.
    pub headers: Vec<String>,
    /// Response headers that scripts may read.
    pub expose: Vec<String>,
    /// Whether credentials are allowed (never together with `Any`).
    pub credentials: bool,
    /// How long browsers may cache a preflight.
    pub max_age: Duration,
    /// Enforce, or only count.
    pub mode: Mode,
}

/// Which origins may read responses.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum CorsOrigins {
    /// `*`.
    Any,
    /// These.
    List(Vec<OriginPattern>),
}

/// `scheme://host[:port]`, where host may begin with `*.` (one or more labels).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OriginPattern {
    /// `http` or `https`, lower case.
    pub scheme: String,
    /// Lower-case host without the `*.`.
    pub host: String,
    /// Explicit port; `None`: the scheme's default.
    pub port: Option<u16>,
    /// Matches proper subdomains of `host` instead of `host`.
    pub subdomains: bool,
}

/// Response headers: set if absent upstream unless `override`, and removed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct HeadersPolicy {
    /// Its name in the configuration.
    pub name: String,
    /// Lower-case name and value; replaces what the upstream sent.
    pub set: Vec<(String, String)>,
    /// Lower-case names removed from upstream responses.
    pub remove: Vec<String>,
}
