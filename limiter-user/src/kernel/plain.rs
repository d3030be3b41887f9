//! The one bridge between shared records and bytes in maps.

use aya::Pod;
use limiter_common::{
    ban::Ban,
    report::{Counter, DropSlot},
    settings::{ServiceSettings, Settings},
};

/// A record that lies in a map.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

macro_rules! plain {
    ($($record:ty),+) => {$(
        // SAFETY: the record is `repr(C)` and consists of 8-byte integers only, so that it has no
        // padding and every bit pattern is a value.
        #[expect(unsafe_code, reason = "aya reads and writes map values as bytes")]
        unsafe impl Pod for Plain<$record> {}
    )+};
}

plain!(Settings, ServiceSettings, Ban, Counter, DropSlot);
