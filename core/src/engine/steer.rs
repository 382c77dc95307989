//! Keeps a shard away from a node that could not acquire it.

use std::collections::{BTreeMap, BTreeSet};

use super::placement::Candidate;
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

fn worker_of(assignment: &Assignment, node: &NodeId) -> Option<WorkerId> {
    let members = &assignment.members;
    let at = members.binary_search_by(|member| member.instance.node.cmp(node));
    Some(members[at.ok()?].worker)
}

#[cfg(test)]
mod tests {
    use super::super::placement::place;
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
    }
}
