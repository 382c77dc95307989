//! All nodes lose their power at once.

use std::time::Duration;

use super::Scenario;
use super::stage::{await_answers_for_all, choice, coarse, form, ms};
use crate::stack::plan::{Fault, Unsynced};
use crate::stack::{Failure, Outcome, World};
use funk::ids::ShardId;

/// Power fails everywhere, in the middle of the load, and comes back. What was acknowledged is there (I9); nobody serves
/// anything by what the disk says (S5): every shard has a newer token.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "all-nodes-restart",
    about: "power fails everywhere and comes back: nothing acknowledged is lost, every token is newer",
    plan: |seed| {
        let mut plan = coarse(seed, 3 + 2 * (seed % 2) as usize);
        plan.load.every = ms(20);
        plan.nodes.iter_mut().for_each(|node| node.fsync = ms(2));
        plan
    },
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let nodes = world.names.len();
    let before = world.map();
    let down = ms(50 + choice(world, 1, 1_000) as u64);
    let struck = world.strike_now(Fault::CrashAll {
        down,
        unsynced: Unsynced::Torn,
    });
    world.require(struck, || "power did not fail".to_owned())?;
    world.run_for(ms(20))?;
    let running = (0..nodes).filter(|&at| world.runs(at)).count();
    world.require(running == 0, || format!("{running} nodes run"))?;
    world.await_well(Duration::from_secs(10))?;
    let map = world.map();
    for shard in (0..map.shards()).map(ShardId) {
        let (old, new) = (before.epoch(shard), map.epoch(shard));
        world.expect("S5", new.0 > before.index().0, || {
            format!("shard {shard} had token {old}, and now {new}")
        })?;
    }
    let now = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(5), now)?;
    world.conclude()
}
