//! From three nodes to nine and back.

use std::time::Duration;

use super::Scenario;
use super::stage::{coarse, expect_no_failed_calls, form, ms, with_more};
use crate::stack::{Failure, Outcome, World};

/// Six nodes join, all nine serve, six leave one after the other (the first three among them in some seeds). No call fails,
/// and the group of voters follows: five of nine, three of three.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "scale-three-nine-three",
    about: "six nodes join and six leave under load: no call fails, voters follow",
    plan: |seed| {
        let mut plan = with_more(coarse(seed, 3), 6);
        plan.shards = 32;
        plan.load.clients = 2;
        plan
    },
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let from = world.sim.elapsed();
    for at in 3..9 {
        world.start(at);
        world.run_for(ms(50))?;
    }
    world.await_that(Duration::from_secs(15), "nine nodes serve", |world| {
        (0..9).all(|at| world.serves(at) >= 3)
    })?;
    world.await_that(Duration::from_secs(10), "five vote", |world| {
        world.voters() == 5
    })?;
    // Those who stay are among the first, or among the last.
    let leave: Vec<usize> = if world.plan.seed.is_multiple_of(2) {
        (3..9).collect()
    } else {
        (0..6).collect()
    };
    for &at in &leave {
        world.leave(at);
        world.await_that(Duration::from_secs(15), "it has left", |world| {
            !world.runs(at)
        })?;
    }
    world.await_well(Duration::from_secs(15))?;
    world.await_that(Duration::from_secs(10), "three vote", |world| {
        world.voters() == 3
    })?;
    expect_no_failed_calls(world, from, &leave)?;
    world.conclude()
}
