//! See [`funk_fuzz::certificates::hello`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| funk_fuzz::certificates::hello(bytes));
