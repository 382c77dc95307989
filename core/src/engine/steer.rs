//! Keeps a shard away from a node that could not acquire it.

use super::shard_map::Assignment;
use crate::ids::{NodeId, ShardId, WorkerId};

/// Swaps each shard that stands on the node to avoid with one of the node that holds the fewest, so that the
/// balance stays as placement made it. Does nothing where there is no other node.
pub(super) fn steer<'a>(
    assignment: &mut Assignment,
    avoid: impl Iterator<Item = (ShardId, &'a NodeId)>,
) {
    for (shard, node) in avoid {
        let worker_of = |a: &Assignment| {
            a.members
                .iter()
                .find(|m| m.instance.node == *node)
                .map(|m| m.worker)
        };
        let Some(avoided) = worker_of(assignment) else {
            continue;
        };
        if assignment.owners.get(shard.0 as usize) != Some(&avoided) {
            continue;
        }
        let Some(other) = least_loaded(assignment, avoided) else {
            continue;
        };
        if let Some(swap) = assignment.owners.iter().position(|&owner| owner == other) {
            assignment.owners[swap] = avoided;
        }
        assignment.owners[shard.0 as usize] = other;
    }
}

fn least_loaded(assignment: &Assignment, but: WorkerId) -> Option<WorkerId> {
    let load = |worker: WorkerId| {
        assignment
            .owners
            .iter()
            .filter(|&&owner| owner == worker)
            .count()
    };
    let others = assignment
        .members
        .iter()
        .map(|member| member.worker)
        .filter(|&worker| worker != but);
    others.min_by_key(|&worker| (load(worker), worker))
}
