//! Rate limits: the arithmetic, the shared store, and how a client becomes a key in it.
//!
//! Knows requests only as keys. One [`Counter`] per limit, shared by all cores; a reload that
//! leaves a limit's arithmetic as it was keeps its counter, so that nobody's debt is forgiven.

pub mod algorithm;
pub mod table;
mod windows;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

pub use self::algorithm::{Decision, Meter};
use self::table::Table;

/// A limit's refused attempts within its period, beyond this many times what it allows at once,
/// are going on regardless: with what was allowed, three times the limit.
const FAR_FACTOR: u64 = 2;

/// Clients that one limit tracks exactly.
const TRACKED_CLIENTS: usize = 1 << 16;

/// Clients whose refused attempts one limit tracks exactly.
const TRACKED_REFUSED: usize = 1 << 14;

/// An address as limits see it: IPv4 whole (v4-mapped too), IPv6 by its /64.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AddressKey(u128);

impl AddressKey {
    /// The key of `address`.
    pub fn new(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() & !u128::from(u64::MAX)),
        }
    }

    /// A number that two keys hardly share, made by `mix` from either half.
    pub fn hash(self, mix: fn(u64) -> u64) -> u64 {
        let [high, low] = [self.0 >> 64, self.0 & u128::from(u64::MAX)];
        let half = |half| u64::try_from(half).unwrap_or_default();
        mix(half(high) ^ mix(half(low)))
    }

    /// The first address that has this key.
    pub fn first_address(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from_bits(self.0)).to_canonical()
    }
}

/// Whom a request is counted against.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Key<'a> {
    /// A client address.
    Address(AddressKey),
    /// An authenticated principal.
    Principal(&'a str),
}

/// What a limit says, with the client's persistence taken into account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// The limit's own decision.
    pub decision: Decision,
    /// The client goes on far beyond the limit in spite of refusals.
    pub far: bool,
}

/// One limit in force.
#[derive(Debug)]
pub struct Counter {
    meter: Meter,
    persistence: Meter,
    allowed: Table,
    refused: Table,
    hasher: RandomState,
}

impl Counter {
    /// A counter for `meter`, whose persistence is judged over `period`.
    pub fn new(meter: Meter, period: std::time::Duration) -> Self {
        Self::with_capacity(meter, period, TRACKED_CLIENTS)
    }

    /// As [`Self::new`], for about `clients` clients.
    pub fn with_capacity(meter: Meter, period: std::time::Duration, clients: usize) -> Self {
        let attempts = meter.limit().saturating_mul(FAR_FACTOR);
        Self {
            meter,
            persistence: Meter::fixed_window(attempts, period),
            allowed: Table::new(clients),
            refused: Table::new(clients.min(TRACKED_REFUSED)),
            hasher: RandomState::new(),
        }
    }

    /// Counts one request.
    pub fn charge(&self, key: Key<'_>, now_ns: u64) -> Verdict {
        let fingerprint = self.hasher.hash_one(key);
        let decision = self.allowed.charge(fingerprint, &self.meter, now_ns);
        Verdict { decision, far: !decision.allowed && !self.persists(fingerprint, now_ns) }
    }

    /// What [`Self::charge`] would say; counts only refused attempts.
    pub fn check(&self, key: Key<'_>, now_ns: u64) -> Verdict {
        let fingerprint = self.hasher.hash_one(key);
        let decision = self.allowed.peek(fingerprint, &self.meter, now_ns);
        Verdict { decision, far: !decision.allowed && !self.persists(fingerprint, now_ns) }
    }

    /// What [`Self::charge`] would decide, counting nothing.
    pub fn peek(&self, key: Key<'_>, now_ns: u64) -> Decision {
        self.allowed.peek(self.hasher.hash_one(key), &self.meter, now_ns)
    }

    /// Entries in use, and requests that found no entry.
    pub fn usage(&self) -> (u64, u64) {
        self.allowed.usage()
    }

    /// Counts a refused attempt; whether it is still within what an honest client does.
    fn persists(&self, fingerprint: u64, now_ns: u64) -> bool {
        self.refused.charge(fingerprint, &self.persistence, now_ns).allowed
    }
}

/// The counters of a policy by name, kept over reloads.
#[derive(Debug, Default)]
pub struct Counters {
    by_name: HashMap<String, Arc<Counter>>,
}

impl Counters {
    /// The counter for the limit of this name: the one before if its arithmetic is the same.
    pub fn counter(
        &mut self,
        name: &str,
        meter: Meter,
        period: std::time::Duration,
    ) -> Arc<Counter> {
        match self.by_name.get(name) {
            Some(counter) if counter.meter == meter => Arc::clone(counter),
            _ => {
                let counter = Arc::new(Counter::new(meter, period));
                self.by_name.insert(name.to_owned(), Arc::clone(&counter));
                counter
            }
        }
    }

    /// Forgets the counters of limits that are no longer in force.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.by_name.retain(|name, _| keep(name));
    }

    /// Entries in use, and requests that found no entry, over all limits.
    pub fn usage(&self) -> (u64, u64) {
        self.by_name.values().fold((0, 0), |(entries, full), counter| {
            let usage = counter.usage();
            (entries + usage.0, full + usage.1)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(text: &str) -> Key<'static> {
        Key::Address(AddressKey::new(text.parse().unwrap()))
    }

    #[test]
    fn ipv6_counts_by_its_64_and_mapped_addresses_as_ipv4() {
        let one = AddressKey::new("2001:db8:0:1::1".parse().unwrap());
        assert_eq!(one, AddressKey::new("2001:db8:0:1:ffff::2".parse().unwrap()));
        assert_ne!(one, AddressKey::new("2001:db8:0:2::1".parse().unwrap()));
        let mapped = AddressKey::new("::ffff:192.0.2.1".parse().unwrap());
        assert_eq!(mapped, AddressKey::new("192.0.2.1".parse().unwrap()));
        assert_eq!(mapped.first_address().to_string(), "192.0.2.1");
    }

    #[test]
    fn going_on_regardless_is_told_from_exceeding() {
        let meter = Meter::fixed_window(10, Duration::from_mins(1));
        let counter = Counter::with_capacity(meter, Duration::from_mins(1), 64);
        let verdicts: Vec<_> = (0..40).map(|_| counter.charge(key("192.0.2.1"), 0)).collect();
        assert!(verdicts[..10].iter().all(|verdict| verdict.decision.allowed));
        assert!(verdicts[10..30].iter().all(|v| !v.decision.allowed && !v.far));
        assert!(verdicts[30..].iter().all(|verdict| verdict.far));
        assert!(counter.charge(key("192.0.2.2"), 0).decision.allowed);
        let later = counter.charge(key("192.0.2.1"), 61_000_000_000);
        assert!(later.decision.allowed && !later.far);
    }

    #[test]
    fn a_reload_keeps_debts() {
        let mut counters = Counters::default();
        let minute = Duration::from_mins(1);
        let meter = Meter::fixed_window(1, minute);
        let counter = counters.counter("a", meter, minute);
        assert!(counter.charge(key("192.0.2.1"), 0).decision.allowed);
        let again = counters.counter("a", meter, minute);
        assert!(!again.charge(key("192.0.2.1"), 0).decision.allowed);
        let other = counters.counter("a", Meter::fixed_window(2, minute), minute);
        assert!(other.charge(key("192.0.2.1"), 0).decision.allowed);
        counters.retain(|name| name != "a");
        assert_eq!(counters.usage(), (0, 0));
    }
}
