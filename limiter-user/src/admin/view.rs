//! The JSON documents of the control socket. Stable: scripts rely on them.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};

use crate::policy::BanScope;

mod lists;
mod status;

pub use self::{
    lists::{ListChange, ListEntryRequest, ListEntryView, ListKind, ListOrigin, ListsView},
    status::{
        ConnectionsView, DurationView, InterfaceView, MapFillView, OutcomeView, PacketCountView,
        ServerView, StatusView, StoreView,
    },
};

/// Why a request to the agent failed: `400` for the caller's mistake, `409` for a refusal on
/// grounds of safety (`force` overrides), `507` for a full table, `500` for the rest. The server
/// itself adds `403` (not root nor the agent's user), `404`, `405`, `408`, `413` and `503`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// HTTP status.
    pub status: u16,
    /// One sentence, with what was found and what is allowed.
    pub message: String,
}

impl Failure {
    /// The caller's mistake.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { status: 400, message: message.into() }
    }

    /// Refused on grounds of safety.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { status: 409, message: message.into() }
    }

    /// A table is full.
    pub fn full(message: impl Into<String>) -> Self {
        Self { status: 507, message: message.into() }
    }

    /// Anything else.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: 500, message: message.into() }
    }
}

/// One tracked source.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SourceView {
    /// Address or prefix.
    pub source: IpNet,
    /// Packets seen.
    pub packets: u64,
    /// Bytes seen.
    pub bytes: u64,
    /// New connections (SYN).
    pub connections: u64,
    /// TCP connections that it opened and has open.
    pub open_connections: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// What the lists say: `default`, `allow`, `deny`, `trusted`.
    pub list: String,
    /// Milliseconds since the last packet.
    pub idle_milliseconds: u64,
}

/// `GET /v1/top`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TopView {
    /// `CLOCK_MONOTONIC` ms: between two answers, for rates of the totals.
    pub clock_milliseconds: u64,
    /// Looks at the whole table since somebody watches; sources have rates from the second on.
    pub passes: u64,
    /// Totals of the packet path.
    pub packets: Vec<PacketCountView>,
    /// Requests since the proxy started.
    pub requests: u64,
    /// Refused requests since the proxy started.
    pub refused: u64,
    /// Dropped packets of sources that are too many to be told apart.
    pub untold_drops_per_second: u64,
    /// The sources at the top, sorted.
    pub sources: Vec<TopSourceView>,
}

/// What one source did lately.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct TopSourceView {
    /// Address or prefix.
    pub source: IpNet,
    /// Packets per second.
    pub packets_per_second: u64,
    /// Bytes per second that were not dropped by bans and lists.
    pub bytes_per_second: u64,
    /// New connections (SYN) per second.
    pub connections_per_second: u64,
    /// Dropped packets per second; in monitor mode those that would have been.
    pub drops_per_second: u64,
    /// What happened to most of what was dropped, else `pass`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// What the lists say: `default`, `allow`, `deny`, `trusted`.
    pub list: String,
}

/// Sort key of `GET /v1/sources?sort=`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceSort {
    /// Most packets first.
    #[default]
    Packets,
    /// Most bytes first.
    Bytes,
    /// Most new connections first.
    Connections,
    /// Most dropped packets first.
    Dropped,
}

impl SourceSort {
    /// Every key.
    pub const ALL: [Self; 4] = [Self::Packets, Self::Bytes, Self::Connections, Self::Dropped];

    /// As the command line and the query write it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Packets => "packets",
            Self::Bytes => "bytes",
            Self::Connections => "connections",
            Self::Dropped => "dropped",
        }
    }
}

/// `POST /v1/bans`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BanRequest {
    /// Address or prefix.
    #[serde(deserialize_with = "address_or_prefix")]
    pub prefix: IpNet,
    /// How long, seconds.
    #[serde(default = "default_ban_seconds")]
    pub seconds: u64,
    /// Where.
    #[serde(default)]
    pub scope: BanScope,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Overrides refusals on grounds of safety.
    #[serde(default)]
    pub force: bool,
    /// Peer of the session that asks: banning it needs `force`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<IpAddr>,
}

/// Bits before the IPv4 part of a v4-mapped address.
const MAPPED_BITS: u8 = 96;

