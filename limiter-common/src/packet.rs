//! Bytes of a packet, read at an offset: the seam between a frame in the kernel and one in a test.

/// Bounded reads of a packet.
///
/// The only shape the verifier accepts for a packet of unknown length: a constant number of bytes
/// at an offset. (A slice over the packet is rejected: its computed length is not tied to
/// `data_end`.)
pub trait PacketBytes {
    /// The `N` bytes at `offset`, or `None` where the packet ends before them.
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// The `N` big-endian words of 4 bytes at `offset`: a header whose fields are taken out of
    /// words costs a third of one that is put together from bytes.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;

    /// As [`Self::words`], of 8 bytes.
    fn long_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]>;

    /// Length of the whole packet in bytes, all fragments of a multi-buffer packet included.
    fn length(&self) -> u64;

    /// The same value, of which the verifier knows nothing: what follows is then verified once,
    /// instead of once per value that could come here.
    #[inline]
    fn forget(&self, value: usize) -> usize {
        value
    }
}

impl PacketBytes for [u8] {
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let (words, _) = self.get(offset..)?.as_chunks();
        Some(words.first_chunk::<N>()?.map(u32::from_be_bytes))
    }

    fn long_words<const N: usize>(&self, offset: usize) -> Option<[u64; N]> {
        let (words, _) = self.get(offset..)?.as_chunks();
        Some(words.first_chunk::<N>()?.map(u64::from_be_bytes))
    }

    fn length(&self) -> u64 {
        self.len() as u64
    }
}

/// A position in a packet that only moves forward.
#[derive(Debug)]
pub struct Cursor<'a, P: ?Sized> {
    packet: &'a P,
    offset: usize,
}

impl<'a, P: PacketBytes + ?Sized> Cursor<'a, P> {
    /// At the start of the packet.
    pub fn new(packet: &'a P) -> Self {
        Self { packet, offset: 0 }
    }

    /// The `N` bytes `ahead` of the cursor, which stays where it is.
    #[inline]
    pub fn peek<const N: usize>(&self, ahead: usize) -> Option<[u8; N]> {
        self.packet.array(self.offset.wrapping_add(ahead))
    }

    /// A big-endian 16-bit field `ahead` of the cursor.
    #[inline]
    pub fn peek_u16(&self, ahead: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.peek(ahead)?))
    }

    /// The `N` big-endian words of 4 bytes at the cursor.
    #[inline]
    pub fn words<const N: usize>(&self) -> Option<[u32; N]> {
        self.packet.words(self.offset)
    }

    /// The `N` big-endian words of 8 bytes at the cursor.
    #[inline]
    pub fn long_words<const N: usize>(&self) -> Option<[u64; N]> {
        self.packet.long_words(self.offset)
    }

    /// Moves on. Every step derives from a constant or one header byte, so that the sum stays far
    /// below an overflow.
    #[inline]
    pub fn skip(&mut self, length: usize) {
        self.offset = self.offset.wrapping_add(length);
    }

    /// Makes the verifier forget all it knows of the position but that it is at most `limit`,
    /// which it is, and of which the low bits are set.
    #[inline]
    pub fn forget(&mut self, limit: usize) {
        self.offset = self.packet.forget(self.offset) & limit;
    }

    /// Like [`Self::skip`], and the verifier knows of `length` only that it is at most `limit`,
    /// which it is, and of which the low bits are set.
    #[inline]
    pub fn skip_forgotten(&mut self, length: usize, limit: usize) {
        self.skip(self.packet.forget(length) & limit);
    }

    /// Bytes passed so far.
    #[inline]
    pub fn offset(&self) -> usize {
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_end_with_the_packet() {
        let bytes: &[u8] = &[1, 2, 3, 4];
        assert_eq!(bytes.array::<2>(2), Some([3, 4]));
        assert_eq!(bytes.array::<2>(3), None);
        assert_eq!(bytes.words::<1>(0), Some([0x0102_0304]));
        assert_eq!(bytes.words::<1>(1), None);
        assert_eq!(bytes.long_words::<1>(0), None);
        let long: &[u8] = &[0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(long.words::<2>(1), Some([0x0102_0304, 0x0506_0708]));
        assert_eq!(long.long_words::<1>(1), Some([0x0102_0304_0506_0708]));
        assert_eq!(bytes.array::<1>(usize::MAX), None);
        let mut cursor = Cursor::new(bytes);
        cursor.skip(2);
        assert_eq!(cursor.peek_u16(0), Some(0x0304));
        assert_eq!(cursor.peek::<1>(2), None);
        assert_eq!(cursor.offset(), 2);
    }
}
