//! The kernel half of a policy as map contents: pure, so that it can be compared and planned.

use std::net::IpAddr;

use limiter_common::{
    address::{Address, Masks},
    bucket::BucketRate,
    limits::{self, limit_flags},
    lists::ListVerdict,
    maps::SERVICE_COUNT,
    ports::{PORT_WORDS, PortFacts, port_word},
    settings::{ServiceSettings, Settings, flags, service_flags},
};

use super::{
    KernelError,
    list_maps::CAPACITY,
    lists::{Listing, Lists, Prefix},
};
use crate::policy::{
    ByteRateLimit, Mode, Networks, RateLimit,
    kernel::{
        DefaultVerdict, FailsafePort, Fragments, KernelPolicy, Limits, PassOrDrop, Protocol,
        Service,
    },
};

/// What a policy needs to know of the host it runs on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostFacts {
    /// TCP ports that sshd listens on.
    pub sshd_ports: Vec<u16>,
    /// TCP ports of the proxy's listeners.
    pub listening_ports: Vec<u16>,
    /// Addresses of this host, those that matter most first.
    pub own_addresses: Vec<IpAddr>,
    /// Whether this host forwards packets.
    pub forwards: bool,
    /// Whether the proxy has too much to do: each source may open new connections only slowly.
    pub is_overloaded: bool,
    /// Slots of the interfaces, by name.
    pub slots: Vec<(String, u32)>,
}

/// Exact contents of the maps that hold a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelImage {
    /// The settings, without what belongs to the running table and clock (generation, seed, set
    /// mask, ticks), which [`KernelImage::settings`] adds.
    template: Settings,
    /// By number; the first is none.
    pub(super) services: Vec<ServiceSettings>,
    /// What is known of ports, see `limiter_common::ports`.
    pub(super) ports: Vec<u64>,
    /// Who may come.
    pub(super) lists: Lists,
    /// Who may come to which service.
    pub(super) admitted: Vec<(u32, Prefix)>,
}

/// What the lists are made from; comparing costs little where networks are shared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Listed {
    allow: Networks,
    deny: Networks,
    trusted: Vec<(Prefix, Listing)>,
}

/// What belongs to the running table and clock rather than to a policy.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// Rises with each policy.
    pub generation: u64,
    /// Number of source sets less one.
    pub set_mask: u64,
    /// Where sources fall.
    pub hash_seed: u64,
    /// Nanoseconds of a jiffy.
    pub tick_ns: u64,
    /// What turns ticks into `CLOCK_MONOTONIC`.
    pub tick_offset_ns: u64,
}

impl KernelImage {
    /// The image of a policy on this host.
    pub fn new(policy: &KernelPolicy, host: &HostFacts) -> Result<Self, KernelError> {
        Self::with_lists(policy, host, Listed::of(policy, host).merge()?)
    }

    /// As [`Self::new`], with the policy's lists merged already.
    pub(super) fn with_lists(
        policy: &KernelPolicy,
        host: &HostFacts,
        lists: Lists,
    ) -> Result<Self, KernelError> {
        let mut template = Settings::open(1, 0);
        template.masks = Masks::new(policy.ipv4_prefix, policy.ipv6_prefix);
        let of_sources = if host.is_overloaded { policy.limits.tightened() } else { policy.limits };
        template.limits = limits("kernel.limits", &of_sources)?;
        template.total_limits = limits("kernel.total_limits", &policy.total_limits)?;
        template.list_filter_mask = u64::from(lists.filter_words()) - 1;
        template.set_own(host.own_addresses.iter().copied().map(Address::from));
        template.flags = [
            (policy.mode == Mode::Monitor, flags::MONITOR),
            (policy.default == DefaultVerdict::Deny, flags::DEFAULT_DENY),
            (policy.table_full == PassOrDrop::Drop, flags::TABLE_FULL_DROP),
            (policy.malformed == PassOrDrop::Pass, flags::MALFORMED_PASS),
            (policy.fragments == Fragments::Drop, flags::FRAGMENTS_DROP),
            (policy.fragments == Fragments::Pass, flags::FRAGMENTS_PASS),
            (policy.total_limits.any(), flags::TOTAL_LIMITS),
            (host.forwards && !policy.forwarded, flags::FORWARDING),
        ]
        .into_iter()
        .filter_map(|(holds, flag)| holds.then_some(flag))
        .sum::<u64>()
            | lists.flags(policy.ipv4_prefix, policy.ipv6_prefix);
        let mut services = vec![ServiceSettings::default(); SERVICE_COUNT as usize];
        let mut admitted = Vec::new();
        for (number, service) in numbered(&policy.services) {
            services[number as usize] = service_settings(service)?;
            let networks = service.allow.iter().flatten();
            admitted.extend(networks.map(|network| (number, Prefix::new(*network))));
        }
        Ok(Self { template, services, ports: ports(policy, host), lists, admitted })
    }

