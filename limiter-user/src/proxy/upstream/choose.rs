//! Which of several servers gets a request: pure arithmetic on a word with a bit for each.

use crate::policy::upstream::Balance;

/// Where a request may go, and what tells requests and servers apart.
pub(super) struct Choice<'a, Active, Hash>
where
    Active: Fn(usize) -> u32,
    Hash: Fn(usize) -> u64,
{
    /// A bit for each server that may be chosen; not 0.
    pub(super) candidates: u64,
    /// Where the next round begins; moved on.
    pub(super) next: &'a mut usize,
    /// Any number.
    pub(super) random: u64,
    /// Of the client.
    pub(super) client: u64,
    /// Requests that a server has in flight.
    pub(super) active: Active,
    /// Of a server's name.
    pub(super) hash: Hash,
}

impl<Active: Fn(usize) -> u32, Hash: Fn(usize) -> u64> Choice<'_, Active, Hash> {
    /// The number of the server.
    pub(super) fn make(self, balance: Balance) -> usize {
        match balance {
            Balance::RoundRobin => self.round_robin(),
            Balance::LeastRequests => self.least_requests(),
            Balance::ConsistentHash => self.consistent_hash(),
        }
    }

    fn round_robin(self) -> usize {
        let from_next = self.candidates & u64::MAX.checked_shl(bits(*self.next)).unwrap_or(0);
        let chosen = if from_next == 0 { self.candidates } else { from_next };
        let chosen = index(chosen.trailing_zeros());
        *self.next = chosen + 1;
        chosen
    }

    /// Two at random and the better of them: as good as asking all, and no herd follows one that
    /// has just become free (Mitzenmacher, 2001).
    fn least_requests(self) -> usize {
        let count = u64::from(self.candidates.count_ones());
        let first = self.random % count;
        // Another one, if there is.
        let second = (first + 1 + (self.random >> 32) % count.max(2).saturating_sub(1)) % count;
        let (first, second) = (self.nth(first), self.nth(second));
        if (self.active)(second) < (self.active)(first) { second } else { first }
    }

    /// Highest random weight (Thaler and Ravishankar, 1998): when a server goes only its clients
    /// move, and they spread over all others.
    fn consistent_hash(self) -> usize {
        let mut best = (0, 0);
        let mut left = self.candidates;
        while left != 0 {
            let server = index(left.trailing_zeros());
            left &= left - 1;
            let weight = mix(self.client ^ (self.hash)(server));
            if weight >= best.0 {
                best = (weight, server);
            }
        }
        best.1
    }

    /// The number of the nth candidate.
    fn nth(&self, nth: u64) -> usize {
        let mut left = self.candidates;
        for _ in 0..nth {
            left &= left - 1;
        }
        index(left.trailing_zeros())
    }
}

fn index(bit: u32) -> usize {
    usize::try_from(bit).unwrap_or(0)
}

fn bits(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Spreads bits evenly (`SplitMix64`): the same in every process, so that a client stays with its
/// server.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Of any bytes; as [`mix`].
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash, byte| mix(hash ^ u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(balance: Balance, candidates: u64, next: &mut usize, number: u64) -> usize {
        let active = |server: usize| [9, 0, 5, 1][server];
        let hash = |server: usize| mix(1000 + server as u64);
        let (random, client) = (mix(number), mix(number));
        Choice { candidates, next, random, client, active, hash }.make(balance)
    }

    #[test]
    fn round_robin_goes_round_what_is_left() {
        let mut next = 0;
        let mut turn = |candidates| choose(Balance::RoundRobin, candidates, &mut next, 0);
        assert_eq!(
            [turn(0b1111), turn(0b1111), turn(0b1111), turn(0b1111), turn(0b1111)],
            [0, 1, 2, 3, 0]
        );
        assert_eq!([turn(0b1001), turn(0b1001), turn(0b1001)], [3, 0, 3]);
        let mut last = 63;
        assert_eq!(choose(Balance::RoundRobin, 1 << 63 | 1, &mut last, 0), 63);
        assert_eq!(choose(Balance::RoundRobin, 1 << 63 | 1, &mut last, 0), 0);
    }

    #[test]
    fn least_requests_never_takes_the_busiest_of_all() {
        let mut counts = [0; 4];
        for number in 0..4000 {
            counts[choose(Balance::LeastRequests, 0b1111, &mut 0, number)] += 1;
        }
        assert_eq!(counts[0], 0, "the busiest loses against every other: {counts:?}");
        assert!(counts[1] > counts[3] && counts[3] > counts[2] && counts[2] > 0, "{counts:?}");
        assert_eq!(choose(Balance::LeastRequests, 0b0100, &mut 0, 7), 2, "the only one");
    }

    #[test]
    fn only_the_clients_of_a_server_that_goes_move() {
        let of = |candidates, client| choose(Balance::ConsistentHash, candidates, &mut 0, client);
        let mut counts = [0; 4];
        for client in 0..4000 {
            let before = of(0b1111, client);
            let after = of(0b1011, client);
            counts[before] += 1;
            assert!(before == 2 || before == after, "{client}: {before} -> {after}");
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
