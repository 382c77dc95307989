//! Ten nodes join and ten leave, within a second.

use std::time::Duration;

use super::Scenario;
use super::stage::{coarse, expect_no_failed_calls, form, ms, with_more};
use crate::random::Random;
use crate::stack::plan::NodePlan;
use crate::stack::{Failure, Outcome, Plan, World};

/// Nodes that stay.
const STAY: usize = 3;
/// Nodes that join, and nodes that leave.
const MANY: usize = 10;

/// Thirteen nodes; ten of them leave and ten others join at random times within one second. No call fails, and when the
/// storm is over thirteen nodes serve everything.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "resharding-storm",
    about: "ten nodes join and ten leave within a second: no call fails",
    plan,
    play,
};

fn plan(seed: u64) -> Plan {
    let mut plan = with_more(coarse(seed, STAY + MANY), MANY);
    plan.shards = 64;
    plan.load.every = ms(200);
    plan.load.clients = 1;
    for node in &mut plan.nodes[STAY..] {
        *node = NodePlan {
            votes: node.starts_at == NodePlan::ON_REQUEST || seed.is_multiple_of(2),
            ..*node
        };
    }
    plan
}

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let mut random = Random::new(world.plan.seed ^ 0x5702);
    let mut storm: Vec<(Duration, usize)> = (STAY..STAY + 2 * MANY)
        .map(|at| (random.span(ms(0), ms(1_000)), at))
        .collect();
    storm.sort_unstable();
    let (from, maps) = (world.sim.elapsed(), world.maps());
    for (after, at) in storm {
        let wait = (from + after).saturating_sub(world.sim.elapsed());
        world.run_for(wait)?;
        if at < STAY + MANY {
            world.require(world.runs(at), || {
                format!("n{} is not there to leave", at + 1)
            })?;
            world.leave(at);
        } else {
            world.start(at);
        }
    }
    let span = world.sim.elapsed() - from;
    world.require(span <= Duration::from_secs(1), || {
        format!("the storm lasted {span:?}")
    })?;
    world.await_that(Duration::from_secs(20), "ten have left", |world| {
        (STAY..STAY + MANY).all(|at| !world.runs(at))
    })?;
    world.await_well(Duration::from_secs(20))?;
    for at in STAY + MANY..STAY + 2 * MANY {
        let served = world.serves(at);
        world.require(served > 0, || format!("n{} serves nothing", at + 1))?;
    }
    let maps = world.maps() - maps;
    world.expect("M4", maps <= 12, || {
        format!("{maps} maps for changes within one second")
    })?;
    let left: Vec<usize> = (STAY..STAY + MANY).collect();
    expect_no_failed_calls(world, from, &left)?;
    world.conclude()
}
