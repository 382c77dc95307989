//! See [`funk_fuzz::wire::datagram`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| funk_fuzz::wire::datagram(bytes));