/// An address, as the prefix of its whole length, or a prefix (bits behind its length cleared).
/// What is v4-mapped counts as IPv4.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let parsed = match text.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address.to_canonical())),
        Err(_) => text.parse::<IpNet>().map(|prefix| {
            let prefix = prefix.trunc();
            match (prefix.addr().to_canonical(), prefix.prefix_len().checked_sub(MAPPED_BITS)) {
                (v4 @ IpAddr::V4(_), Some(length)) if prefix.addr().is_ipv6() => {
                    IpNet::new(v4, length).unwrap_or(prefix)
                }
                _ => prefix,
            }
        }),
    };
    parsed.map_err(|_| "expected an address or a prefix, e.g. 203.0.113.7 or 2001:db8::/64".into())
}

fn address_or_prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_prefix(&text).map_err(serde::de::Error::custom)
}

const fn default_ban_seconds() -> u64 {
    600
}

/// One ban in force.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct BanView {
    /// Address or prefix.
    pub prefix: IpNet,
    /// Where.
    pub scope: BanScope,
    /// Seconds left, rounded up.
    pub seconds_left: u64,
    /// Why, for people.
    pub reason: String,
    /// `manual`, `escalation`, `restored`, or `shared by HOST`.
    pub origin: String,
    /// Packets dropped by it (scope `kernel`).
    pub packets: u64,
    /// Why it is in force but not on disk yet, in the answer to whoever made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_saved: Option<String>,
}

/// `POST /v1/bans` with JSON lines: `200` if all were accepted, `207` if some were, else the
/// status of the first refusal.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct BansView {
    /// Bans in force.
    pub accepted: u64,
    /// Lines that are no ban, or one that was refused.
    pub refused: u64,
    /// The first of them.
    pub refusals: Vec<RefusedLine>,
    /// Why bans are in force but not on disk yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_saved: Option<String>,
}

/// One line of many that was refused.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RefusedLine {
    /// Which line, from 1.
    pub line: u64,
    /// HTTP status that it would have had by itself.
    pub status: u16,
    /// One sentence.
    pub message: String,
}

/// `DELETE /v1/bans?prefix=`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UnbanView {
    /// How many bans were lifted.
    pub lifted: usize,
    /// Why the disk does not know it yet: after a crash now they would be in force again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_saved: Option<String>,
}

/// `POST /v1/detach`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DetachView {
    /// Interfaces that XDP was taken off.
    pub interfaces: Vec<String>,
}

/// `POST /v1/explain`: a request that nobody sent; the answer is a [`WhyView`].
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RequestQuery {
    /// Socket peer.
    pub source: IpAddr,
    /// Method.
    pub method: String,
    /// Target.
    pub target: String,
    /// Header fields.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

/// A packet to be explained, beside its source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PacketQuery {
    /// Its transport protocol.
    pub protocol: PacketProtocol,
    /// Destination port; 0 where the protocol has none.
    pub port: u16,
}

/// Transport protocols that can be explained.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PacketProtocol {
    /// The first packet of a connection (SYN).
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request.
    Icmp,
}

impl std::str::FromStr for PacketProtocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "icmp" => Ok(Self::Icmp),
            _ => Err(()),
        }
    }
}

/// `GET /v1/why?source=`, with `&proto=&port=` for one kind of packet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WhyView {
    /// The address asked about.
    pub source: IpAddr,
    /// What happens to its next packet, or to a request, as a verdict and a reason label: `depends`
    /// and on what, where only the request can tell; `refuse` and `banned` where its packets pass
    /// and its requests do not.
    pub verdict: String,
    /// Reason label.
    pub reason: String,
    /// Sentences, most important first.
    pub explanation: Vec<String>,
    /// The ban that holds, if any.
    pub ban: Option<BanView>,
    /// Current score, threshold and findings.
    pub score: u32,
    /// Points that make a ban.
    pub threshold: u32,
    /// Labels and how often within the window.
    pub findings: BTreeMap<String, u64>,
    /// The tracked record, if any.
    pub record: Option<SourceView>,
}

/// `POST /v1/reload`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ReloadView {
    /// Generation now in force.
    pub generation: u64,
    /// What changed, a line each.
    pub changes: Vec<String>,
    /// What takes effect only at restart, a line each.
    pub needs_restart: Vec<String>,
    /// Seconds until it is undone unless `POST /v1/reload/confirm` comes; `null`: it stays.
    #[serde(default)]
    pub confirm_seconds: Option<u64>,
}
