//! I2: all nodes see the same committed maps in the same order; some may skip by snapshot.

use std::sync::Arc;

use funk::engine::shard_map::ShardMap;
use funk::ids::LogIndex;

use super::{Verdict, Violation};

/// The maps in the order in which they came into force.
#[derive(Debug, Default)]
pub struct SameMaps(Vec<Arc<ShardMap>>);

impl SameMaps {
    /// A replica has applied the entry that puts `map` in force. Answers, if it is the first to do so, with the map
    /// that was in force before.
    pub fn applied(&mut self, map: &Arc<ShardMap>) -> Result<Option<Arc<ShardMap>>, Violation> {
        let last = self.0.last().cloned().unwrap_or_default();
        if map.index() > last.index() {
            self.0.push(map.clone());
            return Ok(Some(last));
        }
        self.known(map).map(|_| None)
    }

    /// A node has put `map` in force after the one at `before`; `skipped`: by a snapshot.
    pub fn seen(&self, before: LogIndex, map: &Arc<ShardMap>, skipped: bool) -> Verdict {
        let index = map.index();
        if index <= before {
            return Err(Violation::new(
                "I2",
                format!("map {index} came into force after map {before}"),
            ));
        }
        let at = self.known(map)?;
        let previous = at
            .checked_sub(1)
            .map_or(LogIndex(0), |at| self.0[at].index());
        if !skipped && previous != before {
            let what =
                format!("map {index} came into force after {before}, elsewhere after {previous}");
            return Err(Violation::new("I2", what));
        }
        Ok(())
    }

    fn known(&self, map: &Arc<ShardMap>) -> Result<usize, Violation> {
        let index = map.index();
        let Ok(at) = self.0.binary_search_by_key(&index, |map| map.index()) else {
            return Err(Violation::new(
                "I2",
                format!("map {index} came into force on one node only"),
            ));
        };
        if !Arc::ptr_eq(&self.0[at], map) && self.0[at] != *map {
            return Err(Violation::new(
                "I2",
                format!("map {index} differs between nodes"),
            ));
        }
        Ok(at)
    }

    /// The newest map in force anywhere.
    pub fn last(&self) -> Option<&Arc<ShardMap>> {
        self.0.last()
    }

    /// How many maps came into force.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use funk::engine::placement::{Candidate, place};
    use funk::ids::{BootId, Instance, NodeId};
    use std::collections::BTreeSet;

    fn map(index: u64, node: &str) -> Arc<ShardMap> {
        let instance = Instance {
            node: NodeId::new(node).unwrap(),
            boot: BootId(1),
        };
        let assignment = place(
            &ShardMap::empty(),
            2,
            &[Candidate {
                instance,
                capacity: 1,
            }],
            &BTreeSet::new(),
        );
        Arc::new(
            ShardMap::empty()
                .apply_assignment(LogIndex(index), &assignment)
                .unwrap(),
        )
    }

    #[test]
    fn another_order_another_content_and_a_gap_are_seen() {
        let mut maps = SameMaps::default();
        for index in [3, 5, 9] {
            assert!(maps.applied(&map(index, "a")).unwrap().is_some());
        }
        assert_eq!(maps.applied(&map(5, "a")), Ok(None));
        assert!(maps.applied(&map(5, "b")).is_err());
        assert!(maps.applied(&map(4, "a")).is_err());
        assert!(maps.seen(LogIndex(3), &map(5, "a"), false).is_ok());
        assert!(maps.seen(LogIndex(3), &map(9, "a"), false).is_err());
        assert!(maps.seen(LogIndex(3), &map(9, "a"), true).is_ok());
        assert!(maps.seen(LogIndex(9), &map(5, "a"), true).is_err());
    }
}
