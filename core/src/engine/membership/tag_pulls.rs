//! Which tags to fetch, when: a few at a time, later and later when it fails.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::NodeId;
use crate::mutants::{Mutant, mutated};
use crate::time::Time;

/// Pulls under way at once: a node that joins hundreds must not open hundreds of streams.
pub(super) const MAX_PULLS: usize = 8;
/// A pull that was not answered by then counts as failed.
const PULL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait after a failure.
const MAX_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Pull {
    failures: u32,
    /// Under way: when it counts as failed. Otherwise: when it may begin.
    at: Time,
    under_way: bool,
}

/// The members whose tags are older than gossip says.
#[derive(Debug)]
pub(super) struct TagPulls {
    /// First wait after a failure.
    wait: Duration,
    pulls: BTreeMap<NodeId, Pull>,
}

impl TagPulls {
    pub(super) fn new(wait: Duration) -> Self {
        Self {
            wait,
            pulls: BTreeMap::new(),
        }
    }

    /// A newer version exists. One that is waited for or under way already is not asked for twice.
    pub(super) fn want(&mut self, now: Time, node: &NodeId) {
        if !self.pulls.contains_key(node) {
            let pull = Pull {
                failures: 0,
                at: now,
                under_way: false,
            };
            self.pulls.insert(node.clone(), pull);
        }
    }

    /// Nothing to fetch any more: the newest is held, or the member is gone, or it is another run.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.pulls.remove(node);
    }

    /// Tries again later.
    pub(super) fn failed(&mut self, now: Time, node: &NodeId) {
        if let Some(pull) = self.pulls.get_mut(node) {
            let wait = self.wait * (1 << pull.failures.min(16));
            pull.failures += 1;
            pull.at = now + wait.min(MAX_WAIT);
            pull.under_way = false;
        }
    }

    /// Begins those whose time has come, the longest due first, as many as the bound lets.
    pub(super) fn start_due(&mut self, now: Time) -> Vec<NodeId> {
        if mutated(Mutant::TagPullOff) {
            return Vec::new();
        }
        let late = |(node, pull): (&NodeId, &Pull)| {
            (pull.under_way && pull.at <= now).then(|| node.clone())
        };
        let late: Vec<_> = self.pulls.iter().filter_map(late).collect();
        late.iter().for_each(|node| self.failed(now, node));
        let free = MAX_PULLS - self.under_way();
        let mut due: Vec<_> = self
            .pulls
            .iter()
            .filter(|(_, pull)| !pull.under_way && pull.at <= now)
            .map(|(node, pull)| (pull.at, node.clone()))
            .collect();
        due.sort();
        due.truncate(free);
        for (_, node) in &due {
            if let Some(pull) = self.pulls.get_mut(node) {
                pull.under_way = true;
                pull.at = now + PULL_TIMEOUT;
            }
        }
        due.into_iter().map(|(_, node)| node).collect()
    }

    pub(super) fn under_way(&self) -> usize {
        self.pulls.values().filter(|pull| pull.under_way).count()
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let full = self.under_way() >= MAX_PULLS;
        let waits = self.pulls.values().filter(|pull| pull.under_way || !full);
        waits.map(|pull| pull.at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(200);

    fn node(n: usize) -> NodeId {
        NodeId::new(&format!("n{n:02}")).unwrap()
    }

    #[test]
    fn only_so_many_at_once_and_the_others_have_their_turn() {
        let mut pulls = TagPulls::new(WAIT);
        (0..MAX_PULLS + 2).for_each(|n| pulls.want(Time(0), &node(n)));
        assert_eq!(pulls.start_due(Time(0)).len(), MAX_PULLS);
        assert!(pulls.start_due(Time(0)).is_empty());
        assert!(
            pulls.poll_timeout() > Some(Time(0)),
            "would spin while full"
        );
        pulls.forget(&node(0));
        assert_eq!(pulls.start_due(Time(0)), [node(MAX_PULLS)]);
    }

    #[test]
    fn one_that_fails_waits_longer_each_time_and_is_not_asked_for_sooner_by_wanting_it() {
        let mut pulls = TagPulls::new(WAIT);
        let mut now = Time(0);
        let mut waits = Vec::new();
        pulls.want(now, &node(1));
        for _ in 0..12 {
            assert_eq!(pulls.start_due(now), [node(1)]);
            pulls.failed(now, &node(1));
            pulls.want(now, &node(1));
            assert!(pulls.start_due(now).is_empty());
            let next = pulls.poll_timeout().unwrap();
            waits.push(next.since(now));
            now = next;
        }
        assert_eq!(&waits[..3], [WAIT, WAIT * 2, WAIT * 4]);
        assert_eq!(waits[11], MAX_WAIT);
    }

    #[test]
    fn an_answer_that_never_comes_is_a_failure() {
        let mut pulls = TagPulls::new(WAIT);
        pulls.want(Time(0), &node(1));
        pulls.start_due(Time(0));
        let late = pulls.poll_timeout().unwrap();
        assert!(pulls.start_due(late).is_empty());
        assert_eq!(pulls.start_due(late + WAIT), [node(1)]);
    }
}
