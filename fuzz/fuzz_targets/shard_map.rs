//! See [`funk_fuzz::maps::map`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| funk_fuzz::maps::map(bytes));
