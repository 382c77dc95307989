//! See [`funk_fuzz::raft::rpc`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| funk_fuzz::raft::rpc(bytes));
