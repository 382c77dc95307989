//! What several scenarios have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use funk::ids::ShardId;
use funk_sim::Disk;

use crate::stack::plan::{Cut, Fault, NodePlan, Target, Unsynced};
use crate::stack::workload::{Call, Outcome as Answer};
use crate::stack::{Failure, Plan, World};

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Longer than any scenario: what lasts until all faults end.
pub(super) const UNTIL_CALM: Duration = Duration::from_secs(100_000);
/// How often a probe gets all keys.
pub(super) const PROBE_EVERY: Duration = ms(25);
/// Longest gap between the answers for a key whose owner is there and keeps its lease: a probe's interval, its way
/// there and back in the coarsest steps, and a little.
pub(super) const NO_GAP: Duration = ms(120);

/// As many shards as three, four, five and six nodes share evenly: when one joins, every other one loses some.
pub(super) const EVEN: u32 = 60;

/// A plan in steps of a millisecond: moments can be hit exactly.
pub(super) fn exact(seed: u64, nodes: usize) -> Plan {
    let mut plan = coarse(seed, nodes);
    plan.tick = ms(1);
    plan
}

/// A plan in steps of five milliseconds.
pub(super) fn coarse(seed: u64, nodes: usize) -> Plan {
    let mut plan = Plan::quiet(seed, nodes);
    plan.shards = 16;
    plan.load.keys = 8;
    plan.load.every = ms(50);
    plan.load.deadline = ms(4_000);
    plan
}

/// More nodes, which start on request.
pub(super) fn with_more(mut plan: Plan, more: usize) -> Plan {
    let later = NodePlan {
        starts_at: NodePlan::ON_REQUEST,
        ..NodePlan::exact()
    };
    plan.nodes.extend(vec![later; more]);
    plan
}

/// The cluster forms and all is well.
pub(super) fn form(world: &mut World) -> Result<(), Failure> {
    world.form()?;
    world.await_well(Duration::from_secs(10))?;
    world.run_for(ms(300))
}

/// The place of the leader.
pub(super) fn leader(world: &World) -> Result<usize, Failure> {
    let leader = world.only_leader();
    leader.ok_or_else(|| world.not_staged("there is no leader, or more than one".to_owned()))
}

/// The places of those that are there and do not lead.
pub(super) fn followers(world: &World) -> Vec<usize> {
    let places = 0..world.names.len();
    places
        .filter(|&at| world.runs(at) && !world.leads(at))
        .collect()
}

/// A choice that follows from the seed: `number` tells the choices of one scenario apart.
pub(super) fn choice(world: &World, number: u32, among: usize) -> usize {
    let mut random = crate::random::Random::new(world.plan.seed ^ (u64::from(number) << 32));
    random.below(among as u64) as usize
}

/// How a leader is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loss {
    /// Its power is cut.
    Power,
    /// It is cut off from all.
    Link,
    /// Its process stands still.
    Pause,
}

/// By the seed.
pub(super) fn loss(world: &World) -> Loss {
    [Loss::Power, Loss::Link, Loss::Pause][choice(world, 0, 3)]
}

/// Loses the node at this place, until all faults end.
pub(super) fn lose(world: &mut World, at: usize, how: Loss) -> Result<(), Failure> {
    let target = Target::Node(at);
    let struck = world.strike_now(match how {
        Loss::Power => Fault::Crash {
            target,
            down: UNTIL_CALM,
            disk: Disk::Kept,
            unsynced: Unsynced::Torn,
        },
        Loss::Link => Fault::Cut {
            cut: Cut::Isolate(target),
            span: UNTIL_CALM,
        },
        Loss::Pause => Fault::Pause {
            target,
            span: UNTIL_CALM,
        },
    });
    world.require(struck, || format!("{at} was not lost by {how:?}"))
}

/// Cuts links until all faults end.
pub(super) fn cut(world: &mut World, cut: Cut) -> Result<(), Failure> {
    let span = UNTIL_CALM;
    let struck = world.strike_now(Fault::Cut { cut, span });
    world.require(struck, || format!("{cut:?} could not be cut"))
}

/// A set of places, as bits.
pub(super) fn side(places: impl IntoIterator<Item = usize>) -> u32 {
    places.into_iter().fold(0, |side, at| side | 1 << at)
}

/// Steps until a node among these leads a newer term than `before`.
pub(super) fn await_election(
    world: &mut World,
    before: funk::ids::Term,
    among: &[usize],
) -> Result<usize, Failure> {
    let elected = |world: &World| {
        among
            .iter()
            .copied()
            .find(|&at| world.term() > before && world.leads(at))
    };
    world.await_that(
        Duration::from_secs(8),
        "an election among those who can",
        |world| elected(world).is_some(),
    )?;
    elected(world).ok_or_else(|| world.not_staged("the leader is gone".to_owned()))
}

