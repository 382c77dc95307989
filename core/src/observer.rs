//! A look over a node's shoulder: for simulators, which check every step, and for debugging.
//!
//! Like [`engine`](crate::engine) this is not covered by semantic versioning.

use crate::engine::{Engine, Input, Output};
use crate::time::Time;

/// Sees everything that goes into a node's engine and comes out of it, in order, in the node's own task.
///
/// It must not wait, and nothing that it does may influence the node.
pub trait Observer: Send + Sync + 'static {
    /// The engine is about to handle `input`, at `now` on the node's lease clock.
    fn input(&self, engine: &Engine, now: Time, input: &Input) {
        let _ = (engine, now, input);
    }

    /// The engine has handled it; its outputs are not yet carried out.
    fn handled(&self, engine: &Engine, now: Time) {
        let _ = (engine, now);
    }

    /// This output is about to be carried out.
    fn output(&self, engine: &Engine, now: Time, output: &Output) {
        let _ = (engine, now, output);
    }
}
