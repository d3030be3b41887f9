//! Whether a listener of this host is flooded: what the stack counts goes in, a judgement comes
//! out. Reads `TcpExt` counters of this process's network namespace; changes nothing.

use std::{fs, io};

/// Counters of this namespace: the name under which a process sees its own.
const COUNTERS: &str = "/proc/self/net/netstat";

/// A flood is over when the stack has felt none for so long: cookies that are on their way then
/// are still accepted, and a flood that pauses does not switch back and forth.
pub(super) const OVER_AFTER_NS: u64 = 10_000_000_000;

/// Where `tcp_syncookies` is 2 the stack makes a cookie for everybody, and its counter says nothing
/// about queues: more than so many a second are a flood.
const MANY_PER_SECOND: u64 = 5_000;

/// What the stack counted since it started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counters {
    /// SYNs that found the queue of their listener full: cookies made (also those that the packet
    /// program asks for), and SYNs dropped because cookies are off.
    queue_full: u64,
    /// SYNs dropped for any reason but a full queue of connections that nobody accepts.
    dropped: u64,
}

impl Counters {
    pub(super) fn read() -> io::Result<Self> {
        let text = fs::read_to_string(COUNTERS)?;
        Self::parse(&text).ok_or_else(|| io::Error::other("no TcpExt counters"))
    }

    /// Names in one line, values in the next.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
        let (names, values) = (lines.next()?, lines.next()?);
        let of = |wanted: &str| {
            let at = names.split(' ').position(|name| name == wanted)?;
            values.split(' ').nth(at)?.parse::<u64>().ok()
        };
        let queue_full = of("TCPReqQFullDoCookies")?.wrapping_add(of("TCPReqQFullDrop")?);
        // One that nobody accepts is counted as both; cookies do not help against that.
        let dropped = of("ListenDrops")?.wrapping_sub(of("ListenOverflows")?);
        Some(Self { queue_full, dropped })
    }
}

/// What was seen at the last look.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last: Option<(u64, Counters)>,
    /// When the stack felt the flood last.
    felt_ns: Option<u64>,
}

impl Watch {
    /// One that knows of a flood which an earlier agent saw.
    pub(super) fn flooded(now_ns: u64) -> Self {
        Self { last: None, felt_ns: Some(now_ns) }
    }

    /// What the last look found.
    pub(super) const fn is_flooded(&self) -> bool {
        self.felt_ns.is_some()
    }

    /// Whether there is a flood now; `setting` is the value of `tcp_syncookies`.
    pub(super) fn look(&mut self, now_ns: u64, now: Counters, setting: u8) -> bool {
        if let Some((then_ns, then)) = self.last.replace((now_ns, now)) {
            let full = now.queue_full.saturating_sub(then.queue_full);
            let dropped = now.dropped.saturating_sub(then.dropped);
            let elapsed_ns = now_ns.saturating_sub(then_ns).max(1);
            let is_felt = match setting {
                // Without cookies SYNs are dropped while a quarter of the queue is left
                // (`tcp_max_syn_backlog`), and only this counter shows it.
                0 => full > 0 || dropped > 0,
                1 => full > 0,
                _ => full.saturating_mul(1_000_000_000) / elapsed_ns >= MANY_PER_SECOND,
            };
            if is_felt {
                self.felt_ns = Some(now_ns);
            }
        }
        if self.felt_ns.is_some_and(|felt_ns| now_ns.saturating_sub(felt_ns) >= OVER_AFTER_NS) {
            self.felt_ns = None;
        }
        self.is_flooded()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn counters(queue_full: u64, dropped: u64) -> Counters {
        Counters { queue_full, dropped }
    }

    #[test]
    fn counters_are_found_by_name() {
        let text = "TcpExt: ListenOverflows X ListenDrops TCPReqQFullDoCookies TCPReqQFullDrop\n\
                    TcpExt: 3 9 10 20 30\nIpExt: A\nIpExt: 1\n";
        assert_eq!(Counters::parse(text), Some(counters(50, 7)));
        assert_eq!(Counters::parse("TcpExt: A\nTcpExt: 1\n"), None);
        Counters::read().unwrap();
    }

    #[test]
    fn a_flood_begins_with_the_first_full_queue_and_ends_after_quiet() {
        let mut watch = Watch::default();
        assert!(!watch.look(0, counters(100, 0), 1), "what was before is not now");
        assert!(!watch.look(SECOND_NS, counters(100, 5), 1), "dropped, but not for a full queue");
        assert!(watch.look(2 * SECOND_NS, counters(101, 5), 1));
        assert!(watch.look(11 * SECOND_NS, counters(101, 5), 1));
        assert!(watch.look(11 * SECOND_NS, counters(102, 5), 1));
        assert!(watch.look(20 * SECOND_NS, counters(102, 5), 1));
        assert!(!watch.look(21 * SECOND_NS, counters(102, 5), 1));
        assert!(!watch.look(22 * SECOND_NS, counters(102, 5), 0));
        assert!(watch.look(23 * SECOND_NS, counters(102, 6), 0), "dropped without cookies");
    }

    #[test]
    fn where_everybody_gets_a_cookie_the_rate_counts() {
        let mut watch = Watch::default();
        assert!(!watch.look(0, counters(0, 0), 2));
        assert!(!watch.look(SECOND_NS / 10, counters(400, 0), 2));
        assert!(watch.look(SECOND_NS / 5, counters(950, 0), 2));
    }

    #[test]
    fn what_an_earlier_agent_saw_is_believed_for_a_while() {
        let mut watch = Watch::flooded(SECOND_NS);
        assert!(watch.look(2 * SECOND_NS, counters(7, 7), 1));
        assert!(!watch.look(11 * SECOND_NS, counters(7, 7), 1));
    }
}
