//! The leader is lost in the middle of a hand-off, in each of its phases.

use std::time::Duration;

use super::Scenario;
use super::stage::{
    EVEN, await_election, choice, exact, followers, form, leader, lose, loss, ms, with_more,
};
use crate::stack::record::Phase;
use crate::stack::{Failure, HandOff, Held, Outcome, Plan, World};

/// The proposal is in the leader's log, perhaps in others, and applied nowhere: whoever leads next commits it, or it never
/// was.
pub(super) const BEFORE_THE_PROPOSAL_COMMITS: Scenario = Scenario {
    name: "leader-lost-before-the-proposal-commits",
    about: "a hand-off's leader is lost while its proposal is in its log and applied nowhere",
    plan,
    play: |world| play(world, Moment::Proposed),
};

/// Some have drained, one has not: acks given to the former leader do not count for the next (P5).
pub(super) const BETWEEN_ACKS: Scenario = Scenario {
    name: "leader-lost-between-acks",
    about: "a hand-off's leader is lost while some have acknowledged and one still drains",
    plan,
    play: |world| play(world, Moment::BetweenAcks),
};

/// All have drained, and the decision is perhaps in a log, in force nowhere.
pub(super) const BEFORE_THE_COMMIT: Scenario = Scenario {
    name: "leader-lost-before-the-commit",
    about: "a hand-off's leader is lost between the last acknowledgement and the commit",
    plan,
    play: |world| play(world, Moment::BeforeCommit),
};

/// The map is in force, at first on the leader only.
pub(super) const AFTER_THE_COMMIT: Scenario = Scenario {
    name: "leader-lost-after-the-commit",
    about: "a hand-off's leader is lost when the map is in force and not everything gained is served",
    plan,
    play: |world| play(world, Moment::Committed),
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    Proposed,
    BetweenAcks,
    BeforeCommit,
    Committed,
}

impl Moment {
    fn is_now(self, hand_off: &HandOff) -> bool {
        let all = hand_off.ack_set.len();
        match self {
            Self::Proposed => hand_off.phase == Phase::Proposed,
            Self::BetweenAcks => {
                matches!(hand_off.phase, Phase::Draining(acks) if 0 < acks && acks < all)
            }
            Self::BeforeCommit => {
                hand_off.phase == Phase::Deciding || hand_off.phase == Phase::Draining(all)
            }
            Self::Committed => hand_off.phase == Phase::InForce,
        }
    }
}

/// Four nodes, and a fifth that joins.
fn plan(seed: u64) -> Plan {
    let mut plan = with_more(exact(seed, 4), 1);
    plan.shards = EVEN;
    plan
}

fn play(world: &mut World, moment: Moment) -> Result<Outcome, Failure> {
    form(world)?;
    let old = leader(world)?;
    let term = world.term();
    let held: Option<Held> =
        (moment == Moment::BetweenAcks).then(|| world.hold(followers(world)[0]));
    world.run_for(ms(5))?;
    world.start(4);
    world.run_until_hand_off(Duration::from_secs(5), &format!("{moment:?}"), |hand_off| {
        moment.is_now(hand_off)
    })?;
    linger(world, moment)?;
    let (maps, how) = (world.maps(), loss(world));
    lose(world, old, how)?;
    await_election(world, term, &[0, 1, 2, 3, 4])?;
    let hand_off = world.hand_off();
    if moment == Moment::Committed {
        world.require(world.maps() == maps, || {
            "another map is in force".to_owned()
        })?;
    } else {
        world.require(
            world.maps() == maps && hand_off.phase != Phase::InForce,
            || format!("the map came into force before another led: {hand_off:?}"),
        )?;
    }
    world.run_for(ms(200))?;
    drop(held);
    world.await_that(
        Duration::from_secs(10),
        "the new node owns shards",
        |world| world.owns(4) > 0 && world.serves(4) > 0,
    )?;
    world.conclude()
}

/// Waits for some steps more, by the seed: not more than the moment surely lasts.
fn linger(world: &mut World, moment: Moment) -> Result<(), Failure> {
    let most = match moment {
        Moment::BetweenAcks => 150,
        Moment::Proposed | Moment::BeforeCommit => 2,
        Moment::Committed => 1,
    };
    for _ in 0..choice(world, 1, most) {
        world.step()?;
    }
    let hand_off = world.hand_off();
    world.require(moment.is_now(&hand_off), || {
        format!("{moment:?} was over too soon: {hand_off:?}")
    })
}
