//! What the kernel's clocks say, so that settings can tell one from the other.

use aya::{TestRun as _, TestRunOptions, programs::Xdp};
use limiter_common::settings::Settings;
use limiter_user::clock;

use super::{CLOCK_PROBE, Program};

/// Enough to meet a moment just after a tick.
const CLOCK_SAMPLES: u32 = 20_000;

impl Program {
    /// Fills in what lets the program tell `CLOCK_MONOTONIC` from jiffies, never late by more
    /// than a tick and never early.
    pub fn calibrate(&self, settings: &mut Settings) {
        settings.tick_ns = clock::tick_ns();
        let mut offset = None;
        for _ in 0..CLOCK_SAMPLES {
            let mut out = [0; 64];
            let options = TestRunOptions {
                data_in: Some(&[0; 64]),
                data_out: Some(&mut out),
                ..TestRunOptions::new()
            };
            let probe: &Xdp =
                self.ebpf.program(CLOCK_PROBE).expect(CLOCK_PROBE).try_into().expect("XDP");
            probe.test_run(options).expect("the clocks are read");
            let word = |at: usize| u64::from_ne_bytes(out[at..at + 8].try_into().expect("8 bytes"));
            let difference = word(8).wrapping_sub(word(0).wrapping_mul(settings.tick_ns));
            let least = offset.get_or_insert(difference);
            if difference.wrapping_sub(*least).cast_signed() < 0 {
                *least = difference;
            }
        }
        settings.tick_offset_ns = offset.unwrap_or_default();
    }
}
