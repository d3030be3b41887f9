//! What is known of this host's ports: a byte for each, so that one look-up answers for all.

/// One port of one protocol: which service it belongs to, and what it is to the host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortFacts(u8);

const SERVICE: u8 = 0x1f;
const LISTENING: u8 = 1 << 6;
const FAILSAFE: u8 = 1 << 7;

impl PortFacts {
    /// The service that the port belongs to, 0 for none (see [`crate::settings::MAX_SERVICES`]).
    #[inline]
    pub const fn service(self) -> u32 {
        (self.0 & SERVICE) as u32
    }

    /// TCP: this host certainly listens on it, so that packets to it are no replies.
    #[inline]
    pub const fn is_listening(self) -> bool {
        self.0 & LISTENING != 0
    }

    /// TCP: exempt from bans, lists and default, not from limits.
    #[inline]
    pub const fn is_failsafe(self) -> bool {
        self.0 & FAILSAFE != 0
    }

    /// The port as one of a service (below 32).
    #[must_use]
    pub const fn of_service(self, service: u8) -> Self {
        Self((self.0 & !SERVICE) | (service & SERVICE))
    }

    /// The port as one that is listened on.
    #[must_use]
    pub const fn listening(self) -> Self {
        Self(self.0 | LISTENING)
    }

    /// The port as a failsafe one.
    #[must_use]
    pub const fn failsafe(self) -> Self {
        Self(self.0 | FAILSAFE)
    }

    /// The facts about a port in the word that holds them.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the cut is the purpose")]
    pub const fn in_word(word: u64, port: u16) -> Self {
        Self((word >> (8 * (port & 7))) as u8)
    }

    /// The word with these facts about a port instead of what it said.
    #[must_use]
    pub const fn put(self, word: u64, port: u16) -> u64 {
        let shift = 8 * (port & 7);
        (word & !(0xff << shift)) | ((self.0 as u64) << shift)
    }
}

/// Words for all ports of TCP and UDP.
pub const PORT_WORDS: u32 = 2 * 65_536 / 8;

/// Index of the word that holds a port's facts, below [`PORT_WORDS`].
#[inline]
pub const fn port_word(is_udp: bool, port: u16) -> u32 {
    ((is_udp as u32) << 13) | (port as u32 >> 3)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{collections::HashSet, vec};

    use super::*;

    #[test]
    fn every_port_of_both_protocols_has_a_byte_of_its_own() {
        let mut words = vec![0; PORT_WORDS as usize];
        let facts = |is_udp: bool, port: u16| {
            let facts = PortFacts::default().of_service((port % 31) as u8 + u8::from(is_udp));
            if port.is_multiple_of(3) { facts.failsafe() } else { facts.listening() }
        };
        let mut places = HashSet::new();
        for is_udp in [false, true] {
            for port in 0..=u16::MAX {
                let index = port_word(is_udp, port);
                assert!(places.insert((index, port & 7)));
                let word = &mut words[index as usize];
                *word = facts(is_udp, port).put(facts(true, 5).put(*word, port), port);
            }
        }
        for is_udp in [false, true] {
            for port in 0..=u16::MAX {
                let word = words[port_word(is_udp, port) as usize];
                let found = PortFacts::in_word(word, port);
                assert_eq!(found, facts(is_udp, port));
                assert_eq!(found.service(), u32::from(port % 31) + u32::from(is_udp));
                assert_eq!(found.is_failsafe(), port % 3 == 0);
                assert_eq!(found.is_listening(), port % 3 != 0);
            }
        }
    }
}
