//! What one word of the table says: which message, until when it counts, and whether it is used up.
//!
//! Pure. Times go around a circle, of which only a part is ever in force: so one bit of them can
//! say that a message is held, and a word without that bit is what it always was.

/// Bits of a word that hold until when its entry counts; the others tell messages apart.
const TIME_BITS: u32 = 24;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// Set or cleared, this puts a time on the other side of the circle.
const HELD: u64 = 1 << (TIME_BITS - 1);

/// Seconds for which an entry can count: an eighth of the circle, 24 days.
pub(super) const MAX_AHEAD_SECONDS: u64 = 1 << (TIME_BITS - 3);

/// An entry that was never used, or was given back.
pub(super) const FREE: u64 = 0;

/// What a word means at some time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    /// Nothing, or nothing any more.
    Free,
    /// Nobody knows yet whether this message is going to be used.
    Held(u64),
    /// This message was used.
    Used(u64),
}

/// A number that tells messages apart; never that of [`FREE`]. `random`: 64 bits of a digest.
pub(super) fn identity(random: u64) -> u64 {
    (random >> TIME_BITS).max(1)
}

/// The word of a message that is held until this second.
pub(super) fn held(identity: u64, until: u64) -> u64 {
    used(identity, until) ^ HELD
}

/// The word of one that was used.
pub(super) fn used(identity: u64, until: u64) -> u64 {
    identity << TIME_BITS | (until & TIME_MASK)
}

/// What `word` means at `now`, Unix seconds.
pub(super) fn read(word: u64, now: u64) -> Entry {
    let counts = |time: u64| (time & TIME_MASK).wrapping_sub(now) & TIME_MASK <= MAX_AHEAD_SECONDS;
    match word {
        FREE => Entry::Free,
        _ if counts(word) => Entry::Used(word >> TIME_BITS),
        _ if counts(word ^ HELD) => Entry::Held(word >> TIME_BITS),
        _ => Entry::Free,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_until_its_second_on_either_side_of_the_circle() {
        let identity = identity(u64::MAX);
        // Around the place where the bits of a time begin anew, and where their first one changes.
        for now in [1_700_000_000, (7 << TIME_BITS) - 1, 7 << TIME_BITS, (7 << TIME_BITS) + HELD] {
            for ahead in [0, 1, 300, MAX_AHEAD_SECONDS] {
                assert_eq!(read(used(identity, now + ahead), now), Entry::Used(identity));
                assert_eq!(read(held(identity, now + ahead), now), Entry::Held(identity));
            }
            for until in [now - 1, now - 86_400, now + MAX_AHEAD_SECONDS + 1] {
                assert_eq!(read(used(identity, until), now), Entry::Free);
                assert_eq!(read(held(identity, until), now), Entry::Free);
            }
            assert_eq!(read(FREE, now), Entry::Free);
            assert_ne!(held(self::identity(0), now), FREE);
        }
    }
}
