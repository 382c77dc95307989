//! Three voters, twenty owners without a vote.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    await_answers_for_all, coarse, expect_no_failed_calls_but_proposals, form, leader, ms,
};
use crate::stack::plan::NodePlan;
use crate::stack::{Failure, Outcome, Plan, World};
use funk::Role;

/// Twenty nodes own shards and never vote; three vote. The leader is lost: every owner keeps its shards, under the same
/// tokens. Then five owners are lost at once: no election, their shards move.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "non-voters",
    about: "three voters and twenty owners without a vote lose the leader, then five owners",
    plan,
    play,
};

fn plan(seed: u64) -> Plan {
    let mut plan = coarse(seed, 23);
    plan.shards = 64;
    plan.load.every = ms(500);
    plan.load.keys = 16;
    plan.voters = 3;
    let owner = NodePlan {
        votes: false,
        ..NodePlan::exact()
    };
    plan.nodes[3..].fill(owner);
    plan
}

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    for at in 0..23 {
        let (role, served) = (world.role(at), world.serves(at));
        let votes = role != Some(Role::NonVoter);
        world.require(votes == (at < 3) && served > 0, || {
            format!("n{} is {role:?} and serves {served} shards", at + 1)
        })?;
    }
    world.require(world.voters() == 3, || format!("{} vote", world.voters()))?;
    let (old, before, term) = (leader(world)?, world.map(), world.term());
    let from = world.sim.elapsed();
    world.crash(old);
    world.await_that(
        Duration::from_secs(5),
        "the leader's shards moved",
        |world| world.owns(old) == 0 && world.term() > term,
    )?;
    let map = world.map();
    for shard in (0..map.shards()).map(funk::ids::ShardId) {
        let stays = before
            .owner(shard)
            .is_some_and(|owner| owner.node != world.names[old]);
        let same = before.epoch(shard) == map.epoch(shard);
        world.expect("I5", stays == same, || {
            format!(
                "shard {shard} of {:?} moved to {:?}",
                before.owner(shard),
                map.owner(shard)
            )
        })?;
    }
    let term = world.term();
    (10..15).for_each(|at| world.crash(at));
    world.await_that(
        Duration::from_secs(5),
        "the lost owners' shards moved",
        |world| (10..15).all(|at| world.owns(at) == 0),
    )?;
    world.expect("owners do not vote", world.term() == term, || {
        format!("term {term} became {}", world.term())
    })?;
    let now = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(10), now)?;
    expect_no_failed_calls_but_proposals(world, from)?;
    world.conclude()
}
