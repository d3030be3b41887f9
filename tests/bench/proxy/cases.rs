//! The requests that are measured, and what their answers must be.

use std::net::{IpAddr, Ipv4Addr};

/// One kind of request, answered alike by every server.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Where the servers are reached, and what they see as the client.
    pub(crate) address: IpAddr,
    pub(crate) path: &'static str,
    /// The field that says who asks.
    pub(crate) credential: Option<(&'static str, &'static str)>,
    pub(crate) status: u16,
    /// What `limiter` answers, where it does more than the others can be told to.
    pub(crate) own_status: Option<u16>,
    /// Hundredths of nginx's CPU time that a request may cost.
    pub(crate) target: Option<u64>,
}

/// The key that every server knows.
pub(crate) const KEY: &str = "correct-horse-battery";

/// Where it stands.
pub(crate) const FIELD: &str = "X-API-KEY";

/// Another of the same length.
const WRONG_KEY: &str = "correct-horse-buttery";

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Trusted by `limiter.toml`: its guard lets any number of attempts be answered one by one.
const UNGUARDED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

const ALLOWED: Case = Case {
    name: "allowed",
    address: LOOPBACK,
    path: "/api/items",
    credential: Some((FIELD, KEY)),
    status: 200,
    own_status: None,
    target: Some(100),
};

const REFUSED: Case = Case { status: 401, target: Some(100), ..ALLOWED };

/// In the order of the table.
pub(crate) const CASES: &[Case] = &[
    ALLOWED,
    Case { name: "refused, no key", credential: None, ..REFUSED },
    Case {
        name: "refused, wrong key",
        credential: Some((FIELD, WRONG_KEY)),
        address: UNGUARDED,
        ..REFUSED
    },
    Case {
        name: "refused, wrong key beyond the guard",
        credential: Some((FIELD, WRONG_KEY)),
        own_status: Some(429),
        ..REFUSED
    },
    Case { name: "refused, rate limit", path: "/limited", status: 429, ..REFUSED },
];
