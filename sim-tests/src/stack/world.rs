//! A run of the whole stack: production nodes in the simulated network, a load, faults, and every invariant after every
//! step.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use funk::ids::{BootId, NodeId};
use funk::time::Time;
use funk::versions::VersionRange;
use funk::{Builder, Cluster};
use funk_sim::{Clock, Network, NodeOptions, SimCluster, SimulationConfig};

use super::disk_faults::{self, Found};
use super::faults::{Faults, start_what_is_down};
use super::plan::{NodePlan, Plan, Transport};
use super::record::Shared;
use super::service::{Registers, Replica};
use super::trace::{Mark, Trace};
use super::workload::{self, Caller, History};
use crate::invariants::{Verdict, Violation, i9_nothing_lost};
use crate::tally::Tally;

/// How long the cluster may take to recover, beside the longest timeout configured (I8).
const RECOVERY: Duration = Duration::from_secs(10);
/// How long a first map may take without faults.
const FORMATION: Duration = Duration::from_secs(10);
/// How often the end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// For how many looks all must be well.
const STEADY: u32 = 3;
/// For how long the load goes on once all is well: none of its calls may fail.
const ENCORE: Duration = Duration::from_secs(2);
/// How long the last calls may take to end after that, beside their deadline.
const REST: Duration = Duration::from_secs(2);

/// What is violated when a node does not start, or a task of it panics.
pub(super) const NODE_RUNS: &str = "a node runs";

/// What a run that held came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Situations reached.
    pub tally: Tally,
    /// Simulated time.
    pub simulated: Duration,
    /// From the last fault until all was well.
    pub recovered_in: Duration,
    /// Hash over all messages: of one plan always the same.
    pub fingerprint: u64,
}

/// An invariant that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which, and how.
    pub violation: Violation,
    /// When.
    pub at: Duration,
    /// Situations reached until then.
    pub tally: Tally,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:?}: {}", self.at, self.violation)
    }
}

/// The whole world of one run.
pub struct World {
    /// What it is made from.
    pub plan: Plan,
    /// The nodes, clients and the network.
    pub sim: SimCluster,
    /// The names of the nodes, by their places.
    pub names: Vec<NodeId>,
    pub(super) shared: Shared,
    /// The calls so far.
    pub history: History,
    replicas: Arc<Mutex<Vec<Replica>>>,
    /// What each node speaks from its next start on.
    versions: Arc<Mutex<Vec<VersionRange>>>,
    /// The run of each node that has its load.
    loaded: Vec<Option<BootId>>,
    /// What each node's store holds for sure, and of which run.
    found: Vec<Found>,
    load_ends: bool,
    pub(super) faults: Faults,
    began: Option<Duration>,
    /// Places of nodes that have not started yet, or have left for good: nobody waits for them.
    pub(super) absent: BTreeSet<usize>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.plan.seed)
            .field("at", &self.sim.elapsed())
            .finish_non_exhaustive()
    }
}

