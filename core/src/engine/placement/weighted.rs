//! Shards of different weights, or nodes of different capacities.
//!
//! Three steps, each of which can always go on until it is done (why: see there):
//!
//! 1. nodes with more than their share allows give shards away, the fewest that suffice;
//! 2. those, and the shards whose owner goes, are handed out, the heaviest first, always to the node that lacks most;
//! 3. nodes with less than their share allows take from those that have more than their share.
//!
//! A shard moves once at most: what gives in steps 1 and 3 is above its share, and takes nothing. So each single move
//! brings the loads nearer to what is allowed and none takes one away from it: any part of the moves can be made first
//! and the rest be computed again (`steps`), and that ends.
//!
//! How much weight moves. If step 3 has nothing to do: what goes, and what nodes have in excess (which must move), and
//! less than one heaviest shard for each of these nodes, because shards are no finer. If it has: all that moved went
//! to nodes that had too little, and gave each of them less than one heaviest shard more than it needed.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use super::exact;
use super::shares::{Share, shares};
use super::{Candidate, MapMember};
use crate::engine::shard_map::ShardMap;
use crate::ids::{NodeId, ShardId, WorkerId};

/// What a shard weighs, with its number: the order in which shards are chosen.
pub(super) type Heavy = (u64, u32);

/// A node that takes part.
#[derive(Debug)]
struct Node {
    worker: WorkerId,
    capacity: u32,
    /// Load that must not move.
    pinned: u64,
    load: u64,
    share: Share,
    /// What it has and may give away.
    loose: Vec<Heavy>,
    sorted: bool,
}

impl Node {
    fn lacks(&self) -> i64 {
        self.share.lacks(self.load)
    }

    /// Gives a shard away: the lightest that is not lighter than `amount`, or else the heaviest.
    fn give(&mut self, amount: u64) -> Option<Heavy> {
        if !std::mem::replace(&mut self.sorted, true) {
            self.loose.sort_unstable();
        }
        let enough = self.loose.partition_point(|&(weight, _)| weight < amount);
        let given = match self.loose.get(enough) {
            // The last one of this weight, so that the first shards stay.
            Some(&(weight, _)) => {
                let alike = self.loose[enough..].partition_point(|&(other, _)| other == weight);
                self.loose.remove(enough + alike - 1)
            }
            None => self.loose.pop()?,
        };
        self.load -= given.0;
        Some(given)
    }
}

/// The owners of all shards. `weights` has one for each of them; `None`: all weigh 1.
pub(super) fn place(
    weights: Option<&[u32]>,
    last: &ShardMap,
    shards: u32,
    members: &[MapMember],
    candidates: &[Candidate],
    pinned: &BTreeSet<ShardId>,
) -> Vec<WorkerId> {
    let weight = |shard: u32| u64::from(weights.map_or(1, |w| w[shard as usize]).max(1));
    let present: BTreeSet<&NodeId> = candidates.iter().map(|c| &c.instance.node).collect();
    let mut nodes = Vec::with_capacity(members.len());
    // By worker id: whether it is the same node's in both maps, and its place in `nodes`.
    let all = members.iter().chain(last.members());
    let highest = all.map(|member| member.worker.0).max().unwrap_or(0);
    let mut places = vec![(false, None); usize::from(highest) + 1];
    for member in members {
        let node = &member.instance.node;
        let at = present.contains(node).then_some(nodes.len());
        places[usize::from(member.worker.0)] = (last.member(node).is_some(), at);
        if at.is_some() {
            nodes.push(Node {
                worker: member.worker,
                capacity: member.capacity,
                pinned: 0,
                load: 0,
                share: Share::default(),
                loose: Vec::with_capacity(shards as usize / members.len() + 1),
                sorted: false,
            });
        }
    }

    let mut owners = vec![WorkerId(0); shards as usize];
    let mut homeless: Vec<Heavy> = Vec::new();
    let (mut total, mut heaviest) = (0, 1);
    for shard in 0..shards {
        let (weight, worker) = (weight(shard), last.worker(ShardId(shard)));
        heaviest = weight.max(heaviest);
        total += weight;
        let stays = !pinned.is_empty() && pinned.contains(&ShardId(shard));
        match places[usize::from(worker.0)] {
            (true, Some(at)) => {
                let node: &mut Node = &mut nodes[at];
                owners[shard as usize] = worker;
                node.load += weight;
                if stays {
                    node.pinned += weight;
                } else {
                    node.loose.push((weight, shard));
                }
            }
            // It goes, but holds on to this one: that is nobody's to share.
            (true, None) if stays => {
                owners[shard as usize] = worker;
                total -= weight;
            }
            _ => homeless.push((weight, shard)),
        }
    }
    if nodes.is_empty() {
        return owners;
    }
    let parts: Vec<(u32, u64)> = nodes.iter().map(|n| (n.capacity, n.pinned)).collect();
    for (node, share) in nodes.iter_mut().zip(shares(total, heaviest, &parts)) {
        node.share = share;
    }

    let before = exact::Before::of(&nodes, &homeless);
    let voluntary = shed(&mut nodes, &mut homeless);
    hand_out(&mut nodes, &mut homeless, &mut owners);
    let voluntary = voluntary + fill_up(&mut nodes, &mut owners);
    if let Some(best) = before.filter(|_| voluntary > 0) {
        best.improve(voluntary, &mut owners);
    }
    owners
}

