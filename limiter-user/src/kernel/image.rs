//! The kernel half of a policy as map contents: pure, so that it can be compared and planned.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use limiter_common::{
    address::{Address, Masks},
    bucket::BucketRate,
    ports::PortSet,
    settings::{ListVerdict, Settings, flags},
};

use super::KernelError;
use crate::policy::{
    Mode, RateLimit,
    kernel::{DefaultVerdict, Fragments, KernelPolicy, PassOrDrop},
};

/// What a policy needs to know of the host it runs on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HostFacts {
    /// TCP ports that sshd listens on.
    pub sshd_ports: Vec<u16>,
    /// TCP ports of the proxy's listeners.
    pub listening_ports: Vec<u16>,
}

/// Exact contents of the maps that hold a policy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelImage {
    /// The settings, without what belongs to the running table and clock (generation, seed, set
    /// mask, ticks), which [`KernelImage::settings`] adds.
    template: Settings,
    /// Merged lists: the longest match is the whole answer.
    pub lists: BTreeMap<ListKey, ListVerdict>,
}

/// A prefix as the tries have it: length counted in the v4-mapped address, and its bytes.
pub type ListKey = (u32, [u8; 16]);

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
        let mut template = Settings::open(1, 0);
        template.masks = Masks::new(policy.ipv4_prefix, policy.ipv6_prefix);
        template.packets = bucket("packets", policy.limits.packets)?;
        template.connections = bucket("new_connections", policy.limits.new_connections)?;
        template.failsafe_ports = port_set("failsafe", &failsafe_ports(policy, host))?;
        template.listening_ports = port_set("listening", &host.listening_ports)?;
        let lists = merge_lists(policy);
        template.flags = [
            (policy.mode == Mode::Monitor, flags::MONITOR),
            (policy.default == DefaultVerdict::Deny, flags::DEFAULT_DENY),
            (policy.table_full == PassOrDrop::Drop, flags::TABLE_FULL_DROP),
            (policy.malformed == PassOrDrop::Pass, flags::MALFORMED_PASS),
            (policy.fragments == Fragments::Drop, flags::FRAGMENTS_DROP),
            (policy.fragments == Fragments::Pass, flags::FRAGMENTS_PASS),
            (!lists.is_empty(), flags::LISTS),
            (is_fine(policy, &lists), flags::FINE_LISTS),
        ]
        .into_iter()
        .filter_map(|(holds, flag)| holds.then_some(flag))
        .sum();
        Ok(Self { template, lists })
    }

    /// The settings that put this image in force with the lists in the first or second trie.
    pub fn settings(&self, running: Running, lists_second: bool) -> Settings {
        let mut settings = self.template;
        settings.generation = running.generation;
        settings.set_mask = running.set_mask;
        settings.hash_seed = running.hash_seed;
        settings.tick_ns = running.tick_ns;
        settings.tick_offset_ns = running.tick_offset_ns;
        if lists_second {
            settings.flags |= flags::LISTS_SECOND;
        }
        let coarse_is_enough = settings.packets.tolerates_lag(running.tick_ns)
            && settings.connections.tolerates_lag(running.tick_ns);
        if !coarse_is_enough {
            settings.flags |= flags::PRECISE_CLOCK;
        }
        settings
    }

    /// What the lists say about an address, as the kernel would.
    pub fn list(&self, address: IpAddr) -> ListVerdict {
        let bytes = Address::from(address).to_bytes();
        (0..=128)
            .rev()
            .find_map(|length| self.lists.get(&(length, masked(bytes, length))))
            .copied()
            .unwrap_or(ListVerdict::None)
    }
}

