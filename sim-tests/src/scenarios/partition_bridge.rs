//! Two sides that share one node.

use std::time::Duration;

use super::Scenario;
use super::stage::{await_answers_for_all, choice, coarse, cut, followers, form, leader, side};
use crate::stack::plan::Cut;
use crate::stack::{Failure, Outcome, World};

/// Two pairs of nodes reach a fifth one, and not each other. The leader (in every second seed the bridge itself) keeps a
/// quorum, and is not unseated by those who do not hear it: the bridge, which hears it, refuses them its vote.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "partition-bridge",
    about: "two pairs reach one node and not each other: the leader stays, all shards are served",
    plan: |seed| coarse(seed, 5),
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let leader = leader(world)?;
    let others = followers(world);
    let leads_the_bridge = choice(world, 1, 2) == 0;
    let (bridge, friends) = if leads_the_bridge {
        (leader, [others[0], others[1]])
    } else {
        (others[0], [leader, others[1]])
    };
    let far: Vec<usize> = (0..5)
        .filter(|at| *at != bridge && !friends.contains(at))
        .collect();
    let term = world.term();
    cut(world, Cut::Bridge(side(friends), bridge))?;
    if !leads_the_bridge {
        world.await_that(
            Duration::from_secs(5),
            "those who do not hear the leader own nothing",
            |world| far.iter().all(|&at| world.owns(at) == 0),
        )?;
    }
    let now = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(5), now)?;
    world.run_for(Duration::from_secs(3))?;
    world.expect("a leader with a quorum stays", world.term() == term, || {
        format!("term {term} became {} across a bridge", world.term())
    })?;
    world.require(world.leads(leader), || "the leader is another".to_owned())?;
    world.conclude()
}
