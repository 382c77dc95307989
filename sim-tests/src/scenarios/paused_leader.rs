//! The leader's process stands still for longer than every lease.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    UNTIL_CALM, await_answers_for_all, await_election, choice, exact, expect_no_answer_under, form,
    leader, ms, tokens_of,
};
use crate::stack::plan::{Fault, Target};
use crate::stack::{Failure, Outcome, World};

/// The leader is paused with guards in its users' hands, deposed meanwhile, and goes on as if nothing had happened. It answers
/// nothing under its old tokens (S4, S6); what its users still write late, the token stops (I3).
pub(super) const SCENARIO: Scenario = Scenario {
    name: "paused-leader",
    about: "the leader stands still for longer than its lease and goes on: it answers nothing, its late writes are refused",
    plan: |seed| exact(seed, 3 + 2 * (seed % 2) as usize),
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let (old, term) = (leader(world)?, world.term());
    let others: Vec<usize> = (0..world.names.len()).filter(|at| *at != old).collect();
    let tokens = tokens_of(world, old);
    let held = world.hold(old);
    world.run_for(ms(5))?;
    let struck = world.strike_now(Fault::Pause {
        target: Target::Node(old),
        span: UNTIL_CALM,
    });
    world.require(struck, || "the leader was not paused".to_owned())?;
    await_election(world, term, &others)?;
    world.await_that(
        Duration::from_secs(5),
        "the others own everything",
        |world| world.owns(old) == 0,
    )?;
    let deposed = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(5), deposed)?;
    world.run_for(ms(choice(world, 1, 500) as u64))?;
    world.require(world.leads(old), || {
        "it knows that it was deposed".to_owned()
    })?;
    let rejected = world.rejected_writes();
    // Its users wake up with it.
    drop(held);
    let name = world.names[old].clone();
    world.sim.simulation().resume(&name);
    world.note("the leader goes on");
    world.run_for(ms(2))?;
    world.expect("S4", world.serves(old) == 0, || {
        format!("it serves {} shards after its pause", world.serves(old))
    })?;
    world.await_that(
        Duration::from_secs(2),
        "it learns that it was deposed",
        |world| !world.leads(old),
    )?;
    world.run_for(ms(500))?;
    expect_no_answer_under(world, &tokens, deposed)?;
    let rejected = world.rejected_writes() - rejected;
    world.require(rejected > 0, || "no late write was refused".to_owned())?;
    world.conclude()
}
