//! Keeps a shard away from a node that could not acquire it.

use std::collections::{BTreeMap, BTreeSet};

use super::placement::{Candidate, loads_by};
use super::shard_map::Assignment;
use crate::ids::{NodeId, ShardId, WorkerId};

/// Swaps each shard that stands on the node to avoid with one of the node that holds the fewest, so that the
/// balance stays as placement made it. Only `nodes` take part, and what is pinned stays (rule P4). Does nothing
/// where there is no other node.
pub(super) fn steer<'a>(
    assignment: &mut Assignment,
    nodes: &[Candidate],
    pinned: &BTreeSet<ShardId>,
    avoid: impl Iterator<Item = (ShardId, &'a NodeId)>,
) {
    let avoid: BTreeMap<ShardId, WorkerId> = avoid
        .filter_map(|(shard, node)| Some((shard, worker_of(assignment, node)?)))
        .filter(|(shard, _)| !pinned.contains(shard))
        .collect();
    let stands =
        |a: &Assignment, shard: ShardId, worker| a.owners.get(shard.0 as usize) == Some(&worker);
    if !avoid.iter().any(|(&s, &w)| stands(assignment, s, w)) {
        return;
    }
    if !are_alike(assignment, nodes) {
        return steer_by_weight(assignment, nodes, pinned, &avoid);
    }
    let mut loads: BTreeMap<WorkerId, Vec<ShardId>> = nodes
        .iter()
        .filter_map(|candidate| worker_of(assignment, &candidate.instance.node))
        .map(|worker| (worker, Vec::new()))
        .collect();
    // From the last shard to the first, so that the first is at hand.
    for (shard, owner) in assignment.owners.iter().enumerate().rev() {
        if let Some(held) = loads.get_mut(owner) {
            held.push(ShardId(shard as u32));
        }
    }
    for (&shard, &avoided) in &avoid {
        if !stands(assignment, shard, avoided) {
            continue;
        }
        let others = loads.iter().filter(|(worker, _)| **worker != avoided);
        let fewest = others.min_by_key(|(worker, held)| (held.len(), **worker));
        let Some((&other, held)) = fewest else {
            continue;
        };
        let may_go = |s: &ShardId| !pinned.contains(s) && avoid.get(s) != Some(&avoided);
        let swap = held.iter().rev().copied().find(may_go);
        if swap.is_none() && !held.is_empty() {
            continue;
        }
        let mut give = |to: WorkerId, shard: ShardId, from: WorkerId| {
            assignment.owners[shard.0 as usize] = to;
            loads
                .entry(from)
                .and_modify(|held| held.retain(|&held| held != shard));
            loads.entry(to).and_modify(|held| held.push(shard));
        };
        if let Some(swap) = swap {
            give(avoided, swap, other);
        }
        give(other, shard, avoided);
    }
}

/// Whether all shards weigh the same and all nodes have the same capacity.
fn are_alike(assignment: &Assignment, nodes: &[Candidate]) -> bool {
    let weights = assignment.weights.as_deref().unwrap_or_default();
    weights.iter().all(|weight| *weight == weights[0])
        && nodes.iter().all(|node| node.capacity == nodes[0].capacity)
}

