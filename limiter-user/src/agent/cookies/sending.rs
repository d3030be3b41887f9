//! Whether answers leave: the packet program hands them to the driver and never hears of them
//! again. The host's end of a veth pair, for one, sends nothing unless the other end runs XDP or
//! GRO, which this host cannot see; but the interface counts what it could not send.

use std::{fs, io};

/// Counters of the interfaces of this process's network namespace.
const INTERFACES: &str = "/proc/self/net/dev";

/// So many answers say something.
const MANY: u64 = 64;

/// Answers made and frames not sent, of one interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Count {
    interface: String,
    answers: u64,
    failed: u64,
}

/// The counts from which on is counted.
#[derive(Debug, Default)]
pub(super) struct Sending(Vec<Count>);

impl Sending {
    /// Counts from now on. `answers` by interface.
    pub(super) fn begin(answers: &[(String, u64)]) -> io::Result<Self> {
        let text = fs::read_to_string(INTERFACES)?;
        Ok(Self(counts(answers, &text)))
    }

    /// An interface by which at least half of the answers did not leave.
    pub(super) fn look(&self, answers: &[(String, u64)]) -> io::Result<Option<String>> {
        let text = fs::read_to_string(INTERFACES)?;
        Ok(self.lost(&counts(answers, &text)))
    }

    fn lost(&self, now: &[Count]) -> Option<String> {
        let is_lost = |now: &&Count| {
            let then = self.0.iter().find(|then| then.interface == now.interface);
            then.is_some_and(|then| {
                let made = now.answers.saturating_sub(then.answers);
                let failed = now.failed.saturating_sub(then.failed);
                made >= MANY && failed.saturating_mul(2) >= made
            })
        };
        now.iter().find(is_lost).map(|count| count.interface.clone())
    }
}

fn counts(answers: &[(String, u64)], interfaces: &str) -> Vec<Count> {
    let count = |(interface, answers): &(String, u64)| Count {
        interface: interface.clone(),
        answers: *answers,
        failed: failed(interfaces, interface),
    };
    answers.iter().map(count).collect()
}

/// Frames that an interface could not send: errors and drops, 11th and 12th of its counters.
fn failed(interfaces: &str, wanted: &str) -> u64 {
    let of = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> =
            counters.split_whitespace().filter_map(|counter| counter.parse().ok()).collect();
        (name.trim() == wanted).then(|| counters.iter().skip(10).take(2).sum())
    };
    interfaces.lines().find_map(of).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Inter-|   Receive                |  Transmit\n face |bytes ... |bytes ...\n\
        \u{20}   lo:     168       2    0    0    0     0          0         0      168       2    \
        7    0    0     0       0          0\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";

    #[test]
    fn errors_and_drops_are_read() {
        assert_eq!(failed(TEXT, "lo"), 7);
        assert_eq!(failed(TEXT, "eth0"), 23);
        assert_eq!(failed(TEXT, "eth1"), 0);
        assert!(fs::read_to_string(INTERFACES).unwrap().contains("lo:"));
    }

    #[test]
    fn answers_are_lost_where_the_interface_says_so() {
        let count = |interface: &str, answers, failed| Count {
            interface: interface.to_owned(),
            answers,
            failed,
        };
        let sending = Sending(vec![count("eth0", 100, 5), count("eth1", 0, 0)]);
        assert_eq!(sending.lost(&[count("eth0", 100, 900), count("eth1", 500, 0)]), None);
        assert_eq!(sending.lost(&[count("eth0", 130, 35)]), None, "too few to tell");
        assert_eq!(sending.lost(&[count("eth0", 164, 36)]), None, "most of them left");
        assert_eq!(sending.lost(&[count("eth0", 164, 37)]).as_deref(), Some("eth0"));
    }
}
