//! A node that does not let its shards go.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    EVEN, NO_GAP, PROBE_EVERY, coarse, expect_no_pause, followers, form, ms, with_more,
};
use crate::stack::record::Phase;
use crate::stack::{Failure, Outcome, World};

/// A user of one node holds guards for much longer than the drain timeout while a node joins. It delays its own shards
/// only (P4): the new node gets those of the others. What does not move is served all the time. When the guards are gone, so is
/// the imbalance.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "slow-drainer",
    about: "guards are held for longer than the drain timeout: only the shards of that node wait",
    plan: |seed| {
        let mut plan = with_more(coarse(seed, 4), 1);
        plan.shards = EVEN;
        plan.timing.drain_timeout = ms(400);
        plan
    },
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let slow = followers(world)[0];
    let owned = world.owns(slow);
    (0..4).for_each(|at| world.probe(at, PROBE_EVERY));
    let held = world.hold(slow);
    world.run_for(ms(200))?;
    let from = world.sim.elapsed();
    world.start(4);
    world.run_until_hand_off(
        Duration::from_secs(5),
        "held up",
        |hand_off| matches!(hand_off.phase, Phase::Draining(acks) if acks > 0),
    )?;
    world.await_that(Duration::from_secs(3), "the others' shards move", |world| {
        world.owns(4) > 0 && world.serves(4) == world.owns(4)
    })?;
    world.require(world.count("drains given up") > 0, || {
        "no drain was given up".to_owned()
    })?;
    world.expect("P4", world.owns(slow) == owned, || {
        format!(
            "the slow node owns {} shards, not {owned}",
            world.owns(slow)
        )
    })?;
    world.run_for(ms(2_000))?;
    world.expect("I1", world.owns(slow) == owned, || {
        "shards of a live node moved while their guards were held".to_owned()
    })?;
    drop(held);
    world.await_that(
        Duration::from_secs(20),
        "the slow node's shards move too",
        |world| world.owns(slow) < owned && world.owns(4) == 12,
    )?;
    let now = world.sim.elapsed();
    expect_no_pause(world, from, now, NO_GAP)?;
    world.conclude()
}
