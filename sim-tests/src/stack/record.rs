//! What all nodes of a run have done so far, and whether an invariant was broken by it.
//!
//! Every node's [`Observer`] writes into the one record; the invariants that concern events are checked as the events
//! come, those that concern a moment of true time after every step of the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use funk::ShardGuard;
use funk::engine::replicated::{Change, Pending};
use funk::engine::shard_map::ShardMap;
use funk::engine::{Engine, Event, Input, LeaseView, NodeState, Output, Role};
use funk::ids::{ClusterId, Epoch, Instance, LogIndex, NodeId, RaftId, ShardId, Term};
use funk::log_message::LogMessage;
use funk::observer::Observer;
use funk::time::Time;

use super::disk_faults::{DiskFault, DiskView};
use super::trace::{Mark, Trace};
use crate::invariants::i2_same_maps::SameMaps;
use crate::invariants::i3_fencing::Fencing;
use crate::invariants::i4_acked::Acked;
use crate::invariants::i6_raft::RaftLogs;
use crate::invariants::i7_states::States;
use crate::invariants::{Final, Serving, Verdict, Violation};
use crate::invariants::{i1_single_owner, i5_fewest_moves, i8_recovery, unmoved};
use crate::tally::Tally;

/// For how long a node may be down without its leader's knowing.
const UNNOTICED: Duration = Duration::from_secs(1);

/// Where the latest hand-off stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// There is none.
    #[default]
    None,
    /// In a log, but applied nowhere.
    Proposed,
    /// Applied somewhere; of those that must drain so many have said that they did.
    Draining(usize),
    /// The decision is in a log.
    Deciding,
    /// In force somewhere, not everything that was gained is served.
    InForce,
}

/// What one run of a node does, as its observer saw it.
#[derive(Debug)]
pub(super) struct RunView {
    pub(super) instance: Instance,
    pub(super) committed: Arc<ShardMap>,
    pub(super) pending: Option<Pending>,
    pub(super) lease: LeaseView,
    pub(super) open: Vec<Epoch>,
    /// Guards in flight, by their numbers: shard and generation of the lease.
    guards: BTreeMap<u64, (ShardId, u64)>,
    pub(super) leads: bool,
    pub(super) leader: Option<NodeId>,
    pub(super) present: Vec<Instance>,
    /// Of each node that it holds for present: the tags that it knows.
    tags: BTreeMap<NodeId, Arc<funk::engine::Tags>>,
    pub(super) state: NodeState,
    pub(super) role: Role,
    states: States,
    installs: bool,
    pub(super) counters: BTreeMap<&'static str, u64>,
    /// Whether it is asked to leave: it may close what no map takes away.
    pub(super) leaving: bool,
}

impl RunView {
    /// Whether it takes itself for the leader: raft says so, and it has not given up for want of a quorum.
    pub(super) fn acts(&self) -> bool {
        self.leads && self.leader.as_ref() == Some(&self.instance.node)
    }
}

