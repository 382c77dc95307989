//! See [`funk_fuzz::certificates::names`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| funk_fuzz::certificates::names(bytes));
