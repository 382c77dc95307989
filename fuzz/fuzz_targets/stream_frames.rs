//! See [`funk_fuzz::wire::stream`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| funk_fuzz::wire::stream(bytes));
