//! A node is drained under load, and gets its shards again.

use std::time::Duration;

use funk::ids::NodeId;

use super::Scenario;
use super::stage::{
    EVEN, NO_GAP, PROBE_EVERY, choice, coarse, expect_no_failed_calls, expect_no_pause, followers,
    form, leader, ms,
};
use crate::stack::{Failure, Outcome, World};

/// A node (in some seeds the leader) is drained by another one's asking, while calls come through all of them. No call fails,
/// the node stays a member, and what does not move is answered for throughout. Then it gets shards again.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "drain-under-load",
    about: "a node, or the leader, is drained and uncordoned: no call fails, it stays a member, what does not move never pauses",
    plan: |seed| {
        let mut plan = coarse(seed, 4);
        plan.shards = EVEN;
        plan.load.clients = 2;
        plan.load.every = ms(20);
        plan
    },
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let drained = match choice(world, 1, 3) {
        0 => leader(world)?,
        at => followers(world)[at],
    };
    let name: NodeId = world.names[drained].clone();
    let asked = (drained + 1 + choice(world, 2, 3)) % 4;
    let voters = world.voters();
    (0..4).for_each(|at| world.probe(at, PROBE_EVERY));
    world.run_for(ms(200))?;
    let from = world.sim.elapsed();
    let target = name.clone();
    let patience = Duration::from_secs(5);
    let ended = world.ask(asked, patience, move |cluster| async move {
        cluster.drain(&target).await
    })?;
    world.expect("M9", ended == Some(Ok(())), || {
        format!("the drain ended with {ended:?}")
    })?;
    world.run_for(ms(1_000))?;
    let now = world.sim.elapsed();
    expect_no_pause(world, from, now, NO_GAP)?;
    world.expect(
        "M9",
        world.owns(drained) == 0 && world.runs(drained),
        || "a drained node did not stay, or got shards".to_owned(),
    )?;
    world.expect("M9", world.voters() == voters, || {
        format!("{} voters are left of {voters}", world.voters())
    })?;
    let ended = world.ask(asked, patience, move |cluster| async move {
        cluster.uncordon(&name).await
    })?;
    world.await_well(Duration::from_secs(10))?;
    world.expect("M9", world.owns(drained) == 15, || {
        format!(
            "the node has {} shards again, not 15: {ended:?}",
            world.owns(drained)
        )
    })?;
    world.run_for(ms(300))?;
    expect_no_failed_calls(world, from, &[])?;
    world.conclude()
}
