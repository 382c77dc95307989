//! A machine sleeps: its lease clock goes on, its monotonic clock stands still (rule L0).

use std::time::Duration;

use super::Scenario;
use super::stage::{
    await_answers_for_all, await_election, choice, exact, expect_no_answer_under, followers, form,
    leader, ms, tokens_of,
};
use crate::stack::{Failure, Outcome, World};

/// The sleep is over before its lease is: by its clock it may go on. It drops the lease all the same, and serves again once
/// it was granted another one.
pub(super) const SHORT: Scenario = Scenario {
    name: "short-sleep",
    about: "a machine sleeps for less than its lease lasts: the lease is dropped, and another one granted",
    plan: |seed| exact(seed, 3 + 2 * (seed % 2) as usize),
    play: short,
};

/// The leader sleeps for longer than every lease, is deposed meanwhile, and wakes in the belief that it leads.
pub(super) const LONG: Scenario = Scenario {
    name: "long-sleep",
    about: "the leader's machine sleeps for longer than its lease: it wakes deposed, and answers nothing",
    plan: |seed| exact(seed, 3 + 2 * (seed % 2) as usize),
    play: long,
};

fn clock_jumps(world: &World, at: usize) -> Result<u64, Failure> {
    let counters = world.node(at)?.counters();
    Ok(counters.get("clock jumps").copied().unwrap_or_default())
}

/// Puts the machine to sleep until somebody wakes it.
fn sleep(world: &mut World, at: usize) -> Result<(), Failure> {
    let name = world.names[at].clone();
    world.sim.simulation().pause(&name);
    world.require(world.runs(at), || "there is nobody to sleep".to_owned())
}

/// It slept for so long.
fn wake(world: &mut World, at: usize, span: Duration) {
    let name = world.names[at].clone();
    world.sim.simulation().wake(&name, span);
    world.note("the machine wakes");
}

fn short(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    for at in [leader(world)?, followers(world)[0]] {
        let before = clock_jumps(world, at)?;
        // Longer than the bound of L0, shorter than what is left of any lease that is renewed with each ping.
        let span = ms(10 + choice(world, at as u32, 40) as u64);
        sleep(world, at)?;
        world.run_for(span)?;
        world.require(world.serves(at) > 0, || {
            "its lease has run out in its sleep".to_owned()
        })?;
        wake(world, at, span);
        world.run_for(ms(1))?;
        world.expect("L0", world.serves(at) == 0, || {
            format!("it serves {} shards after its sleep", world.serves(at))
        })?;
        world.await_well(Duration::from_secs(5))?;
        // A node shows its counters at the next timer.
        world.await_that(Duration::from_secs(2), "the jump was seen", |world| {
            clock_jumps(world, at).is_ok_and(|after| after == before + 1)
        })?;
    }
    world.conclude()
}

fn long(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let (old, term) = (leader(world)?, world.term());
    let others: Vec<usize> = (0..world.names.len()).filter(|at| *at != old).collect();
    let tokens = tokens_of(world, old);
    let began = world.sim.elapsed();
    sleep(world, old)?;
    await_election(world, term, &others)?;
    world.await_that(
        Duration::from_secs(5),
        "the others own everything",
        |world| world.owns(old) == 0,
    )?;
    let deposed = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(5), deposed)?;
    world.require(world.leads(old), || {
        "it knows that it was deposed".to_owned()
    })?;
    let slept = world.sim.elapsed() - began;
    wake(world, old, slept);
    world.run_for(ms(2))?;
    world.expect("L0", world.serves(old) == 0, || {
        format!("it serves {} shards after its sleep", world.serves(old))
    })?;
    world.await_that(
        Duration::from_secs(2),
        "it learns that it was deposed",
        |world| !world.leads(old),
    )?;
    world.run_for(ms(500))?;
    expect_no_answer_under(world, &tokens, deposed)?;
    world.conclude()
}
