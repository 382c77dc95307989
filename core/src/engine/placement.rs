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
    let mut loads = loads(last, &members, nodes);
    for shard in (0..shards).map(ShardId) {
        let load = &mut loads[usize::from(last.worker(shard).0)];
        load.held += 1;
        load.pinned += u32::from(!pinned.is_empty() && load.stays && pinned.contains(&shard));
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

/// The part of one worker id.
#[derive(Clone, Copy, Default)]
struct Load {
    /// Whether the node that has the id in the last map has it in the next one too. The id of a node that goes may
    /// pass to one that comes, who has nothing of what its predecessor held.
    stays: bool,
    /// Whether it gets a share; a worker that does not keeps its pinned shards only.
    takes_part: bool,
    /// Shards in the last map.
    held: u32,
    /// Of them, those that must not move.
    pinned: u32,
    /// How many places are free for shards that are not pinned to it.
    free: u32,
}

impl Load {
    /// What it can keep without a move.
    fn keepable(&self) -> u32 {
        if self.stays { self.held } else { 0 }
    }
}

/// An empty load for each worker id of either map; 0 stands for nobody.
fn loads(last: &ShardMap, members: &[MapMember], nodes: &[Candidate]) -> Vec<Load> {
    let present: BTreeSet<&NodeId> = nodes.iter().map(|c| &c.instance.node).collect();
    let all = members.iter().chain(last.members());
    let highest = all.map(|member| member.worker.0).max().unwrap_or(0);
    let mut loads = vec![Load::default(); usize::from(highest) + 1];
    for member in members {
        let node = &member.instance.node;
        let load = &mut loads[usize::from(member.worker.0)];
        load.stays = last.member(node).is_some();
        load.takes_part = present.contains(node);
    }
    loads
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
    let workers = members.iter().map(|member| usize::from(member.worker.0));
    let (mut taking, going): (Vec<usize>, Vec<usize>) =
        workers.partition(|&worker| loads[worker].takes_part);
    let kept: u32 = going.iter().map(|&worker| loads[worker].pinned).sum();
    let mut left = shards - kept;
    // Whoever has more pinned than an even share keeps that, and the others share the rest. Stable sorts: among
    // equals the order of names decides, `members` being sorted.
    taking.sort_by_key(|&worker| loads[worker].pinned);
    while let Some(&worker) = taking.last()
        && loads[worker].pinned > left / taking.len() as u32
    {
        left -= loads[worker].pinned;
        taking.pop();
    }
    if taking.is_empty() {
        return;
    }
    let even = left / taking.len() as u32;
    let extra = (left % taking.len() as u32) as usize;
    taking.sort_unstable();
    taking.sort_by_key(|&worker| std::cmp::Reverse(loads[worker].keepable()));
    for (at, &worker) in taking.iter().enumerate() {
        let share = even + u32::from(at < extra);
        loads[worker].free = share - loads[worker].pinned;
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
        if load.stays && !pinned.is_empty() && pinned.contains(&shard) {
            owners[shard.0 as usize] = worker;
        } else if load.stays && load.free > 0 {
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

    #[test]
    fn i5_a_node_that_gets_the_worker_id_of_another_does_not_get_its_shards() {
        let map = start(15, &candidates([0, 1, 2, 3, 7]));
        let nodes = candidates([0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12]);
        let next = apply(&map, &place(&map, 0, &nodes, &BTreeSet::new()));
        let worker = |map: &ShardMap, n| map.member(&candidate(n, 1).instance.node).unwrap().worker;
        assert_eq!(worker(&map, 3), worker(&next, 4));
        assert_eq!(moved(&map, &next), 7);
    }

    #[test]
    fn equal_pins_above_an_even_share_leave_the_others_even() {
        let map = start(13, &candidates([0, 1]));
        let pinned: BTreeSet<ShardId> = [0, 1, 2, 10, 11, 12].map(ShardId).into();
        let next = apply(&map, &place(&map, 0, &candidates(0..6), &pinned));
        assert_eq!(next.counts(), [3, 3, 2, 2, 2, 1]);
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
            // Whoever has more than the fewest plus one has only what is pinned to it; who goes, too.
            let counts = next.counts();
            let staying = |at: &usize| *at < next.members().len() && names(&candidates(0..after)).contains(&next.members()[*at].instance.node);
            let fewest = (0..counts.len()).filter(staying).map(|at| counts[at]).min().unwrap();
            for (at, member) in next.members().iter().enumerate() {
                if !staying(&at) || counts[at] > fewest + 1 {
                    prop_assert!(next.owned_by(&member.instance).all(|(shard, _)| pinned.contains(&shard)));
                }
            }
            let again = place(&next, 0, &candidates(0..after), &pinned);
            prop_assert_eq!(again.owners, next.assignment().owners, "a feasible map is never changed");
        }
    }
}
