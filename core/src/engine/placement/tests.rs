//! Even placement: unit and property tests.

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

pub(super) fn candidates(nodes: impl IntoIterator<Item = u64>) -> Vec<Candidate> {
    nodes.into_iter().map(|n| candidate(n, 1)).collect()
}

fn names(nodes: &[Candidate]) -> Vec<NodeId> {
    nodes
        .iter()
        .map(|candidate| candidate.instance.node.clone())
        .collect()
}

pub(super) fn apply(last: &ShardMap, assignment: &Assignment) -> ShardMap {
    last.apply_assignment(LogIndex(last.index().0 + 1), assignment)
        .unwrap()
}

pub(super) fn moved(before: &ShardMap, after: &ShardMap) -> usize {
    let owner = |map: &ShardMap, shard| map.owner(ShardId(shard)).map(|owner| owner.node.clone());
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
