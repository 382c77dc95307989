//! Simulators and the invariants that they check.

pub mod engine_world;
pub mod invariants;
pub mod model_raft;
pub mod random;
pub mod mutation;
pub mod sweep;
pub mod pinned;
