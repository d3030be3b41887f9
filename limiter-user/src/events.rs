//! One schema for everything that happens, in packets and in requests.
//!
//! The agent makes [`Event`]s from kernel records and from the proxy's observations, lets
//! `aggregate` bound them and hands them to the `stream`, which numbers and distributes them to
//! sinks and followers. Untrusted text is escaped where it is written; nothing here blocks traffic.

pub mod aggregate;
pub(crate) mod civil;
pub mod escape;
pub(crate) mod file;
pub mod filter;
pub mod json;
pub mod moment;
mod queue;
mod recent;
#[cfg(test)]
mod reference;
pub mod sink;
pub mod stream;
pub mod text;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use limiter_common::verdict::Reason;
use serde::Serialize;

use crate::{
    link::RequestFacts,
    policy::Mode,
    refusal::{Blame, Refusal},
};

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
    /// Where packets came in, if it is known.
    pub interface: Option<Arc<str>>,
    /// What led to a ban.
    pub evidence: Option<Box<Evidence>>,
    /// What a person should know beside the label, already free of untrusted text.
    pub detail: String,
}

impl Event {
    /// Something that is neither a refused request nor dropped packets.
    pub fn lifecycle(unix_ns: u64, what: Lifecycle, detail: impl Into<String>) -> Self {
        Self {
            unix_ns,
            kind: EventKind::Lifecycle(what),
            source: None,
            client: None,
            count: 1,
            bytes: 0,
            mode: Mode::Enforce,
            request: None,
            interface: None,
            evidence: None,
            detail: detail.into(),
        }
    }

    /// A ban: `Banned PREFIX for LENGTH: WHY`.
    pub fn banned(unix_ns: u64, prefix: IpNet, length: Duration, why: &str, mode: Mode) -> Self {
        let detail = format!("for {}: {why}", text::duration(length));
        Self {
            source: Some(Source::Prefix(prefix)),
            mode,
            ..Self::lifecycle(unix_ns, Lifecycle::Banned, detail)
        }
    }

    /// A ban lifted by hand.
    pub fn unbanned(unix_ns: u64, prefix: IpNet) -> Self {
        Self {
            source: Some(Source::Prefix(prefix)),
            ..Self::lifecycle(unix_ns, Lifecycle::Unbanned, "")
        }
    }

    /// Packets of one source that ended (or would have ended) within a second.
    pub fn packets(
        unix_ns: u64,
        source: Source,
        reason: Reason,
        packets: u64,
        bytes: u64,
        mode: Mode,
    ) -> Self {
        Self {
            unix_ns,
            kind: EventKind::PacketsDropped(reason),
            source: Some(source),
            client: None,
            count: packets,
            bytes,
            mode,
            request: None,
            interface: None,
            evidence: None,
            detail: String::new(),
        }
    }

    /// About what it takes in memory, bytes.
    pub fn memory_bytes(&self) -> usize {
        let request = self.request.as_ref().map_or(0, |request| {
            let names = [&request.principal, &request.limit];
            let names = names.into_iter().flatten().map(String::len).sum::<usize>();
            let texts = [&request.id, &request.method, &request.path, &request.user_agent];
            let texts = texts.iter().map(|text| text.len()).sum::<usize>();
            size_of::<RequestFacts>() + texts + request.route.len() + names
        });
        let evidence = self.evidence.as_ref().map_or(0, |evidence| {
            size_of::<Evidence>() + evidence.findings.len() * size_of::<(&str, u64)>()
        });
        size_of::<Self>() + self.detail.len() + request + evidence
    }

    /// Whom it is about: the client address where one is known, else the source.
    pub fn offender(&self) -> Option<Source> {
        self.client.map(Source::Address).or(self.source)
    }
}

/// What is known of an offender when it is banned.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Evidence {
    /// Points within the window.
    pub score: u32,
    /// Labels of what it did, and how often.
    pub findings: Vec<(&'static str, u64)>,
}

