//! I4: every shard that changes owner goes to a node that acknowledged the map. With it, what a map must be:
//! an epoch is its index exactly where the owner changed.

use std::collections::{BTreeMap, BTreeSet};

use funk::engine::shard_map::ShardMap;
use funk::ids::{Epoch, Instance, LogIndex, ShardId};

use super::{Verdict, Violation};

/// Who acknowledged what.
#[derive(Debug, Default)]
pub struct Acked(BTreeMap<LogIndex, BTreeSet<Instance>>);

impl Acked {
    /// The node acknowledges proposal `index`. Answers whether that is news.
    pub fn acked(&mut self, index: LogIndex, by: &Instance) -> bool {
        let by_now = self.0.entry(index).or_default();
        !by_now.contains(by) && by_now.insert(by.clone())
    }

    /// How many of these acknowledged it.
    pub fn count_of(&self, index: LogIndex, of: &BTreeSet<Instance>) -> usize {
        self.0
            .get(&index)
            .map_or(0, |by| by.intersection(of).count())
    }

    /// `map` came into force where `before` was.
    pub fn committed(&mut self, before: &ShardMap, map: &ShardMap) -> Verdict {
        let none = BTreeSet::new();
        let acked = self.0.get(&map.index()).unwrap_or(&none);
        for shard in (0..map.shards()).map(ShardId) {
            let (old, new) = (before.owner(shard), map.owner(shard));
            let changed = old != new;
            let expected = if changed {
                Epoch(map.index().0)
            } else {
                before.epoch(shard)
            };
            if map.epoch(shard) != expected {
                let what = format!(
                    "map {}: shard {shard} goes from {old:?} to {new:?} with epoch {} and not {expected}",
                    map.index(),
                    map.epoch(shard)
                );
                return Err(Violation::new("I4", what));
            }
            if let Some(owner) = new.filter(|owner| changed && !acked.contains(owner)) {
                let what = format!(
                    "map {}: shard {shard} goes to {owner}, who did not acknowledge it",
                    map.index()
                );
                return Err(Violation::new("I4", what));
            }
        }
        self.0.retain(|&index, _| index > map.index());
        Ok(())
    }
}
