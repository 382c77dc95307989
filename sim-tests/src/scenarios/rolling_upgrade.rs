//! One node after the other comes back as a later release.

use std::time::Duration;

use funk::versions::{NEWEST, OLDEST, VersionRange};
use funk_sim::Disk;

use super::Scenario;
use super::stage::{
    await_election, coarse, expect_no_failed_calls, expect_no_failed_calls_but_proposals,
    followers, form, leader, ms,
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

/// The leader is the last: whoever is elected then is of the later release, and where the old leader's power was cut it sees
/// that it may not raise the version before that one is back, upgraded.
fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let from = world.sim.elapsed();
    let leave = (world.plan.seed / 2).is_multiple_of(2);
    let count = world.names.len();
    let mut order = followers(world);
    order.push(leader(world)?);
    for (number, &at) in order.iter().enumerate() {
        world.expect("V1", versions(world) == vec![NEWEST; count], || {
            format!(
                "with {number} nodes upgraded the versions are {:?}",
                versions(world)
            )
        })?;
        world.install_release(at, NEXT);
        if leave {
            world.leave(at);
            world.await_that(Duration::from_secs(10), "the node has left", |world| {
                !world.runs(at)
            })?;
            world.start(at);
        } else {
            let (was_leader, term) = (world.leads(at), world.term());
            world.crash(at);
            world.run_for(ms(100))?;
            if was_leader {
                let elected = await_election(world, term, &order[..number])?;
                await_held_back(world, elected)?;
            }
            world.restart(at, Disk::Kept);
        }
        world.run_for(ms(20))?;
        world.await_well(Duration::from_secs(10))?;
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

/// The new leader would raise the version, and sees that it may not.
fn await_held_back(world: &mut World, elected: usize) -> Result<(), Failure> {
    let held = |world: &World| {
        let counters = world.node(elected).map(|node| node.counters());
        counters.is_ok_and(|counters| {
            counters.contains_key("versions held back until all members speak them")
        })
    };
    world.await_that(
        Duration::from_secs(2),
        "an upgraded leader holds the version back",
        held,
    )?;
    world.expect(
        "V1",
        versions(world).iter().all(|version| *version == NEWEST),
        || {
            format!(
                "an old node is down, and the versions are {:?}",
                versions(world)
            )
        },
    )
}
