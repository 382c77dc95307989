//! Shards and nodes that are all alike: shares in closed form, and exactly as many moves as they require.

use std::collections::BTreeSet;

use super::Candidate;
use crate::engine::shard_map::{MapMember, ShardMap};
use crate::ids::{NodeId, ShardId, WorkerId};

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

/// The owners of all shards.
pub(super) fn place(
    last: &ShardMap,
    shards: u32,
    members: &[MapMember],
    nodes: &[Candidate],
    pinned: &BTreeSet<ShardId>,
) -> Vec<WorkerId> {
    let mut loads = loads(last, members, nodes);
    for shard in (0..shards).map(ShardId) {
        let load = &mut loads[usize::from(last.worker(shard).0)];
        load.held += 1;
        load.pinned += u32::from(!pinned.is_empty() && load.stays && pinned.contains(&shard));
    }
    share_out(&mut loads, members, shards);
    hand_out(last, shards, &mut loads, members, pinned)
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
