//! One node after the other is restarted under load.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    coarse, expect_no_failed_calls, expect_no_failed_calls_but_proposals, form, ms,
};
use crate::stack::{Failure, Outcome, Plan, World};
use funk_sim::Disk;

/// As it should be done: each node leaves, and its successor joins. No call fails.
pub(super) const LEAVING: Scenario = Scenario {
    name: "rolling-restart",
    about: "each node leaves and joins again, one after the other, under load: no call fails",
    plan,
    play: |world| play(world, true),
};

/// As it happens: each node's power is cut and it starts with its store. Calls wait for a lease to lapse, none fails.
pub(super) const POWER_CUTS: Scenario = Scenario {
    name: "rolling-power-cuts",
    about: "each node loses its power and comes back, one after the other, under load: calls wait, none fails",
    plan,
    play: |world| play(world, false),
};

fn plan(seed: u64) -> Plan {
    let mut plan = coarse(seed, 3 + 2 * (seed % 2) as usize);
    plan.bootstrap_expect = plan.nodes.len() as u16;
    plan.load.every = ms(20);
    plan.load.clients = 2;
    plan
}

fn play(world: &mut World, leave: bool) -> Result<Outcome, Failure> {
    form(world)?;
    let from = world.sim.elapsed();
    for at in 0..world.names.len() {
        let boot = world.node(at)?.instance().boot;
        if leave {
            world.leave(at);
            world.await_that(Duration::from_secs(10), "the node has left", |world| {
                !world.runs(at)
            })?;
            world.expect("M5", world.owns(at) == 0, || {
                format!("n{} left with {} shards", at + 1, world.owns(at))
            })?;
            world.start(at);
        } else {
            world.crash(at);
            world.run_for(ms(100))?;
            world.restart(at, Disk::Kept);
        }
        world.run_for(ms(20))?;
        world.await_well(Duration::from_secs(10))?;
        let now = world.node(at)?.instance().boot;
        world.require(now != boot && world.owns(at) > 0, || {
            format!("n{} was not restarted", at + 1)
        })?;
    }
    world.run_for(ms(300))?;
    if leave {
        let all: Vec<usize> = (0..world.names.len()).collect();
        expect_no_failed_calls(world, from, &all)?;
    } else {
        expect_no_failed_calls_but_proposals(world, from)?;
    }
    let (calls, answered) = world.history.count();
    world.require(answered > 200, || {
        format!("{answered} answers to {calls} calls are no load")
    })?;
    world.conclude()
}
