//! Bearer tokens as peers present them, and signed ones of any content.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| limiter_fuzz::fuzzing::token(data));
