//! Mutations of frames: flips, truncation, lies in the bytes where lengths live, splices.

use crate::random::Random;

/// Offsets of length, version, protocol and fragment fields in an untagged IPv4 or IPv6 frame and
/// the transport header behind an IPv4 header without options; tags shift them, which is as good.
const TELLING_OFFSETS: [usize; 16] =
    [12, 13, 14, 16, 17, 18, 19, 20, 21, 23, 34, 38, 39, 46, 54, 55];

/// Bytes at which parsers go wrong.
const TELLING_BYTES: [u8; 12] =
    [0x00, 0x01, 0x04, 0x06, 0x3c, 0x40, 0x44, 0x45, 0x4f, 0x60, 0x80, 0xff];

/// Longest frame that a splice or an extension makes: what fits an Ethernet MTU with tags.
const MAX_FRAME_BYTES: usize = 1522;

/// Changes `frame` once; `other` is a frame to splice with (it may be empty).
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>, other: &[u8]) {
    if frame.is_empty() {
        frame.push(random.next_u8());
        return;
    }
    let length = frame.len();
    match random.below(8) {
        0 => {
            let bit = random.below(8);
            frame[random.below(length)] ^= 1 << bit;
        }
        1 => frame[random.below(length)] = random.next_u8(),
        // Most of what a parser reads is in the first bytes.
        2 => frame[random.below(length.min(74))] = random.pick(&TELLING_BYTES),
        3 => {
            if let Some(byte) = frame.get_mut(random.pick(&TELLING_OFFSETS)) {
                *byte = random.pick(&TELLING_BYTES);
            }
        }
        4 => {
            if let Some(byte) = frame.get_mut(random.pick(&TELLING_OFFSETS)) {
                let step = random.pick(&[1_u8, 2, 4, 8, 255, 254, 252, 248]);
                *byte = byte.wrapping_add(step);
            }
        }
        5 => frame.truncate(random.below(length)),
        6 => {
            let room = MAX_FRAME_BYTES.saturating_sub(length).clamp(1, 32);
            let more = random.below(room);
            frame.extend(random.bytes(more));
        }
        _ => {
            let at = random.below(length);
            frame.truncate(at);
            if !other.is_empty() {
                frame.extend(&other[random.below(other.len())..]);
            }
            frame.truncate(MAX_FRAME_BYTES);
        }
    }
}
