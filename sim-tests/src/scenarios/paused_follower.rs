//! A follower's process stands still for longer than its lease.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    NO_GAP, PROBE_EVERY, UNTIL_CALM, choice, coarse, expect_no_answer_under, expect_no_pause,
    followers, form, leader, ms, tokens_of,
};
use crate::stack::plan::{Fault, Target};
use crate::stack::{Failure, Outcome, World};

/// A follower is paused until its shards are others', and goes on. It answers nothing under its old tokens, and does not
/// disturb the leader (L6: pre-vote). Meanwhile the shards of the others are answered for without a pause.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "paused-follower",
    about: "a follower stands still until its shards are others' and goes on: it answers nothing, the leader stays",
    plan: |seed| coarse(seed, 3 + 2 * (seed % 2) as usize),
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let leads = leader(world)?;
    let paused = followers(world)[choice(world, 1, world.names.len() - 1)];
    let others: Vec<usize> = (0..world.names.len()).filter(|at| *at != paused).collect();
    others.iter().for_each(|&at| world.probe(at, PROBE_EVERY));
    world.run_for(ms(200))?;
    let (term, from) = (world.term(), world.sim.elapsed());
    let tokens = tokens_of(world, paused);
    let held = world.hold(paused);
    world.run_for(ms(10))?;
    let struck = world.strike_now(Fault::Pause {
        target: Target::Node(paused),
        span: UNTIL_CALM,
    });
    world.require(struck, || "the follower was not paused".to_owned())?;
    world.await_that(
        Duration::from_secs(5),
        "the others own everything",
        |world| world.owns(paused) == 0,
    )?;
    let deposed = world.sim.elapsed();
    world.run_for(ms(choice(world, 2, 1_000) as u64))?;
    expect_no_pause(world, from, world.sim.elapsed(), NO_GAP)?;
    let rejected = world.rejected_writes();
    drop(held);
    let name = world.names[paused].clone();
    world.sim.simulation().resume(&name);
    world.note("the follower goes on");
    world.run_for(ms(5))?;
    world.expect("S4", world.serves(paused) == 0, || {
        format!("it serves {} shards after its pause", world.serves(paused))
    })?;
    world.await_that(Duration::from_secs(5), "it owns shards again", |world| {
        world.owns(paused) > 0 && world.serves(paused) == world.owns(paused)
    })?;
    world.expect("L6", world.leads(leads) && world.term() == term, || {
        format!("the leader was unseated: term {term}, now {}", world.term())
    })?;
    world.require(world.rejected_writes() > rejected, || {
        "no late write was refused".to_owned()
    })?;
    expect_no_answer_under(world, &tokens, deposed)?;
    world.conclude()
}
