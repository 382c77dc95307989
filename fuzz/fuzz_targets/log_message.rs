//! See [`funk_fuzz::log::message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| funk_fuzz::log::message(bytes));