    /// The settings that put this image in force with the lists in the first or second half.
    pub fn settings(&self, running: Running, lists_second: bool) -> Settings {
        let mut settings = self.template;
        settings.generation = running.generation;
        settings.set_mask = running.set_mask;
        settings.hash_seed = running.hash_seed;
        settings.tick_ns = running.tick_ns;
        settings.tick_offset_ns = running.tick_offset_ns;
        if settings.has(flags::TABLE_FULL_DROP) {
            // What has no slot is to be dropped, not let through untracked.
            settings.claims_per_window = u64::MAX;
        }
        if lists_second {
            settings.flags |= flags::LISTS_SECOND;
        }
        let of_services =
            self.services.iter().flat_map(|service| [service.limits, service.total_limits]);
        let all = of_services.chain([settings.limits, settings.total_limits]);
        let coarse_is_enough =
            all.flat_map(|limits| limits.rates()).all(|rate| rate.tolerates_lag(running.tick_ns));
        if !coarse_is_enough {
            settings.flags |= flags::PRECISE_CLOCK;
        }
        settings
    }

    /// Whether the lists of both are the same, those of services included.
    pub(super) fn has_lists_of(&self, other: &Self) -> bool {
        self.lists == other.lists && self.admitted == other.admitted
    }

    /// What the lists say about an address on the interface with this slot, as the kernel would.
    pub fn list(&self, address: IpAddr, slot: u32) -> ListVerdict {
        self.lists.value(address).on(slot)
    }

    /// Whether the list of a service has the address, as the kernel would.
    pub(super) fn is_admitted(&self, number: u32, address: IpAddr) -> bool {
        self.admitted
            .iter()
            .any(|(of, prefix)| *of == number && prefix.covers(Prefix::exact(address)))
    }
}

/// Services with their numbers: from 1, in the order written.
pub(super) fn numbered(services: &[Service]) -> impl Iterator<Item = (u32, &Service)> {
    (1..SERVICE_COUNT).zip(services)
}

impl Listed {
    pub(super) fn of(policy: &KernelPolicy, host: &HostFacts) -> Self {
        let trusted = policy.trusted.iter().map(|trusted| {
            let interfaces = match &trusted.interface {
                None => u16::MAX,
                // An interface that has no XDP (yet) brings no packet to be trusted.
                Some(name) => host
                    .slots
                    .iter()
                    .filter(|(of, slot)| of == name && *slot < u16::BITS)
                    .fold(0, |mask, (_, slot)| mask | 1 << slot),
            };
            (Prefix::new(trusted.network), Listing::Trusted(interfaces))
        });
        Self { allow: policy.allow.clone(), deny: policy.deny.clone(), trusted: trusted.collect() }
    }

