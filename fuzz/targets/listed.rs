//! Lists of revoked tokens and subjects, and API keys.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| limiter_fuzz::fuzzing::listed(data));
