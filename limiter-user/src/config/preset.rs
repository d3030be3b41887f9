//! Presets: what fills in for everything that the file leaves out.

use std::time::Duration;

use ipnet::IpNet;

use crate::policy::{
    ByteRateLimit, Mode, Rate, RateLimit,
    http::{CorsOrigins, CorsPolicy, LimitPolicy},
    kernel::Limits,
    limits::Algorithm,
};

/// Names of the presets of this version.
pub const PRESETS: [&str; 3] = ["public", "private", "internal"];

/// A kind of API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Preset {
    /// Anybody may call from any web page, 100 times in 15 minutes.
    Public,
    /// A key is required; 1,000 calls in 15 minutes; only the origins that the file lists.
    Private,
    /// A key is required, from private networks only; no web pages.
    Internal,
}

pub(super) fn parse(name: &str) -> Result<Preset, String> {
    match name {
        "public" => Ok(Preset::Public),
        "private" => Ok(Preset::Private),
        "internal" => Ok(Preset::Internal),
        "elizaos" => Err("this preset is not supported by this version (supported: \"public\", \
                          \"private\", \"internal\")"
            .to_owned()),
        _ => Err("expected \"public\", \"private\" or \"internal\"".to_owned()),
    }
}

impl Preset {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Internal => "internal",
        }
    }

    /// Whether a route that says nothing about it needs a credential.
    pub(super) fn requires_credential(self) -> bool {
        self != Self::Public
    }

    /// The limit of a route that names none.
    pub(super) fn limit(self) -> Option<LimitPolicy> {
        let count = match self {
            Self::Public => 100,
            Self::Private => 1_000,
            Self::Internal => return None,
        };
        let rate = Rate { count, period: Duration::from_mins(15) };
        Some(LimitPolicy::by_client(self.name(), Algorithm::SlidingWindow, rate))
    }

    /// The cross-origin policy of a route that names none.
    pub(super) fn cors(self) -> Option<CorsPolicy> {
        (self == Self::Public).then(|| CorsPolicy {
            name: self.name().to_owned(),
            origins: CorsOrigins::Any,
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
