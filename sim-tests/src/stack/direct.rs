//! What scenarios do with a world beside stepping it, and what they see of it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use funk::engine::shard_map::ShardMap;
use funk::ids::{Epoch, LogIndex, ShardId, Term};
use funk::{Cluster, Role};
use funk_sim::Disk;
use tokio::sync::oneshot;

use super::disk_faults;
use super::faults::cut_power;
use super::plan::{Fault, Unsynced};
use super::record::{Phase, RunView};
use super::service::Watched;
use super::trace::Mark;
use super::workload::{self, Caller};
use super::world::{Failure, World, options};
use crate::invariants::Violation;

/// Name, in place of an invariant's, of what was to be staged and did not take place.
pub const STAGING: &str = "the situation";
/// Deadline of a probe's gets: longer than any pause that is asserted about.
const PROBE_DEADLINE: Duration = Duration::from_secs(4);

/// The latest hand-off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandOff {
    /// Where it stands.
    pub phase: Phase,
    /// Index of the latest proposal that was applied anywhere.
    pub proposal: LogIndex,
    /// Places of the nodes that must acknowledge it.
    pub ack_set: Vec<usize>,
    /// How many of them have.
    pub acks: usize,
}

/// Guards that a user of a node holds, until this is dropped.
#[derive(Debug)]
pub struct Held {
    _release: oneshot::Sender<()>,
}

impl World {
    /// Lets a fault strike before the next step; `false`: it cannot take place.
    pub fn strike_now(&mut self, fault: Fault) -> bool {
        let (sim, shared) = (&mut self.sim, &self.shared);
        self.faults.carry_out(fault, sim, &self.names, shared)
    }

    /// Cuts the power of the node at this place: it stays down.
    pub fn crash(&mut self, at: usize) {
        let (sim, shared) = (&mut self.sim, &self.shared);
        cut_power(sim, &self.names, shared, at, Unsynced::Torn);
    }

    /// Starts a node again that is down.
    pub fn restart(&mut self, at: usize, disk: Disk) {
        let (sim, shared) = (&mut self.sim, &self.shared);
        disk_faults::start(sim, &self.names[at], at, disk, shared);
    }

    /// Starts a node that was to start on request, or starts one that has left afresh.
    pub fn start(&mut self, at: usize) {
        self.absent.remove(&at);
        let name = self.names[at].clone();
        if self.sim.names().any(|known| *known == name) {
            disk_faults::start(&mut self.sim, &name, at, Disk::Lost, &self.shared);
        } else {
            self.sim.start(&name, options(&self.plan.nodes[at]));
        }
    }

    /// Asks a node to leave for good (until [`start`](Self::start)).
    pub fn leave(&mut self, at: usize) {
        self.absent.insert(at);
        let name = &self.names[at];
        self.sim
            .spawn(name, |cluster| async move { cluster.leave().await });
    }

    /// Whether the node at this place runs.
    pub fn runs(&self, at: usize) -> bool {
        self.sim.handle(&self.names[at]).is_some()
    }

    /// The handle of a node that runs.
    pub fn node(&self, at: usize) -> Result<Cluster, Failure> {
        let handle = self.sim.handle(&self.names[at]);
        handle.ok_or_else(|| self.not_staged(format!("{} does not run", self.names[at])))
    }

