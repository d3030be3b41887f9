//! What upstreams say of their own limits.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| limiter_fuzz::fuzzing::upstream_limits(data));
