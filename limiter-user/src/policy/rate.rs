//! Rates as the configuration writes them: `N/unit`, with a burst beside.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `count` in each `period`, e.g. `"1000/15m"`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rate {
    /// How many (packets, connections, requests, bytes); at least 1.
    pub count: u64,
    /// In how long; at least 1 s.
    pub period: Duration,
}

/// A rate and how much of it may come at once.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RateLimit {
    /// The sustained rate.
    pub rate: Rate,
    /// How many may come at once; default: the rate's count.
    pub burst: u64,
}

/// A rate of bytes (its count is bytes) and how many may come at once.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ByteRateLimit {
    /// The sustained rate, in bytes.
    pub rate: Rate,
    /// How many bytes may come at once; default: the rate's count.
    pub burst_bytes: u64,
}
