//! I5: a change moves no more than the balance requires, and no more at a time than the budget for voluntary moves.
//!
//! With equal weights and capacities that is an exact number of shards, in one step or in several: each step of several
//! takes nothing from what is left but what it moves. Otherwise it is a bound on the weight that moves.

use funk::engine::placement::{Balance, Candidate, minimum_moves};
use funk::engine::shard_map::ShardMap;
use funk::ids::{NodeId, ShardId};

use super::{Verdict, Violation};

fn moved<'a>(before: &'a ShardMap, map: &'a ShardMap) -> impl Iterator<Item = ShardId> + 'a {
    let node = |map: &ShardMap, shard| map.owner(shard).map(|owner| owner.node.clone());
    let shards = (0..map.shards()).map(ShardId);
    shards.filter(move |&shard| node(before, shard) != node(map, shard))
}

/// How many shards change their node.
pub fn moves(before: &ShardMap, map: &ShardMap) -> usize {
    moved(before, map).count()
}

/// The nodes that share the load of a map: all its members, unless something is pinned.
pub fn sharers(map: &ShardMap) -> Vec<Candidate> {
    let candidate = |member: &funk::engine::shard_map::MapMember| Candidate {
        instance: member.instance.clone(),
        capacity: member.capacity,
    };
    map.members().iter().map(candidate).collect()
}

/// Whether all shards weigh the same and all nodes have the same capacity.
fn are_alike(map: &ShardMap) -> bool {
    let capacities = map.members().iter().map(|member| member.capacity);
    let weights = map
        .weights()
        .map(|weights| &weights[..])
        .unwrap_or_default();
    let mut pairs = capacities.clone().zip(capacities.skip(1));
    pairs.all(|(a, b)| a == b) && weights.windows(2).all(|pair| pair[0] == pair[1])
}

/// Checks a proposal against the map in force. `slack`: shards that are pinned, or kept away from a node.
/// `most`: the budget for voluntary moves.
pub fn check(before: &ShardMap, proposed: &ShardMap, slack: usize, most: Option<u32>) -> Verdict {
    if before.shards() == 0 || proposed.members().is_empty() {
        // Nobody is there to share anything.
        return Ok(());
    }
    let index = proposed.index();
    let wrong = |what: String| Err(Violation::new("I5", format!("map {index} {what}")));
    let moves = moves(before, proposed);
    let stays = |shard: &ShardId| {
        let owner = before.owner(*shard);
        owner.is_some_and(|owner| proposed.member(&owner.node).is_some())
    };
    let voluntary = moved(before, proposed).filter(stays).count();
    if let Some(most) = most
        && voluntary > most as usize + slack
    {
        return wrong(format!(
            "moves {voluntary} shards that could stay, at most {most} may at a time"
        ));
    }
    if are_alike(proposed) {
        let nodes: Vec<NodeId> = proposed
            .members()
            .iter()
            .map(|member| member.instance.node.clone())
            .collect();
        let least = minimum_moves(before, &nodes);
        let left = minimum_moves(proposed, &nodes);
        if moves > least + slack {
            return wrong(format!("moves {moves} shards where {least} would do"));
        }
        if slack == 0 && moves + left > least {
            return wrong(format!(
                "moves {moves} shards and leaves {left} to move where {least} would do"
            ));
        }
    } else if slack == 0 {
        let weights = proposed.weights().map(|weights| &weights[..]);
        let weight = |shard: ShardId| weights.map_or(1, |w| u64::from(w[shard.0 as usize]));
        let weight: u64 = moved(before, proposed).map(weight).sum();
        let balance = Balance::by(weights, before, &sharers(proposed));
        if weight > balance.most_moved() {
            let most = balance.most_moved();
            return wrong(format!("moves weight {weight} where {most} is the bound"));
        }
    }
    let balance = Balance::of(proposed, &sharers(proposed));
    if most.is_none() && slack == 0 && !balance.holds() {
        return wrong(format!("is not balanced: {:?}", balance.nodes));
    }
    Ok(())
}
