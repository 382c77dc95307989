//! The next map from the last one and the nodes there are: a pure function, the same everywhere.
//!
//! With equal weights and capacities the result is balanced (`max - min <= 1`) and moves exactly as many shards
//! as balance requires: every node keeps as many of its shards as its share allows, and the larger shares go to the
//! nodes that hold most already. A map that is balanced over the same nodes is returned unchanged.

use std::collections::{BTreeMap, BTreeSet};

use super::shard_map::{Assignment, MapMember, ShardMap};
use crate::ids::{Instance, NodeId, ShardId, WorkerId};
use crate::limits::MAX_WORKERS;

/// A node that may own shards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The run that would own them.
    pub instance: Instance,
    /// Relative capacity, at least 1. Carried into the map; shares are equal for now.
    pub capacity: u32,
}

/// Computes the next assignment.
///
/// `shards` is the number of shards when `last` is the empty map. `pinned` shards stay with their present owner,
/// whether it is among `nodes` or not (rule P4); the rest is balanced around them. A node that restarted is the
/// same node here: its shards do not move, though they get new epochs. Without nodes nobody owns anything but pins.
pub fn place(
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
    let members = next_members(last, nodes, pinned);
    let present: BTreeSet<&NodeId> = nodes
        .iter()
        .map(|candidate| &candidate.instance.node)
        .collect();
    let highest = members
        .iter()
        .map(|member| member.worker.0)
        .chain(last.members().iter().map(|m| m.worker.0))
        .max();
    let mut loads = vec![Load::default(); usize::from(highest.unwrap_or(0)) + 1];
    for member in members
        .iter()
        .filter(|member| present.contains(&member.instance.node))
    {
        loads[usize::from(member.worker.0)].takes_part = true;
    }
    for shard in 0..shards {
        let load = &mut loads[usize::from(last.worker(ShardId(shard)).0)];
        load.held += 1;
        load.pinned += u32::from(!pinned.is_empty() && pinned.contains(&ShardId(shard)));
    }
    share_out(&mut loads, &members, shards);
    let owners = hand_out(last, shards, &mut loads, &members, pinned);
    Assignment {
        members,
        owners,
        weights: last.weights().cloned(),
    }
}

/// How many shards must change their node so that `nodes` share them evenly (closed form).
pub fn minimum_moves(last: &ShardMap, nodes: &[NodeId]) -> usize {
    let shards = last.shards() as usize;
    let nodes: BTreeSet<&NodeId> = nodes.iter().collect();
    if nodes.is_empty() {
        return shards;
    }
    let counts = last.counts();
    let held = |node: &NodeId| {
        last.members()
            .iter()
            .position(|m| m.instance.node == *node)
            .map_or(0, |at| counts[at])
    };
    let mut held: Vec<usize> = nodes.iter().map(|node| held(node)).collect();
    held.sort_unstable_by(|a, b| b.cmp(a));
    let (base, extra) = (shards / nodes.len(), shards % nodes.len());
    let kept: usize = held
        .iter()
        .enumerate()
        .map(|(at, &held)| held.min(base + usize::from(at < extra)))
        .sum();
    shards - kept
}