/// The same where weights or capacities differ: to the node that lacks most, alone or for the shard whose weight is
/// nearest, if that takes neither node farther from what it is allowed. A shard for which there is no such node stays:
/// the next map would only move it back.
fn steer_by_weight(
    assignment: &mut Assignment,
    nodes: &[Candidate],
    pinned: &BTreeSet<ShardId>,
    avoid: &BTreeMap<ShardId, WorkerId>,
) {
    let mut loads = loads_by(assignment, nodes, pinned);
    for (&shard, &avoided) in avoid {
        let Some(&(own_share, own_load)) = loads.get(&avoided) else {
            continue;
        };
        if assignment.owners.get(shard.0 as usize) != Some(&avoided) {
            continue;
        }
        let weight = assignment.weight(shard);
        let mut others: Vec<WorkerId> = loads.keys().copied().filter(|w| *w != avoided).collect();
        others.sort_by_key(|other| {
            let (share, load) = loads[other];
            (std::cmp::Reverse(share.lacks(load)), *other)
        });
        let found = others.into_iter().find_map(|other| {
            let (share, load) = loads[&other];
            let off = own_share.off(own_load) + share.off(load);
            let fits = |back: u64| {
                own_share.off(own_load - weight + back) + share.off(load + weight - back) <= off
            };
            if fits(0) {
                return Some((other, None));
            }
            let shards = (0..assignment.owners.len() as u32).map(ShardId);
            let may_go = |s: &ShardId| {
                assignment.owners[s.0 as usize] == other
                    && !pinned.contains(s)
                    && avoid.get(s) != Some(&avoided)
                    && fits(assignment.weight(*s))
            };
            let nearest = shards.filter(may_go);
            let nearest = nearest.min_by_key(|s| (assignment.weight(*s).abs_diff(weight), *s));
            nearest.map(|swap| (other, Some(swap)))
        });
        let Some((other, swap)) = found else {
            continue;
        };
        let mut give = |shard: ShardId, from: WorkerId, to: WorkerId| {
            let weight = assignment.weight(shard);
            assignment.owners[shard.0 as usize] = to;
            loads.entry(from).and_modify(|(_, load)| *load -= weight);
            loads.entry(to).and_modify(|(_, load)| *load += weight);
        };
        give(shard, avoided, other);
        if let Some(swap) = swap {
            give(swap, other, avoided);
        }
    }
}

fn worker_of(assignment: &Assignment, node: &NodeId) -> Option<WorkerId> {
    let members = &assignment.members;
    let at = members.binary_search_by(|member| member.instance.node.cmp(node));
    Some(members[at.ok()?].worker)
}

#[cfg(test)]
mod tests {
    use super::super::placement::{place, place_by};
    use super::super::shard_map::ShardMap;
    use super::*;
    use crate::ids::{BootId, Instance, LogIndex};
    use proptest::prelude::*;

    fn candidates(nodes: impl IntoIterator<Item = u64>) -> Vec<Candidate> {
        let candidate = |n: u64| Candidate {
            instance: Instance {
                node: NodeId::new(&format!("n{n:02}")).unwrap(),
                boot: BootId(1),
            },
            capacity: 1,
        };
        nodes.into_iter().map(candidate).collect()
    }

    fn placed(shards: u32, nodes: &[Candidate]) -> Assignment {
        place(&ShardMap::empty(), shards, nodes, &BTreeSet::new())
    }

    #[test]
    fn a_node_that_is_on_its_way_out_gets_nothing() {
        let before = ShardMap::empty()
            .apply_assignment(LogIndex(1), &placed(4, &candidates(0..2)))
            .unwrap();
        let pinned = BTreeSet::from([ShardId(0)]);
        let staying = candidates([1, 2]);
        let mut assignment = place(&before, 4, &staying, &pinned);
        let avoid = staying[0].instance.node.clone();
        steer(
            &mut assignment,
            &staying,
            &pinned,
            [(ShardId(3), &avoid)].into_iter(),
        );
        let after = before.apply_assignment(LogIndex(2), &assignment).unwrap();
        assert_eq!(after.owner(ShardId(3)), Some(&staying[1].instance));
        assert_eq!(after.owner(ShardId(0)), before.owner(ShardId(0)));
        assert_eq!(after.counts()[0], 1, "only what is pinned");
    }

