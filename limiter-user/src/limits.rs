//! Rate limits: the arithmetic, the shared store, and how a client becomes a key in it.
//!
//! Knows requests only as keys. One [`Counter`] per limit, shared by all cores; a reload that
//! leaves a limit's arithmetic as it was keeps its counter, so that nobody's debt is forgiven, and
//! so does the next proxy, because the words lie in an [`arena`] that outlives this one.

pub mod algorithm;
pub mod arena;
mod hash;
pub mod table;
mod windows;

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Weak},
};

pub use self::algorithm::{Decision, Meter};
use self::{arena::Arena, hash::Secret, table::Table};

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
#[derive(Clone, Copy, Debug)]
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
    secret: Secret,
}

impl Counter {
    /// A counter for `meter`, whose persistence is judged over `period`.
    pub fn new(meter: Meter, period: std::time::Duration) -> Self {
        Self::with_capacity(meter, period, TRACKED_CLIENTS)
    }

    /// As [`Self::new`], for about `clients` clients.
    pub fn with_capacity(meter: Meter, period: std::time::Duration, clients: usize) -> Self {
        let tables = (Table::new(clients), Table::new(clients.min(TRACKED_REFUSED)));
        Self::over(meter, period, tables, random_secret())
    }

    fn over(
        meter: Meter,
        period: std::time::Duration,
        (allowed, refused): (Table, Table),
        secret: Secret,
    ) -> Self {
        let attempts = meter.limit().saturating_mul(FAR_FACTOR);
        let persistence = Meter::fixed_window(attempts, period);
        Self { meter, persistence, allowed, refused, secret }
    }

    /// Counts one request.
    pub fn charge(&self, key: Key<'_>, now_ns: u64) -> Verdict {
        let fingerprint = self.fingerprint(key);
        let decision = self.allowed.charge(fingerprint, &self.meter, now_ns);
        Verdict { decision, far: !decision.allowed && !self.persists(fingerprint, now_ns) }
    }

    /// What [`Self::charge`] would say; counts only refused attempts.
    pub fn check(&self, key: Key<'_>, now_ns: u64) -> Verdict {
        let fingerprint = self.fingerprint(key);
        let decision = self.allowed.peek(fingerprint, &self.meter, now_ns);
        Verdict { decision, far: !decision.allowed && !self.persists(fingerprint, now_ns) }
    }

    /// What [`Self::charge`] would decide, counting nothing.
    pub fn peek(&self, key: Key<'_>, now_ns: u64) -> Decision {
        self.allowed.peek(self.fingerprint(key), &self.meter, now_ns)
    }

    /// Whether anything counts against this key now.
    pub fn has_any(&self, key: Key<'_>, now_ns: u64) -> bool {
        let decision = self.peek(key, now_ns);
        decision.remaining + u64::from(decision.allowed) < decision.limit
    }

    /// Entries in use, and requests that found no entry.
    pub fn usage(&self) -> (u64, u64) {
        self.allowed.usage()
    }

    fn fingerprint(&self, key: Key<'_>) -> u64 {
        match key {
            Key::Address(AddressKey(bits)) => self.secret.of_bytes(0, &bits.to_le_bytes()),
            Key::Principal(name) => self.secret.of_bytes(1, name.as_bytes()),
        }
    }

    /// Counts a refused attempt; whether it is still within what an honest client does.
    fn persists(&self, fingerprint: u64, now_ns: u64) -> bool {
        self.refused.charge(fingerprint, &self.persistence, now_ns).allowed
    }
}

/// A secret of this process alone.
fn random_secret() -> Secret {
    let random = RandomState::new();
    Secret::new([random.hash_one(0), random.hash_one(1)])
}

/// The counters of a policy by name, kept over reloads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Without it, words end with this process.
    arena: Option<Arc<Arena>>,
    by_name: HashMap<String, Arc<Counter>>,
    /// By identity, as long as a request of an earlier policy may count in one.
    shared: HashMap<u64, Weak<Counter>>,
}

impl Counters {
    /// From now on in memory that outlives this process. Counters made before stay where they are.
    pub fn share(&mut self, arena: Arc<Arena>) {
        self.arena = Some(arena);
    }

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
                let counter = self
                    .shared_counter(name, meter, period)
                    .unwrap_or_else(|| Arc::new(Counter::new(meter, period)));
                self.by_name.insert(name.to_owned(), Arc::clone(&counter));
                counter
            }
        }
    }

    /// The counter that this process or an earlier one had for the limit, or a new one beside it.
    fn shared_counter(
        &mut self,
        name: &str,
        meter: Meter,
        period: std::time::Duration,
    ) -> Option<Arc<Counter>> {
        let arena = self.arena.as_ref()?;
        let secret = arena.secret();
        let identity = secret.of_bytes(meter.identity(secret), name.as_bytes());
        self.shared.retain(|_, counter| counter.strong_count() > 0);
        if let Some(counter) = self.shared.get(&identity).and_then(Weak::upgrade) {
            return Some(counter);
        }
        let Some(slot) = arena.claim(identity) else {
            log::warn!("limit {name} is counted in this process only: too many limits");
            return None;
        };
        let slot = Arc::new(slot);
        let allowed = Table::shared(&slot, 0, TRACKED_CLIENTS);
        let refused = Table::shared(&slot, Table::lines(TRACKED_CLIENTS), TRACKED_REFUSED);
        let counter = Arc::new(Counter::over(meter, period, (allowed, refused), secret));
        self.shared.insert(identity, Arc::downgrade(&counter));
        Some(counter)
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

    #[test]
    fn the_next_process_goes_on_where_one_was() {
        let file = arena::create([3, 4]).unwrap();
        let minute = Duration::from_mins(1);
        let counter = |counters: &mut Counters, name: &str, most| {
            counters.counter(name, Meter::fixed_window(most, minute), minute)
        };
        let mut one = Counters::default();
        one.share(Arena::open(&file).unwrap());
        let first = counter(&mut one, "a", 2);
        assert!(first.charge(key("192.0.2.1"), 0).decision.allowed);
        let mut two = Counters::default();
        two.share(Arena::open(&file).unwrap());
        let second = counter(&mut two, "a", 2);
        assert!(second.charge(key("192.0.2.1"), 0).decision.allowed);
        assert!(!first.charge(key("192.0.2.1"), 0).decision.allowed, "both count together");
        assert!(!second.charge(key("192.0.2.1"), 0).decision.allowed);
        assert!(second.charge(Key::Principal("x"), 0).decision.allowed);
        assert!(counter(&mut two, "b", 2).charge(key("192.0.2.1"), 0).decision.allowed);
        assert!(counter(&mut two, "a", 3).charge(key("192.0.2.1"), 0).decision.allowed);
        // Back again, also while a request still holds the counter from before.
        assert!(!counter(&mut two, "a", 2).charge(key("192.0.2.1"), 0).decision.allowed);
        drop(second);
        counter(&mut two, "a", 3);
        assert!(!counter(&mut two, "a", 2).charge(key("192.0.2.1"), 0).decision.allowed);
    }

    #[test]
    fn both_tables_fit_into_a_slot() {
        let lines = Table::lines(TRACKED_CLIENTS) + Table::lines(TRACKED_REFUSED);
        assert!(lines < arena::SLOT_LINES);
    }
}
