//! A minority loses its power and comes back.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    await_answers_for_all, choice, coarse, expect_no_failed_calls_but_proposals, followers, form,
    leader, ms,
};
use crate::stack::{Failure, Outcome, World};
use funk_sim::Disk;

/// Two of five nodes (the leader among them, in some seeds) lose their power at once. The others serve everything while they
/// are down. They come back with their stores, as other owners (S5).
pub(super) const SCENARIO: Scenario = Scenario {
    name: "minority-restart",
    about: "two of five lose power, some times with the leader; all is served without them, and they come back",
    plan: |seed| {
        let mut plan = coarse(seed, 5);
        plan.bootstrap_expect = 5;
        plan
    },
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let (leader, others) = (leader(world)?, followers(world));
    let struck = match choice(world, 1, 2) {
        0 => [leader, others[0]],
        _ => [others[1], others[2]],
    };
    let from = world.sim.elapsed();
    let before = world.map();
    struck.iter().for_each(|&at| world.crash(at));
    world.await_that(
        Duration::from_secs(5),
        "the others own everything",
        |world| {
            struck
                .iter()
                .all(|&at| world.owns(at) == 0 && !world.runs(at))
        },
    )?;
    let now = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(5), now)?;
    struck.iter().for_each(|&at| world.restart(at, Disk::Kept));
    world.await_well(Duration::from_secs(10))?;
    world.run_for(ms(500))?;
    expect_no_failed_calls_but_proposals(world, from)?;
    // Another run, another owner.
    let map = world.map();
    for at in struck {
        let (name, owned) = (&world.names[at], world.owns(at));
        let boot = |map: &funk::engine::shard_map::ShardMap| {
            map.member(name).map(|member| member.instance.boot)
        };
        world.expect("S5", owned > 0 && boot(&before) != boot(&map), || {
            format!("{name} owns {owned} shards as {:?}", boot(&map))
        })?;
    }
    world.conclude()
}
