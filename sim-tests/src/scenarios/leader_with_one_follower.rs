//! The leader on the smaller side.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    await_answers_for_all, await_election, choice, cut, exact, expect_no_answer_under, form,
    leader, ms, tokens_of,
};
use crate::stack::plan::Cut;
use crate::stack::{Failure, Outcome, World};

/// The leader and one follower are cut off from three others. It goes on as a leader that hears no quorum: it must stop
/// granting and serving within its bounds, and step down (L3, L6); the others elect and take all shards over (L4, L5).
pub(super) const SCENARIO: Scenario = Scenario {
    name: "leader-with-one-follower",
    about: "the leader is cut off with one follower: it stops serving before the others take over, and steps down",
    plan: |seed| exact(seed, 5),
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let old = leader(world)?;
    let term = world.term();
    let tokens = tokens_of(world, old);
    let friend = choice(world, 1, 4);
    cut(world, Cut::LeaderAndOne(friend))?;
    let friend = if friend < old { friend } else { friend + 1 };
    let others: Vec<usize> = (0..5).filter(|at| *at != old && *at != friend).collect();
    // An answer to a heartbeat may have been on its way: a little more than the bound, on an exact clock.
    world.run_for(world.plan.timing.leader_bound + ms(2))?;
    world.expect("L3", world.serves(old) == 0, || {
        "a leader serves although it has heard no quorum for longer than its bound".to_owned()
    })?;
    world.require(world.leads(old), || {
        "it has stepped down at once".to_owned()
    })?;
    await_election(world, term, &others)?;
    world.await_that(
        Duration::from_secs(1),
        "the old leader steps down",
        |world| !world.leads(old),
    )?;
    world.await_that(
        Duration::from_secs(3),
        "the others own everything",
        |world| world.owns(old) == 0 && world.owns(friend) == 0,
    )?;
    let now = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(5), now)?;
    expect_no_answer_under(world, &tokens, now)?;
    world.conclude()
}
