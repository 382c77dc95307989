//! The last acknowledgement does not arrive, and then another leads.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    EVEN, UNTIL_CALM, await_election, exact, followers, form, leader, lose, loss, ms, with_more,
};
use crate::stack::plan::Fault;
use crate::stack::record::Phase;
use crate::stack::{Failure, Outcome, World};

/// All drain, but of one node nothing reaches the leader any more. The leader does not decide; then it is lost. Its
/// successor begins anew, and the shards that had been drained for a map which never came are served again (S1).
pub(super) const SCENARIO: Scenario = Scenario {
    name: "ack-lost-then-leader-change",
    about: "an acknowledgement is lost, then the leader: what was drained for nothing comes back",
    plan: |seed| {
        let mut plan = with_more(exact(seed, 5), 1);
        plan.shards = EVEN;
        plan
    },
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let (old, term) = (leader(world)?, world.term());
    let silent = followers(world)[0];
    let held = world.hold(silent);
    world.run_for(ms(5))?;
    world.start(5);
    world.run_until_hand_off(Duration::from_secs(5), "drained by all but one", |hand_off| {
        matches!(hand_off.phase, Phase::Draining(acks) if acks + 1 == hand_off.ack_set.len())
    })?;
    let (maps, proposal) = (world.maps(), world.hand_off().proposal);
    let from_to = [(world.names[silent].clone(), world.names[old].clone())];
    for (from, to) in &from_to {
        world.sim.simulation().cut_one_way(from, to);
    }
    world.note("nothing of the silent node reaches the leader");
    drop(held);
    world.run_until_hand_off(ms(50), "drained by all", |hand_off| {
        hand_off.phase == Phase::Draining(hand_off.ack_set.len())
    })?;
    // Long enough for the acknowledgement to have come, short enough that the node is not taken for dead.
    world.run_for(ms(60))?;
    let hand_off = world.hand_off();
    world.require(
        hand_off.phase == Phase::Draining(hand_off.ack_set.len()) && hand_off.proposal == proposal,
        || format!("the leader went on without the acknowledgement: {hand_off:?}"),
    )?;
    let how = loss(world);
    lose(world, old, how)?;
    let others: Vec<usize> = (0..6).filter(|at| *at != old).collect();
    await_election(world, term, &others)?;
    world.require(world.maps() == maps, || "a map is in force".to_owned())?;
    world.run_until_hand_off(Duration::from_secs(2), "proposed anew", |hand_off| {
        hand_off.proposal > proposal
    })?;
    // A second one, so that the new hand-off meets a fault too: the tags of a node change meanwhile.
    world.strike_now(Fault::Slow {
        latency: ms(10),
        span: UNTIL_CALM,
    });
    world.await_that(
        Duration::from_secs(10),
        "the new node owns shards",
        |world| world.owns(5) > 0 && world.serves(5) > 0,
    )?;
    world.conclude()
}
