//! One schema for everything that happens, in packets and in requests.
//!
//! The agent makes [`Event`]s from kernel records and from the proxy's observations and hands them
//! to the `stream`, which numbers and distributes them to sinks and followers. Untrusted text is
//! escaped where it is written; nothing here blocks traffic.

use std::net::IpAddr;

use limiter_common::verdict::Reason;
use serde::Serialize;

use crate::{link::RequestFacts, policy::Mode, refusal::Refusal};

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Wall clock, Unix ns.
    pub unix_ns: u64,
    /// What.
    pub kind: EventKind,
    /// Socket peer or packet source.
    pub source: Option<Source>,
    /// Client address, where it differs from the source.
    pub client: Option<IpAddr>,
    /// How many requests or packets this stands for (1 for single events).
    pub count: u64,
    /// Bytes, for packets.
    pub bytes: u64,
    /// Whether it was enforced.
    pub mode: Mode,
    /// The request, where there was one.
    pub request: Option<Box<RequestFacts>>,
    /// What a person should know beside the label, already free of untrusted text.
    pub detail: String,
}

/// Who caused it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// One address, or a prefix by its first address.
    Address(IpAddr),
    /// A prefix (bans of prefixes).
    Prefix(ipnet::IpNet),
    /// Aggregation overflowed; the totals still add up.
    Other,
}

/// What happened. Labels come from the one list each kind has.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum EventKind {
    /// A request was refused (or would have been, see the mode).
    Refused(Refusal),
    /// The kernel dropped packets (or would have).
    PacketsDropped(Reason),
    /// Anything else.
    Lifecycle(Lifecycle),
}

/// Events that are neither a refused request nor dropped packets.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifecycle {
    /// A client authenticated (aggregated; off by default).
    Authenticated,
    /// A ban was made.
    Banned,
    /// A ban was lifted by hand.
    Unbanned,
    /// A new policy is in force.
    ConfigReloaded,
    /// A new policy was invalid; the old one stays.
    ConfigRejected,
    /// XDP is on an interface.
    Attached,
    /// XDP was taken off an interface.
    Detached,
    /// Part of the protection is not working.
    Degraded,
    /// Events were lost between their origin and a sink.
    EventsLost,
}
