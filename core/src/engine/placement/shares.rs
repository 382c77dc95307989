//! Shares: how much load each node should have, and how far from that it may be.

use std::collections::{BTreeMap, BTreeSet};

use super::Candidate;
use crate::engine::shard_map::{Assignment, ShardMap};
use crate::ids::{NodeId, ShardId, WorkerId};

/// What one node may have of the load, in units of weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// The least.
    pub low: u64,
    /// Its part of all load, rounded down.
    pub ideal: u64,
    /// Whether it was rounded.
    pub rounded: bool,
    /// The most.
    pub high: u64,
}

impl Share {
    /// Of `capacity` in `capacities`, of the load `total` in shards of at most `heaviest`: less than one of them off.
    fn of(total: u64, heaviest: u64, capacity: u64, capacities: u64) -> Self {
        let part = u128::from(total) * u128::from(capacity);
        let all = u128::from(capacities.max(1));
        let ideal = u64::try_from(part / all).unwrap_or(u64::MAX);
        let rounded = part % all != 0;
        let within = heaviest.max(1) - 1;
        Self {
            low: ideal.saturating_sub(within),
            ideal,
            rounded,
            high: ideal
                .saturating_add(u64::from(rounded))
                .saturating_add(within),
        }
    }

    /// Exactly this much, because it cannot have less.
    fn exactly(load: u64) -> Self {
        Self {
            low: load,
            ideal: load,
            rounded: false,
            high: load,
        }
    }

    /// Whether a node of this share may have this load.
    pub fn allows(&self, load: u64) -> bool {
        (self.low..=self.high).contains(&load)
    }

    /// By how much the load is more or less than is allowed.
    pub(in crate::engine) fn off(&self, load: u64) -> u64 {
        load.saturating_sub(self.high) + self.low.saturating_sub(load)
    }

    /// How far the load is below the share, in half units, so that a share that was rounded down counts: larger than
    /// 0 below the share, smaller above it. All loads below `low` lack more than any that is not.
    pub(in crate::engine) fn lacks(&self, load: u64) -> i64 {
        // All weights together are far below 2^62: 2^20 shards of 2^32.
        2 * (self.ideal as i64 - load as i64) + i64::from(self.rounded)
    }
}

/// The shares of nodes with these capacities and with what is pinned to them already, of the load `total`.
///
/// Whoever has more pinned than its share keeps that, and the others share the rest.
pub(super) fn shares(total: u64, heaviest: u64, nodes: &[(u32, u64)]) -> Vec<Share> {
    let mut shares: Vec<Share> = nodes
        .iter()
        .map(|&(_, pinned)| Share::exactly(pinned))
        .collect();
    // The fullest last, by what is pinned in proportion to the capacity.
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    let fuller = |&a: &usize, &b: &usize| {
        let ((capacity_a, pinned_a), (capacity_b, pinned_b)) = (nodes[a], nodes[b]);
        let a = u128::from(pinned_a) * u128::from(capacity_b.max(1));
        a.cmp(&(u128::from(pinned_b) * u128::from(capacity_a.max(1))))
    };
    order.sort_by(fuller);
    let capacity = |at: usize| u64::from(nodes[at].0.max(1));
    let mut left = total;
    let mut capacities: u64 = order.iter().map(|&at| capacity(at)).sum();
    while let Some(&at) = order.last()
        && u128::from(nodes[at].1) * u128::from(capacities)
            > u128::from(left) * u128::from(capacity(at))
    {
        left = left.saturating_sub(nodes[at].1);
        capacities -= capacity(at);
        order.pop();
    }
    for &at in &order {
        shares[at] = Share::of(left, heaviest, capacity(at), capacities);
    }
    shares
}

