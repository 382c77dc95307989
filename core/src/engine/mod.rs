//! The protocol, pure: no clock, randomness source, IO or `async`.

pub mod bootstrap;
pub mod membership;
pub mod message;
pub mod placement;
pub mod replicated;
pub mod shard_map;
