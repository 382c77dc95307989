//! I5: with equal weights and capacities a change moves no more shards than the balance requires.

use funk::engine::placement::minimum_moves;
use funk::engine::shard_map::ShardMap;
use funk::ids::{NodeId, ShardId};

use super::{Verdict, Violation};

/// How many shards change their node.
pub fn moves(before: &ShardMap, map: &ShardMap) -> usize {
    let node = |map: &ShardMap, shard| map.owner(shard).map(|owner| owner.node.clone());
    (0..map.shards())
        .map(ShardId)
        .filter(|&shard| node(before, shard) != node(map, shard))
        .count()
}

/// Checks a proposal against the map in force. `slack`: shards that are pinned, or kept away from a node.
pub fn check(before: &ShardMap, proposed: &ShardMap, slack: usize) -> Verdict {
    if before.shards() == 0 {
        return Ok(());
    }
    let nodes: Vec<NodeId> = proposed
        .members()
        .iter()
        .map(|member| member.instance.node.clone())
        .collect();
    let (moved, least) = (moves(before, proposed), minimum_moves(before, &nodes));
    if moved > least + slack {
        let what = format!(
            "map {} moves {moved} shards where {least} would do",
            proposed.index()
        );
        return Err(Violation::new("I5", what));
    }
    let counts = proposed.counts();
    let spread = counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0);
    if spread > 1 && slack == 0 {
        return Err(Violation::new(
            "I5",
            format!("map {} is not balanced: {counts:?}", proposed.index()),
        ));
    }
    Ok(())
}
