//! A change in steps: so many shards at a time.

use super::Candidate;
use crate::engine::shard_map::{Assignment, ShardMap};
use crate::ids::{ShardId, WorkerId};

/// Leaves only the first `most` of the voluntary moves in the assignment, which was computed from `last` for `nodes`;
/// the other shards stay where they are for now. Answers whether that took any away.
///
/// A move is voluntary if the shard's owner is one of `nodes`, as this run or a newer one: it could keep it. Made
/// again and again, each time from the map that came of the last step, this ends, and in all no more moves than at
/// once: what is left to move after a step is what was left out.
pub fn limit_moves(
    assignment: &mut Assignment,
    last: &ShardMap,
    nodes: &[Candidate],
    most: usize,
) -> bool {
    let highest = last.members().iter().map(|member| member.worker.0).max();
    let mut could_keep = vec![false; usize::from(highest.unwrap_or(0)) + 1];
    for node in nodes {
        if let Some(member) = last.member(&node.instance.node) {
            could_keep[usize::from(member.worker.0)] = true;
        }
    }
    let mut moves = 0;
    for (shard, owner) in assignment.owners.iter_mut().enumerate() {
        // The worker id of a node that stays is the same in both maps.
        let before = last.worker(ShardId(shard as u32));
        if before != WorkerId(0) && *owner != before && could_keep[usize::from(before.0)] {
            moves += 1;
            if moves > most {
                *owner = before;
            }
        }
    }
    moves > most
}
