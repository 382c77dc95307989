//! See [`funk_fuzz::wire::gossip`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| funk_fuzz::wire::gossip(bytes));
