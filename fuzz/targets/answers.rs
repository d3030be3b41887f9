//! Answers of the store that hosts share.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| limiter_fuzz::fuzzing::answers(data));
