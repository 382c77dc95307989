//! The next map from the last one and the nodes there are: a pure function, the same everywhere.
//!
//! Each node's *share* is the part of all load that its capacity is of all capacity; load is weight of shards. The
//! result is balanced: every node's load differs from its share by less than the heaviest shard weighs. Nothing
//! moves but for that, or because its owner goes; so a map that is balanced over the same nodes is returned unchanged.
//!
//! - Shards of equal weight on nodes of equal capacity (`even`): the counts differ by one at most, with exactly as
//!   many moves as that requires. Every node keeps as many of its shards as its share allows, and the larger shares go
//!   to the nodes that hold most already.
//! - Otherwise (`weighted`): the weight that moves is at most the least possible plus the heaviest shard's for each
//!   node; it is the least possible where all ways to place the shards can be tried (`exact`) and where all shards
//!   weigh the same.
//!
//! What a zone is plays no part here. A shard has one owner, so a zone that is lost takes its nodes' shards with it
//! however they are arranged; they are spread over all nodes that are left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::shard_map::{Assignment, MapMember, ShardMap};
use crate::ids::{Instance, NodeId, ShardId, WorkerId};
use crate::limits::MAX_WORKERS;

mod even;
mod exact;
mod shares;
mod steps;
#[cfg(test)]
mod tests;
mod weighted;
#[cfg(test)]
mod weighted_tests;

pub(super) use shares::loads_by;
pub use shares::{Balance, Share};
pub use steps::limit_moves;

/// A node that may own shards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The run that would own them.
    pub instance: Instance,
    /// Relative capacity, at least 1: a node of capacity 2 gets twice the load of one of capacity 1.
    pub capacity: u32,
}

/// Computes the next assignment with the weights that the last map has; see [`place_by`].
pub fn place(
    last: &ShardMap,
    shards: u32,
    nodes: &[Candidate],
    pinned: &BTreeSet<ShardId>,
) -> Assignment {
    place_by(last.weights(), last, shards, nodes, pinned)
}

/// Computes the next assignment.
///
/// `weights` has one for each shard; `None`, and any other number of them: all weigh the same. `shards` is the number
/// of shards when `last` is the empty map. `pinned` shards stay with their present owner,
/// whether it is among `nodes` or not (rule P4); the rest is balanced around them. A node that restarted is the
/// same node here: its shards do not move, though they get new epochs. Without nodes nobody owns anything but pins.
pub fn place_by(
    weights: Option<&Arc<[u32]>>,
    last: &ShardMap,
    shards: u32,
    nodes: &[Candidate],
    pinned: &BTreeSet<ShardId>,
) -> Assignment {
    let shards = if last.shards() == 0 {
        shards
    } else {
        last.shards()
    };
    let weights = weights.filter(|weights| weights.len() == shards as usize);
    let members = next_members(last, nodes, pinned);
    let alike = |weights: &[u32]| weights.windows(2).all(|pair| pair[0] == pair[1]);
    let capacities: BTreeSet<u32> = nodes.iter().map(|node| node.capacity.max(1)).collect();
    let owners = if capacities.len() <= 1 && weights.is_none_or(|weights| alike(weights)) {
        even::place(last, shards, &members, nodes, pinned)
    } else {
        let weights = weights.map(|weights| &weights[..]);
        weighted::place(weights, last, shards, &members, nodes, pinned)
    };
    Assignment {
        members,
        owners,
        weights: weights.cloned(),
    }
}

/// How many shards must change their node so that `nodes` share them evenly (closed form), if all shards and nodes are
/// alike; for others see [`Balance::least_moved`].
pub fn minimum_moves(last: &ShardMap, nodes: &[NodeId]) -> usize {
    let shards = last.shards() as usize;
    let nodes: BTreeSet<&NodeId> = nodes.iter().collect();
    if nodes.is_empty() {
        return shards;
    }
    let counts = last.counts();
    let members = last.members().iter().zip(counts);
    let mut held: Vec<usize> = members
        .filter(|(member, _)| nodes.contains(&member.instance.node))
        .map(|(_, held)| held)
        .collect();
    held.sort_unstable_by(|a, b| b.cmp(a));
    let (base, extra) = (shards / nodes.len(), shards % nodes.len());
    // Nodes that are new hold nothing and keep nothing: they need no place in `held`.
    let kept: usize = held
        .iter()
        .enumerate()
        .map(|(at, &held)| held.min(base + usize::from(at < extra)))
        .sum();
    shards - kept
}

/// Members of the next map: all nodes, and owners of pinned shards. Worker ids go by name and stay.
fn next_members(
    last: &ShardMap,
    nodes: &[Candidate],
    pinned: &BTreeSet<ShardId>,
) -> Vec<MapMember> {
    let mut next: BTreeMap<NodeId, (Instance, u32)> = BTreeMap::new();
    for candidate in nodes {
        let entry = (candidate.instance.clone(), candidate.capacity.max(1));
        let known = next
            .entry(candidate.instance.node.clone())
            .or_insert_with(|| entry.clone());
        if known.0.boot < entry.0.boot {
            *known = entry;
        }
    }
    for owner in pinned.iter().filter_map(|&shard| last.owner(shard)) {
        if !next.contains_key(&owner.node)
            && let Some(member) = last.member(&owner.node)
        {
            next.insert(owner.node.clone(), (owner.clone(), member.capacity));
        }
    }
    let held = |node: &NodeId| last.member(node).map(|member| member.worker);
    let taken: BTreeSet<WorkerId> = next.keys().filter_map(held).collect();
    let mut free = (1..=MAX_WORKERS as u16)
        .map(WorkerId)
        .filter(|worker| !taken.contains(worker));
    let numbered = next.into_iter().filter_map(|(node, (instance, capacity))| {
        let worker = held(&node).or_else(|| free.next())?;
        Some(MapMember {
            instance,
            worker,
            capacity,
        })
    });
    numbered.collect()
}
