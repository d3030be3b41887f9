//! `[kernel]` as written.

use serde::Deserialize;
use toml::Spanned;

use super::{
    Flag, Number, Text,
    shapes::{PortDocument, TrustedDocument},
};

/// `[kernel]`: the packet half.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct KernelDocument {
    /// `false`: as if the section were not there. Default `true`.
    pub(in crate::config) enabled: Option<Flag>,
    /// Names, or `auto`: those with a default route. Default `["auto"]`.
    pub(in crate::config) interfaces: Option<Spanned<Vec<Text>>>,
    /// `auto` (default), `native` or `generic`.
    pub(in crate::config) attach: Option<Text>,
    /// `false`: run degraded where XDP cannot attach. Default `true`.
    pub(in crate::config) required: Option<Flag>,
    /// `enforce` (default) or `monitor`.
    pub(in crate::config) mode: Option<Text>,
    /// `allow` (default) or `deny`: sources that no list names.
    pub(in crate::config) default: Option<Text>,
    /// Networks that are never banned, denied or limited.
    pub(in crate::config) trusted: Vec<Spanned<TrustedDocument>>,
    /// Networks that may enter under `default = "deny"`; still limited.
    pub(in crate::config) allow: Option<Spanned<Vec<Text>>>,
    /// Networks that may not enter.
    pub(in crate::config) deny: Vec<Text>,
    /// `auto` (sshd's ports), 22 or `tcp/22`. Default `["auto"]`.
    pub(in crate::config) failsafe_ports: Option<Spanned<Vec<Spanned<PortDocument>>>>,
    /// Sources are counted by this prefix, 1 to 32. Default 32.
    pub(in crate::config) ipv4_prefix: Option<Number>,
    /// Sources are counted by this prefix, 1 to 64. Default 64.
    pub(in crate::config) ipv6_prefix: Option<Number>,
    /// How many sources are tracked at least. Default 262144.
    pub(in crate::config) max_sources: Option<Number>,
    /// How many exact bans there can be. Default 65536.
    pub(in crate::config) max_bans: Option<Number>,
    /// How many bans of networks there can be. Default 1024.
    pub(in crate::config) max_prefix_bans: Option<Number>,
    /// `pass` (default) or `drop`: a source for which no slot is left.
    pub(in crate::config) table_full: Option<Text>,
    /// `auto` (default: while a listener is flooded), `always` or `off`.
    pub(in crate::config) syn_cookies: Option<Text>,
    /// `drop` (default) or `pass`.
    pub(in crate::config) malformed: Option<Text>,
    /// `limit` (default), `drop` or `pass`.
    pub(in crate::config) fragments: Option<Text>,
    /// `true`: also limit traffic that the host forwards. Default `false`.
    pub(in crate::config) forwarded: Option<Flag>,
    /// Per source, over all ports. Default: none, unless a preset is set.
    pub(in crate::config) limits: KernelLimitsDocument,
    /// All sources together, over all ports. Default: none.
    pub(in crate::config) total_limits: KernelLimitsDocument,
    /// `[[kernel.service]]`: port groups with lists and limits of their own.
    pub(in crate::config) service: Vec<Spanned<ServiceDocument>>,
}

/// `[kernel.limits]`, `[kernel.total_limits]`, and both of a service.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct KernelLimitsDocument {
    /// Packets, e.g. `20000/s`.
    pub(in crate::config) packets: Option<Text>,
    /// How many may come at once. Default: the rate's count.
    pub(in crate::config) packets_burst: Option<Number>,
    /// Bytes of whole frames, e.g. `100MB/s`.
    pub(in crate::config) bytes: Option<Text>,
    /// How many may come at once, e.g. `1MB`. Default: the rate's count.
    pub(in crate::config) bytes_burst: Option<Text>,
    /// TCP connections opened, e.g. `200/s`.
    pub(in crate::config) new_connections: Option<Text>,
    /// How many may come at once. Default: the rate's count.
    pub(in crate::config) new_connections_burst: Option<Number>,
    /// TCP connections open at once.
    pub(in crate::config) concurrent_connections: Option<Number>,
    /// UDP packets, e.g. `10000/s`.
    pub(in crate::config) udp_packets: Option<Text>,
    /// How many may come at once. Default: the rate's count.
    pub(in crate::config) udp_packets_burst: Option<Number>,
    /// ICMP packets of IPv4 and IPv6, e.g. `50/s`.
    pub(in crate::config) icmp_packets: Option<Text>,
    /// How many may come at once. Default: the rate's count.
    pub(in crate::config) icmp_packets_burst: Option<Number>,
    /// `enforce` (default) or `monitor`.
    pub(in crate::config) mode: Option<Text>,
}

/// One `[[kernel.service]]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct ServiceDocument {
    /// Required.
    pub(in crate::config) name: Option<Text>,
    /// `udp/53`, `tcp/53`, `tcp/8000-8010`; required.
    pub(in crate::config) ports: Option<Spanned<Vec<Spanned<PortDocument>>>>,
    /// Only these networks reach it. Default: no restriction.
    pub(in crate::config) allow: Option<Spanned<Vec<Text>>>,
    /// Per source. Default: none.
    pub(in crate::config) limits: KernelLimitsDocument,
    /// All sources together. Default: none.
    pub(in crate::config) total_limits: KernelLimitsDocument,
    /// `enforce` (default) or `monitor`, of all of it.
    pub(in crate::config) mode: Option<Text>,
}
