//! Rate limits as the policy says them: how they count, by what, and how much.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Mode, Rate, RateLimit};

/// Tier of who presents no credential.
pub const ANONYMOUS: &str = "anonymous";

/// Tier of who presents one that says none, or one that the limit does not have.
pub const AUTHENTICATED: &str = "authenticated";

/// Tiers that every limit by tier has, with what they allow an hour unless the file says otherwise.
pub const TIERS: [(&str, u64); 4] =
    [(ANONYMOUS, 60), (AUTHENTICATED, 1_000), ("premium", 10_000), ("internal", 100_000)];

/// One rate limit: of how much in a time, of how many at once, or both.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LimitPolicy {
    /// Its name in the configuration and in the `RateLimit` fields.
    pub name: String,
    /// What it counts by, one to four parts.
    pub key: Vec<KeyPart>,
    /// How much in a time; `None`: only `concurrent`.
    pub quota: Option<QuotaPolicy>,
    /// Most requests of one key under way at once.
    pub concurrent: Option<u64>,
    /// Whether authenticated requests are counted too.
    pub applies_to: AppliesTo,
    /// Which requests count in the end.
    pub count: Counting,
    /// What a request weighs unless its route says otherwise; at least 1.
    pub cost: u64,
    /// Enforce, or only count.
    pub mode: Mode,
}

impl LimitPolicy {
    /// A limit by client address for everybody, as most are.
    pub fn by_client(name: impl Into<String>, algorithm: Algorithm, rate: Rate) -> Self {
        let quota = QuotaPolicy {
            algorithm,
            amounts: Amounts::Same(RateLimit { rate, burst: rate.count }),
            max_delay: Duration::ZERO,
        };
        Self {
            name: name.into(),
            key: vec![KeyPart::Client],
            quota: Some(quota),
            concurrent: None,
            applies_to: AppliesTo::All,
            count: Counting::All,
            cost: 1,
            mode: Mode::Enforce,
        }
    }
}

/// How much a limit allows in a time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct QuotaPolicy {
    /// How it counts.
    pub algorithm: Algorithm,
    /// How much.
    pub amounts: Amounts,
    /// How long a request may wait for its turn (leaky bucket); 0: none waits.
    pub max_delay: Duration,
}

/// How much, and for whom.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Amounts {
    /// The same for everybody.
    Same(RateLimit),
    /// By the tier of the principal: names and rates, those of [`TIERS`] among them.
    ByTier(Vec<(String, RateLimit)>),
}

impl Amounts {
    /// Each tier's name (`None`: there is but one) and amount.
    pub fn each(&self) -> Vec<(Option<&str>, RateLimit)> {
        match self {
            Self::Same(amount) => vec![(None, *amount)],
            Self::ByTier(tiers) => {
                tiers.iter().map(|(name, amount)| (Some(name.as_str()), *amount)).collect()
            }
        }
    }
}

/// How a limit counts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// At most burst + rate x time.
    TokenBucket,
    /// Previous window weighted by its overlap, plus the current one.
    SlidingWindow,
    /// Count per aligned window.
    FixedWindow,
    /// At most burst + rate x time; who is admitted may have to wait for its turn.
    LeakyBucket,
}

impl Algorithm {
    /// As the configuration says it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TokenBucket => "token_bucket",
            Self::SlidingWindow => "sliding_window",
            Self::FixedWindow => "fixed_window",
            Self::LeakyBucket => "leaky_bucket",
        }
    }

    /// Whether it has a burst of its own.
    pub const fn is_bucket(self) -> bool {
        matches!(self, Self::TokenBucket | Self::LeakyBucket)
    }
}

/// One of what a limit counts by.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyPart {
    /// Client address (IPv6 by /64).
    Client,
    /// Authenticated principal, else the client address.
    Principal,
    /// Route.
    Route,
    /// The value of this header field (lower-case name), which may be absent.
    Header(String),
}

/// Which requests a limit looks at.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AppliesTo {
    /// Only those without a principal.
    Unauthenticated,
    /// All.
    All,
}

/// Which requests count in the end; until it is known whether one does, it counts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Counting {
    /// All.
    #[default]
    All,
    /// Those answered with a status of 400 or above.
    Failures,
    /// Those answered with a status below 400.
    Successes,
}

impl Counting {
    /// Whether a request counts that is answered with `status`.
    pub const fn counts(self, status: u16) -> bool {
        match self {
            Self::All => true,
            Self::Failures => status >= 400,
            Self::Successes => status < 400,
        }
    }
}
