//! Two halves that do not see each other for ten minutes.

use std::time::Duration;

use super::Scenario;
use super::stage::{await_answers_for_all, coarse, cut, form, ms, side};
use crate::stack::plan::Cut;
use crate::stack::{Failure, Outcome, World};

const APART: Duration = Duration::from_secs(600);

/// Long enough for voters to be replaced and members to be forgotten. Four nodes fall into halves without a quorum, five into
/// a majority and the others, by the seed. Afterwards all is as before: nothing that grew without bound in the silence
/// (terms, back-offs, queues) is in the way.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "halves-apart-for-ten-minutes",
    about: "two halves do not see each other for ten minutes, then they are healed",
    plan: |seed| {
        let mut plan = coarse(seed, 5 - (seed % 2) as usize);
        plan.bootstrap_expect = plan.nodes.len() as u16;
        plan.load.every = ms(2_000);
        plan
    },
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let nodes = world.names.len();
    let (term, maps) = (world.term(), world.maps());
    let from = world.sim.elapsed();
    cut(world, Cut::Split(side([0, 1])))?;
    world.run_for(APART / 2)?;
    if nodes == 4 {
        let served: usize = (0..4).map(|at| world.serves(at)).sum();
        world.expect("no quorum, no owner", served == 0, || {
            format!("{served} shards are served")
        })?;
        world.require(world.maps() == maps, || "a half made a map".to_owned())?;
    } else {
        let owned = world.owns(0) + world.owns(1);
        world.require(owned == 0, || "the two still own shards".to_owned())?;
        let now = world.sim.elapsed();
        await_answers_for_all(world, Duration::from_secs(60), now)?;
    }
    let left = (from + APART).saturating_sub(world.sim.elapsed());
    world.run_for(left)?;
    world.sim.simulation().heal_all();
    world.note("healed");
    let healed = world.sim.elapsed();
    world.require(healed - from >= APART, || "healed too soon".to_owned())?;
    world.await_well(Duration::from_secs(20))?;
    // A term for each election that could succeed: those who could not win have not campaigned (pre-vote).
    let terms = world.term().0 - term.0;
    world.expect("pre-vote", terms <= 3, || {
        format!("{terms} terms in silence")
    })?;
    let now = world.sim.elapsed();
    // The load is light, and each call is for a key at random: this is how long it takes until all were asked for.
    await_answers_for_all(world, Duration::from_secs(60), now)?;
    world.conclude()
}