/// One worker's part.
#[derive(Clone, Copy, Default)]
struct Load {
    /// Whether it gets a share; a worker that does not keeps its pinned shards only.
    takes_part: bool,
    held: u32,
    pinned: u32,
    /// How many shards it shall have.
    share: u32,
    /// Of its share, how many places are free for shards that are not pinned to it.
    free: u32,
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

/// Even shares, but never less than what is pinned; the larger ones to those that hold most.
fn share_out(loads: &mut [Load], members: &[MapMember], shards: u32) {
    let mut taking: Vec<usize> = members
        .iter()
        .map(|m| usize::from(m.worker.0))
        .filter(|&w| loads[w].takes_part)
        .collect();
    let elsewhere = |loads: &[Load]| -> u32 {
        loads
            .iter()
            .skip(1)
            .filter(|load| !load.takes_part)
            .map(|load| load.pinned)
            .sum()
    };
    let mut left = shards - elsewhere(loads);
    // Whoever has more pinned than an even share keeps that, and the others share the rest.
    while !taking.is_empty() {
        let even = left / taking.len() as u32;
        let Some(at) = taking
            .iter()
            .position(|&worker| loads[worker].pinned > even + 1)
        else {
            break;
        };
        let load = &mut loads[taking.remove(at)];
        load.share = load.pinned;
        left -= load.pinned;
    }
    if !taking.is_empty() {
        let (base, extra) = (
            left / taking.len() as u32,
            (left % taking.len() as u32) as usize,
        );
        // Stable: among equals the order of names decides, `members` being sorted.
        taking.sort_by_key(|&worker| {
            (
                loads[worker].pinned <= base,
                std::cmp::Reverse(loads[worker].held),
            )
        });
        for (at, &worker) in taking.iter().enumerate() {
            loads[worker].share = (base + u32::from(at < extra)).max(loads[worker].pinned);
        }
    }
    for load in loads.iter_mut() {
        load.free = load.share.saturating_sub(load.pinned);
    }
}

/// Each shard stays while its owner has room for it; the others fill what is free, in runs.
fn hand_out(
    last: &ShardMap,
    shards: u32,
    loads: &mut [Load],
    members: &[MapMember],
    pinned: &BTreeSet<ShardId>,
) -> Vec<WorkerId> {
    let mut owners = vec![WorkerId(0); shards as usize];
    let mut homeless = Vec::new();
    for shard in (0..shards).map(ShardId) {
        let worker = last.worker(shard);
        let load = &mut loads[usize::from(worker.0)];
        if worker.0 != 0 && !pinned.is_empty() && pinned.contains(&shard) {
            owners[shard.0 as usize] = worker;
        } else if worker.0 != 0 && load.takes_part && load.free > 0 {
            load.free -= 1;
            owners[shard.0 as usize] = worker;
        } else {
            homeless.push(shard);
        }
    }
    let mut homeless = homeless.into_iter();
    for member in members {
        let free = loads[usize::from(member.worker.0)].free;
        for shard in homeless.by_ref().take(free as usize) {
            owners[shard.0 as usize] = member.worker;
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BootId, LogIndex};
    use proptest::prelude::*;

    fn candidate(n: u64, boot: u64) -> Candidate {
        let node = NodeId::new(&format!("n{n:03}")).unwrap();
        Candidate {
            instance: Instance {
                node,
                boot: BootId(boot),
            },
            capacity: 1,
        }
    }

    fn candidates(nodes: impl IntoIterator<Item = u64>) -> Vec<Candidate> {
        nodes.into_iter().map(|n| candidate(n, 1)).collect()
    }

    fn names(nodes: &[Candidate]) -> Vec<NodeId> {
        nodes
            .iter()
            .map(|candidate| candidate.instance.node.clone())
            .collect()
    }

    fn apply(last: &ShardMap, assignment: &Assignment) -> ShardMap {
        last.apply_assignment(LogIndex(last.index().0 + 1), assignment)
            .unwrap()
    }

    fn moved(before: &ShardMap, after: &ShardMap) -> usize {
        let owner =
            |map: &ShardMap, shard| map.owner(ShardId(shard)).map(|owner| owner.node.clone());
        (0..after.shards())
            .filter(|&shard| owner(before, shard) != owner(after, shard))
            .count()
    }

    fn start(shards: u32, nodes: &[Candidate]) -> ShardMap {
        apply(
            &ShardMap::empty(),
            &place(&ShardMap::empty(), shards, nodes, &BTreeSet::new()),
        )
    }

    #[test]
    fn a_node_of_fifty_that_is_replaced_moves_only_its_own_shards() {
        let map = start(10_000, &candidates(0..50));
        let nodes = candidates((0..49).chain([77]));
        let next = apply(&map, &place(&map, 0, &nodes, &BTreeSet::new()));
        assert_eq!(moved(&map, &next), 200);
    }

    #[test]
    fn a_restarted_node_keeps_its_shards_and_worker_id() {
        let map = start(100, &candidates(0..3));
        let nodes = [candidate(0, 1), candidate(1, 9), candidate(2, 1)];
        let next = apply(&map, &place(&map, 0, &nodes, &BTreeSet::new()));
        assert_eq!(moved(&map, &next), 0);
        assert_eq!(next.members()[1].worker, map.members()[1].worker);
        assert_eq!(next.members()[1].instance.boot, BootId(9));
    }

    #[test]
    fn worker_ids_are_the_smallest_free_ones_and_stay() {
        let map = start(10, &candidates([3, 5, 7]));
        let next = apply(
            &map,
            &place(&map, 0, &candidates([1, 5, 7]), &BTreeSet::new()),
        );
        let workers: Vec<_> = next
            .members()
            .iter()
            .map(|m| (m.instance.node.as_str(), m.worker.0))
            .collect();
        assert_eq!(workers, [("n001", 1), ("n005", 2), ("n007", 3)]);
    }

    #[test]
    fn p4_a_pinned_shard_stays_even_where_its_owner_should_go() {
        let map = start(12, &candidates(0..3));
        let pinned = BTreeSet::from([ShardId(0)]);
        let owner = map.owner(ShardId(0)).unwrap().clone();
        let without: Vec<_> = candidates(0..3)
            .into_iter()
            .filter(|c| c.instance != owner)
            .collect();
        let next = apply(&map, &place(&map, 0, &without, &pinned));
        assert_eq!(next.owner(ShardId(0)), Some(&owner));
        assert_eq!(next.epoch(ShardId(0)), map.epoch(ShardId(0)));
        assert_eq!(
            next.owned_by(&owner).count(),
            1,
            "only what is pinned stays"
        );
        assert!((0..12).all(|shard| next.owner(ShardId(shard)).is_some()));
    }

    #[test]
    fn without_nodes_nobody_owns_anything() {
        let map = start(4, &candidates(0..2));
        let next = apply(&map, &place(&map, 0, &[], &BTreeSet::new()));
        assert!((0..4).all(|shard| next.owner(ShardId(shard)).is_none()));
    }

    proptest! {
        #[test]
        fn i5_balanced_with_exactly_the_minimum_of_moves(
            shards in 1u32..600,
            steps in prop::collection::vec(prop::collection::btree_set(0u64..24, 1..16), 1..6),
        ) {
            let mut map = ShardMap::empty();
            for step in steps {
                let nodes = candidates(step);
                let assignment = place(&map, shards, &nodes, &BTreeSet::new());
                let next = apply(&map, &assignment);
                let counts = next.counts();
                prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
                prop_assert_eq!(counts.iter().sum::<usize>(), shards as usize);
                if map.shards() != 0 {
                    prop_assert_eq!(moved(&map, &next), minimum_moves(&map, &names(&nodes)));
                }
                let again = apply(&next, &place(&next, 0, &nodes, &BTreeSet::new()));
                prop_assert_eq!(moved(&next, &again), 0, "a feasible map is never changed");
                let mut shuffled = nodes.clone();
                shuffled.reverse();
                prop_assert_eq!(place(&map, shards, &shuffled, &BTreeSet::new()), assignment, "order does not matter");
                map = next;
            }
        }

        /// The closed form against all ways to share out few shards.
        #[test]
        fn the_minimum_is_the_minimum(owners in prop::collection::vec(0u16..4, 1..7), nodes in prop::collection::btree_set(0u64..4, 1..4)) {
            let members = candidates(0..4);
            let mut assignment = place(&ShardMap::empty(), owners.len() as u32, &members, &BTreeSet::new());
            assignment.owners = owners.iter().map(|&owner| WorkerId(owner + 1)).collect();
            let map = apply(&ShardMap::empty(), &assignment);
            let nodes: Vec<u64> = nodes.into_iter().collect();
            let mut best = usize::MAX;
            for code in 0..nodes.len().pow(owners.len() as u32) {
                let chosen: Vec<u64> = (0..owners.len()).map(|at| nodes[code / nodes.len().pow(at as u32) % nodes.len()]).collect();
                let count = |node: &u64| chosen.iter().filter(|&n| n == node).count();
                let spread = nodes.iter().map(count).max().unwrap() - nodes.iter().map(count).min().unwrap();
                let moves = chosen.iter().zip(&owners).filter(|&(&to, &from)| to != u64::from(from)).count();
                if spread <= 1 { best = best.min(moves); }
            }
            prop_assert_eq!(minimum_moves(&map, &names(&candidates(nodes))), best);
        }

        #[test]
        fn pins_hold_and_the_rest_is_shared(
            shards in 8u32..200, before in 2u64..8, after in 1u64..8, pins in prop::collection::btree_set(0u32..200, 0..40),
        ) {
            let map = start(shards, &candidates(0..before));
            let pinned: BTreeSet<ShardId> = pins.into_iter().filter(|&s| s < shards).map(ShardId).collect();
            let next = apply(&map, &place(&map, 0, &candidates(0..after), &pinned));
            for &shard in &pinned {
                prop_assert_eq!(next.owner(shard), map.owner(shard));
                prop_assert_eq!(next.epoch(shard), map.epoch(shard));
            }
            prop_assert!((0..shards).all(|shard| next.owner(ShardId(shard)).is_some()));
        }
    }
}
