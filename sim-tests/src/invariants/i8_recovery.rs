//! I8: some time after the last fault there are one leader and one map, all shards are served, all members agree.

use std::collections::BTreeSet;

use funk::engine::placement::Balance;
use funk::ids::{Epoch, Instance, ShardId};

use super::i5_fewest_moves::sharers;
use super::{Final, Verdict, Violation, token};

/// Checks all nodes that are there. `pins`: shards may stay where they are although balance would move them.
pub fn check(nodes: &[Final<'_>], pins: bool) -> Verdict {
    let wrong = |what: String| Err(Violation::new("I8", what));
    let leaders: Vec<_> = nodes
        .iter()
        .filter(|node| node.leads)
        .map(|node| node.instance)
        .collect();
    let [leader] = leaders[..] else {
        return wrong(format!("leaders: {leaders:?}"));
    };
    let all: BTreeSet<&Instance> = nodes.iter().map(|node| node.instance).collect();
    let Some(first) = nodes.first() else {
        return wrong("nobody is left".into());
    };
    for node in nodes {
        if node.leader != Some(&leader.node) {
            return wrong(format!(
                "{} takes {:?} for the leader, not {leader}",
                node.instance, node.leader
            ));
        }
        if node.committed.index() != first.committed.index() || node.committed.shards() == 0 {
            let (a, b) = (first.committed.index(), node.committed.index());
            return wrong(format!(
                "{} has map {a}, {} has map {b}",
                first.instance, node.instance
            ));
        }
        if node.pending {
            return wrong(format!("{} still has a proposal pending", node.instance));
        }
        let present: BTreeSet<&Instance> = node.present.iter().collect();
        if present != all {
            return wrong(format!(
                "{} sees {present:?} where {all:?} are",
                node.instance
            ));
        }
    }
    let members: BTreeSet<&Instance> = first
        .committed
        .members()
        .iter()
        .map(|member| &member.instance)
        .collect();
    if members != all {
        return wrong(format!("the map names {members:?} where {all:?} are"));
    }
    let balance = Balance::of(first.committed, &sharers(first.committed));
    if !pins && !balance.holds() {
        let nodes = &balance.nodes;
        return wrong(format!("the map is not balanced: {nodes:?}"));
    }
    for shard in (0..first.committed.shards()).map(ShardId) {
        let (owner, epoch) = (first.committed.owner(shard), first.committed.epoch(shard));
        let served = nodes.iter().any(|node| {
            Some(node.instance) == owner
                && node.serving.leased
                && token(node.serving.open, shard) == epoch
        });
        if !served || epoch == Epoch(0) {
            return wrong(format!(
                "shard {shard} of {owner:?} (epoch {epoch}) is not served"
            ));
        }
    }
    Ok(())
}
