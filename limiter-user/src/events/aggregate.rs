//! Bounds what is published: of one offender and label, a few events a second pass as they are,
//! the rest becomes one event with their sum at the end of the second. Totals always add up.

use std::collections::{HashMap, hash_map::Entry};

use limiter_common::{report::Counter, verdict::Reason};

use super::{Event, EventKind, Lifecycle, Source};
use crate::policy::Mode;

/// Events of one key that pass unchanged each second.
pub const SINGLE_EVENTS_PER_SECOND: u32 = 5;

/// Bans, and ends of bans, that pass unchanged each second, whomever they are about.
pub const SINGLE_BANS_PER_SECOND: u32 = 20;

/// Keys remembered within a second; further offenders are summed as [`Source::Other`].
pub const MAX_KEYS: usize = 4096;

/// Of [`MAX_KEYS`], those kept free for [`Source::Other`] with every kind and mode.
const OTHER_KEYS: usize = 128;

/// Sums of the current second.
#[derive(Debug, Default)]
pub struct Aggregate {
    keys: HashMap<Key, Tally>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key {
    source: Option<Source>,
    client: Option<std::net::IpAddr>,
    kind: EventKind,
    monitor: bool,
}

#[derive(Debug, Default)]
struct Tally {
    passed: u32,
    /// The first one held back, with the sums of all of them.
    held: Option<Event>,
}

impl Aggregate {
    /// Takes an event: gives it back if it is to be published now, else adds it to the sums.
    pub fn observe(&mut self, mut event: Event) -> Option<Event> {
        if !is_bounded(event.kind) {
            return Some(event);
        }
        // Bans come in any number from one hand, each of another source.
        let is_ban = is_ban(event.kind);
        let mut key = Key {
            source: if is_ban { None } else { event.source },
            client: event.client,
            kind: event.kind,
            monitor: event.mode == Mode::Monitor,
        };
        let singles = if is_ban { SINGLE_BANS_PER_SECOND } else { SINGLE_EVENTS_PER_SECOND };
        let full = self.keys.len() >= MAX_KEYS - OTHER_KEYS;
        if full && !is_ban && !self.keys.contains_key(&key) {
            key.source = Some(Source::Other);
            key.client = None;
            event.source = key.source;
            event.client = None;
            event.request = None;
        }
        let tally = match self.keys.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Tally::default()),
        };
        if key.source != Some(Source::Other) && tally.passed < singles {
            tally.passed += 1;
            return Some(event);
        }
        match &mut tally.held {
            Some(held) => {
                held.count = held.count.saturating_add(event.count);
                held.bytes = held.bytes.saturating_add(event.bytes);
                // A sum over several interfaces is of none.
                if held.interface != event.interface {
                    held.interface = None;
                }
            }
            none if is_ban => {
                let detail = String::from("sources, told as a sum");
                *none = Some(Event { source: Some(Source::Other), detail, ..event });
            }
            none => *none = Some(event),
        }
        None
    }

    /// Sums of the packets that are held back, by reason and mode.
    pub fn held_packets(&self) -> impl Iterator<Item = (Reason, Mode, Counter)> {
        let mut sums: HashMap<(Reason, bool), Counter> = HashMap::new();
        for (key, tally) in &self.keys {
            if let (EventKind::PacketsDropped(reason), Some(held)) = (key.kind, &tally.held) {
                let sum = sums.entry((reason, key.monitor)).or_default();
                sum.packets = sum.packets.saturating_add(held.count);
                sum.bytes = sum.bytes.saturating_add(held.bytes);
            }
        }
        sums.into_iter().map(|((reason, monitor), counter)| {
            (reason, if monitor { Mode::Monitor } else { Mode::Enforce }, counter)
        })
    }

    /// Ends the second: the sums of what was held back, stamped `now_unix_ns` (so that a log
    /// stays in order of time), those of [`Source::Other`] last.
    pub fn tick(&mut self, now_unix_ns: u64) -> Vec<Event> {
        let mut events: Vec<_> = self
            .keys
            .drain()
            .filter_map(|(_, tally)| tally.held)
            .map(|event| Event { unix_ns: now_unix_ns, ..event })
            .collect();
        events.sort_by_key(|event| event.source == Some(Source::Other));
        events
    }
}

