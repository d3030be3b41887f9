//! A policy, and frames that come one after the other.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| limiter_fuzz::fuzzing::decide(data));