/// A node, through all its runs.
#[derive(Debug, Default)]
pub(super) struct NodeView {
    pub(super) run: Option<RunView>,
    /// Voters by the latest raft configuration that it knew.
    pub(super) voters: Vec<BTreeSet<RaftId>>,
    /// It is down, and will come back with an empty store.
    pub(super) store_is_lost: bool,
    /// The raft member that was told to leave last: the change that takes it out may still be under way.
    pub(super) leaving: Option<RaftId>,
    pub(super) disk: DiskView,
    /// Its raft member, as of its present or latest run.
    pub(super) raft: Option<RaftId>,
    /// Since when it has been down.
    down_since: Option<Duration>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub struct Record {
    pub(super) now: Duration,
    pub(super) nodes: Vec<NodeView>,
    pub(super) maps: SameMaps,
    acked: Acked,
    pub(super) fencing: Fencing,
    /// By cluster: what a node wrote before it gave its own initialisation up is another log.
    pub(super) logs: BTreeMap<ClusterId, RaftLogs>,
    pub(super) tally: Tally,
    /// Shards may stay where they are although balance would move them.
    pins: bool,
    pub(super) phase: Phase,
    pub(super) ack_set: Arc<BTreeSet<Instance>>,
    pub(super) last_proposed: LogIndex,
    pub(super) newest_term: Term,
    /// Elections whose leader's log is still to be looked at.
    elections: Vec<(usize, Term)>,
    guards_given: u64,
    violation: Option<Violation>,
    calm: bool,
    pub(super) trace: Option<Trace>,
    /// The phase that the trace was told of.
    traced_phase: Phase,
}

/// The record, shared by the world, the observers and the services.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Record>>);

/// The observer of one run of a node.
pub struct Watcher {
    shared: Shared,
    node: usize,
}

impl Shared {
    /// A record of so many nodes.
    pub fn new(nodes: usize, trace: Option<Trace>) -> Self {
        let record = Record {
            nodes: (0..nodes).map(|_| NodeView::default()).collect(),
            trace,
            ..Record::default()
        };
        Self(Arc::new(Mutex::new(record)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The observer of a run of this node that is about to begin.
    pub fn watcher(&self, node: usize) -> Arc<Watcher> {
        let mut record = self.lock();
        record.nodes[node].run = None;
        record.mark(Some(node), Mark::Started);
        Arc::new(Watcher {
            shared: self.clone(),
            node,
        })
    }

    /// Whether the faults are over.
    pub fn is_calm(&self) -> bool {
        self.lock().calm
    }

    pub(super) fn set_calm(&self) {
        self.lock().calm = true;
    }

    pub(super) fn guard_given(&self, node: usize, guard: &ShardGuard) -> u64 {
        let mut record = self.lock();
        record.guards_given += 1;
        let number = record.guards_given;
        if let Some(run) = &mut record.nodes[node].run {
            let held = (guard.shard(), guard.lease_generation());
            run.guards.insert(number, held);
        }
        // Nothing was awaited since it was taken.
        if !guard.is_valid() {
            let shard = guard.shard();
            let what =
                format!("node {node} hands out a guard on shard {shard} that is void already");
            record.note(Err(Violation::new("S4", what)));
        }
        number
    }

    pub(super) fn guard_released(&self, node: usize, number: u64) {
        if let Some(run) = &mut self.lock().nodes[node].run {
            run.guards.remove(&number);
        }
    }

    pub(super) fn write(&self, node: usize, shard: ShardId, epoch: Epoch, live: bool) {
        let mut record = self.lock();
        let Some(instance) = record.nodes[node]
            .run
            .as_ref()
            .map(|run| run.instance.clone())
        else {
            return;
        };
        let verdict = record.fencing.write(shard, epoch, &instance, live);
        record.note(verdict);
    }

    pub(super) fn note_failed_hook(&self, shards: usize) {
        let mut record = self.lock();
        record.pins = true;
        record
            .tally
            .add_many("acquire hooks that failed", shards as u64);
    }
}

impl Record {
    pub(super) fn note(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict
            && self.violation.is_none()
        {
            self.mark_violation(&violation);
            self.violation = Some(violation);
        }
    }

    /// Tells the trace of a violation, once.
    pub(super) fn mark_violation(&mut self, violation: &Violation) {
        let text = violation.to_string();
        if self.trace.as_ref().is_some_and(|trace| !trace.holds(&text)) {
            self.mark(None, Mark::Violation(text));
        }
    }

    pub(super) fn mark(&mut self, node: Option<usize>, mark: Mark) {
        let now = turmoil::sim_elapsed().unwrap_or(self.now);
        if let Some(trace) = &mut self.trace {
            trace.add(now, node, mark);
        }
    }

    /// Tells the trace where the hand-off stands, if that has changed.
    fn mark_phase(&mut self) {
        if self.trace.is_some() && self.traced_phase != self.phase {
            self.traced_phase = self.phase;
            self.mark(None, Mark::Phase(self.phase));
        }
    }

    /// The first invariant that was broken.
    pub(super) fn violation(&mut self) -> Option<Violation> {
        self.violation.take()
    }

    /// The elections of this node whose leader's log is still to be looked at.
    pub(super) fn take_elections(&mut self, node: usize) -> Vec<Term> {
        let elections = std::mem::take(&mut self.elections);
        let (of_node, others) = elections.into_iter().partition(|(at, _)| *at == node);
        self.elections = others;
        let of_node: Vec<(usize, Term)> = of_node;
        of_node.into_iter().map(|(_, term)| term).collect()
    }

    /// Whether the run of this node is past its start.
    pub(super) fn has_begun(&self, node: usize) -> bool {
        let run = self.nodes[node].run.as_ref();
        run.is_some_and(|run| run.state != NodeState::Starting)
    }

    /// A node's power is cut, or it has ended.
    pub(super) fn ended(&mut self, node: usize) {
        if let Some(run) = self.nodes[node].run.take() {
            self.nodes[node].down_since = Some(self.now);
            for (name, count) in &run.counters {
                self.tally.add_many(name, *count);
            }
        }
    }

    /// I1, at one moment of true time; `clocks`: what each node's lease clock shows now.
    pub(super) fn check_owners(&mut self, clocks: &[Option<Time>]) {
        let shards = self.runs().map(|(_, run)| run.open.len()).max();
        let shards = shards.unwrap_or_default();
        let mut guards: Vec<Vec<u32>> = vec![Vec::new(); self.nodes.len()];
        for (at, run) in self.runs() {
            let mut live = vec![0; shards];
            let current = run
                .guards
                .values()
                .filter(|(_, generation)| *generation == run.lease.generation);
            for (shard, _) in current {
                live[shard.0 as usize] += 1;
            }
            guards[at] = live;
        }
        let serving = self.runs().map(|(at, run)| Serving {
            instance: &run.instance,
            leased: clocks[at].is_some_and(|clock| clock < run.lease.until),
            open: &run.open,
            guards: &guards[at],
        });
        let verdict = i1_single_owner::check(serving, (0..shards as u32).map(ShardId));
        self.note(verdict);
    }

    /// I8, for the nodes at these places, which are all that should be there.
    pub(super) fn check_recovered(&self, up: &[usize], clocks: &[Option<Time>]) -> Verdict {
        let finals = up.iter().map(|&at| {
            let run = self.nodes[at].run.as_ref()?;
            Some(Final {
                instance: &run.instance,
                leader: run.leader.as_ref(),
                leads: run.leads,
                committed: &run.committed,
                pending: run.pending.is_some(),
                present: run.present.clone(),
                serving: Serving {
                    instance: &run.instance,
                    leased: clocks[at].is_some_and(|clock| clock < run.lease.until),
                    open: &run.open,
                    guards: &[],
                },
            })
        });
        let finals: Option<Vec<_>> = finals.collect();
        let Some(finals) = finals else {
            return Err(Violation::new("I8", "a node does not run"));
        };
        i8_recovery::check(&finals, self.pins)?;
        let mut runs = up.iter().filter_map(|&at| self.nodes[at].run.as_ref());
        let Some(first) = runs.next() else {
            return Ok(());
        };
        for run in runs {
            if run.tags != first.tags {
                let what = format!(
                    "{} knows other tags than {}: {:?} and {:?}",
                    run.instance, first.instance, run.tags, first.tags
                );
                return Err(Violation::new("I8", what));
            }
        }
        Ok(())
    }

    fn runs(&self) -> impl Iterator<Item = (usize, &RunView)> + Clone {
        let runs = self.nodes.iter().enumerate();
        runs.filter_map(|(at, node)| Some((at, node.run.as_ref()?)))
    }

    /// The node that leads the newest term, as raft on it says.
    pub(super) fn leader(&self) -> Option<usize> {
        let leads = |(at, run): (usize, &RunView)| run.leads.then_some(at);
        self.runs().filter_map(leads).last()
    }

    /// How many maps came into force.
    pub(super) fn maps(&self) -> usize {
        self.maps.count()
    }

    /// How many of those who must acknowledge the latest proposal have.
    pub(super) fn acks(&self) -> usize {
        self.acked.count_of(self.last_proposed, &self.ack_set)
    }

    /// Whether shards may stay where they are although balance would move them.
    pub(super) fn pins(&self) -> bool {
        self.pins
    }

    /// Counts of the resource that checks tokens.
    pub(super) fn finish(&mut self) {
        for at in 0..self.nodes.len() {
            self.ended(at);
        }
        let (accepted, rejected) = (self.fencing.accepted, self.fencing.rejected);
        self.tally.add_many("guarded writes accepted", accepted);
        self.tally
            .add_many("guarded writes rejected by token", rejected);
        self.tally.add_many("guards given", self.guards_given);
    }

    fn applied(
        &mut self,
        node: usize,
        cluster: Option<ClusterId>,
        index: LogIndex,
        term: Term,
        change: &Change,
    ) {
        if let Some(cluster) = cluster {
            let logs = self.logs.entry(cluster).or_default();
            let verdict = logs.applied(node, index, term);
            self.note(verdict);
        }
        let Change::Committed { map } = change else {
            return;
        };
        match self.maps.applied(map) {
            Ok(None) => {}
            Ok(Some(base)) => {
                self.tally.add("maps committed");
                let verdict = self.acked.committed(&base, map);
                self.note(verdict);
                self.phase = Phase::InForce;
            }
            Err(violation) => self.note(Err(violation)),
        }
    }

    fn leads(&mut self, node: usize, engine: &Engine, term: Term, is_leader: bool) {
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        let began = is_leader && !run.leads;
        run.leads = is_leader;
        if !is_leader {
            return;
        }
        if let Some(cluster) = engine.cluster() {
            let logs = self.logs.entry(cluster).or_default();
            let verdict = logs.elected(term, &engine.config().instance);
            self.note(verdict);
        }
        if began {
            self.elections.push((node, term));
        }
        if began && term > self.newest_term {
            self.newest_term = term;
            self.tally.add("leader changes");
            if let Some(phase) = phase_name(self.phase) {
                self.tally.add(phase);
            }
            self.mark(Some(node), Mark::Elected(term));
        }
    }

    /// The engine has taken an input in.
    fn look(&mut self, node: usize, engine: &Engine) {
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        let installs = std::mem::take(&mut run.installs);
        run.leader = engine.leader().cloned();
        run.role = engine.role();
        let before = run.committed.clone();
        let instance = run.instance.clone();
        run.pending = engine.pending().cloned();
        let map = engine.committed();
        if !Arc::ptr_eq(map, &before) {
            run.committed = map.clone();
            if map.index() != before.index() {
                if installs {
                    // Whoever made the snapshot has applied the map; its engine may hear of it later.
                    let verdict = self.maps.applied(map).map(drop);
                    self.note(verdict);
                }
                let verdict = self.maps.seen(before.index(), map, installs);
                self.note(verdict);
            }
        }
        let Some(pending) = engine.pending() else {
            return;
        };
        let index = pending.map.index();
        if index > self.last_proposed {
            self.proposed(engine, pending);
        }
        if engine.acked() == Some(index) && self.acked.acked(index, &instance) {
            let by = self.acked.count_of(index, &self.ack_set);
            if let Phase::Draining(count) = &mut self.phase {
                *count = by;
            }
        }
    }

    /// A proposal is applied for the first time anywhere.
    fn proposed(&mut self, engine: &Engine, pending: &Pending) {
        self.tally.add("maps proposed");
        let in_force = self.maps.last().map_or(LogIndex(0), |map| map.index());
        if self.last_proposed > in_force {
            self.tally.add("maps superseded");
        }
        self.last_proposed = pending.map.index();
        self.ack_set = pending.ack_set.clone();
        self.phase = Phase::Draining(0);
        let base = engine.committed();
        let slack = if self.pins { base.shards() as usize } else { 0 };
        let verdict = i5_fewest_moves::check(base, &pending.map, slack, None);
        self.note(verdict);
    }

    fn put_out(&mut self, node: usize, engine: &Engine, now: Time, output: &Output) {
        let Some(run) = &mut self.nodes[node].run else {
            return;
        };
        match output {
            Output::Open(shards) => {
                let all = engine.committed().shards() as usize;
                run.open.resize(all.max(run.open.len()), Epoch(0));
                for &(shard, epoch) in shards {
                    run.open[shard.0 as usize] = epoch;
                }
                self.mark_serving(node, || Mark::Opened(shards.clone()));
                self.look_for_the_end_of_the_hand_off();
            }
            Output::Close(shards) => {
                let stays = run.state != NodeState::Stopping && run.state != NodeState::Invalid;
                let mut verdict = Ok(());
                for &(shard, epoch) in shards {
                    // What was not open yet may be closed as well.
                    if let Some(open) = run.open.get_mut(shard.0 as usize) {
                        *open = Epoch(0);
                    }
                    let pending = engine.pending().map(|pending| pending.map.as_ref());
                    let committed = engine.committed();
                    if stays && !run.leaving {
                        let closed =
                            unmoved::closed(&run.instance, committed, pending, shard, epoch);
                        verdict = verdict.and(closed);
                    }
                }
                self.note(verdict);
                self.mark_serving(node, || {
                    Mark::Closed(shards.iter().map(|(shard, _)| *shard).collect())
                });
            }
            Output::Lease(view) => {
                if view.generation != run.lease.generation
                    && run.open.iter().any(|epoch| epoch.0 > 0)
                {
                    self.tally.add("leases lapsed while serving");
                }
                if let Some(run) = &mut self.nodes[node].run {
                    run.lease = *view;
                }
                self.mark(Some(node), Mark::Lease(view.until.since(now)));
            }
            Output::Propose { message, .. } => match message {
                LogMessage::ProposedShardMap { .. } => self.phase = Phase::Proposed,
                LogMessage::ShardMapCommitted { .. } => self.phase = Phase::Deciding,
                LogMessage::LeaderOpened { .. }
                | LogMessage::App { .. }
                | LogMessage::NodeCordoned { .. }
                | LogMessage::VersionRaised { .. } => {}
            },
            Output::Event(event) => {
                let verdict = run.states.event(event);
                run.counters = engine.counters().iter().collect();
                run.state = run.states.state();
                if matches!(event, Event::Superseded { .. }) {
                    run.lease = LeaseView::default();
                    self.tally.add("runs superseded");
                }
                self.note(verdict);
                if self.trace.is_some() {
                    self.mark(Some(node), Mark::Event(Box::new(event.clone())));
                }
            }
            Output::Routes(_) => {
                let members = engine.members().values();
                let present = members.filter(|member| member.is_present());
                run.present = present.map(|member| member.instance.clone()).collect();
                run.tags = engine
                    .members()
                    .values()
                    .filter(|member| member.is_present())
                    .map(|member| (member.instance.node.clone(), member.tags.clone()))
                    .collect();
                run.counters = engine.counters().iter().collect();
            }
            Output::ChangeMembers(change) => {
                let verdict = self.leaves_a_quorum(&change.voters);
                self.note(verdict);
            }
            Output::AbandonLog => self.restarted(node),
            Output::Send { to, message } if self.trace.is_some() => {
                self.mark(Some(node), Mark::Sent(to.clone(), message.clone()));
            }
            _ => {}
        }
    }

    /// Rule M2: a configuration that a leader asks for has a quorum of voters that are there. Those that went down just
    /// now count as there: nobody can know it yet.
    fn leaves_a_quorum(&self, voters: &BTreeSet<RaftId>) -> Verdict {
        let is_there = |id: &&RaftId| {
            let node = self
                .nodes
                .iter()
                .find(|node| node.raft.as_ref() == Some(id));
            node.is_some_and(|node| {
                let since = node.down_since;
                since.is_none_or(|since| self.now < since + UNNOTICED)
            })
        };
        let there = voters.iter().filter(is_there).count();
        if there * 2 > voters.len() {
            return Ok(());
        }
        let what = format!("the leader asks for the voters {voters:?}, of which {there} are there");
        Err(Violation::new("M2", what))
    }

    /// The node is about to apply its log from the beginning.
    fn restarted(&mut self, node: usize) {
        self.logs.values_mut().for_each(|logs| logs.restarted(node));
    }

    fn mark_serving(&mut self, node: usize, change: impl FnOnce() -> Mark) {
        if self.trace.is_none() {
            return;
        }
        self.mark(Some(node), change());
        let run = self.nodes[node].run.as_ref();
        let open = run.map_or(0, |run| run.open.iter().filter(|epoch| epoch.0 > 0).count());
        self.mark(Some(node), Mark::Serving(open));
    }

    /// A hand-off is over when its map is in force everywhere and what was gained is served.
    fn look_for_the_end_of_the_hand_off(&mut self) {
        let Some(map) = self.maps.last().filter(|_| self.phase == Phase::InForce) else {
            return;
        };
        let epoch = Epoch(map.index().0);
        let mut gained = (0..map.shards())
            .map(ShardId)
            .filter(|&shard| map.epoch(shard) == epoch);
        let served = |shard: ShardId| {
            let owner = map.owner(shard);
            self.runs().any(|(_, run)| {
                Some(&run.instance) == owner && run.open.get(shard.0 as usize) == Some(&epoch)
            })
        };
        if gained.all(served) {
            self.phase = Phase::None;
        }
    }
}

/// The situation in which a leader was lost, by name.
fn phase_name(phase: Phase) -> Option<&'static str> {
    Some(match phase {
        Phase::None => return None,
        Phase::Proposed => "leader changed before a proposal committed",
        Phase::Draining(0) => "leader changed before the first ack",
        Phase::Draining(_) => "leader changed between acks",
        Phase::Deciding => "leader changed between the last ack and the commit",
        Phase::InForce => "leader changed after the commit",
    })
}

impl Observer for Watcher {
    fn input(&self, engine: &Engine, _: Time, input: &Input) {
        let mut record = self.shared.lock();
        let node = self.node;
        if record.nodes[node].run.is_none() {
            record.nodes[node].run = Some(RunView {
                instance: engine.config().instance.clone(),
                committed: engine.committed().clone(),
                pending: None,
                lease: LeaseView::default(),
                open: Vec::new(),
                guards: BTreeMap::new(),
                leads: false,
                leader: None,
                present: Vec::new(),
                tags: BTreeMap::new(),
                state: engine.state(),
                role: engine.role(),
                states: States::default(),
                installs: false,
                counters: BTreeMap::new(),
                leaving: false,
            });
            let is_new = std::mem::take(&mut record.nodes[node].store_is_lost);
            record.nodes[node].disk.is_new = is_new;
            record.nodes[node].down_since = None;
            if record.nodes[node].disk.fault == Some(DiskFault::Damaged) {
                let what = format!("{} starts with a damaged store", engine.config().instance);
                record.note(Err(Violation::new("damage", what)));
            }
            let config = engine.config();
            record.nodes[node].raft = Some(RaftId {
                node: config.instance.node.clone(),
                store: config.store,
            });
            record.tally.add("runs of nodes");
            record.restarted(node);
        }
        match input {
            Input::Applied {
                index,
                term,
                change,
            } => record.applied(node, engine.cluster(), *index, *term, change),
            Input::Installed(_) => {
                record.tally.add("snapshots installed");
                if engine.pending().is_some() {
                    record.tally.add("snapshots installed during a change");
                }
                if let Some(run) = &mut record.nodes[node].run {
                    run.installs = true;
                }
            }
            Input::Leadership(leadership) => {
                record.leads(node, engine, leadership.term, leadership.is_leader);
            }
            Input::RaftMembers(members) => {
                record.nodes[node].voters.clone_from(&members.voters);
            }
            Input::StoreReplaced(store) => {
                if let Some(raft) = &mut record.nodes[node].raft {
                    raft.store = *store;
                }
            }
            Input::Leave => {
                if let Some(run) = &mut record.nodes[node].run {
                    run.leaving = true;
                }
            }
            Input::Stop | Input::Superseded { .. } => {
                if let Some(run) = &mut record.nodes[node].run {
                    run.leaving = true;
                }
            }
            Input::Message { from, message } if record.trace.is_some() => {
                let mark = Mark::Received(from.instance.node.clone(), message.clone());
                record.mark(Some(node), mark);
            }
            _ => {}
        }
    }

    fn handled(&self, engine: &Engine, _: Time) {
        let mut record = self.shared.lock();
        // At once: the leader that gave a drain up may be gone when its proposal is looked at.
        record.pins |= engine.counters().count("drains given up") > 0;
        record.look(self.node, engine);
        record.mark_phase();
    }

    fn output(&self, engine: &Engine, now: Time, output: &Output) {
        let mut record = self.shared.lock();
        record.put_out(self.node, engine, now, output);
        record.mark_phase();
    }
}