/// Step 1. A node above its share by more than is allowed can give any shard without falling below its share, and it
/// has one to give: what is pinned to it is no more than its share. Answers the weight that was given away.
fn shed(nodes: &mut [Node], homeless: &mut Vec<Heavy>) -> u64 {
    let mut moved = 0;
    for node in nodes {
        while node.load > node.share.high
            && let Some(given) = node.give(node.load - node.share.high)
        {
            moved += given.0;
            homeless.push(given);
        }
    }
    moved
}

/// Step 2. While a shard has no owner, the loads are less than the shares together, so that some node is below its
/// share: it can take any shard without coming to have more than is allowed.
fn hand_out(nodes: &mut [Node], homeless: &mut [Heavy], owners: &mut [WorkerId]) {
    homeless.sort_unstable_by_key(|&(weight, shard)| (Reverse(weight), shard));
    let mut neediest: BinaryHeap<(i64, Reverse<usize>)> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| (node.lacks(), Reverse(at)))
        .collect();
    let mut takers = Vec::with_capacity(homeless.len());
    for alike in homeless.chunk_by(|a, b| a.0 == b.0) {
        takers.clear();
        for &(weight, _) in alike {
            if let Some(mut most) = neediest.peek_mut() {
                let Reverse(at) = most.1;
                nodes[at].load += weight;
                *most = (nodes[at].lacks(), Reverse(at));
                takers.push(at);
            }
        }
        // Which of them gets which of those that weigh the same makes no difference: in runs the map is shorter.
        takers.sort_unstable();
        for (&at, &(_, shard)) in takers.iter().zip(alike) {
            owners[shard as usize] = nodes[at].worker;
        }
    }
}

/// Step 3. While a node is below its share, another is above it and can give any shard; and it has one to give, for
/// it took none in step 2: all went to nodes that had less than is allowed, or there were none. Answers the weight
/// that was taken.
fn fill_up(nodes: &mut [Node], owners: &mut [WorkerId]) -> u64 {
    let poor = |node: &Node| node.load < node.share.low;
    if !nodes.iter().any(poor) {
        return 0;
    }
    let mut richest: BinaryHeap<(i64, Reverse<usize>)> = nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.lacks() < 0)
        .map(|(at, node)| (-node.lacks(), Reverse(at)))
        .collect();
    let mut moved = 0;
    for at in 0..nodes.len() {
        while poor(&nodes[at]) {
            let Some((_, Reverse(from))) = richest.pop() else {
                return moved;
            };
            let amount = nodes[at].share.low - nodes[at].load;
            let Some((weight, shard)) = nodes[from].give(amount) else {
                continue;
            };
            nodes[at].load += weight;
            owners[shard as usize] = nodes[at].worker;
            moved += weight;
            if nodes[from].lacks() < 0 {
                richest.push((-nodes[from].lacks(), Reverse(from)));
            }
        }
    }
    moved
}

impl exact::Before {
    /// What there is to try, if it can all be tried.
    fn of(nodes: &[Node], homeless: &[Heavy]) -> Option<Self> {
        if nodes.len() < 2 {
            return None;
        }
        let loose: usize = nodes.iter().map(|node| node.loose.len()).sum();
        let places = u32::try_from(loose + homeless.len()).ok()?;
        let ways = nodes.len().checked_pow(places)?;
        if ways > exact::MAX_WAYS {
            return None;
        }
        let held = nodes.iter().enumerate();
        let held = held.flat_map(|(at, n)| n.loose.iter().map(move |&shard| (shard, Some(at))));
        let homeless = homeless.iter().map(|&shard| (shard, None));
        Some(Self::new(
            nodes
                .iter()
                .map(|n| (n.worker, n.pinned, n.share))
                .collect(),
            held.chain(homeless).collect(),
        ))
    }
}