/// What a peer can cause as often as it likes.
const fn is_bounded(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Refused(_)
            | EventKind::PacketsDropped(_)
            | EventKind::Lifecycle(Lifecycle::Authenticated)
    ) || is_ban(kind)
}

/// What a list of bans causes as often as it has lines.
const fn is_ban(kind: EventKind) -> bool {
    matches!(kind, EventKind::Lifecycle(Lifecycle::Banned | Lifecycle::Unbanned))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::refusal::Refusal;

    fn drops(source: u32, packets: u64) -> Event {
        let source = Source::Address(IpAddr::from(Ipv4Addr::from_bits(source)));
        Event::packets(1, source, Reason::Banned, packets, packets * 60, Mode::Enforce)
    }

    #[test]
    fn a_few_pass_and_the_rest_is_summed() {
        let mut aggregate = Aggregate::default();
        let passed = (0..100).filter_map(|_| aggregate.observe(drops(1, 2))).count();
        assert_eq!(passed, 5);
        let sums: Vec<_> = aggregate.held_packets().collect();
        let sum = Counter { packets: 190, bytes: 190 * 60 };
        assert_eq!(sums, [(Reason::Banned, Mode::Enforce, sum)]);
        let held = aggregate.tick(9);
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].count, held[0].bytes), (190, 190 * 60));
        assert_eq!(held[0].unix_ns, 9);
        assert!(aggregate.tick(10).is_empty());
        assert!(aggregate.observe(drops(1, 2)).is_some(), "a new second");
    }

    #[test]
    fn labels_modes_and_clients_are_apart_and_lifecycle_always_passes() {
        let mut aggregate = Aggregate::default();
        for refusal in [Refusal::RateLimited, Refusal::Unauthorized] {
            for mode in [Mode::Enforce, Mode::Monitor] {
                for client in [None, Some(IpAddr::from([10, 0, 0, 1]))] {
                    for _ in 0..SINGLE_EVENTS_PER_SECOND {
                        let event = Event {
                            kind: EventKind::Refused(refusal),
                            mode,
                            client,
                            ..drops(1, 1)
                        };
                        assert!(aggregate.observe(event).is_some());
                    }
                }
            }
        }
        for _ in 0..100 {
            let event = Event::lifecycle(0, Lifecycle::Degraded, "");
            assert!(aggregate.observe(event).is_some());
        }
    }

    #[test]
    fn many_bans_are_a_few_and_a_sum() {
        let mut aggregate = Aggregate::default();
        let mut told = 0;
        for bits in 0..50_000_u32 {
            let prefix = IpAddr::from(Ipv4Addr::from_bits(bits)).into();
            let length = std::time::Duration::from_mins(1);
            let ban = Event::banned(1, prefix, length, "why", Mode::Enforce);
            told += aggregate.observe(ban).map_or(0, |event| event.count);
            let lifted = aggregate.observe(Event::unbanned(1, prefix));
            assert_eq!(lifted.is_some(), bits < SINGLE_BANS_PER_SECOND);
        }
        assert_eq!(told, u64::from(SINGLE_BANS_PER_SECOND));
        let held = aggregate.tick(9);
        assert_eq!(held.len(), 2);
        for event in held {
            assert_eq!((event.source, event.count), (Some(Source::Other), 49_980));
        }
    }

    #[test]
    fn too_many_sources_become_other_and_totals_add_up() {
        let mut aggregate = Aggregate::default();
        let mut published = 0;
        let mut sent = 0;
        for round in 0..8 {
            for source in 0..20_000 {
                sent += 1 + round;
                if let Some(event) = aggregate.observe(drops(source, 1 + round)) {
                    published += event.count;
                }
            }
            assert!(aggregate.keys.len() <= MAX_KEYS);
        }
        let held = aggregate.tick(0);
        assert!(held.len() <= MAX_KEYS);
        assert_eq!(held.last().unwrap().source, Some(Source::Other));
        published += held.iter().map(|event| event.count).sum::<u64>();
        assert_eq!(published, sent);
    }
}
