//! Documents of keys as issuers publish them.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| limiter_fuzz::fuzzing::key_set(data));