impl World {
    /// A world in which all nodes are about to start.
    pub fn new(plan: Plan, trace: bool) -> Self {
        let count = plan.nodes.len();
        let shared = Shared::new(count, trace.then(Trace::default));
        let replicas = Arc::new(Mutex::new(vec![Replica::default(); count]));
        let versions = Arc::new(Mutex::new(vec![VersionRange::SPOKEN; count]));
        let names: Vec<NodeId> = (1..=count).map(name).collect();
        let config = SimulationConfig {
            tick: plan.tick,
            latency: Duration::from_millis(1)..=plan.latency,
            network: match plan.transport {
                Transport::Tcp => Network::Tcp,
                Transport::Quic => Network::Quic,
            },
            ..SimulationConfig::new(plan.seed)
        };
        let describe = {
            let (plan, names) = (plan.clone(), names.clone());
            let (shared, replicas) = (shared.clone(), replicas.clone());
            let versions = versions.clone();
            move |builder: Builder, node: &funk_sim::SimNode| {
                let at = names.iter().position(|name| *name == node.name);
                let at = at.expect("only nodes of the plan are described");
                let replica = Replica::default();
                lock(&replicas)[at] = replica.clone();
                let builder = builder.versions(lock(&versions)[at]);
                describe(builder, &plan, at, replica, &shared)
            }
        };
        let mut sim = SimCluster::new(&config, describe);
        let mut absent = BTreeSet::new();
        for (at, node) in plan.nodes.iter().enumerate() {
            if node.starts_at == NodePlan::ON_REQUEST {
                absent.insert(at);
                continue;
            }
            let (name, options) = (names[at].clone(), options(node));
            sim.at(node.starts_at, move |sim| sim.start(&name, options));
        }
        let history = History::default();
        for client in 1..=plan.load.clients {
            let name = NodeId::new(&format!("c{client}")).expect("a letter and digits are a name");
            let (history, load) = (history.clone(), plan.load);
            sim.client(&name, move |client, _| {
                workload::call_on_and_on(Caller::Client(client), load, history.clone())
            });
        }
        if plan.loss_permille > 0 {
            let loss = f64::from(plan.loss_permille) / 1_000.0;
            sim.simulation().network().lose_datagrams(loss);
        }
        Self {
            faults: Faults::new(&plan),
            sim,
            names,
            shared,
            history,
            replicas,
            versions,
            loaded: vec![None; count],
            found: vec![Found::default(); count],
            load_ends: false,
            began: None,
            absent,
            plan,
        }
    }

    /// One step, and every invariant that can be checked at a moment.
    pub fn step(&mut self) -> Result<(), Failure> {
        self.strike();
        let stepped = self.sim.step();
        self.shared.lock().now = self.sim.elapsed();
        if let Err(failure) = stepped {
            return Err(self.failure(Violation::new(NODE_RUNS, failure.reason)));
        }
        disk_faults::look(&mut self.sim, &self.names, &self.shared);
        self.look();
        self.load_new_runs();
        let violation = self.shared.lock().violation();
        match violation {
            Some(violation) => Err(self.failure(violation)),
            None => Ok(()),
        }
    }

    /// Steps for a while.
    pub fn run_for(&mut self, span: Duration) -> Result<(), Failure> {
        self.run_until(span, |_| false).map(drop)
    }

