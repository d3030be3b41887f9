//! Words of maps and records.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| limiter_fuzz::fuzzing::records(data));
