//! I2: all nodes see the same committed maps in the same order; some may skip by snapshot.

use std::sync::Arc;

use funk::engine::shard_map::ShardMap;
use funk::ids::LogIndex;

use super::{Verdict, Violation};

/// The maps in the order in which they came into force.
#[derive(Debug, Default)]
pub struct SameMaps(Vec<Arc<ShardMap>>);

impl SameMaps {
    /// A node has put `map` in force after the one at `before`; `skipped`: by a snapshot. Answers whether it is
    /// the first to do so, with the map that was in force before it.
    pub fn committed(
        &mut self,
        before: LogIndex,
        map: &Arc<ShardMap>,
        skipped: bool,
    ) -> Result<Option<Arc<ShardMap>>, Violation> {
        let index = map.index();
        let wrong = |what: String| Err(Violation::new("I2", what));
        if index <= before {
            return wrong(format!("map {index} came into force after map {before}"));
        }
        let last = self.0.last().cloned().unwrap_or_default();
        if index > last.index() {
            if before != last.index() {
                return wrong(format!("map {index} came into force after {before}, but elsewhere {} did", last.index()));
            }
            self.0.push(map.clone());
            return Ok(Some(last));
        }
        let Ok(at) = self.0.binary_search_by_key(&index, |map| map.index()) else {
            return wrong(format!("map {index} came into force on one node only, beside map {}", last.index()));
        };
        if !Arc::ptr_eq(&self.0[at], map) && self.0[at] != *map {
            return wrong(format!("map {index} differs between nodes"));
        }
        let previous = at.checked_sub(1).map_or(LogIndex(0), |at| self.0[at].index());
        if !skipped && previous != before {
            return wrong(format!("map {index} came into force after {before}, elsewhere after {previous}"));
        }
        Ok(None)
    }

    /// The newest map in force anywhere.
    pub fn last(&self) -> Option<&Arc<ShardMap>> {
        self.0.last()
    }

    /// How many maps came into force.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// That a node holds one of the maps that came into force.
    pub fn check_known(&self, map: &Arc<ShardMap>) -> Verdict {
        let known = map.index() == LogIndex(0) || self.0.binary_search_by_key(&map.index(), |map| map.index()).is_ok();
        if known { Ok(()) } else { Err(Violation::new("I2", format!("map {} came into force unseen", map.index()))) }
    }
}
