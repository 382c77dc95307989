//! A node joins while another leaves.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    EVEN, NO_GAP, PROBE_EVERY, choice, coarse, expect_no_failed_calls, expect_no_pause, followers,
    form, leader, ms, with_more,
};
use crate::stack::{Failure, Outcome, World};

/// One node starts and another (in some seeds the leader) is asked to leave, within a few milliseconds. No call fails, and
/// what stays where it is is answered for throughout.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "join-and-leave-at-once",
    about: "a node joins while another, or the leader, leaves: no call fails, what does not move never pauses",
    plan: |seed| {
        let mut plan = with_more(coarse(seed, 4), 1);
        plan.shards = EVEN;
        plan.load.clients = 1;
        plan
    },
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let leaver = match choice(world, 1, 3) {
        0 => leader(world)?,
        at => followers(world)[at],
    };
    let stay: Vec<usize> = (0..4).filter(|at| *at != leaver).collect();
    stay.iter().for_each(|&at| world.probe(at, PROBE_EVERY));
    world.run_for(ms(200))?;
    let from = world.sim.elapsed();
    world.start(4);
    // From before the others have heard of the one until they have.
    let after = choice(world, 2, 250) as u64;
    world.run_for(ms(after))?;
    let joined = world.owns(4) > 0;
    world.leave(leaver);
    world.require(!joined, || "the join was over before".to_owned())?;
    world.await_that(
        Duration::from_secs(10),
        "the one is there, the other gone",
        |world| world.serves(4) > 0 && !world.runs(leaver) && world.check_recovered().is_ok(),
    )?;
    let now = world.sim.elapsed();
    expect_no_failed_calls(world, from, &[leaver])?;
    expect_no_pause(world, from, now, NO_GAP)?;
    world.conclude()
}
