//! What the lists said about a source, as its slot remembers it.

use crate::lists::ListValue;

/// What the lists said about a source, packed into a word of its slot: 2 bits of verdict, 16 bits
/// of interfaces, 13 bits of the key (a slot that changed hands is not believed), 32 bits of the
/// policy generation (a change makes it stale), and one that says that anything was said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CachedAccess(u64);

/// Bits of the value: 0 and 1, and 16 to 31.
const VALUE: u64 = 0xffff_0003;
/// Anything was said.
const SAID: u64 = 1 << 2;

impl CachedAccess {
    /// This list value.
    #[inline]
    pub const fn new(value: ListValue, key: u64, generation: u64) -> Self {
        Self(Self::stamp(key, generation) | value.word())
    }

    /// The value in a slot's word, if it still holds.
    #[inline]
    pub const fn read(word: u64, key: u64, generation: u64) -> Option<ListValue> {
        if word & !VALUE == Self::stamp(key, generation) {
            Some(ListValue::from_word(word))
        } else {
            None
        }
    }

    /// The word.
    #[inline]
    pub const fn word(self) -> u64 {
        self.0
    }

    #[inline]
    const fn stamp(key: u64, generation: u64) -> u64 {
        let tag = (key ^ (key >> 13) ^ (key >> 26)) & 0x1fff;
        (tag << 3) | SAID | (generation << 32)
    }
}