    /// One list whose longest match is the whole answer; fails if it has no room in the kernel.
    pub(super) fn merge(&self) -> Result<Lists, KernelError> {
        let mut listed = self.trusted.clone();
        listed.reserve(self.allow.len() + self.deny.len() + 1);
        listed.extend(self.allow.iter().map(|network| (Prefix::new(*network), Listing::Allow)));
        listed.extend(self.deny.iter().map(|network| (Prefix::new(*network), Listing::Deny)));
        let lists = Lists::merge(listed);
        let exact = lists.entries().iter().filter(|entry| entry.prefix.length == 128).count();
        let networks = lists.entries().len() - exact;
        for (count, what) in [(exact, "single addresses"), (networks, "networks")] {
            if count > CAPACITY {
                return Err(KernelError::Full(format!(
                    "the lists `trusted`, `allow` and `deny` have {count} {what} together; there \
                     is room for {CAPACITY}",
                )));
            }
        }
        Ok(lists)
    }
}

fn limits(section: &str, policy: &Limits) -> Result<limits::Limits, KernelError> {
    Ok(limits::Limits {
        packets: packets(section, "packets", policy.packets)?,
        bytes: bytes(section, policy.bytes)?,
        kinds: [
            BucketRate::UNLIMITED,
            packets(section, "new_connections", policy.new_connections)?,
            packets(section, "udp_packets", policy.udp_packets)?,
            packets(section, "icmp_packets", policy.icmp_packets)?,
        ],
        concurrent_connections: policy.concurrent_connections.map_or(0, u64::from),
        flags: if policy.mode == Mode::Monitor { limit_flags::MONITOR } else { 0 },
    })
}

fn packets(section: &str, key: &str, limit: Option<RateLimit>) -> Result<BucketRate, KernelError> {
    let Some(limit) = limit else { return Ok(BucketRate::UNLIMITED) };
    BucketRate::new(limit.rate.count, nanoseconds(limit.rate.period), limit.burst)
        .ok_or_else(|| KernelError::Policy(format!("{section}.{key} cannot be represented")))
}

fn bytes(section: &str, limit: Option<ByteRateLimit>) -> Result<BucketRate, KernelError> {
    let Some(limit) = limit else { return Ok(BucketRate::UNLIMITED) };
    BucketRate::of_bytes(limit.rate.count, nanoseconds(limit.rate.period), limit.burst_bytes)
        .ok_or_else(|| KernelError::Policy(format!("{section}.bytes cannot be represented")))
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn service_settings(service: &Service) -> Result<ServiceSettings, KernelError> {
    let section = format!("kernel.service {:?}", service.name);
    let flags = [
        (service.allow.is_some(), service_flags::LISTED),
        (service.mode == Mode::Monitor, service_flags::LIST_MONITOR),
        (service.limits.any(), service_flags::SOURCE_LIMITS),
        (service.total_limits.any(), service_flags::TOTAL_LIMITS),
    ];
    Ok(ServiceSettings {
        flags: flags.into_iter().filter_map(|(holds, flag)| holds.then_some(flag)).sum(),
        limits: limits(&format!("{section} limits"), &service.limits)?,
        total_limits: limits(&format!("{section} total_limits"), &service.total_limits)?,
    })
}

fn ports(policy: &KernelPolicy, host: &HostFacts) -> Vec<u64> {
    let mut words = vec![0; PORT_WORDS as usize];
    let mut change = |is_udp: bool, port: u16, change: &dyn Fn(PortFacts) -> PortFacts| {
        let word = &mut words[port_word(is_udp, port) as usize];
        *word = change(PortFacts::in_word(*word, port)).put(*word, port);
    };
    for (number, service) in numbered(&policy.services) {
        let number = u8::try_from(number).unwrap_or(0);
        for range in &service.ports {
            for port in range.first..=range.last {
                let is_udp = range.protocol == Protocol::Udp;
                change(is_udp, port, &|facts| facts.of_service(number));
            }
        }
    }
    for port in &policy.failsafe_ports {
        let ports = match port {
            FailsafePort::Auto => host.sshd_ports.as_slice(),
            FailsafePort::Tcp(port) => std::slice::from_ref(port),
        };
        for port in ports {
            change(false, *port, &PortFacts::failsafe);
        }
    }
    for port in &host.listening_ports {
        change(false, *port, &PortFacts::listening);
    }
    words
}

#[cfg(test)]
pub(super) mod tests;
