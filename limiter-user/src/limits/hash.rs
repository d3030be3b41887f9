//! Keyed fingerprints of limiter keys: SipHash-1-3 (Aumasson and Bernstein, 2012).
//!
//! The same in every process and build that shares a secret, which the standard library's hashers
//! do not promise. Without the secret nobody can choose keys that fall into one set.

/// What fingerprints are made with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Secret([u64; 2]);

impl Secret {
    pub(super) const fn new(words: [u64; 2]) -> Self {
        Self(words)
    }

    /// The fingerprint of `bytes`, which differs for another `kind`.
    pub(super) fn of_bytes(self, kind: u64, bytes: &[u8]) -> u64 {
        let mut state = State::new(self);
        state.take(kind);
        state.take_tail(bytes, bytes.len() + 8);
        state.finish()
    }
}

/// A hash under way.
pub(super) struct State([u64; 4]);

impl State {
    pub(super) fn new(Secret([first, second]): Secret) -> Self {
        Self([
            first ^ 0x736f_6d65_7073_6575,
            second ^ 0x646f_7261_6e64_6f6d,
            first ^ 0x6c79_6765_6e65_7261,
            second ^ 0x7465_6462_7974_6573,
        ])
    }

    /// Takes `bytes`, which are of a `kind` below 2^8, and where they end.
    pub(super) fn take_bytes(&mut self, kind: u64, bytes: &[u8]) {
        self.take(kind | (bytes.len() as u64) << 8);
        self.take_tail(bytes, bytes.len());
    }

    fn take_tail(&mut self, bytes: &[u8], length: usize) {
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            self.take(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        last[7] = length.to_le_bytes()[0];
        self.take(u64::from_le_bytes(last));
    }

    pub(super) fn take(&mut self, word: u64) {
        self.0[3] ^= word;
        self.round();
        self.0[0] ^= word;
    }

    pub(super) fn finish(mut self) -> u64 {
        self.0[2] ^= 0xff;
        for _ in 0..3 {
            self.round();
        }
        self.0[0] ^ self.0[1] ^ self.0[2] ^ self.0[3]
    }

    fn round(&mut self) {
        let [v0, v1, v2, v3] = &mut self.0;
        *v0 = v0.wrapping_add(*v1);
        *v1 = v1.rotate_left(13) ^ *v0;
        *v0 = v0.rotate_left(32);
        *v2 = v2.wrapping_add(*v3);
        *v3 = v3.rotate_left(16) ^ *v2;
        *v0 = v0.wrapping_add(*v3);
        *v3 = v3.rotate_left(21) ^ *v0;
        *v2 = v2.wrapping_add(*v1);
        *v1 = v1.rotate_left(17) ^ *v2;
        *v2 = v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use super::*;

    #[test]
    fn it_is_siphash_1_3() {
        // The standard library's is the same function today, with a secret of zeros.
        for length in 0..40_u8 {
            let bytes: Vec<u8> = (0..length).collect();
            let mut known = DefaultHasher::new();
            known.write_u64(5);
            known.write(&bytes);
            assert_eq!(Secret::default().of_bytes(5, &bytes), known.finish(), "{length}");
        }
        assert_ne!(Secret::new([1, 0]).of_bytes(5, b"x"), Secret::new([0, 1]).of_bytes(5, b"x"));
    }
}