    /// Runs a task on a node until it has an answer, for at most `patience`.
    pub fn ask<F, T>(
        &mut self,
        at: usize,
        patience: Duration,
        task: impl FnOnce(Cluster) -> F,
    ) -> Result<Option<T>, Failure>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let answer = Arc::new(Mutex::new(None));
        let slot = answer.clone();
        self.sim.spawn(&self.names[at], |cluster| {
            let task = task(cluster);
            async move {
                let answer = task.await;
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
            }
        });
        let take = || answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut answered = None;
        self.run_until(patience, |_| {
            answered = answered.take().or_else(take);
            answered.is_some()
        })?;
        Ok(answered)
    }

    /// Takes a guard of every shard that a node serves, and holds them whatever the lease says. When they are
    /// released each writes once more to the resource that checks tokens.
    pub fn hold(&mut self, at: usize) -> Held {
        let (release, released) = oneshot::channel::<()>();
        let shared = self.shared.clone();
        self.sim.spawn(&self.names[at], |cluster| async move {
            let shards = (0..cluster.shard_map().shards()).map(ShardId);
            let guards: Vec<Watched> = shards
                .filter_map(|shard| Some(Watched::new(cluster.guard(shard)?, at, &shared)))
                .collect();
            drop(cluster);
            let _ = released.await;
            guards.iter().for_each(Watched::write);
        });
        Held { _release: release }
    }

    /// Gets all keys of the load from this run of a node, every so often, until the load ends.
    pub fn probe(&mut self, at: usize, every: Duration) {
        let (keys, history) = (self.plan.load.keys, self.history.clone());
        self.sim.spawn(&self.names[at], |cluster| {
            workload::probe(Caller::Node(cluster), keys, every, PROBE_DEADLINE, history)
        });
    }

    /// Where the latest hand-off stands.
    pub fn phase(&self) -> Phase {
        self.shared.lock().phase
    }

    /// The latest hand-off.
    pub fn hand_off(&self) -> HandOff {
        let record = self.shared.lock();
        let place = |node| self.names.iter().position(|name| name == node);
        HandOff {
            phase: record.phase,
            proposal: record.last_proposed,
            ack_set: record
                .ack_set
                .iter()
                .filter_map(|instance| place(&instance.node))
                .collect(),
            acks: record.acks(),
        }
    }

    /// Steps until the hand-off stands as wanted; if it never does, the situation was not staged.
    pub fn run_until_hand_off(
        &mut self,
        span: Duration,
        wanted: &str,
        condition: impl Fn(&HandOff) -> bool,
    ) -> Result<(), Failure> {
        let reached = self.run_until(span, |world| condition(&world.hand_off()))?;
        let hand_off = self.hand_off();
        self.require(reached, || {
            format!("no hand-off was {wanted}: {hand_off:?}")
        })
    }

    /// Steps until the condition holds; if it does not within `span`, the situation was not staged.
    pub fn await_that(
        &mut self,
        span: Duration,
        what: &str,
        condition: impl FnMut(&Self) -> bool,
    ) -> Result<(), Failure> {
        let holds = self.run_until(span, condition)?;
        self.require(holds, || format!("not within {span:?}: {what}"))
    }

    /// Steps until all is well: one leader, one map, all served, all agree.
    pub fn await_well(&mut self, span: Duration) -> Result<(), Failure> {
        if self.run_until(span, |world| world.check_recovered().is_ok())? {
            return Ok(());
        }
        match self.check_recovered() {
            Ok(()) => Ok(()),
            Err(violation) => Err(self.failure(violation)),
        }
    }

    /// How often a situation was reached so far, the counters of nodes that run included.
    pub fn count(&self, name: &str) -> u64 {
        let record = self.shared.lock();
        let runs = record.nodes.iter().filter_map(|node| node.run.as_ref());
        let of_runs = runs.filter_map(|run| run.counters.get(name));
        record.tally.count(name) + of_runs.sum::<u64>()
    }

    /// How many writes the resource that checks tokens has refused.
    pub fn rejected_writes(&self) -> u64 {
        self.shared.lock().fencing.rejected
    }

    /// How many vote by the raft configuration that the leader knows; 0: there is no leader.
    pub fn voters(&self) -> usize {
        let leader = self.only_leader();
        let record = self.shared.lock();
        let voters = leader.and_then(|at| record.nodes[at].voters.last());
        voters.map_or(0, BTreeSet::len)
    }

    /// The newest term in which somebody was elected.
    pub fn term(&self) -> Term {
        self.shared.lock().newest_term
    }

    /// The newest map in force anywhere.
    pub fn map(&self) -> Arc<ShardMap> {
        let record = self.shared.lock();
        record.maps.last().cloned().unwrap_or_default()
    }

    /// How many maps came into force.
    pub fn maps(&self) -> usize {
        self.shared.lock().maps()
    }

    /// How many shards the node at this place would hand out guards for, at this moment of true time.
    pub fn serves(&self, at: usize) -> usize {
        let clocks = self.clocks();
        let record = self.shared.lock();
        let Some(run) = &record.nodes[at].run else {
            return 0;
        };
        if clocks[at].is_none_or(|clock| clock >= run.lease.until) {
            return 0;
        }
        run.open.iter().filter(|epoch| **epoch != Epoch(0)).count()
    }

    /// How many shards of the newest map belong to the present or last run of the node at this place.
    pub fn owns(&self, at: usize) -> usize {
        let map = self.map();
        let shards = (0..map.shards()).map(ShardId);
        let owner = shards.filter_map(|shard| map.owner(shard));
        owner.filter(|owner| owner.node == self.names[at]).count()
    }

    /// The place of the only node that leads, if exactly one takes itself for a leader.
    pub fn only_leader(&self) -> Option<usize> {
        let record = self.shared.lock();
        let runs = record.nodes.iter().enumerate();
        let mut leads = runs.filter(|(_, node)| node.run.as_ref().is_some_and(RunView::acts));
        match (leads.next(), leads.next()) {
            (Some((at, _)), None) => Some(at),
            _ => None,
        }
    }

    /// Whether the node at this place takes itself for the leader. One that hears no quorum does so for a while (L6).
    pub fn leads(&self, at: usize) -> bool {
        let record = self.shared.lock();
        record.nodes[at].run.as_ref().is_some_and(RunView::acts)
    }

    /// What part the node at this place takes, as it sees it.
    pub fn role(&self, at: usize) -> Option<Role> {
        let record = self.shared.lock();
        record.nodes[at].run.as_ref().map(|run| run.role)
    }

    /// For each key of the load its shard.
    pub fn shards_of_keys(&self) -> BTreeMap<u64, ShardId> {
        let handles = self.names.iter().filter_map(|name| self.sim.handle(name));
        let mut handles = handles.filter(|handle| handle.shard_map().shards() > 0);
        let Some(handle) = handles.next() else {
            return BTreeMap::new();
        };
        let shard = |key: u64| Some((key, handle.shard_of(key.to_string().as_bytes())?));
        (0..self.plan.load.keys).filter_map(shard).collect()
    }

    /// What a scenario is named for must take place: otherwise it shows nothing.
    pub fn require(&self, holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
        if holds {
            return Ok(());
        }
        Err(self.not_staged(what()))
    }

    /// What users may expect of the situation.
    pub fn expect(
        &self,
        invariant: &'static str,
        holds: bool,
        what: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if holds {
            return Ok(());
        }
        Err(self.failure(Violation::new(invariant, what())))
    }

    /// The situation was not staged.
    pub fn not_staged(&self, what: String) -> Failure {
        self.failure(Violation::new(STAGING, what))
    }

    /// A line in the trace.
    pub fn note(&self, what: &str) {
        self.shared.lock().mark(None, Mark::Fault(what.to_owned()));
    }
}
