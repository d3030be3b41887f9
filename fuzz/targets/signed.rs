//! Signatures, digests and webhooks as peers present them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| limiter_fuzz::fuzzing::signed(data));