/// Who caused it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// One address, or a prefix by its first address.
    Address(IpAddr),
    /// A prefix (bans of prefixes).
    Prefix(IpNet),
    /// Aggregation overflowed; the totals still add up.
    Other,
}

impl Source {
    /// Whether it is exactly one address.
    pub fn is_address(self) -> bool {
        match self {
            Self::Address(_) => true,
            Self::Prefix(prefix) => prefix.prefix_len() == prefix.max_prefix_len(),
            Self::Other => false,
        }
    }

    /// Whether all of it lies inside `prefix`; an IPv4-mapped address counts as IPv4.
    pub fn is_inside(self, prefix: &IpNet) -> bool {
        match self {
            Self::Address(address) => prefix.contains(&address.to_canonical()),
            Self::Prefix(own) => prefix.contains(&own),
            Self::Other => false,
        }
    }
}

/// An address, a prefix (a single address without its length), or `other`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.to_canonical().fmt(f),
            Self::Prefix(prefix) if self.is_address() => prefix.addr().fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Other => f.write_str("other"),
        }
    }
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

impl EventKind {
    /// Label of dropped packets of every reason.
    pub const PACKETS_DROPPED: &str = "packets_dropped";

    /// Stable label: what filters match and `event.action` says.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.label(),
            Self::PacketsDropped(_) => Self::PACKETS_DROPPED,
            Self::Lifecycle(lifecycle) => lifecycle.label(),
        }
    }

    /// How grave it is.
    pub const fn level(self) -> Level {
        match self {
            Self::Refused(refusal) => match refusal.blame() {
                Blame::Client => Level::Warn,
                Blame::Upstream | Blame::Host => Level::Error,
            },
            Self::PacketsDropped(_) => Level::Warn,
            Self::Lifecycle(lifecycle) => lifecycle.level(),
        }
    }
}

/// How grave an event is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// Goes as intended.
    Info,
    /// Somebody was refused, or something was lost.
    Warn,
    /// The limiter, the host or the upstream fails.
    Error,
}

impl Level {
    /// As the text form writes it.
    pub const fn upper(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }

    /// As the JSON form writes it (`log.level`).
    pub const fn lower(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

macro_rules! lifecycles {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal, $level:ident;)+) => {
        /// Events that are neither a refused request nor dropped packets.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Lifecycle { $($(#[doc = $doc])+ $variant,)+ }

        impl Lifecycle {
            /// Every one, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Stable label of events and documentation.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// How grave it is.
            pub const fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)+ }
            }

            /// One sentence for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

lifecycles! {
    /// A client authenticated (aggregated; only for sinks and followers that name it).
    Authenticated = "authenticated", Info;
    /// A ban was made.
    Banned = "banned", Warn;
    /// A ban was lifted by hand.
    Unbanned = "unbanned", Info;
    /// A new policy is in force.
    ConfigReloaded = "config_reloaded", Info;
    /// A new policy was invalid; the old one stays.
    ConfigRejected = "config_rejected", Error;
    /// XDP is on an interface.
    Attached = "attached", Info;
    /// XDP was taken off an interface.
    Detached = "detached", Info;
    /// Listeners of this host are flooded with connection requests, or no more; meanwhile these
    /// are answered with SYN cookies.
    SynFlood = "syn_flood", Warn;
    /// An upstream's server failed so often that it is sent nothing for a while.
    BreakerOpened = "breaker_opened", Error;
    /// A server whose breaker was open answered, and is sent requests again.
    BreakerClosed = "breaker_closed", Info;
    /// An upstream's server does not say that it is well, and is sent nothing.
    UpstreamDown = "upstream_down", Error;
    /// An upstream's server says that it is well again.
    UpstreamUp = "upstream_up", Info;
    /// Part of the protection is not working.
    Degraded = "degraded", Error;
    /// Events were lost between their origin and a sink.
    EventsLost = "events_lost", Warn;
}
