//! A link that comes and goes.

use std::time::Duration;

use super::Scenario;
use super::stage::{await_answers_for_all, choice, coarse, followers, form, leader, ms};
use crate::random::Random;
use crate::stack::plan::{Cut, Fault};
use crate::stack::{Failure, Outcome, World};

/// How often it is cut.
const FLAPS: usize = 25;

/// The link between the leader and one follower fails and recovers, dozens of times, for tens of milliseconds each. The
/// follower does not unseat a leader that the others hear (L6: pre-vote), and all keys are answered for in the end.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "flapping-link",
    about: "the link between leader and follower comes and goes: the leader stays, calls go on",
    plan: |seed| coarse(seed, 5),
    play,
};

fn play(world: &mut World) -> Result<Outcome, Failure> {
    form(world)?;
    let (leader, others) = (leader(world)?, followers(world));
    let other = others[choice(world, 1, others.len())];
    let term = world.term();
    let mut random = Random::new(world.plan.seed ^ 0xf1a9);
    let mut longest = Duration::ZERO;
    for _ in 0..FLAPS {
        let link = 1 << (leader * 5 + other) | 1 << (other * 5 + leader);
        let span = random.span(ms(5), ms(300));
        longest = longest.max(span);
        let struck = world.strike_now(Fault::Cut {
            cut: Cut::OneWay(link),
            span,
        });
        world.require(struck, || "the link was not cut".to_owned())?;
        let up = random.span(ms(5), ms(200));
        world.run_for(span + up)?;
    }
    // Longer than the follower waits for a leader before it would campaign.
    world.require(longest > world.plan.timing.election_max * 2, || {
        format!("the longest cut lasted {longest:?}")
    })?;
    world.expect("L6", world.term() == term, || {
        format!(
            "a leader that four of five hear was unseated: term {term}, now {}",
            world.term()
        )
    })?;
    let now = world.sim.elapsed();
    await_answers_for_all(world, Duration::from_secs(5), now)?;
    world.conclude()
}
