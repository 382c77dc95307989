//! The whole stack under simulation: the nodes that ship, on the simulated network, with a load and faults.

pub mod determinism;
mod direct;
mod disk_faults;
mod faults;
pub mod plan;
mod plan_json;
mod plan_swarm;
pub mod record;
pub mod service;
pub mod shrink;
pub mod sweep;
pub mod sweep_reached;
pub mod timeline;
pub mod trace;
pub mod trace_chrome;
pub mod trace_messages;
pub mod trace_spans;
pub mod workload;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use direct::{HandOff, Held, STAGING};
pub use plan::Plan;
pub use world::{Failure, Outcome, World};

use crate::invariants::Violation;

/// Runs a plan. A panic of a node is a failure like any other.
pub fn run(plan: &Plan) -> Result<Outcome, Box<Failure>> {
    let mut world = World::new(plan.clone(), false);
    finish(&mut world)
}

/// Runs the world's plan to its end.
pub fn finish(world: &mut World) -> Result<Outcome, Box<Failure>> {
    let result = catch_unwind(AssertUnwindSafe(|| world.run_to_the_end()));
    match result {
        Ok(result) => result.map_err(Box::new),
        Err(panic) => {
            let text = crate::panic_text(panic.as_ref());
            Err(Box::new(world.failure(Violation::new("no panic", text))))
        }
    }
}

/// Goes on after a violation, so that a trace shows what comes of it. After a panic, or when a node did not start, there
/// is nothing to go on with.
pub fn go_on(world: &mut World, failure: &Failure, span: Duration) {
    let stops =
        |failure: &Failure| ["no panic", world::NODE_RUNS].contains(&failure.violation.invariant);
    if stops(failure) {
        return;
    }
    let end = world.sim.elapsed() + span;
    while world.sim.elapsed() < end {
        match catch_unwind(AssertUnwindSafe(|| world.step())) {
            Ok(Err(failure)) if stops(&failure) => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}
