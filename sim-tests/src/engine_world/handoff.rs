//! Where the latest hand-off stands, so that faults can strike in the middle of it and be counted by phase.

use std::collections::BTreeSet;
use std::time::Duration;

use funk::engine::replicated::Pending;
use funk::engine::shard_map::ShardMap;
use funk::ids::LogIndex;

use super::*;

/// From the moment at which a leader proposes a map.
#[derive(Clone, Debug, Default)]
enum Phase {
    #[default]
    None,
    /// In a log, but not committed.
    Proposed,
    /// Applied somewhere; these must drain.
    Draining(LogIndex, Arc<BTreeSet<Instance>>),
    /// All have acknowledged or are excused; the decision is in a log.
    Deciding(Arc<BTreeSet<Instance>>),
    /// In force somewhere.
    InForce(Arc<ShardMap>),
}

/// The latest hand-off.
#[derive(Debug, Default)]
pub(super) struct Handoff {
    phase: Phase,
    leader: Option<usize>,
    pub(super) last_proposed: LogIndex,
}

impl World {
    pub(super) fn handoff_proposing(&mut self, leader: usize) {
        self.handoff.phase = Phase::Proposed;
        self.handoff.leader = Some(leader);
        self.maybe_ambush(Duration::from_millis(2));
    }

    /// The proposal was applied for the first time.
    pub(super) fn handoff_draining(&mut self, pending: &Pending) {
        self.handoff.phase = Phase::Draining(pending.map.index(), pending.ack_set.clone());
        self.maybe_ambush(Duration::from_millis(3));
    }

    /// One more has acknowledged.
    pub(super) fn handoff_acked(&mut self) {
        self.maybe_ambush(Duration::from_millis(2));
    }

    pub(super) fn handoff_deciding(&mut self, index: LogIndex) {
        if let Phase::Draining(draining, ack_set) = &self.handoff.phase
            && *draining == index
        {
            self.handoff.phase = Phase::Deciding(ack_set.clone());
            self.maybe_ambush(Duration::from_millis(2));
        }
    }

    /// The map is in force for the first time.
    pub(super) fn handoff_in_force(&mut self, map: &Arc<ShardMap>) {
        self.handoff.phase = Phase::InForce(map.clone());
        self.maybe_ambush(Duration::from_millis(3));
    }

    /// A hand-off is over when its map is in force everywhere and what was gained is served.
    pub(super) fn handoff_opened(&mut self, _at: usize) {
        let Phase::InForce(map) = &self.handoff.phase else {
            return;
        };
        let epoch = Epoch(map.index().0);
        let served = |shard: ShardId| {
            let owner = map.owner(shard);
            let serves = |process: &Process| process.open[shard.0 as usize] == epoch;
            self.running()
                .any(|(_, process)| Some(&process.instance) == owner && serves(process))
        };
        let gained = (0..map.shards())
            .map(ShardId)
            .filter(|&shard| map.epoch(shard) == epoch);
        let mut gained = gained;
        if gained.all(served)
            && self
                .running()
                .all(|(_, process)| process.committed.index() >= map.index())
        {
            self.handoff.phase = Phase::None;
        }
    }

    fn takes_part(&self, at: usize, ack_set: &BTreeSet<Instance>) -> bool {
        let process = self.nodes[at].process.as_deref();
        self.handoff.leader == Some(at)
            || process.is_some_and(|process| ack_set.contains(&process.instance))
    }

    /// A node is about to be struck: is it in the middle of a hand-off?
    pub(super) fn count_interruption(&mut self, at: usize) {
        let name = match &self.handoff.phase {
            Phase::None => return,
            Phase::Proposed if self.handoff.leader == Some(at) => {
                "hand-offs interrupted before the proposal commits"
            }
            Phase::Proposed => return,
            Phase::Draining(index, ack_set) if self.takes_part(at, ack_set) => {
                match self.acked.count_of(*index, ack_set) {
                    0 => "hand-offs interrupted before the first ack",
                    _ => "hand-offs interrupted between acks",
                }
            }
            Phase::Deciding(ack_set) if self.takes_part(at, ack_set) => {
                "hand-offs interrupted between the last ack and the commit"
            }
            Phase::InForce(map) => {
                let members: BTreeSet<Instance> = map
                    .members()
                    .iter()
                    .map(|member| member.instance.clone())
                    .collect();
                if !self.takes_part(at, &members) {
                    return;
                }
                "hand-offs interrupted after the commit"
            }
            _ => return,
        };
        self.tally.add(name);
    }

    /// Perhaps a fault strikes just now, at somebody who takes part.
    fn maybe_ambush(&mut self, within: Duration) {
        if self.calm || !self.random.chance(self.profile.ambush) {
            return;
        }
        let parts: Vec<usize> = match &self.handoff.phase {
            Phase::Draining(_, ack_set) | Phase::Deciding(ack_set) => (0..self.nodes.len())
                .filter(|&at| self.takes_part(at, ack_set))
                .collect(),
            _ => Vec::new(),
        };
        let leader = self
            .handoff
            .leader
            .filter(|_| parts.is_empty() || self.random.chance(0.5));
        let target = leader.or_else(|| (!parts.is_empty()).then(|| self.random.pick(&parts)));
        let kind = self.random.pick(&[
            FaultKind::Crash,
            FaultKind::Pause,
            FaultKind::Isolate,
            FaultKind::StepDown,
        ]);
        let when = self.now + self.random.below(ns(within));
        self.queue.push(when, Event::Strike(kind, target));
    }
}
