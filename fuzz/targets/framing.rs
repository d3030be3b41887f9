//! Requests over HTTP/1, cut in every way.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| limiter_fuzz::fuzzing::framing(data));
