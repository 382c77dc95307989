//! Two sides that do not reach each other.

use std::time::Duration;

use super::Scenario;
use super::stage::{await_answers_for_all, choice, coarse, cut, followers, form, leader, ms, side};
use crate::stack::plan::Cut;
use crate::stack::{Failure, Outcome, World};

/// Two of five nodes are cut off, in every second seed with the leader among them. The three others have all shards
/// soon after, and the two serve nothing.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "partition-symmetric",
    about: "two of five nodes are cut off, some times with the leader: the majority serves everything, the two nothing",
    plan: |seed| coarse(seed, 5),
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let leader = leader(world)?;
    let others = followers(world);
    let minority = if choice(world, 1, 2) == 0 {
        [leader, others[0]]
    } else {
        [others[0], others[1]]
    };
    let deposed = minority.contains(&leader);
    let majority: Vec<usize> = (0..5).filter(|at| !minority.contains(at)).collect();
    cut(world, Cut::Split(side(minority)))?;
    world.await_that(
        Duration::from_secs(5),
        "the majority owns everything",
        |world| minority.iter().all(|&at| world.owns(at) == 0),
    )?;
    let leads = majority.iter().find(|&&at| world.leads(at)).copied();
    world.require(leads.is_some_and(|at| !deposed || at != leader), || {
        format!("the majority's leader is {leads:?}, once it was {leader}")
    })?;
    for at in minority {
        let served = world.serves(at);
        world.expect("a minority serves nothing", served == 0, || {
            format!("n{} serves {served} shards", at + 1)
        })?;
    }
    let now = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(5), now)?;
    world.run_for(ms(500))?;
    world.conclude()
}
