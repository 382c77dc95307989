//! Turns any service into a cluster.

pub mod engine;
pub mod ids;
pub mod limits;
pub mod log_message;
mod raft;
pub mod runtime;
pub mod time;
pub mod transport;