/// The key of a prefix in the tries.
pub fn list_key(network: IpNet) -> ListKey {
    let shift = match network {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    (shift + u32::from(network.prefix_len()), Address::from(network.network()).to_bytes())
}

fn masked(bytes: [u8; 16], length: u32) -> [u8; 16] {
    let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
    (u128::from_be_bytes(bytes) & mask).to_be_bytes()
}

/// One trie out of three lists: every prefix of any list gets the verdict of all the prefixes that
/// cover it. Trusted wins whatever its length; of the others the longest; deny wins a tie.
fn merge_lists(policy: &KernelPolicy) -> BTreeMap<ListKey, ListVerdict> {
    let mut own: BTreeMap<ListKey, ListVerdict> = BTreeMap::new();
    for (networks, verdict) in [
        (&policy.allow, ListVerdict::Allow),
        (&policy.deny, ListVerdict::Deny),
        (&policy.trusted, ListVerdict::Trusted),
    ] {
        own.extend(networks.iter().map(|network| (list_key(*network), verdict)));
    }
    let lengths: Vec<u32> = {
        let mut lengths: Vec<u32> = own.keys().map(|(length, _)| *length).collect();
        lengths.dedup();
        lengths
    };
    let is_trusted = |(length, bytes): &ListKey| {
        lengths.iter().take_while(|shorter| *shorter <= length).any(|shorter| {
            own.get(&(*shorter, masked(*bytes, *shorter))) == Some(&ListVerdict::Trusted)
        })
    };
    own.iter()
        .map(|(key, verdict)| (*key, if is_trusted(key) { ListVerdict::Trusted } else { *verdict }))
        .collect()
}

/// Whether lists can tell addresses of one source apart.
fn is_fine(policy: &KernelPolicy, lists: &BTreeMap<ListKey, ListVerdict>) -> bool {
    let mapped = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    lists.keys().any(|(length, bytes)| {
        let source = if bytes.starts_with(mapped) {
            96 + u32::from(policy.ipv4_prefix)
        } else {
            u32::from(policy.ipv6_prefix)
        };
        *length > source
    })
}

fn bucket(name: &str, limit: Option<RateLimit>) -> Result<BucketRate, KernelError> {
    let Some(limit) = limit else { return Ok(BucketRate::UNLIMITED) };
    let period_ns = u64::try_from(limit.rate.period.as_nanos()).unwrap_or(u64::MAX);
    BucketRate::new(limit.rate.count, period_ns, limit.burst)
        .ok_or_else(|| KernelError::Policy(format!("kernel.limits.{name} cannot be represented")))
}

/// Local TCP ports exempt from bans, each once.
pub(super) fn failsafe_ports(policy: &KernelPolicy, host: &HostFacts) -> Vec<u16> {
    use crate::policy::kernel::FailsafePort;
    let mut ports = Vec::new();
    for port in &policy.failsafe_ports {
        match port {
            FailsafePort::Auto => ports.extend(&host.sshd_ports),
            FailsafePort::Tcp(port) => ports.push(*port),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn port_set(name: &str, ports: &[u16]) -> Result<PortSet, KernelError> {
    PortSet::new(ports).ok_or_else(|| {
        KernelError::Policy(format!(
            "{} {name} ports, at most {} are possible",
            ports.len(),
            limiter_common::ports::MAX_PORTS,
        ))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::{
        Rate,
        kernel::{Attach, FailsafePort, KernelLimits},
    };

    pub(in crate::kernel) fn policy() -> KernelPolicy {
        KernelPolicy {
            interfaces: Vec::new(),
            attach: Attach::Auto,
            required: true,
            mode: Mode::Enforce,
            default: DefaultVerdict::Allow,
            trusted: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            failsafe_ports: vec![FailsafePort::Auto, FailsafePort::Tcp(9)],
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            max_sources: 1_000,
            max_bans: 100,
            table_full: PassOrDrop::Pass,
            malformed: PassOrDrop::Drop,
            fragments: Fragments::Limit,
            limits: KernelLimits::default(),
        }
    }

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn running() -> Running {
        Running { generation: 3, set_mask: 7, hash_seed: 9, tick_ns: 4_000_000, tick_offset_ns: 5 }
    }

    #[test]
    fn the_longest_match_says_all_that_the_lists_mean() {
        let mut policy = policy();
        policy.trusted = networks(&["10.1.0.0/16", "2001:db8:ad::/48"]);
        policy.allow = networks(&["10.0.0.0/8", "192.0.2.0/24", "192.0.2.0/25"]);
        policy.deny = networks(&["10.1.2.3/32", "10.2.0.0/16", "192.0.2.0/25", "2001:db8::/32"]);
        let image = KernelImage::new(&policy, &HostFacts::default()).unwrap();
        for (address, verdict) in [
            ("10.1.2.3", ListVerdict::Trusted),
            ("10.2.2.3", ListVerdict::Deny),
            ("10.3.2.3", ListVerdict::Allow),
            ("192.0.2.1", ListVerdict::Deny),
            ("192.0.2.200", ListVerdict::Allow),
            ("198.51.100.1", ListVerdict::None),
            ("2001:db8::1", ListVerdict::Deny),
            ("2001:db8:ad::1", ListVerdict::Trusted),
        ] {
            assert_eq!(image.list(address.parse().unwrap()), verdict, "{address}");
        }
    }

    #[test]
    fn tight_buckets_ask_for_the_precise_clock() {
        let mut policy = policy();
        let rate = Rate { count: 20_000, period: Duration::from_secs(1) };
        policy.limits.packets = Some(RateLimit { rate, burst: 40_000 });
        let image = KernelImage::new(&policy, &HostFacts::default()).unwrap();
        assert!(!image.settings(running(), false).has(flags::PRECISE_CLOCK));
        policy.limits.packets = Some(RateLimit { rate, burst: 10 });
        let image = KernelImage::new(&policy, &HostFacts::default()).unwrap();
        let settings = image.settings(running(), true);
        assert!(settings.has(flags::PRECISE_CLOCK) && settings.has(flags::LISTS_SECOND));
        assert_eq!((settings.generation, settings.set_mask, settings.hash_seed), (3, 7, 9));
    }

    #[test]
    fn auto_failsafe_ports_are_those_of_sshd() {
        let host = HostFacts { sshd_ports: vec![22, 2222], listening_ports: vec![8080] };
        let settings = KernelImage::new(&policy(), &host).unwrap().settings(running(), false);
        for port in [22, 2222, 9] {
            assert!(settings.failsafe_ports.holds(port), "{port}");
        }
        assert!(settings.listening_ports.holds(8080) && !settings.failsafe_ports.holds(8080));
        let host = HostFacts { sshd_ports: (1..=17).collect(), listening_ports: vec![] };
        assert!(KernelImage::new(&policy(), &host).is_err());
    }
}
