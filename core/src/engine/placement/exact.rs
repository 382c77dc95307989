//! The least that can move, found by trying all ways to place the shards: for few shards on few nodes.

use super::shares::Share;
use super::weighted::Heavy;
use crate::ids::WorkerId;

/// Most ways to place shards that are tried: eight shards on four nodes.
pub(super) const MAX_WAYS: usize = 1 << 16;

/// The shards that may move, and where they are.
#[derive(Debug)]
pub(super) struct Before {
    /// Worker id, load that must not move, share.
    nodes: Vec<(WorkerId, u64, Share)>,
    /// With the node that holds it, if one does. The heaviest first: that cuts most ways short.
    shards: Vec<(Heavy, Option<usize>)>,
}

/// What moves without need: its weight, then the number of shards.
type Cost = (u64, u32);

impl Before {
    pub(super) fn new(
        nodes: Vec<(WorkerId, u64, Share)>,
        mut shards: Vec<(Heavy, Option<usize>)>,
    ) -> Self {
        shards.sort_unstable_by_key(|&((weight, shard), _)| (std::cmp::Reverse(weight), shard));
        Self { nodes, shards }
    }

    /// Replaces what `owners` says of these shards if less can move than `voluntary`, with the owners that are left
    /// alone not counted. Among equals the first in a fixed order of the ways is taken, so that all come to the same.
    pub(super) fn improve(&self, voluntary: u64, owners: &mut [WorkerId]) {
        let mut search = Search {
            before: self,
            loads: self.nodes.iter().map(|&(_, pinned, _)| pinned).collect(),
            way: Vec::with_capacity(self.shards.len()),
            best: None,
            bound: (voluntary, 0),
        };
        search.place_rest((0, 0));
        for (at, &((_, shard), _)) in search.best.iter().flatten().zip(&self.shards) {
            owners[shard as usize] = self.nodes[*at].0;
        }
    }
}

struct Search<'a> {
    before: &'a Before,
    loads: Vec<u64>,
    /// Nodes of the shards that are placed.
    way: Vec<usize>,
    best: Option<Vec<usize>>,
    /// Only what costs less is better.
    bound: Cost,
}

impl Search<'_> {
    fn place_rest(&mut self, cost: Cost) {
        if cost >= self.bound {
            return;
        }
        let nodes = &self.before.nodes;
        let Some(&((weight, _), owner)) = self.before.shards.get(self.way.len()) else {
            let mut loads = nodes.iter().zip(&self.loads);
            if loads.all(|((_, _, share), &load)| share.allows(load)) {
                self.best = Some(self.way.clone());
                self.bound = cost;
            }
            return;
        };
        let others = (0..nodes.len()).filter(|&at| owner != Some(at));
        for at in owner.into_iter().chain(others) {
            if self.loads[at] + weight > nodes[at].2.high {
                continue;
            }
            let moves = owner.is_some_and(|owner| owner != at);
            let more = if moves { (weight, 1) } else { (0, 0) };
            self.loads[at] += weight;
            self.way.push(at);
            self.place_rest((cost.0 + more.0, cost.1 + more.1));
            self.way.pop();
            self.loads[at] -= weight;
        }
    }
}
