//! Whole engines under arbitrary inputs.
//!
//! A run is a [`plan`]: a few nodes and a list of steps. Some steps are what the world does to nodes that are well
//! (time, elections, entries applied, hooks that end), and keep what the engine is promised about its own devices;
//! some are what a peer with a good certificate and bad intentions may send: any message, any entry, any
//! snapshot, any tags. After every input the invariants are checked and all outputs drained ([`world`]).

pub mod entry;
mod group;
pub mod hostile;
pub mod plan;
mod seat;
pub mod world;

use arbitrary::{Arbitrary, Unstructured};

/// Reads a plan from the bytes and runs it.
pub fn run(bytes: &[u8]) {
    run_world(bytes);
}

/// The same; the world as it is at the end.
pub fn run_world(bytes: &[u8]) -> Option<world::World> {
    // Too few bytes are a plan of zeros.
    let plan = plan::Plan::arbitrary_take_rest(Unstructured::new(bytes)).ok()?;
    let mut world = world::World::new(&plan.setup);
    world.run(&plan.steps);
    Some(world)
}
