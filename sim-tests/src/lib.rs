//! Simulators and the invariants that they check.

pub mod engine_world;
pub mod idle_raft;
pub mod invariants;
pub mod model_raft;
pub mod mutation;
pub mod pinned;
pub mod random;
pub mod rules;
pub mod scenarios;
pub mod stack;
pub mod sweep;
pub mod tally;

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}
