//! The documents of `/v1/lists`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::address_or_prefix;
use crate::policy::Networks;

/// The lists that packets' sources can be on.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListKind {
    /// May enter under `default = "deny"`.
    Allow,
    /// May not enter.
    Deny,
    /// Never banned, denied or limited.
    Trust,
}

impl ListKind {
    /// In the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Trust];

    /// As the command line and the API write it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Trust => "trust",
        }
    }

    /// As the configuration writes it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Trust => "trusted",
            other => other.label(),
        }
    }
}

/// Where an entry of a list comes from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListOrigin {
    /// The configuration.
    Configuration,
    /// A command; kept in the state directory.
    Saved,
    /// A command; gone when the agent ends.
    Runtime,
}

impl ListOrigin {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Configuration, Self::Saved, Self::Runtime];

    /// Stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Saved => "saved",
            Self::Runtime => "runtime",
        }
    }
}

/// `POST` and `DELETE /v1/lists`: one object, or a line for each.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListEntryRequest {
    /// Which list.
    pub list: ListKind,
    /// Address or prefix; host bits are cut off.
    #[serde(deserialize_with = "address_or_prefix")]
    pub prefix: IpNet,
    /// Until the agent ends; removing: only what is kept no longer.
    #[serde(default)]
    pub runtime: bool,
    /// Even if it is dangerous.
    #[serde(default)]
    pub force: bool,
    /// Peer of the session that asks: refused without `force` if it would be locked out.
    #[serde(default)]
    pub session: Option<IpAddr>,
}

/// A whole request, gathered: what is asked for by list, saved and volatile.
#[derive(Clone, Debug, Default)]
pub struct ListChange {
    /// Takes off instead of putting on.
    pub removes: bool,
    /// The list and origin whose other entries go.
    pub replaces: Option<(ListKind, ListOrigin)>,
    /// By list: to be saved, and volatile.
    pub networks: [[Networks; 2]; 3],
    /// By list: those of them that were not forced.
    pub unforced: [Networks; 3],
    /// Peer of the session that asks.
    pub session: Option<IpAddr>,
}

/// What came of a change.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListsView {
    /// Entries that came or went.
    pub changed: usize,
    /// Entries that were there already, or were not.
    pub unchanged: usize,
    /// Generation of the policy in force.
    pub generation: u64,
    /// Why it is in force and not on disk; `null`: it is.
    pub not_saved: Option<String>,
}

/// `GET /v1/lists`: one entry.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListEntryView {
    /// Which list.
    pub list: ListKind,
    /// Who.
    pub prefix: IpNet,
    /// Where it comes from.
    pub origin: ListOrigin,
    /// Only what arrives on this interface; `null`: on any.
    pub interface: Option<String>,
}
