//! Nodes that come and go too often wait longer before they get shards again (rule M11).
//!
//! A bounce is a map in force without a run that the map before it named. All nodes see the same maps, so every node
//! counts alike, on its own clock, and a new leader goes on with its own count.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::shard_map::ShardMap;
use crate::ids::{Instance, NodeId};
use crate::time::Time;

/// Bounces older than this are forgotten.
pub const FLAP_WINDOW: Duration = Duration::from_secs(300);
/// From so many bounces within the window on a node waits: fewer are ordinary, an upgrade and a mishap.
pub const FLAP_BOUNCES: usize = 3;
/// The wait doubles so often at most: from twice `settle_joins` to [`FLAP_MOST`] times that.
const FLAP_DOUBLINGS: usize = 6;
/// The longest wait, in `settle_joins`.
pub const FLAP_MOST: u32 = 1 << FLAP_DOUBLINGS;
/// Bounces that are remembered of each node: one more would change nothing.
const REMEMBERED: usize = FLAP_BOUNCES + FLAP_DOUBLINGS;

/// When which node dropped out of the map.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    /// Invariant: at most `REMEMBERED` for each, in order; as many nodes as maps of one window name.
    bounces: BTreeMap<NodeId, VecDeque<Time>>,
}

impl Flaps {
    /// Another map is in force. `meant`: whoever went because it was to go does not count.
    pub(super) fn handle_committed(
        &mut self,
        now: Time,
        before: &ShardMap,
        after: &ShardMap,
        settle: Duration,
        meant: impl Fn(&Instance) -> bool,
    ) {
        self.bounces.retain(|_, times| {
            times.retain(|&at| now < at + FLAP_WINDOW);
            !times.is_empty()
        });
        for member in before.members() {
            let instance = &member.instance;
            let stays = after
                .member(&instance.node)
                .is_some_and(|member| member.instance == *instance);
            if !stays && !meant(instance) {
                self.count(now, &instance.node, settle);
            }
        }
    }

    fn count(&mut self, now: Time, node: &NodeId, settle: Duration) {
        let times = self.bounces.entry(node.clone()).or_default();
        // A node that has just started applies old maps in one go: nobody really comes back within `settle`.
        if times.back().is_some_and(|&last| now < last + settle) {
            return;
        }
        times.push_back(now);
        if times.len() > REMEMBERED {
            times.pop_front();
        }
    }

    /// Until when the node gets no shards, if it is not in the map; `None`: it need not wait.
    pub(super) fn waits_until(&self, now: Time, node: &NodeId, settle: Duration) -> Option<Time> {
        let times = self.bounces.get(node)?;
        let counted = times.iter().filter(|&&at| now < at + FLAP_WINDOW).count();
        let beyond = counted.checked_sub(FLAP_BOUNCES)? as u32;
        let wait = settle * (2 << beyond).min(FLAP_MOST);
        let until = *times.back()? + wait;
        (now < until).then_some(until)
    }

    /// All who wait now, as far as they are not in this map, and until when.
    pub(super) fn waiting(
        &self,
        now: Time,
        map: &ShardMap,
        settle: Duration,
    ) -> BTreeMap<NodeId, Time> {
        let outside = self
            .bounces
            .keys()
            .filter(|node| map.member(node).is_none());
        let waits = |node: &NodeId| Some((node.clone(), self.waits_until(now, node, settle)?));
        outside.filter_map(waits).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::shard_map::Assignment;
    use super::super::shard_map::tests::member;
    use super::*;
    use crate::ids::{LogIndex, WorkerId};

    const SETTLE: Duration = Duration::from_millis(200);

    fn at(secs: u64) -> Time {
        Time::default() + Duration::from_secs(secs)
    }

    fn map(index: u64, runs: &[(&str, u64)]) -> ShardMap {
        let members = (1..).zip(runs);
        let members = members.map(|(worker, (node, boot))| member(node, *boot, worker));
        let assignment = Assignment {
            members: members.collect(),
            owners: vec![WorkerId(1); 4],
            weights: None,
        };
        let map = ShardMap::empty().apply_assignment(LogIndex(index), &assignment);
        map.unwrap()
    }

    /// How long `b` waits after so many bounces, ten seconds apart.
    fn wait_after(bounces: u64) -> Duration {
        let b = NodeId::new("b").unwrap();
        let mut flaps = Flaps::default();
        for bounce in 1..=bounces {
            let with = map(bounce, &[("a", 1), ("b", bounce)]);
            let without = map(bounce, &[("a", 1)]);
            flaps.handle_committed(at(bounce * 10), &with, &without, SETTLE, |_| false);
        }
        let now = at(bounces * 10);
        let until = flaps.waits_until(now, &b, SETTLE);
        until.map_or(Duration::ZERO, |until| until.since(now))
    }

    #[test]
    fn the_wait_begins_late_doubles_and_is_bounded() {
        let waits: Vec<u128> = (1..12).map(|n| wait_after(n).as_millis()).collect();
        let doubled = [400, 800, 1_600, 3_200, 6_400, 12_800];
        assert_eq!(waits[..2], [0, 0]);
        assert_eq!(waits[2..8], doubled);
        assert_eq!(waits[8..], [12_800; 3]);
    }

    #[test]
    fn bounces_are_forgotten_and_what_was_meant_is_none() {
        let b = NodeId::new("b").unwrap();
        let (with, without) = (map(1, &[("a", 1), ("b", 1)]), map(2, &[("a", 1)]));
        let mut flaps = Flaps::default();
        for bounce in 0..5 {
            flaps.handle_committed(at(bounce), &with, &without, SETTLE, |i| i.node == b);
        }
        assert_eq!(flaps.waits_until(at(5), &b, SETTLE), None);
        for bounce in 5..8 {
            flaps.handle_committed(at(bounce), &with, &without, SETTLE, |_| false);
        }
        let now = at(7);
        assert!(flaps.waits_until(now, &b, SETTLE).is_some());
        assert_eq!(flaps.waiting(now, &without, SETTLE).len(), 1);
        assert!(
            flaps.waiting(now, &with, SETTLE).is_empty(),
            "it is in the map"
        );
        let late = at(7) + FLAP_WINDOW;
        flaps.handle_committed(late, &without, &without, SETTLE, |_| false);
        assert!(flaps.bounces.is_empty());
    }

    #[test]
    fn old_maps_applied_in_one_go_are_one_bounce_and_another_run_is_one() {
        let b = NodeId::new("b").unwrap();
        let mut flaps = Flaps::default();
        for run in 1..9 {
            let (one, next) = (
                map(run, &[("a", 1), ("b", run)]),
                map(run + 1, &[("a", 1), ("b", run + 1)]),
            );
            flaps.handle_committed(at(1), &one, &next, SETTLE, |_| false);
        }
        assert_eq!(flaps.bounces[&b].len(), 1);
        let runs = (map(9, &[("b", 9)]), map(10, &[("b", 10)]));
        flaps.handle_committed(at(2), &runs.0, &runs.1, SETTLE, |_| false);
        assert_eq!(flaps.bounces[&b].len(), 2);
    }
}
