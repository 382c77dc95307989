//! Clocks that run fast and slow.

use std::time::Duration;

use super::Scenario;
use super::stage::{Loss, cut, exact, form, leader, lose, ms};
use crate::stack::plan::{Cut, Target};
use crate::stack::{Failure, Outcome, Plan, World};

/// Clocks err by as much as is configured, in both directions, and nodes are lost again and again: every invariant holds.
pub(super) const AT_THE_BOUND: Scenario = Scenario {
    name: "clock-skew-at-the-bound",
    about: "clocks err by as much as is configured while owners and leaders are lost: everything holds",
    plan: |seed| {
        let e = Plan::quiet(seed, 1).timing.clock_error;
        skewed(seed, e)
    },
    play: play_at_the_bound,
};

/// Clocks err by ten times as much, and an owner with a slow clock is cut off from a leader with a fast one. Its shards are
/// given away while it still serves them, and the checks see it (I1, I3 or I10): a run without a violation fails.
pub(super) const BEYOND_THE_BOUND: Scenario = Scenario {
    name: "clock-skew-beyond-the-bound",
    about: "clocks err by ten times as much as is configured: two owners at once, and the checks catch it",
    plan: |seed| {
        let e = Plan::quiet(seed, 1).timing.clock_error;
        skewed(seed, e * 10.0)
    },
    play: play_beyond_the_bound,
};

/// The first node is slow, the others are fast.
fn skewed(seed: u64, error: f64) -> Plan {
    let mut plan = exact(seed, 3);
    for (at, node) in plan.nodes.iter_mut().enumerate() {
        node.rate = if at == 0 { 1.0 - error } else { 1.0 + error };
        node.offset = ms(1_000 * (seed % 100) + 500 * at as u64);
    }
    plan
}

/// The slow node follows.
fn let_a_fast_one_lead(world: &mut World) -> Result<(), Failure> {
    for _ in 0..20 {
        if leader(world)? != 0 {
            // A while, so that leases are those of this leader.
            return world.run_for(Duration::from_secs(1));
        }
        world.node(0)?.step_down();
        world.run_until(Duration::from_secs(1), |world| {
            world.only_leader().is_some_and(|at| at != 0)
        })?;
        world.await_well(Duration::from_secs(10))?;
    }
    Err(world.not_staged("the slow node leads all the time".to_owned()))
}

fn play_at_the_bound(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    // The slow owner and a fast leader; then whoever leads.
    let_a_fast_one_lead(world)?;
    for struck in [
        Target::Node(0),
        Target::Leader,
        Target::Node(0),
        Target::Leader,
    ] {
        let at = match struck {
            Target::Node(at) => at,
            _ => leader(world)?,
        };
        let owned = world.owns(at);
        cut(world, Cut::Isolate(struck))?;
        world.await_that(Duration::from_secs(5), "its shards are others'", |world| {
            owned > 0 && world.owns(at) == 0
        })?;
        world.sim.simulation().heal_all();
        world.note("healed");
        world.await_well(Duration::from_secs(10))?;
    }
    world.conclude()
}

fn play_beyond_the_bound(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let_a_fast_one_lead(world)?;
    world.require(world.serves(0) > 0, || {
        "the slow node serves nothing".to_owned()
    })?;
    lose(world, 0, Loss::Link)?;
    let end = world.run_until(Duration::from_secs(5), |world| world.owns(0) == 0);
    match end {
        Err(failure) if ["I1", "I3", "I10"].contains(&failure.violation.invariant) => {
            world.note("caught, as it should be");
            Ok(world.outcome(Duration::ZERO))
        }
        Err(failure) => Err(failure),
        Ok(moved) => Err(world.not_staged(format!(
            "nothing was caught although clocks lie; the shards moved: {moved}"
        ))),
    }
}
