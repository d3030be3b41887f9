//! Presets: what fills in for everything that the file leaves out.

pub(super) mod elizaos;

use std::time::Duration;

use ipnet::IpNet;

use crate::policy::{
    ByteRateLimit, Mode, Rate, RateLimit,
    http::{CorsOrigins, CorsPolicy, LimitPolicy},
    kernel::Limits,
    limits::Algorithm,
};

/// Names of the presets of this version.
pub const PRESETS: [&str; 4] = ["public", "private", "internal", "elizaos"];

/// A kind of API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Preset {
    /// Anybody may call from any web page, 100 times in 15 minutes.
    Public,
    /// A key is required; 1,000 calls in 15 minutes; only the origins that the file lists.
    Private,
    /// A key is required, from private networks only; no web pages.
    Internal,
    /// In front of an ElizaOS server, by that server's environment variables.
    ElizaOs,
}

pub(super) fn parse(name: &str) -> Result<Preset, String> {
    match name {
        "public" => Ok(Preset::Public),
        "private" => Ok(Preset::Private),
        "internal" => Ok(Preset::Internal),
        "elizaos" => Ok(Preset::ElizaOs),
        _ => Err("expected \"public\", \"private\", \"internal\" or \"elizaos\"".to_owned()),
    }
}

impl Preset {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Internal => "internal",
            Self::ElizaOs => "elizaos",
        }
    }

    /// Whether a route that says nothing about it needs a credential, whatever else is said.
    pub(super) fn requires_credential(self) -> bool {
        matches!(self, Self::Private | Self::Internal)
    }

    /// The limit of a route that names none.
    pub(super) fn limit(self) -> Option<LimitPolicy> {
        let count = match self {
            Self::Public => 100,
            Self::Private => 1_000,
            Self::Internal => return None,
            Self::ElizaOs => return Some(elizaos::api_limit()),
        };
        let rate = Rate { count, period: Duration::from_mins(15) };
        Some(LimitPolicy::by_client(self.name(), Algorithm::SlidingWindow, rate))
    }

    /// The cross-origin policy of a route that names none.
    pub(super) fn cors(self) -> Option<CorsPolicy> {
        let origins = match self {
            Self::Public => CorsOrigins::Any,
            // None, whatever the upstream would grant.
            Self::Internal => CorsOrigins::List(Vec::new()),
            Self::Private | Self::ElizaOs => return None,
        };
        Some(CorsPolicy {
            name: self.name().to_owned(),
            origins,
            methods: super::cors::default_methods(),
            headers: super::cors::default_headers(),
            expose: super::cors::default_expose(),
            credentials: false,
            max_age: super::cors::DEFAULT_MAX_AGE,
            mode: Mode::Enforce,
        })
    }

    /// The client networks of a route that names none.
    pub(super) fn allow(self) -> Option<Vec<IpNet>> {
        (self == Self::Internal).then(|| {
            ["10.0.0.0/8", "172.16.0.0/12"].iter().filter_map(|net| net.parse().ok()).collect()
        })
    }

    /// What `[kernel.limits]` leaves out.
    pub(super) fn kernel_limits() -> Limits {
        let per_second = |count| Rate { count, period: Duration::from_secs(1) };
        let limit = |count, burst| Some(RateLimit { rate: per_second(count), burst });
        let bytes = 100_000_000;
        Limits {
            packets: limit(20_000, 40_000),
            bytes: Some(ByteRateLimit { rate: per_second(bytes), burst_bytes: bytes }),
            new_connections: limit(200, 200),
            concurrent_connections: Some(1_000),
            udp_packets: limit(10_000, 10_000),
            icmp_packets: limit(50, 50),
            mode: Mode::Enforce,
        }
    }
}
