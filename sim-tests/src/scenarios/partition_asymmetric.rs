//! Links that pass messages one way only.

use std::time::Duration;

use super::Scenario;
use super::stage::{await_answers_for_all, choice, coarse, cut, followers, form, leader};
use crate::stack::plan::{Cut, Target};
use crate::stack::{Failure, Outcome, World};

/// A node that is heard and does not hear, or hears and is not heard: the leader or a follower, by the seed. Within
/// seconds, with the cut still there, every key is answered for, and the struck node neither leads nor serves.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "partition-asymmetric",
    about: "the leader or a follower is deaf or mute: it neither leads nor serves, the others go on",
    plan: |seed| coarse(seed, 5),
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let struck = if choice(world, 1, 2) == 0 {
        leader(world)?
    } else {
        followers(world)[0]
    };
    let target = Target::Node(struck);
    let term = world.term();
    let led = world.leads(struck);
    cut(
        world,
        [Cut::Deaf(target), Cut::Mute(target)][choice(world, 2, 2)],
    )?;
    world.await_that(
        Duration::from_secs(6),
        "the struck node neither leads nor owns",
        |world| !world.leads(struck) && world.owns(struck) == 0,
    )?;
    world.require((world.term() > term) == led, || {
        format!(
            "from term {term} to {}, the leader was struck: {led}",
            world.term()
        )
    })?;
    let served = world.serves(struck);
    world.expect("who is cut off serves nothing", served == 0, || {
        format!("n{} serves {served} shards", struck + 1)
    })?;
    let now = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(6), now)?;
    world.conclude()
}
