//! One node after the other comes back as a later release.

use std::time::Duration;

use funk::versions::{NEWEST, OLDEST, VersionRange};
use funk_sim::Disk;

use super::Scenario;
use super::stage::{
    await_election, coarse, expect_no_failed_calls, expect_no_failed_calls_but_proposals, form, ms,
};
use crate::stack::{Failure, Outcome, Plan, World};

/// The release after this one, which is a fake: it differs by its numbers, and by the entry with which the version of the
/// cluster rises.
const NEXT: VersionRange = VersionRange {
    oldest: OLDEST,
    newest: NEWEST + 1,
};

/// Each node is upgraded under load, some by leaving, some by a power cut, as the seed has it.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "rolling-upgrade",
    about: "nodes of two releases work together; what only the later one knows is written once all are upgraded",
    plan,
    play,
};

fn plan(seed: u64) -> Plan {
    let mut plan = coarse(seed, 3 + 2 * (seed % 2) as usize);
    plan.bootstrap_expect = plan.nodes.len() as u16;
    plan.load.every = ms(20);
    plan.load.clients = 1;
    plan.snapshot_every = 200;
    plan
}

fn versions(world: &World) -> Vec<u8> {
    let places = 0..world.names.len();
    let running = places.filter_map(|at| world.node(at).ok());
    running.map(|node| node.status().cluster_version).collect()
}

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let from = world.sim.elapsed();
    let leave = world.plan.seed / 2 % 2 == 0;
    let count = world.names.len();
    for at in 0..count {
        world.expect(
            "nothing later is written",
            versions(world) == vec![NEWEST; count],
            || format!("the versions are {:?}", versions(world)),
        )?;
        world.install_release(at, NEXT);
        if leave {
            world.leave(at);
            world.await_that(Duration::from_secs(10), "the node has left", |world| {
                !world.runs(at)
            })?;
            world.start(at);
        } else {
            world.crash(at);
            world.run_for(ms(100))?;
            world.restart(at, Disk::Kept);
        }
        world.run_for(ms(20))?;
        world.await_well(Duration::from_secs(10))?;
        if at == 0 {
            lead_with_the_later_release(world, at)?;
        }
    }
    world.await_that(Duration::from_secs(10), "the version is raised", |world| {
        versions(world) == vec![NEXT.newest; count]
    })?;
    world.run_for(ms(300))?;
    if leave {
        let all: Vec<usize> = (0..count).collect();
        expect_no_failed_calls(world, from, &all)?;
    } else {
        expect_no_failed_calls_but_proposals(world, from)?;
    }
    world.conclude()
}

/// The one that is upgraded leads: it would raise the version, and sees that it may not.
fn lead_with_the_later_release(world: &mut World, at: usize) -> Result<(), Failure> {
    let others: Vec<usize> = (0..world.names.len()).collect();
    for _ in 0..20 {
        if world.leads(at) {
            break;
        }
        let term = world.term();
        let leader = super::stage::leader(world)?;
        world.node(leader)?.step_down();
        await_election(world, term, &others)?;
        world.await_well(Duration::from_secs(10))?;
    }
    world.require(world.leads(at), || "the upgraded node never led".to_owned())?;
    world.run_for(ms(500))?;
    let counters = world.node(at)?.counters();
    let held = counters.get("versions held back until all members speak them");
    world.require(held.is_some(), || "it had nothing to hold back".to_owned())
}
