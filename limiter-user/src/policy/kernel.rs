//! The packet half of the policy: which interfaces, who may enter, how much.

use std::{fmt, time::Duration};

use ipnet::IpNet;

use super::{ByteRateLimit, Mode, Networks, Rate, RateLimit};

/// How many services there can be: a byte per port holds the number of its service.
pub const MAX_SERVICES: usize = 31;

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
    /// Never banned, denied or limited; in order, each once.
    pub trusted: Vec<Trusted>,
    /// May enter under `default = Deny`; still limited.
    pub allow: Networks,
    /// May not enter; the longest prefix decides, deny wins a tie.
    pub deny: Networks,
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
    /// How many bans of networks there can be.
    pub max_prefix_bans: u32,
    /// A source for which no slot is left.
    pub table_full: PassOrDrop,
    /// Whether SYNs are answered with cookies before the stack sees them.
    pub syn_cookies: SynCookies,
    /// Packets whose headers contradict themselves.
    pub malformed: PassOrDrop,
    /// IP fragments.
    pub fragments: Fragments,
    /// Also limit traffic that the host forwards.
    pub forwarded: bool,
    /// Per source, over all ports.
    pub limits: Limits,
    /// All sources together, over all ports.
    pub total_limits: Limits,
    /// Port groups with lists and limits of their own, at most [`MAX_SERVICES`]; no port is in two
    /// of them.
    pub services: Vec<Service>,
}

impl KernelPolicy {
    /// The trusted networks, whatever the interface: whom a ban must not hit.
    pub fn trusted_networks(&self) -> impl Iterator<Item = IpNet> {
        self.trusted.iter().map(|trusted| trusted.network)
    }

    /// Whether some limit is on connections that are open at the same time.
    pub fn limits_open_connections(&self) -> bool {
        let services =
            self.services.iter().flat_map(|service| [&service.limits, &service.total_limits]);
        [&self.limits, &self.total_limits]
            .into_iter()
            .chain(services)
            .any(|limits| limits.concurrent_connections.is_some())
    }

    /// The networks that are trusted on every interface: for whoever cannot tell on which one a
    /// packet came.
    pub fn trusted_everywhere(&self) -> impl Iterator<Item = IpNet> {
        self.trusted
            .iter()
            .filter(|trusted| trusted.interface.is_none())
            .map(|trusted| trusted.network)
    }
}

/// One entry of `trusted`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Trusted {
    /// Who is trusted.
    pub network: IpNet,
    /// Only what arrives on this interface; `None`: on any.
    pub interface: Option<String>,
}

/// One `[[kernel.service]]`: a port group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Unique among services.
    pub name: String,
    /// Its local ports, in the order written; at least one.
    pub ports: Vec<PortRange>,
    /// Only these sources reach it; empty: nobody; `None`: no restriction.
    pub allow: Option<Networks>,
    /// Of the allow list. `limits` and `total_limits` hold modes of their own, which are `Monitor`
    /// wherever this one is.
    pub mode: Mode,
    /// Per source.
    pub limits: Limits,
    /// All sources together.
    pub total_limits: Limits,
}

/// Transport protocols that have ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

/// Ports `first` to `last`, both included; neither is 0. Displays as the configuration writes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortRange {
    /// Of which protocol.
    pub protocol: Protocol,
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

impl PortRange {
    /// The lowest port that both hold.
    pub fn shared(self, other: Self) -> Option<u16> {
        let first = self.first.max(other.first);
        (self.protocol == other.protocol && first <= self.last.min(other.last)).then_some(first)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{protocol}/{}", self.first)?;
        if self.last > self.first { write!(f, "-{}", self.last) } else { Ok(()) }
    }
}

/// When SYNs are answered with cookies (RFC 4987, 3.6).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SynCookies {
    /// While a listener is flooded.
    #[default]
    Auto,
    /// All the time.
    Always,
    /// Never.
    Off,
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

/// Limits of a source, or of all sources together; `None`: unlimited.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// All packets.
    pub packets: Option<RateLimit>,
    /// All bytes, by the whole length of frames.
    pub bytes: Option<ByteRateLimit>,
    /// TCP SYN without ACK.
    pub new_connections: Option<RateLimit>,
    /// TCP connections that are open at once; at least 1.
    pub concurrent_connections: Option<u32>,
    /// UDP packets.
    pub udp_packets: Option<RateLimit>,
    /// ICMP packets of IPv4 and IPv6.
    pub icmp_packets: Option<RateLimit>,
    /// Drop, or only count what would be dropped.
    pub mode: Mode,
}

impl Limits {
    /// Whether anything is limited.
    pub fn any(&self) -> bool {
        let rates = [self.packets, self.new_connections, self.udp_packets, self.icmp_packets];
        rates.iter().any(Option::is_some)
            || self.bytes.is_some()
            || self.concurrent_connections.is_some()
    }
}

/// What a source may open of new connections while the proxy has too much to do: this part of what
/// the policy says, and at most the rate below it.
const TIGHTENED_PART: u64 = 8;
const TIGHTENED_PER_SECOND: u64 = 5;

impl Limits {
    /// As they are while the proxy has too much to do: new connections are slow.
    #[must_use]
    pub fn tightened(self) -> Self {
        let most = Rate { count: TIGHTENED_PER_SECOND, period: Duration::from_secs(1) };
        let tight = RateLimit { rate: most, burst: 2 * TIGHTENED_PER_SECOND };
        let part = self.new_connections.map(|usual| RateLimit {
            rate: Rate { count: (usual.rate.count / TIGHTENED_PART).max(1), ..usual.rate },
            burst: (usual.burst / TIGHTENED_PART).max(1),
        });
        let is_tight = |part: &RateLimit| {
            part.rate.count <= TIGHTENED_PER_SECOND.saturating_mul(part.rate.period.as_secs())
        };
        Self { new_connections: Some(part.filter(is_tight).unwrap_or(tight)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overload_tightens_new_connections_alone() {
        let limit = |count, seconds, burst| RateLimit {
            rate: Rate { count, period: Duration::from_secs(seconds) },
            burst,
        };
        let tightened = |new_connections| {
            let usual =
                Limits { new_connections, concurrent_connections: Some(7), ..Limits::default() };
            let tightened = usual.tightened();
            assert_eq!(Limits { new_connections, ..tightened }, usual);
            tightened.new_connections
        };
        assert_eq!(tightened(None), Some(limit(5, 1, 10)), "also without a limit");
        assert_eq!(tightened(Some(limit(200, 1, 400))), Some(limit(5, 1, 10)));
        assert_eq!(tightened(Some(limit(80, 60, 16))), Some(limit(10, 60, 2)));
        assert_eq!(tightened(Some(limit(2, 60, 2))), Some(limit(1, 60, 1)), "never nothing");
    }

    #[test]
    fn port_ranges_say_what_they_share() {
        let tcp = |first, last| PortRange { protocol: Protocol::Tcp, first, last };
        assert_eq!(tcp(1, 5).shared(tcp(5, 9)), Some(5));
        assert_eq!(tcp(1, 9).shared(tcp(3, 4)), Some(3));
        assert_eq!(tcp(1, 4).shared(tcp(5, 9)), None);
        assert_eq!(tcp(1, 4).shared(PortRange { protocol: Protocol::Udp, ..tcp(1, 4) }), None);
        assert_eq!(
            (tcp(53, 53).to_string(), tcp(1, 2).to_string()),
            ("tcp/53".into(), "tcp/1-2".into())
        );
    }
}
