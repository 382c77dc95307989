//! Feeding the invariants with what engines do.

use funk::engine::Event as EngineEvent;
use funk::engine::replicated::Change;
use funk::engine::shard_map::ShardMap;
use funk::ids::{LogIndex, Term};
use funk::log_message::LogMessage;

use super::*;
use crate::invariants::{Final, i5_fewest_moves, i8_recovery};

impl World {
    /// A log belongs to a cluster: all to the same one, but for those that hold only their own initialisation.
    pub(super) fn observe_cluster(&mut self, at: usize, cluster: ClusterId, only_own: bool) {
        if !only_own && *self.cluster.get_or_insert(cluster) != cluster {
            let what = format!("n{at} belongs to {cluster}, others to {:?}", self.cluster);
            self.note(Err(Violation::new("one cluster", what)));
        }
    }

    /// After each input of an engine, before its outputs are carried out.
    pub(super) fn observe_engine(&mut self, at: usize, installs: bool) {
        let Some(process) = self.nodes[at].process.as_deref_mut() else {
            return;
        };
        let committed = process.engine.committed();
        if !Arc::ptr_eq(committed, &process.committed) {
            let map = committed.clone();
            let before = std::mem::replace(&mut process.committed, map.clone());
            if map.index() != before.index() {
                self.observe_committed(at, before.index(), &map, installs);
            }
        }
        let Some(process) = self.nodes[at].process.as_deref() else {
            return;
        };
        let Some(pending) = process.engine.pending() else {
            return;
        };
        let index = pending.map.index();
        if index > self.handoff.last_proposed {
            self.observe_proposed(at);
        }
        let Some(process) = self.nodes[at].process.as_deref() else {
            return;
        };
        if process.engine.acked() == Some(index) && self.acked.acked(index, &process.instance) {
            trace!(self, "n{at} has drained for map {index}");
            self.handoff_acked();
        }
    }

    fn observe_committed(
        &mut self,
        at: usize,
        before: LogIndex,
        map: &Arc<ShardMap>,
        skipped: bool,
    ) {
        trace!(
            self,
            "n{at} has map {} in force{}",
            map.index(),
            if skipped { ", by snapshot" } else { "" }
        );
        let verdict = self.maps.seen(before, map, skipped);
        self.note(verdict);
    }

    /// A proposal is applied for the first time anywhere.
    fn observe_proposed(&mut self, at: usize) {
        let Some(process) = self.nodes[at].process.as_deref() else {
            return;
        };
        let (Some(pending), base) = (
            process.engine.pending().cloned(),
            process.engine.committed().clone(),
        ) else {
            return;
        };
        self.tally.add("maps proposed");
        let undecided =
            self.handoff.last_proposed > self.maps.last().map_or(LogIndex(0), |map| map.index());
        if undecided {
            self.tally.add("maps superseded");
        }
        self.handoff.last_proposed = pending.map.index();
        let gave_up = |process: &Process| process.engine.counters().count("drains given up") > 0;
        let any = self.running().any(|(_, process)| gave_up(process));
        self.pins |= any;
        let slack = if self.pins { base.shards() as usize } else { 0 };
        trace!(
            self,
            "n{at} is first to apply the proposal of map {} on {}: {} move, ack set {:?}",
            pending.map.index(),
            base.index(),
            i5_fewest_moves::moves(&base, &pending.map),
            pending.ack_set
        );
        let verdict = i5_fewest_moves::check(&base, &pending.map, slack, self.profile.max_moves);
        self.note(verdict);
        self.handoff_draining(&pending);
    }

    /// A replica has applied an entry; its engine may hear of it later.
    pub(super) fn observe_applied(
        &mut self,
        at: usize,
        index: LogIndex,
        term: Term,
        message: &LogMessage,
        change: &Change,
    ) {
        match change {
            Change::Committed { map } => match self.maps.applied(map) {
                Ok(None) => {}
                Ok(Some(base)) => {
                    self.tally.add("maps committed");
                    let verdict = self.acked.committed(&base, map);
                    self.note(verdict);
                    self.handoff_in_force(map);
                }
                Err(violation) => self.note(Err(violation)),
            },
            Change::Void(reason) => {
                trace!(
                    self,
                    "n{at}: entry {index} of term {term} is void: {reason:?} {message:?}"
                );
            }
            _ => {}
        }
    }

    pub(super) fn observe_event(&mut self, at: usize, event: &EngineEvent) {
        if self.trace
            && !matches!(
                event,
                EngineEvent::ShardsGained(_) | EngineEvent::ShardsLost(_)
            )
        {
            trace!(self, "n{at} says {event:?}");
        }
        let Some(process) = self.process(at) else {
            return;
        };
        let verdict = process.states.event(event);
        let says = process.states.state();
        if process.engine.state() != says && matches!(event, EngineEvent::StateChanged { .. }) {
            // Events may be behind the engine, never another way.
            trace!(self, "n{at} said {says:?}");
        }
        self.note(verdict);
    }

    /// I8, for all that are there and do not leave.
    pub(super) fn check_recovered(&self) -> Verdict {
        let staying: Vec<(usize, &Process)> = self.running().collect();
        if staying.len() < self.nodes.len() {
            return Err(Violation::new("I8", "a node is still down"));
        }
        let finals: Vec<Final<'_>> = staying
            .iter()
            .map(|&(at, process)| Final {
                instance: &process.instance,
                leader: process.engine.leader(),
                leads: process.raft.is_leader(),
                committed: process.engine.committed(),
                pending: process.engine.pending().is_some(),
                present: process
                    .engine
                    .members()
                    .values()
                    .filter(|member| member.is_present())
                    .map(|member| member.instance.clone())
                    .collect(),
                serving: process.serving(self.nodes[at].clock.read(self.now)),
            })
            .collect();
        i8_recovery::check(&finals, self.pins)
    }
}
