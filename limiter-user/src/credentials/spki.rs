//! X.509 `SubjectPublicKeyInfo` (RFC 5280, 4.1.2.7) taken apart into the numbers of its key.
//!
//! DER has one form for each value: what has another, or bytes behind its end, is refused.

use super::jwt::{Family, Public};

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// Curve, bytes of a coordinate, identifier.
const CURVES: [(Family, usize, &[u8]); 3] = [
    (Family::P256, 32, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]),
    (Family::P384, 48, &[0x2b, 0x81, 0x04, 0x00, 0x22]),
    (Family::P521, 66, &[0x2b, 0x81, 0x04, 0x00, 0x23]),
];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const NULL: u8 = 0x05;
const IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// The key in `der`; `None` if it is not one of the kinds that are supported.
pub fn read(der: &[u8]) -> Option<Public<'_>> {
    let (info, rest) = element(SEQUENCE, der)?;
    let (algorithm, key) = element(SEQUENCE, info)?;
    let (kind, parameters) = element(IDENTIFIER, algorithm)?;
    let (bits, behind) = element(BIT_STRING, key)?;
    // The first byte of a bit string says how many bits of the last are unused.
    let (0, bits) = bits.split_first()? else { return None };
    if !rest.is_empty() || !behind.is_empty() {
        return None;
    }
    match kind {
        RSA => {
            let (nothing, rest) = element(NULL, parameters)?;
            let (numbers, behind) = element(SEQUENCE, bits)?;
            let (n, numbers) = positive(numbers)?;
            let (e, numbers) = positive(numbers)?;
            let whole = [nothing, rest, behind, numbers].iter().all(|part| part.is_empty());
            whole.then_some(Public::Rsa { n, e })
        }
        EC => {
            let (curve, rest) = element(IDENTIFIER, parameters)?;
            let (family, bytes, _) = CURVES.iter().find(|(_, _, id)| *id == curve)?;
            let (4, point) = bits.split_first()? else { return None };
            let (x, y) = point.split_at_checked(*bytes)?;
            (rest.is_empty() && y.len() == *bytes).then_some(Public::Point(*family, x, y))
        }
        ED25519 => (parameters.is_empty() && bits.len() == 32).then_some(Public::Ed25519(bits)),
        _ => None,
    }
}

/// A positive integer without the zero that keeps it positive.
fn positive(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (number, rest) = element(INTEGER, der)?;
    let number = match number {
        [0, next @ ..] if next.first().is_some_and(|first| *first >= 0x80) => next,
        [0x01..=0x7f, ..] => number,
        _ => return None,
    };
    Some((number, rest))
}

/// The contents of the element that `der` begins with, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (own, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *own != tag {
        return None;
    }
    let (length, rest) = match *first {
        short @ ..=0x7f => (usize::from(short), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_at_checked(2)?;
            (usize::from(length[0]) << 8 | usize::from(length[1]), rest)
        }
        _ => return None,
    };
    let shortest = match first {
        ..=0x7f => 0,
        0x81 => 0x80,
        _ => 0x100,
    };
    if length < shortest {
        return None;
    }
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410, 10.1.
    const ED: &[u8] = &[
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00, 0x19, 0xbf, 0x44,
        0x09, 0x69, 0x84, 0xcd, 0xfe, 0x85, 0x41, 0xba, 0xc1, 0x67, 0xdc, 0x3b, 0x96, 0xc8, 0x50,
        0x86, 0xaa, 0x30, 0xb6, 0xb6, 0xcb, 0x0c, 0x5c, 0x38, 0xad, 0x70, 0x31, 0x66, 0xe1,
    ];

    #[test]
    fn an_ed25519_key() {
        let Some(Public::Ed25519(key)) = read(ED) else { panic!("not read") };
        assert_eq!(key[..2], [0x19, 0xbf]);
    }

    #[test]
    fn no_other_form_is_read() {
        for length in 0..ED.len() {
            assert!(read(&ED[..length]).is_none());
        }
        assert!(read(&[ED, &[0]].concat()).is_none());
        // The length in two bytes where one is enough.
        let long = [&[0x30, 0x81, 0x2a][..], &ED[2..]].concat();
        assert!(read(&long).is_none());
        let mut other = ED.to_vec();
        other[8] = 0x71;
        assert!(read(&other).is_none());
    }

    #[test]
    fn integers_have_one_form() {
        assert_eq!(positive(&[2, 1, 5]), Some((&[5][..], &[][..])));
        assert_eq!(positive(&[2, 2, 0, 0x80]), Some((&[0x80][..], &[][..])));
        for der in [&[2, 1, 0][..], &[2, 1, 0x80], &[2, 2, 0, 5], &[2, 0], &[2, 2, 5]] {
            assert_eq!(positive(der), None, "{der:?}");
        }
    }
}
