//! The servers behind the proxy: where they are, how one is chosen, when one is left alone.
//!
//! Serialisable like the rest of the request half. Certificates are public: nothing here is secret.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// Most servers of one upstream: choosing one is arithmetic on a word.
pub const MAX_SERVERS: usize = 64;

/// A named group of servers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UpstreamPolicy {
    /// Its name in the configuration.
    pub name: String,
    /// 1 to [`MAX_SERVERS`], all different.
    pub servers: Vec<ServerPolicy>,
    /// Which of them gets a request.
    pub balance: Balance,
    /// Requests that ask each server whether it is well.
    pub health: Option<HealthPolicy>,
    /// When to send a server nothing for a while.
    pub breaker: Option<BreakerPolicy>,
    /// How often a request that may be repeated is sent again, at most.
    pub retries: u32,
    /// Certificates (DER) that one of an `https` server must lead to; empty without such servers.
    pub roots: Vec<Vec<u8>>,
}

/// One server.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ServerPolicy {
    /// What is spoken with it.
    pub scheme: Scheme,
    /// Name or address; an IPv6 one without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What is spoken with a server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 or HTTP/1.1 over TLS, as the server prefers (ALPN).
    Https,
    /// HTTP/2 without TLS, with prior knowledge.
    H2c,
}

impl Scheme {
    /// As URLs begin.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::H2c => "h2c",
        }
    }
}

impl ServerPolicy {
    /// `HOST:PORT`, an IPv6 address in brackets.
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// The URL.
impl fmt::Display for ServerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.label(), self.authority())
    }
}

/// Which server gets a request.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Of two at random, the one with fewer requests in flight.
    LeastRequests,
    /// The same for a client address, as long as it is well.
    ConsistentHash,
}

/// Requests that ask a server whether it is well: any status below 400 says so.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HealthPolicy {
    /// Path and query.
    pub path: String,
    /// Between two requests.
    pub interval: Duration,
    /// Until the head of the answer, connecting included.
    pub timeout: Duration,
}

/// When to send a server nothing for a while.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BreakerPolicy {
    /// So many failures ...
    pub failures: u32,
    /// ... within this time open it.
    pub window: Duration,
    /// How long it stays open before one request tries.
    pub open: Duration,
}