/// The longest time without an answer, for each key that was answered under one token only in this time.
pub(super) fn gaps(world: &World, from: Duration, to: Duration) -> BTreeMap<u64, Duration> {
    let mut answers: BTreeMap<u64, Vec<(Duration, u64)>> = BTreeMap::new();
    for call in world.history.calls() {
        if let Answer::Answered(_, token) = call.outcome
            && (from..=to).contains(&call.end)
        {
            answers.entry(call.key).or_default().push((call.end, token));
        }
    }
    let mut gaps = BTreeMap::new();
    for (key, mut answers) in answers {
        let tokens: BTreeSet<u64> = answers.iter().map(|(_, token)| *token).collect();
        if tokens.len() > 1 {
            continue;
        }
        answers.sort_unstable();
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in answers.iter().map(|(at, _)| *at).chain([to]) {
            longest = longest.max(at - last);
            last = at;
        }
        gaps.insert(key, longest);
    }
    gaps
}

/// Shards that did not move were answered for all the time; and there were such shards.
pub(super) fn expect_no_pause(
    world: &World,
    from: Duration,
    to: Duration,
    longest: Duration,
) -> Result<(), Failure> {
    let gaps = gaps(world, from, to);
    world.require(!gaps.is_empty(), || "every key moved".to_owned())?;
    let late = gaps.iter().find(|(_, gap)| **gap > longest);
    world.expect("unmoved shards never pause", late.is_none(), || {
        format!("a key that stayed where it was had no answer for so long: {late:?}")
    })
}

/// Every key was answered by a call that began after `from`.
pub(super) fn await_answers_for_all(
    world: &mut World,
    within: Duration,
    from: Duration,
) -> Result<(), Failure> {
    let keys = world.plan.load.keys;
    world.await_that(within, "an answer for every key", |world| {
        let calls = world.history.calls();
        let answered = calls
            .iter()
            .filter(|call| call.start >= from && matches!(call.outcome, Answer::Answered(..)));
        answered.map(|call| call.key).collect::<BTreeSet<_>>().len() as u64 == keys
    })
}

/// No call that began at or after `from` has failed: those that have ended were answered. Of those that nodes made which
/// left, the last ones may have been told that their node was stopped.
pub(super) fn expect_no_failed_calls(
    world: &World,
    from: Duration,
    left: &[usize],
) -> Result<(), Failure> {
    let mut failed = world.history.unanswered_since(from);
    failed.retain(|call| {
        let has_left = left
            .iter()
            .any(|&at| call.by.as_ref() == Some(&world.names[at]));
        !(has_left && says(call, "the node was stopped"))
    });
    no_failed(world, &failed)
}

/// The same where leaders are lost: what they were about to append is then in doubt, and the service says so to its
/// caller.
pub(super) fn expect_no_failed_calls_but_proposals(
    world: &World,
    from: Duration,
) -> Result<(), Failure> {
    let mut failed = world.history.unanswered_since(from);
    failed.retain(|call| !says(call, "the service: ambiguous"));
    no_failed(world, &failed)
}

fn says(call: &Call, text: &str) -> bool {
    call.error
        .as_ref()
        .is_some_and(|error| error.contains(text))
}

fn no_failed(world: &World, failed: &[Call]) -> Result<(), Failure> {
    world.expect("no call fails", failed.is_empty(), || {
        format!("{} calls failed, first {:?}", failed.len(), failed[0])
    })
}

/// Nobody answers any more under the tokens that a node had before it was deposed.
pub(super) fn expect_no_answer_under(
    world: &World,
    tokens: &BTreeMap<ShardId, u64>,
    from: Duration,
) -> Result<(), Failure> {
    let shards = world.shards_of_keys();
    let late = world.history.calls().into_iter().find(|call| {
        let old = shards.get(&call.key).and_then(|shard| tokens.get(shard));
        let under_old = matches!(call.outcome, Answer::Answered(_, token) if Some(&token) == old);
        under_old && call.start >= from
    });
    world.expect("a deposed owner is silent", late.is_none(), || {
        format!("it answered {late:?}")
    })
}

/// The tokens of the shards that the node at this place owns by the newest map.
pub(super) fn tokens_of(world: &World, at: usize) -> BTreeMap<ShardId, u64> {
    let map = world.map();
    let shards = (0..map.shards()).map(ShardId);
    let owned = shards.filter(|shard| {
        map.owner(*shard)
            .is_some_and(|owner| owner.node == world.names[at])
    });
    owned.map(|shard| (shard, map.epoch(shard).0)).collect()
}
