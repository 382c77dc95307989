//! Placement by weight and capacity: against all ways where they can be tried, against the stated bounds elsewhere.

use proptest::prelude::*;

use super::tests::{apply, candidates, moved};
use super::*;
use crate::ids::LogIndex;

/// Nodes by number, with their capacities.
fn with_capacities(nodes: &BTreeMap<u64, u32>) -> Vec<Candidate> {
    let mut all = candidates(nodes.keys().copied());
    for (node, &capacity) in all.iter_mut().zip(nodes.values()) {
        node.capacity = capacity;
    }
    all
}

fn weight_of(weights: &[u32], shard: u32) -> u64 {
    weights.get(shard as usize).map_or(1, |&w| u64::from(w))
}

fn weight_moved(weights: &[u32], before: &ShardMap, after: &ShardMap) -> u64 {
    let owner = |map: &ShardMap, shard| map.owner(ShardId(shard)).map(|owner| owner.node.clone());
    let moves = |&shard: &u32| owner(before, shard) != owner(after, shard);
    let shards = (0..after.shards()).filter(moves);
    shards.map(|shard| weight_of(weights, shard)).sum()
}

fn start(weights: &Arc<[u32]>, nodes: &[Candidate]) -> ShardMap {
    let empty = ShardMap::empty();
    let shards = weights.len() as u32;
    let assignment = place_by(Some(weights), &empty, shards, nodes, &BTreeSet::new());
    apply(&empty, &assignment)
}

fn next(map: &ShardMap, nodes: &[Candidate]) -> ShardMap {
    apply(map, &place(map, 0, nodes, &BTreeSet::new()))
}

/// The least weight that can move, by trying everything; by a program that shares nothing with placement.
fn least_by_force(weights: &[u32], owners: &[Option<usize>], capacities: &[u32]) -> u64 {
    let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
    let all: u64 = capacities.iter().map(|&c| u64::from(c)).sum();
    let heaviest = u64::from(*weights.iter().max().unwrap());
    let mut least = u64::MAX;
    for way in 0..capacities.len().pow(weights.len() as u32) {
        let mut loads = vec![0_u64; capacities.len()];
        let (mut rest, mut moved) = (way, 0);
        for (&weight, &owner) in weights.iter().zip(owners) {
            let to = rest % capacities.len();
            rest /= capacities.len();
            loads[to] += u64::from(weight);
            if owner != Some(to) {
                moved += u64::from(weight);
            }
        }
        let balanced = loads.iter().zip(capacities).all(|(&load, &capacity)| {
            (load * all).abs_diff(total * u64::from(capacity)) < heaviest * all
        });
        if balanced {
            least = least.min(moved);
        }
    }
    least
}

#[test]
fn a_node_of_twice_the_capacity_has_twice_the_shards() {
    let nodes = with_capacities(&BTreeMap::from([(0, 1), (1, 2), (2, 1)]));
    let map = start(&vec![1; 40].into(), &nodes);
    assert_eq!(map.counts(), [10, 20, 10]);
    let grown = with_capacities(&BTreeMap::from([(0, 1), (1, 2), (2, 5)]));
    let after = next(&map, &grown);
    assert_eq!(after.counts(), [5, 10, 25]);
    assert_eq!(moved(&map, &after), 15);
}

#[test]
fn equal_weights_of_any_size_are_no_weights() {
    let nodes = candidates(0..7);
    let light = start(&vec![1; 100].into(), &nodes);
    let heavy = start(&vec![9; 100].into(), &nodes);
    let none = apply(
        &ShardMap::empty(),
        &place(&ShardMap::empty(), 100, &nodes, &BTreeSet::new()),
    );
    assert_eq!(light.owners(), none.owners());
    assert_eq!(heavy.owners(), none.owners());
}

#[test]
fn one_heavy_shard_has_a_node_to_itself() {
    let mut weights = vec![1; 31];
    weights[7] = 10;
    let map = start(&weights.into(), &candidates(0..4));
    let owner = map.owner(ShardId(7)).unwrap();
    assert_eq!(map.owned_by(owner).count(), 1);
}

#[test]
fn shards_that_weigh_the_same_are_handed_out_in_runs() {
    let nodes = with_capacities(&BTreeMap::from([(0, 1), (1, 2), (2, 3)]));
    let map = start(&vec![1; 60].into(), &nodes);
    assert_eq!(map.owners().chunk_by(|a, b| a == b).count(), 3);
}

#[test]
fn an_owner_that_goes_keeps_what_is_pinned_and_the_rest_is_shared_by_weight() {
    let weights: Vec<u32> = (0..24).map(|shard| shard % 5 + 1).collect();
    let map = start(&weights.into(), &candidates(0..4));
    let gone = candidates(0..1).remove(0).instance;
    let pin = map.owned_by(&gone).next().unwrap().0;
    let pinned = BTreeSet::from([pin]);
    let after = apply(&map, &place(&map, 0, &candidates(1..4), &pinned));
    assert_eq!(
        after
            .owned_by(&gone)
            .map(|(shard, _)| shard)
            .collect::<Vec<_>>(),
        [pin]
    );
    assert_eq!(after.epoch(pin), map.epoch(pin));
    assert!((0..24).all(|shard| after.owner(ShardId(shard)).is_some()));
}