    #[test]
    fn by_weight_a_shard_goes_for_one_that_weighs_about_the_same() {
        let weights: std::sync::Arc<[u32]> = vec![9, 1, 1, 1, 8, 2, 2, 1].into();
        let nodes = candidates(0..2);
        let mut assignment = placed(8, &nodes);
        assignment.weights = Some(weights);
        // 12 and 13 of 25.
        steer(
            &mut assignment,
            &nodes,
            &BTreeSet::new(),
            [(ShardId(0), &nodes[0].instance.node)].into_iter(),
        );
        let owners: Vec<u16> = assignment.owners.iter().map(|owner| owner.0).collect();
        assert_ne!(owners[0], 1);
        let loads = loads_by(&assignment, &nodes, &BTreeSet::new());
        assert!(
            loads.values().all(|(share, load)| share.allows(*load)),
            "{owners:?}"
        );
    }

    proptest! {
        #[test]
        fn balance_pins_and_wishes_hold(
            shards in 1u32..100,
            count in 1u64..9,
            wishes in prop::collection::btree_map(0u32..100, 0u64..9, 0..30),
            pins in prop::collection::btree_set(0u32..100, 0..10),
        ) {
            let nodes = candidates(0..count);
            let all = candidates(0..9);
            let before = placed(shards, &nodes);
            let pinned: BTreeSet<ShardId> = pins.into_iter().map(ShardId).collect();
            let wishes: Vec<(ShardId, &NodeId)> = wishes
                .iter()
                .map(|(&shard, &node)| (ShardId(shard), &all[node as usize].instance.node))
                .collect();
            let mut after = before.clone();
            steer(&mut after, &nodes, &pinned, wishes.iter().copied());
            let spread = |a: &Assignment| {
                let counts = a.members.iter().map(|m| a.owners.iter().filter(|&&o| o == m.worker).count());
                counts.clone().max().unwrap() - counts.min().unwrap()
            };
            prop_assert!(spread(&after) <= 1);
            for shard in (0..shards).map(ShardId) {
                if pinned.contains(&shard) {
                    prop_assert_eq!(after.owners[shard.0 as usize], before.owners[shard.0 as usize]);
                }
            }
            if count > 1 && pinned.is_empty() && wishes.len() <= 1 {
                for (shard, node) in &wishes {
                    let owner = after.owners.get(shard.0 as usize).copied();
                    prop_assert!(owner.is_none() || owner != worker_of(&after, node));
                }
            }
            if wishes.len() <= 1 {
                let again = after.clone();
                steer(&mut after, &nodes, &pinned, wishes.into_iter());
                prop_assert_eq!(after, again, "what fits is left alone");
            }
        }

        #[test]
        fn by_weight_balance_and_pins_hold_too(
            weights in prop::collection::vec(1u32..20, 1..60),
            capacities in prop::collection::vec(1u32..4, 1..6),
            wishes in prop::collection::btree_map(0u32..60, 0u64..6, 0..12),
            pins in prop::collection::btree_set(0u32..60, 0..6),
        ) {
            let mut nodes = candidates(0..capacities.len() as u64);
            nodes.iter_mut().zip(capacities).for_each(|(node, capacity)| node.capacity = capacity);
            let (shards, weights) = (weights.len() as u32, weights.into());
            let before = place_by(Some(&weights), &ShardMap::empty(), shards, &nodes, &BTreeSet::new());
            let pinned: BTreeSet<ShardId> = pins.into_iter().map(ShardId).collect();
            let all = candidates(0..6);
            let wishes = wishes.iter().map(|(&shard, &node)| (ShardId(shard), &all[node as usize].instance.node));
            let mut after = before.clone();
            steer(&mut after, &nodes, &pinned, wishes.clone());
            let off = |a: &Assignment| loads_by(a, &nodes, &pinned).values().map(|(share, load)| share.off(*load)).sum::<u64>();
            prop_assert!(off(&after) <= off(&before));
            for shard in (0..shards).map(ShardId).filter(|shard| pinned.contains(shard)) {
                prop_assert_eq!(after.owners[shard.0 as usize], before.owners[shard.0 as usize]);
            }
            if wishes.len() <= 1 {
                let again = after.clone();
                steer(&mut after, &nodes, &pinned, wishes);
                prop_assert_eq!(after, again, "what fits is left alone");
            }
        }
    }
}
