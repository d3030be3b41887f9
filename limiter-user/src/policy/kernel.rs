//! The packet half of the policy: which interfaces, who may enter, how much.

use ipnet::IpNet;

use super::{Mode, RateLimit};

/// Everything the kernel half needs, as meant; `kernel::image` turns it into map contents.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelPolicy {
    /// Where to attach.
    pub interfaces: Vec<InterfaceSelection>,
    /// How to attach.
    pub attach: Attach,
    /// `false`: run degraded (HTTP only) where XDP cannot attach.
    pub required: bool,
    /// Drop, or only count what would be dropped.
    pub mode: Mode,
    /// What happens to sources that no list names.
    pub default: DefaultVerdict,
    /// Never banned, denied or limited.
    pub trusted: Vec<IpNet>,
    /// May enter under `default = Deny`; still limited.
    pub allow: Vec<IpNet>,
    /// May not enter; the longest prefix decides, deny wins a tie.
    pub deny: Vec<IpNet>,
    /// Local TCP ports exempt from bans, deny and default; `Auto` adds sshd's.
    pub failsafe_ports: Vec<FailsafePort>,
    /// IPv4 sources are counted by this prefix length (1 to 32).
    pub ipv4_prefix: u8,
    /// IPv6 sources are counted by this prefix length (1 to 64).
    pub ipv6_prefix: u8,
    /// How many sources are tracked at least.
    pub max_sources: u32,
    /// How many exact bans there can be.
    pub max_bans: u32,
    /// A source for which no slot is left.
    pub table_full: PassOrDrop,
    /// Whether SYNs are answered with cookies before the stack sees them.
    pub syn_cookies: SynCookies,
    /// Packets whose headers contradict themselves.
    pub malformed: PassOrDrop,
    /// IP fragments.
    pub fragments: Fragments,
    /// Per source, over all ports.
    pub limits: KernelLimits,
}

/// One entry of `interfaces`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InterfaceSelection {
    /// Those with a default route.
    Auto,
    /// By name.
    Named(String),
}

/// One entry of `failsafe_ports`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailsafePort {
    /// The ports sshd listens on (22 if that cannot be told).
    Auto,
    /// A TCP port.
    Tcp(u16),
}

/// XDP mode.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Attach {
    /// Native where the driver can, else generic; which one is reported.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// After the socket buffer is made (every interface can).
    Generic,
}

/// What happens to sources that no list names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DefaultVerdict {
    /// They may enter.
    #[default]
    Allow,
    /// They may not.
    Deny,
}

/// A choice between letting through and dropping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PassOrDrop {
    /// Let through, counted.
    Pass,
    /// Drop, counted.
    Drop,
}

/// When SYNs are answered with cookies (RFC 4987, 3.6).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SynCookies {
    /// While a listener is flooded.
    #[default]
    Auto,
    /// Always: no connection has the options of TCP.
    Always,
    /// Never by this program.
    Off,
}

/// What happens to IP fragments.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fragments {
    /// Charged to their source like any packet.
    #[default]
    Limit,
    /// Dropped.
    Drop,
    /// Passed without being limited.
    Pass,
}

/// Per-source limits; `None`: unlimited.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KernelLimits {
    /// All packets.
    pub packets: Option<RateLimit>,
    /// TCP SYN without ACK.
    pub new_connections: Option<RateLimit>,
}