#[test]
fn the_extremes_do_not_overflow() {
    let nodes = with_capacities(&BTreeMap::from([(0, u32::MAX), (1, 1), (2, u32::MAX)]));
    let map = start(&vec![u32::MAX; 9].into(), &nodes);
    assert!(Balance::of(&map, &nodes).holds(), "{:?}", map.counts());
    let zero = with_capacities(&BTreeMap::from([(0, 0), (1, 3)]));
    let map = next(&map, &zero);
    assert!((0..9).all(|shard| map.owner(ShardId(shard)).is_some()));
}

#[test]
fn few_shards_move_and_no_heavier_one_than_is_needed() {
    let weights: Vec<u32> = [9, 5, 4].into_iter().chain([1; 20]).collect();
    let map = start(&weights.into(), &candidates(0..1));
    // 38 where 27 are allowed: the 9, and of what is 2 at least the lightest.
    let after = next(&map, &candidates(0..2));
    let newcomer = &candidates(0..2)[1].instance;
    let gained: Vec<u32> = after.owned_by(newcomer).map(|(shard, _)| shard.0).collect();
    assert_eq!(gained, [0, 2]);
}

/// The step that gives each of many nodes a part of one big one; the numbers are those of the target for speed.
fn fifty() -> (ShardMap, Vec<Candidate>) {
    let weights: Vec<u32> = (0..10_000_u64)
        .map(|shard| (shard.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 % 100 + 1)
        .collect();
    let nodes: BTreeMap<u64, u32> = (0..50).map(|n| (n, n as u32 % 4 + 1)).collect();
    (
        start(&weights.into(), &with_capacities(&nodes)),
        with_capacities(&nodes),
    )
}

#[test]
fn of_fifty_nodes_that_one_leaves_only_its_load_moves() {
    let (map, mut nodes) = fifty();
    let balance = Balance::of(&map, &nodes);
    let off = |&(share, load): &(Share, u64)| share.ideal.abs_diff(load);
    assert!(
        balance.holds() && balance.nodes.iter().map(off).max() <= Some(2),
        "{balance:?}"
    );
    let gone = nodes.remove(17);
    let weights = map.weights().unwrap().clone();
    let held: u64 = map
        .owned_by(&gone.instance)
        .map(|(s, _)| weight_of(&weights, s.0))
        .sum();
    let after = next(&map, &nodes);
    assert!(Balance::of(&after, &nodes).holds());
    assert_eq!(weight_moved(&weights, &map, &after), held);
}

fn nodes(of: u64, most: usize) -> impl Strategy<Value = BTreeMap<u64, u32>> {
    prop::collection::btree_map(0..of, 1_u32..5, 1..most)
}

proptest! {
    #[test]
    fn balanced_within_one_shard_and_few_moves(
        weights in prop::collection::vec(1_u32..40, 1..200),
        steps in prop::collection::vec(nodes(24, 12), 1..6),
    ) {
        let weights: Arc<[u32]> = weights.into();
        let mut map: Option<ShardMap> = None;
        for step in steps {
            let nodes = with_capacities(&step);
            let after = match &map {
                None => start(&weights, &nodes),
                Some(map) => next(map, &nodes),
            };
            prop_assert!(Balance::of(&after, &nodes).holds(), "{:?}", Balance::of(&after, &nodes));
            if let Some(map) = &map {
                let balance = Balance::of(map, &nodes);
                let moved = weight_moved(&weights, map, &after);
                prop_assert!(moved >= balance.least_moved() && moved <= balance.most_moved(), "{} {:?}", moved, balance);
            }
            let again = next(&after, &nodes);
            prop_assert_eq!(again.owners(), after.owners(), "what is balanced stays");
            let mut shuffled = nodes.clone();
            shuffled.reverse();
            let of = |nodes: &[Candidate]| place(&after, 0, nodes, &BTreeSet::new());
            prop_assert_eq!(of(&shuffled), of(&nodes), "order does not matter");
            map = Some(after);
        }
    }

    /// Shards that weigh the same, on nodes of any capacity: exactly the least.
    #[test]
    fn i5_by_capacity_alone_the_minimum_moves(
        shards in 1_u32..300,
        weight in 1_u32..9,
        steps in prop::collection::vec(nodes(16, 9), 2..6),
    ) {
        let weights: Arc<[u32]> = vec![weight; shards as usize].into();
        let mut steps = steps.iter().map(with_capacities);
        let mut map = start(&weights, &steps.next().unwrap());
        for nodes in steps {
            let after = next(&map, &nodes);
            prop_assert_eq!(weight_moved(&weights, &map, &after), Balance::of(&map, &nodes).least_moved());
            map = after;
        }
    }

    #[test]
    fn i5_the_least_of_all_ways_moves_where_they_can_be_tried(
        shards in prop::collection::vec((1_u32..12, 0_usize..5), 1..9),
        capacities in prop::collection::vec(1_u32..5, 1..5),
    ) {
        let weights: Arc<[u32]> = shards.iter().map(|(weight, _)| *weight).collect();
        let before: BTreeMap<u64, u32> = (0..5).map(|n| (n, 1)).collect();
        let mut assignment = start(&weights, &with_capacities(&before)).assignment();
        assignment.owners = shards.iter().map(|&(_, owner)| WorkerId(owner as u16 + 1)).collect();
        let map = ShardMap::empty().apply_assignment(LogIndex(1), &assignment).unwrap();
        // Nodes 0 to 3 at most stay; the others go.
        let nodes: BTreeMap<u64, u32> = (0..).zip(capacities.iter().copied()).collect();
        let nodes = with_capacities(&nodes);
        let owners: Vec<Option<usize>> = shards.iter().map(|&(_, at)| (at < nodes.len()).then_some(at)).collect();
        let least = least_by_force(&weights, &owners, &capacities);
        let after = next(&map, &nodes);
        let moved = weight_moved(&weights, &map, &after);
        let alike = capacities.iter().all(|c| *c == capacities[0]) && weights.iter().all(|w| *w == weights[0]);
        prop_assert_eq!(moved, least, "{:?} {:?}", after.counts(), alike);
        prop_assert!(Balance::of(&map, &nodes).least_moved() <= least);
        prop_assert!(Balance::of(&after, &nodes).holds());
    }

    #[test]
    fn pins_hold_and_the_rest_is_shared_by_weight(
        weights in prop::collection::vec(1_u32..30, 8..100),
        before in nodes(8, 8),
        after in nodes(8, 8),
        pins in prop::collection::btree_set(0_u32..100, 0..30),
    ) {
        let map = start(&weights.clone().into(), &with_capacities(&before));
        let pinned: BTreeSet<ShardId> = pins.into_iter().filter(|&s| s < map.shards()).map(ShardId).collect();
        let nodes = with_capacities(&after);
        let result = apply(&map, &place(&map, 0, &nodes, &pinned));
        for &shard in &pinned {
            prop_assert_eq!(result.owner(shard), map.owner(shard));
            prop_assert_eq!(result.epoch(shard), map.epoch(shard));
        }
        prop_assert!((0..map.shards()).all(|shard| result.owner(ShardId(shard)).is_some()));
        // Whoever has more than its share allows has only what is pinned to it.
        let balance = Balance::of(&result, &nodes);
        for (node, (share, load)) in nodes.iter().zip(&balance.nodes) {
            if *load > share.high {
                prop_assert!(result.owned_by(&node.instance).all(|(shard, _)| pinned.contains(&shard)));
            }
        }
        let again = place(&result, 0, &nodes, &pinned);
        prop_assert_eq!(again.owners, result.assignment().owners, "what is balanced stays");
    }

    /// In steps it ends, each step moves no more than it may, and nothing moves twice in vain.
    #[test]
    fn a_budget_delays_and_adds_nothing(
        weights in prop::collection::vec(1_u32..10, 1..120),
        alike in any::<bool>(),
        before in nodes(12, 8),
        after in nodes(12, 8),
        most in 1_usize..8,
    ) {
        let weights: Arc<[u32]> = if alike { vec![1; weights.len()].into() } else { weights.into() };
        let plain = |nodes: BTreeMap<u64, u32>| nodes.into_keys().map(|n| (n, 1)).collect();
        let (before, after) = if alike { (plain(before), plain(after)) } else { (before, after) };
        let mut map = start(&weights, &with_capacities(&before));
        let nodes = with_capacities(&after);
        let names: Vec<NodeId> = nodes.iter().map(|n| n.instance.node.clone()).collect();
        let gone = |map: &ShardMap| {
            let owner = |shard| map.owner(ShardId(shard)).is_none_or(|owner| !names.contains(&owner.node));
            (0..map.shards()).filter(|&shard| owner(shard)).count()
        };
        let (first, total) = (map.clone(), minimum_moves(&map, &names));
        let mut moves = 0;
        for step in 0.. {
            let mut assignment = place(&map, 0, &nodes, &BTreeSet::new());
            let cut = limit_moves(&mut assignment, &map, &nodes, most);
            let result = apply(&map, &assignment);
            let (count, forced) = (moved(&map, &result), gone(&map));
            prop_assert!(count <= forced + most);
            prop_assert!(!cut || count == forced + most, "a step uses what it may");
            prop_assert_eq!(gone(&result), 0, "what must move moves at once");
            moves += count;
            map = result;
            if !cut {
                break;
            }
            prop_assert!(step < weights.len() * 40, "it does not end");
        }
        prop_assert!(Balance::of(&map, &nodes).holds());
        let again = next(&map, &nodes);
        prop_assert_eq!(again.owners(), map.owners());
        if alike {
            prop_assert_eq!(moves, total);
            prop_assert_eq!(moved(&first, &map), total, "no shard moved twice");
        }
    }
}
