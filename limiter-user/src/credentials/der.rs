//! Reading DER, as far as certificates need it: one cursor that never indexes.
//!
//! In: bytes; out: elements, or nothing at all for what is not DER.

/// Tags that certificates use (X.690, 8.1.2).
pub(super) mod tag {
    pub(in crate::credentials) const OBJECT: u8 = 0x06;
    pub(in crate::credentials) const UTF8: u8 = 0x0c;
    pub(in crate::credentials) const PRINTABLE: u8 = 0x13;
    pub(in crate::credentials) const IA5: u8 = 0x16;
    pub(in crate::credentials) const OCTETS: u8 = 0x04;
    pub(in crate::credentials) const SEQUENCE: u8 = 0x30;
    pub(in crate::credentials) const SET: u8 = 0x31;
}

/// Elements one after another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element: its tag and content. Lengths in their shortest form only, as DER demands.
    pub(super) fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        // Tags of several bytes do not occur.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = match first {
            ..=0x7f => (usize::from(first), rest),
            0x81 => match rest.split_first()? {
                (&length @ 0x80.., rest) => (usize::from(length), rest),
                _ => return None,
            },
            0x82 => match rest.split_first_chunk::<2>()? {
                (&[high, low], rest) if high > 0 => {
                    (usize::from(high) << 8 | usize::from(low), rest)
                }
                _ => return None,
            },
            // 64 KiB and more.
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which has this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.any().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The elements inside the next one, which has this tag.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.expect(tag).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_form() {
        let read = |bytes: &[u8]| Reader::new(bytes).any().map(|(_, content)| content.len());
        assert_eq!(read(&[4, 0]), Some(0));
        assert_eq!(read(&[4, 1, 7]), Some(1));
        assert_eq!(read(&[&[4, 0x81, 0x80][..], &[0; 128]].concat()), Some(128));
        assert_eq!(read(&[&[4, 0x82, 1, 0][..], &[0; 256]].concat()), Some(256));
        for bad in [&[4][..], &[4, 1], &[4, 0x80, 0, 0], &[4, 0x81, 1, 0], &[0x1f, 1, 0]] {
            assert_eq!(read(bad), None, "{bad:x?}");
        }
        assert_eq!(read(&[&[4, 0x82, 0, 0x80][..], &[0; 128]].concat()), None);
    }
}
