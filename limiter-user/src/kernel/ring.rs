//! Records out of the ring buffer: length and contents are checked, never trusted.

use aya::maps::{MapData, RingBuf};
use limiter_common::report::{DROP_WORDS, DropSlot};

/// Takes what is in the buffer, at most `limit` records. How many were not records.
pub(super) fn drain(
    ring: &mut RingBuf<MapData>,
    limit: usize,
    mut record: impl FnMut(DropSlot),
) -> u64 {
    let mut invalid = 0;
    for _ in 0..limit {
        let Some(item) = ring.next() else { break };
        match decode(&item) {
            Some(slot) => record(slot),
            None => invalid += 1,
        }
    }
    invalid
}

fn decode(bytes: &[u8]) -> Option<DropSlot> {
    let (words, rest) = bytes.as_chunks::<8>();
    let words: &[[u8; 8]; DROP_WORDS] = words.try_into().ok()?;
    rest.is_empty().then(|| DropSlot::from_words(words.map(u64::from_ne_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_records_are_records() {
        assert!(decode(&[0; DROP_WORDS * 8]).is_some());
        assert!(decode(&[0; DROP_WORDS * 8 - 1]).is_none());
        assert!(decode(&[0; DROP_WORDS * 8 + 8]).is_none());
        assert!(decode(&[]).is_none());
    }
}