    /// Steps until the condition holds, for at most `span`; whether it holds.
    pub fn run_until(
        &mut self,
        span: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<bool, Failure> {
        let end = self.sim.elapsed() + span;
        while self.sim.elapsed() < end {
            if condition(self) {
                return Ok(true);
            }
            self.step()?;
        }
        Ok(condition(self))
    }

    /// The whole plan: form, faults, calm, recovery, judgement.
    pub fn run_to_the_end(&mut self) -> Result<Outcome, Failure> {
        self.form()?;
        let calm_at = self.began.unwrap_or_default() + self.plan.calm_at;
        while self.sim.elapsed() < calm_at {
            self.step()?;
        }
        self.conclude()
    }

    /// Calm, recovery, judgement.
    pub fn conclude(&mut self) -> Result<Outcome, Failure> {
        self.calm();
        let recovered_in = self.recover()?;
        let left = self.plan.length.saturating_sub(self.sim.elapsed());
        self.judge(left)?;
        Ok(self.outcome(recovered_in))
    }

    /// Waits for a first map. With a plan whose faults begin at once this is part of them.
    pub fn form(&mut self) -> Result<(), Failure> {
        if !self.plan.forms_in_peace {
            self.began = Some(self.sim.elapsed());
            return Ok(());
        }
        let formed = self.run_until(FORMATION, |world| world.shared.lock().maps() > 0)?;
        self.began = Some(self.sim.elapsed());
        if formed {
            return Ok(());
        }
        let what = format!("no map within {FORMATION:?} although nothing was wrong");
        Err(self.failure(Violation::new("I8", what)))
    }

    /// All faults end: everything is repaired, what is down starts.
    pub fn calm(&mut self) {
        self.shared.set_calm();
        let there: Vec<NodeId> = self
            .there()
            .into_iter()
            .map(|at| self.names[at].clone())
            .collect();
        self.faults
            .end(&mut self.sim, &there, &self.shared, &self.plan);
        self.start_what_is_down();
    }

    /// Starts the nodes that should be there and are not: those that are down, and those that have left.
    fn start_what_is_down(&mut self) {
        let there = self.there();
        start_what_is_down(&mut self.sim, &self.names, &there, &self.shared);
    }

    /// Waits until all is well, and stays so for a moment (I8).
    pub fn recover(&mut self) -> Result<Duration, Failure> {
        let since = self.sim.elapsed();
        let bound = RECOVERY + self.plan.longest_timeout() + self.longest_back_off();
        let (mut steady, mut next) = (0, since);
        loop {
            self.step()?;
            let now = self.sim.elapsed();
            if now < next {
                continue;
            }
            next = now + LOOK_EVERY;
            // One that was leaving when the faults ended has left by now, and comes back.
            self.start_what_is_down();
            match self.check_recovered() {
                Ok(()) => steady += 1,
                Err(_) if now < since + bound => steady = 0,
                Err(violation) => return Err(self.failure(violation)),
            }
            if steady == STEADY {
                return Ok(now - since);
            }
        }
    }

    /// What a shard that did not drain, or a hook that failed, makes the leader wait for.
    fn longest_back_off(&self) -> Duration {
        if self.shared.lock().pins() {
            self.plan.timing.drain_timeout * 16
        } else {
            Duration::ZERO
        }
    }

    /// The load goes on for a while, in which no call may fail; then it ends, and the history is judged (I9, I10).
    pub fn judge(&mut self, longer: Duration) -> Result<(), Failure> {
        let since = self.sim.elapsed();
        self.run_for(ENCORE.max(longer))?;
        self.load_ends = true;
        self.end_load();
        let rest = self.plan.load.deadline + REST;
        self.run_for(rest)?;
        let failed = self.history.unanswered_since(since);
        if let Some(call) = failed.first() {
            let what = format!("a call failed although all was well: {call:?}");
            return Err(self.failure(Violation::new("I8", what)));
        }
        self.check_replicas()?;
        match self.history.judge() {
            Ok(judged) => {
                let (calls, answered) = self.history.count();
                let mut record = self.shared.lock();
                let tally = &mut record.tally;
                tally.add_many("keys found linearizable", judged.linearizable);
                tally.add_many("keys of which nothing is known", judged.unknown);
                tally.add_many("calls", calls as u64);
                tally.add_many("calls answered", answered as u64);
                Ok(())
            }
            Err(violation) => Err(self.failure(violation)),
        }
    }

    /// I9, on every replica that is there.
    fn check_replicas(&mut self) -> Result<(), Failure> {
        let there = self.there();
        let replicas: Vec<_> = {
            let replicas = lock(&self.replicas);
            let contents = |&at: &usize| (self.names[at].to_string(), replicas[at].contents());
            there.iter().map(contents).collect()
        };
        let verdict = i9_nothing_lost::check(&replicas, &self.history.increments());
        verdict.map_err(|violation| self.failure(violation))
    }

    fn end_load(&mut self) {
        self.history.stop();
    }

    /// What the run came to. Nothing can be asked of its nodes after that.
    pub fn outcome(&mut self, recovered_in: Duration) -> Outcome {
        let mut record = self.shared.lock();
        record.finish();
        record.tally.add("runs");
        Outcome {
            tally: record.tally.clone(),
            simulated: self.sim.elapsed(),
            recovered_in,
            fingerprint: self.sim.fingerprint(),
        }
    }

    /// A failure, here and now.
    pub fn failure(&self, violation: Violation) -> Failure {
        let mut record = self.shared.lock();
        record.mark_violation(&violation);
        Failure {
            violation,
            at: self.sim.elapsed(),
            tally: record.tally.clone(),
        }
    }

    /// Gives a trace back that was taken: the run goes on in it.
    pub fn put_trace(&mut self, trace: Trace) {
        self.shared.lock().trace = Some(trace);
    }

    /// What was traced, if the world was made with a trace.
    pub fn take_trace(&mut self) -> Option<Trace> {
        self.shared.lock().trace.take()
    }

    /// From its next start on the node at this place is of a release that speaks these versions.
    pub fn install_release(&self, at: usize, versions: VersionRange) {
        lock(&self.versions)[at] = versions;
    }

    /// The place of the node that leads the newest term.
    pub fn leader(&self) -> Option<usize> {
        self.shared.lock().leader()
    }

    /// Whether all is well at this moment.
    pub fn check_recovered(&self) -> Verdict {
        let clocks = self.clocks();
        self.shared.lock().check_recovered(&self.there(), &clocks)
    }

    /// Places of the nodes that should be there.
    pub(super) fn there(&self) -> Vec<usize> {
        let all = 0..self.names.len();
        all.filter(|at| !self.absent.contains(at)).collect()
    }

    pub(super) fn clocks(&self) -> Vec<Option<Time>> {
        self.names.iter().map(|name| self.sim.clock(name)).collect()
    }

    /// What can be seen at this moment of true time.
    fn look(&mut self) {
        let clocks = self.clocks();
        let mut record = self.shared.lock();
        for (at, name) in self.names.iter().enumerate() {
            if self.sim.handle(name).is_none() && record.nodes[at].run.is_some() {
                // It has left or stopped; of a crash the record was told.
                if record.has_begun(at) {
                    record.mark(Some(at), Mark::Stopped("it has ended".to_owned()));
                    record.ended(at);
                }
            }
            let Some(storage) = self.sim.storage(name) else {
                continue;
            };
            let boot = self.sim.handle(name).map(|handle| handle.instance().boot);
            self.found[at].look(at, boot, &storage, &mut record);
            let entries = storage.look();
            if let (Some(cluster), false) = (storage.cluster(), entries.is_empty()) {
                let verdict = record.logs.entry(cluster).or_default().appended(&entries);
                record.note(verdict);
            }
            for term in record.take_elections(at) {
                let logs = storage
                    .cluster()
                    .and_then(|cluster| record.logs.get(&cluster));
                let verdict = logs.map_or(Ok(()), |logs| {
                    logs.leads(term, |index, term| storage.holds(index, term))
                });
                record.note(verdict);
            }
        }
        record.check_owners(&clocks);
    }

    fn load_new_runs(&mut self) {
        if self.load_ends {
            return;
        }
        for (at, name) in self.names.iter().enumerate() {
            let Some(handle) = self.sim.handle(name) else {
                continue;
            };
            let boot = handle.instance().boot;
            if self.loaded[at] == Some(boot) {
                continue;
            }
            self.loaded[at] = Some(boot);
            let (load, history) = (self.plan.load, self.history.clone());
            self.sim.spawn(name, |cluster: Cluster| {
                workload::call_on_and_on(Caller::Node(cluster), load, history)
            });
        }
    }

    fn strike(&mut self) {
        let Some(began) = self.began else { return };
        if self.shared.is_calm() {
            return;
        }
        let since = self.sim.elapsed().saturating_sub(began);
        let (sim, shared) = (&mut self.sim, &self.shared);
        self.faults.strike(since, sim, &self.names, shared);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a node of the plan is made of.
pub(super) fn options(node: &NodePlan) -> NodeOptions {
    NodeOptions {
        clock: Clock {
            rate: node.rate,
            offset: node.offset,
        },
        fsync: node.fsync,
    }
}

fn name(number: usize) -> NodeId {
    NodeId::new(&format!("n{number}")).expect("a letter and digits are a name")
}

fn describe(
    builder: Builder,
    plan: &Plan,
    at: usize,
    replica: Replica,
    shared: &Shared,
) -> Builder {
    let service = Registers {
        node: at,
        replica: replica.clone(),
        manners: plan.manners,
        shared: shared.clone(),
    };
    let node = &plan.nodes[at];
    let builder = builder
        .bootstrap_expect(if node.votes { plan.bootstrap_expect } else { 0 })
        .voters(plan.voters)
        .shards(plan.shards)
        .timing(plan.timing.clone())
        .snapshot_every(plan.snapshot_every)
        .state(replica)
        .service(service)
        .observer(shared.watcher(at));
    if node.votes {
        builder
    } else {
        builder.non_voter()
    }
}
