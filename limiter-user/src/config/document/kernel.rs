//! `[kernel]` as written.

use serde::Deserialize;
use toml::Spanned;

use super::{
    Flag, Later, Number, Text,
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
    /// Not supported by this version.
    pub(in crate::config) max_prefix_bans: Option<Later>,
    /// `pass` (default) or `drop`: a source for which no slot is left.
    pub(in crate::config) table_full: Option<Text>,
    /// `off`.
    pub(in crate::config) syn_cookies: Option<Text>,
    /// `drop` (default) or `pass`.
    pub(in crate::config) malformed: Option<Text>,
    /// `limit` (default), `drop` or `pass`.
    pub(in crate::config) fragments: Option<Text>,
    /// `false`.
    pub(in crate::config) forwarded: Option<Flag>,
    /// Per source, over all ports. Default: none, unless a preset is set.
    pub(in crate::config) limits: KernelLimitsDocument,
    /// Not supported by this version.
    pub(in crate::config) total_limits: Option<Later>,
    /// `[[kernel.service]]`: not supported by this version.
    pub(in crate::config) service: Option<Later>,
}

/// `[kernel.limits]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct KernelLimitsDocument {
    /// Packets, e.g. `20000/s`.
    pub(in crate::config) packets: Option<Text>,
    /// How many may come at once. Default: the rate's count.
    pub(in crate::config) packets_burst: Option<Number>,
    /// TCP connections opened, e.g. `200/s`.
    pub(in crate::config) new_connections: Option<Text>,
    /// How many may come at once. Default: the rate's count.
    pub(in crate::config) new_connections_burst: Option<Number>,
    /// Not supported by this version.
    pub(in crate::config) bytes: Option<Later>,
    /// Not supported by this version.
    pub(in crate::config) bytes_burst: Option<Later>,
    /// Not supported by this version.
    pub(in crate::config) concurrent_connections: Option<Later>,
    /// Not supported by this version.
    pub(in crate::config) udp_packets: Option<Later>,
    /// Not supported by this version.
    pub(in crate::config) udp_packets_burst: Option<Later>,
    /// Not supported by this version.
    pub(in crate::config) icmp_packets: Option<Later>,
    /// Not supported by this version.
    pub(in crate::config) icmp_packets_burst: Option<Later>,
}
