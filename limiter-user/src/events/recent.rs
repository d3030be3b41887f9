//! Past events for those who ask what happened: bounded by number and by memory; what fell out is
//! counted, so that an answer that is not whole says so.

use std::{collections::VecDeque, sync::Arc};

use super::Event;

/// Past events kept at most.
pub(super) const MAX_EVENTS: usize = 32_768;

/// About so much memory they take at most.
pub(super) const MAX_BYTES: usize = 16 << 20;

/// From where on past events are wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Since {
    /// The last so many.
    Last(usize),
    /// Those that happened at this time (Unix ns) or later.
    Moment(u64),
    /// Those behind this number of the stream, which counts from 1.
    After(u64),
}

/// An answer to [`Since`].
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// Oldest first.
    pub events: Vec<Arc<Event>>,
    /// Number of the first of them in the stream, or that of the next event if there are none.
    pub first: u64,
    /// How many, of those asked for or before them, are no longer kept; 0: the answer is whole.
    pub fallen: u64,
}

/// The ring.
#[derive(Debug, Default)]
pub(super) struct Recent {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    fallen: u64,
    /// Latest time among those that fell out, Unix ns.
    fallen_unix_ns: u64,
}

impl Recent {
    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.memory_bytes();
        self.events.push_back(event);
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.memory_bytes();
            self.fallen += 1;
            self.fallen_unix_ns = self.fallen_unix_ns.max(oldest.unix_ns);
        }
    }

    pub(super) fn since(&self, since: Since) -> Past {
        let kept = self.events.len();
        let (skip, fallen) = match since {
            Since::Last(count) => (kept.saturating_sub(count), 0),
            // Times may be out of order by what the proxy takes to tell: nothing is left out.
            Since::Moment(unix_ns) => {
                let first = self.events.iter().position(|event| event.unix_ns >= unix_ns);
                let is_whole = self.fallen == 0 || self.fallen_unix_ns < unix_ns;
                (first.unwrap_or(kept), if is_whole { 0 } else { self.fallen })
            }
            Since::After(number) => {
                let missing = self.fallen.saturating_sub(number);
                let skip = number.saturating_sub(self.fallen).try_into().unwrap_or(kept);
                (kept.min(skip), missing)
            }
        };
        let at_or_after = |event: &&Arc<Event>| match since {
            Since::Moment(unix_ns) => event.unix_ns >= unix_ns,
            Since::Last(_) | Since::After(_) => true,
        };
        Past {
            events: self.events.iter().skip(skip).filter(at_or_after).cloned().collect(),
            first: self.fallen + skip as u64 + 1,
            fallen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Lifecycle;

    fn event(unix_ns: u64) -> Arc<Event> {
        Arc::new(Event::lifecycle(unix_ns, Lifecycle::Attached, ""))
    }

    #[test]
    fn what_fell_out_is_told_to_whom_it_matters() {
        let mut recent = Recent::default();
        let extra = 10;
        for number in 1..=MAX_EVENTS as u64 + extra {
            recent.push(event(number * 100));
        }
        let past = recent.since(Since::Moment(0));
        assert_eq!((past.events.len(), past.first, past.fallen), (MAX_EVENTS, 11, 10));
        let past = recent.since(Since::Moment(1001));
        assert_eq!((past.events.len(), past.first, past.fallen), (MAX_EVENTS, 11, 0));
        let past = recent.since(Since::Moment(1201));
        assert_eq!((past.events[0].unix_ns, past.first), (1300, 13));
        let past = recent.since(Since::After(12));
        assert_eq!((past.events[0].unix_ns, past.first, past.fallen), (1300, 13, 0));
        assert_eq!(recent.since(Since::After(4)).fallen, 6);
        let past = recent.since(Since::After(u64::MAX));
        assert_eq!((past.events.len(), past.fallen), (0, 0));
        let past = recent.since(Since::Last(3));
        assert_eq!((past.events.len(), past.first, past.fallen), (3, 32_776, 0));
    }

    #[test]
    fn memory_is_bounded_whatever_events_carry() {
        let mut recent = Recent::default();
        for number in 0..2 * MAX_EVENTS {
            let detail = "x".repeat(number % 4096);
            recent.push(Arc::new(Event::lifecycle(1, Lifecycle::Degraded, detail)));
            assert!(recent.bytes <= MAX_BYTES && recent.events.len() <= MAX_EVENTS);
        }
        let bytes: usize = recent.events.iter().map(|event| event.memory_bytes()).sum();
        assert_eq!(bytes, recent.bytes);
        assert_eq!(recent.fallen + recent.events.len() as u64, 2 * MAX_EVENTS as u64);
    }
}
