//! See [`funk_fuzz::engine::run`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| funk_fuzz::engine::run(bytes));
