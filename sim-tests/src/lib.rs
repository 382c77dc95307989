//! Simulators and the invariants that they check.

pub mod engine_world;
pub mod invariants;
pub mod model_raft;
pub mod mutation;
pub mod pinned;
pub mod random;
pub mod stack;
pub mod sweep;
pub mod tally;