/// Share and load of the nodes by an assignment that names them all, around what is pinned.
pub(in crate::engine) fn loads_by(
    assignment: &Assignment,
    nodes: &[Candidate],
    pinned: &BTreeSet<ShardId>,
) -> BTreeMap<WorkerId, (Share, u64)> {
    let present: BTreeSet<&NodeId> = nodes.iter().map(|node| &node.instance.node).collect();
    let mut parts: BTreeMap<WorkerId, (u32, u64, u64)> = BTreeMap::new();
    for member in &assignment.members {
        if present.contains(&member.instance.node) {
            parts.insert(member.worker, (member.capacity, 0, 0));
        }
    }
    let (mut total, mut heaviest) = (0, 1);
    for (shard, owner) in assignment.owners.iter().enumerate() {
        let weight = assignment.weight(ShardId(shard as u32));
        heaviest = weight.max(heaviest);
        if let Some((_, held, load)) = parts.get_mut(owner) {
            let stays = pinned.contains(&ShardId(shard as u32));
            *held += if stays { weight } else { 0 };
            *load += weight;
            total += weight;
        }
    }
    let pins: Vec<(u32, u64)> = parts.values().map(|&(c, held, _)| (c, held)).collect();
    let shares = shares(total, heaviest, &pins).into_iter();
    let loads = parts.into_iter().zip(shares);
    loads
        .map(|((worker, (_, _, load)), share)| (worker, (share, load)))
        .collect()
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// How the load of a map is spread over nodes that are to share it, when nothing is pinned.
#[derive(Clone, Debug)]
pub struct Balance {
    /// For each of the nodes, in the order in which they were given: its share, and what it has.
    pub nodes: Vec<(Share, u64)>,
    /// The load that none of the nodes has.
    pub homeless: u64,
    /// Weight of the heaviest shard.
    pub heaviest: u64,
    /// What all weights are multiples of.
    pub unit: u64,
}

impl Balance {
    /// Of this map over these nodes, with the weights that the map has.
    pub fn of(map: &ShardMap, nodes: &[Candidate]) -> Self {
        Self::by(map.weights().map(|weights| &weights[..]), map, nodes)
    }

    /// Of this map over these nodes, with other weights: one for each shard, or `None`: all weigh 1.
    pub fn by(weights: Option<&[u32]>, map: &ShardMap, nodes: &[Candidate]) -> Self {
        let weight = |shard: ShardId| {
            let weight = weights.and_then(|weights| weights.get(shard.0 as usize));
            u64::from(weight.copied().unwrap_or(1))
        };
        let workers = map.members().iter().map(|member| member.worker.0);
        let mut loads = vec![0_u64; usize::from(workers.max().unwrap_or(0)) + 1];
        let (mut total, mut heaviest, mut unit) = (0, 1, 0);
        for shard in (0..map.shards()).map(ShardId) {
            loads[usize::from(map.worker(shard).0)] += weight(shard);
            total += weight(shard);
            heaviest = weight(shard).max(heaviest);
            unit = common_divisor(unit, weight(shard));
        }
        let capacities: Vec<(u32, u64)> = nodes.iter().map(|node| (node.capacity, 0)).collect();
        let worker = |node: &Candidate| {
            let member = map.member(&node.instance.node);
            member.map_or(WorkerId(0), |member| member.worker)
        };
        let held = |node: &Candidate| match worker(node) {
            WorkerId(0) => 0,
            worker => loads[usize::from(worker.0)],
        };
        let shares = shares(total, heaviest, &capacities);
        let nodes: Vec<(Share, u64)> = shares.into_iter().zip(nodes.iter().map(held)).collect();
        let housed: u64 = nodes.iter().map(|(_, load)| load).sum();
        Self {
            homeless: total.saturating_sub(housed),
            nodes,
            heaviest,
            unit: unit.max(1),
        }
    }

    /// Whether every node's load differs from its share by less than the heaviest shard, and all shards have a node.
    pub fn holds(&self) -> bool {
        self.homeless == 0 && self.nodes.iter().all(|(share, load)| share.allows(*load))
    }

    /// A bound from below on the weight of the shards that must change their node for the balance to hold. If all
    /// shards weigh the same it is reached.
    pub fn least_moved(&self) -> u64 {
        let whole = |load: u64| load.next_multiple_of(self.unit);
        let above = |(share, load): &(Share, u64)| whole(load.saturating_sub(share.high));
        let below = |(share, load): &(Share, u64)| whole(share.low.saturating_sub(*load));
        let leave: u64 = self.homeless + self.nodes.iter().map(above).sum::<u64>();
        let arrive: u64 = self.nodes.iter().map(below).sum();
        leave.max(arrive)
    }

    /// A bound from above on what [`place`](super::place) moves: [`least_moved`](Self::least_moved), and the heaviest
    /// shard once for each node, if shards differ in weight.
    pub fn most_moved(&self) -> u64 {
        let slack = if self.heaviest == self.unit {
            0
        } else {
            self.heaviest * self.nodes.len() as u64
        };
        self.least_moved() + slack
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_pinned_than_its_share_keeps_it_and_the_others_share_the_rest() {
        let of = |nodes: &[(u32, u64)]| -> Vec<(u64, u64)> {
            let shares = shares(20, 1, nodes).into_iter();
            shares.map(|share| (share.low, share.high)).collect()
        };
        assert_eq!(of(&[(1, 10), (1, 0), (1, 0)]), [(10, 10), (5, 5), (5, 5)]);
        assert_eq!(of(&[(1, 0), (3, 0), (1, 3)]), [(4, 4), (12, 12), (4, 4)]);
        // The second is above its share only once the first has been taken out.
        assert_eq!(of(&[(1, 10), (1, 6), (1, 0)]), [(10, 10), (6, 6), (4, 4)]);
        assert_eq!(of(&[(1, 7), (4, 0), (1, 4)]), [(7, 7), (9, 9), (4, 4)]);
    }

    #[test]
    fn a_load_may_be_less_than_one_heaviest_shard_off() {
        let share = shares(10, 3, &[(1, 0), (2, 0)])[0];
        // 3 1/3, and 3 more or less.
        assert_eq!((share.low, share.high), (1, 6));
        assert_eq!([0, 1, 6, 7].map(|load| share.off(load)), [1, 0, 0, 1]);
    }
}
