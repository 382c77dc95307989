//! Turns any service into a cluster.

pub mod engine;
pub mod ids;
pub mod key;
pub mod limits;
pub mod log_message;
#[cfg_attr(not(funk_mutants), allow(unused))]
pub mod mutants;
mod raft;
pub mod runtime;
pub mod time;
pub mod timing;
pub mod transport;
#[doc(hidden)]
pub mod wire;
