//! Two elections during one hand-off.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    EVEN, Loss, await_election, exact, followers, form, leader, lose, loss, ms, with_more,
};
use crate::stack::record::Phase;
use crate::stack::{Failure, Outcome, World};

/// A node joins, one node drains slowly, the leader is lost, and then its successor too, as soon as it has superseded the
/// hand-off that it found (P5). No map came into force meanwhile; the third leader brings one about.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "two-elections-in-one-hand-off",
    about: "the leader of a hand-off is lost, and its successor in the middle of the same hand-off",
    plan: |seed| {
        let mut plan = with_more(exact(seed, 5), 1);
        plan.shards = EVEN;
        plan.bootstrap_expect = 5;
        plan.timing.drain_timeout = ms(3_000);
        plan
    },
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let (first, term) = (leader(world)?, world.term());
    let slow = followers(world)[0];
    let held = world.hold(slow);
    world.run_for(ms(5))?;
    world.start(5);
    world.run_until_hand_off(
        Duration::from_secs(5),
        "half drained",
        |hand_off| matches!(hand_off.phase, Phase::Draining(acks) if acks > 0),
    )?;
    let (maps, how) = (world.maps(), loss(world));
    let proposal = world.hand_off().proposal;
    lose(world, first, how)?;
    let others: Vec<usize> = (0..6).filter(|at| *at != first).collect();
    let second = await_election(world, term, &others)?;
    let second_term = world.term();
    if second == slow {
        // Then it cannot be lost with the guards that hold the hand-off up, but for its links.
        lose(world, second, Loss::Link)?;
    } else {
        world.run_until_hand_off(Duration::from_secs(2), "proposed anew", |hand_off| {
            hand_off.proposal > proposal
        })?;
        lose(world, second, how)?;
    }
    world.require(world.maps() == maps, || "a map is in force".to_owned())?;
    let others: Vec<usize> = others.into_iter().filter(|at| *at != second).collect();
    await_election(world, second_term, &others)?;
    world.require(world.maps() == maps, || "a map is in force".to_owned())?;
    world.run_for(ms(100))?;
    drop(held);
    world.await_that(
        Duration::from_secs(10),
        "the new node owns shards",
        |world| world.owns(5) > 0 && world.serves(5) > 0,
    )?;
    world.conclude()
}
