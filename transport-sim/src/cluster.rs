//! A cluster of somebody's service in a simulated network: what users of the library hold in their tests.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use funk::ids::{BootId, NodeId};
use funk::runtime::Environment;
use funk::time::Time;
use funk::{Builder, Client, Cluster, Storage};
use tokio::sync::mpsc;

use crate::simulation::{Clock, SimNode, Simulation, SimulationConfig};

/// Name of the cluster that all nodes belong to.
const CLUSTER: &str = "simulated";
/// Most nodes whose addresses every node is given to find the others by.
const SEED_NODES: usize = 5;

/// What becomes of a node's store while the node is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// What was flushed is there again.
    Kept,
    /// The node comes back with an empty one: another raft member under the old name (rule M0).
    Lost,
}

/// What a node is made of, beside what all nodes have in common.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct NodeOptions {
    /// How its clock errs.
    pub clock: Clock,
    /// How long a write takes until it survives a loss of power.
    pub flush: Duration,
}

/// Why a run ended early.
#[derive(Debug)]
pub struct Failure {
    /// The seed that runs it again.
    pub seed: u64,
    /// When, in simulated time.
    pub at: Duration,
    /// What was seen.
    pub reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, reason } = self;
        write!(f, "seed {seed}, at {at:?}: {reason}")
    }
}

impl std::error::Error for Failure {}

/// What a step may end with.
pub type Result<T = ()> = std::result::Result<T, Failure>;

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;
type Check = Box<dyn FnMut(&SimCluster) -> std::result::Result<(), String>>;
type Action = Box<dyn FnOnce(&mut SimCluster)>;
type Describe = Rc<dyn Fn(Builder, &SimNode) -> Builder>;

/// A cluster of your service under simulated faults. Stepped by its owner, in one thread; everything that happens
/// follows from the seed.
///
/// The nodes are those that ship: engine, raft, routing and (as configured) the QUIC transport. A description adds to
/// each node what it serves; faults happen when they are called for, or are set down beforehand with
/// [`at`](Self::at); conditions given to [`check`](Self::check) are looked at after every step.
///
/// ```
/// use std::time::Duration;
/// use funk::ids::NodeId;
/// use funk_sim::{Disk, SimCluster, SimulationConfig};
///
/// let mut sim = SimCluster::new(&SimulationConfig::new(7), |builder, _node| {
///     builder.bootstrap_expect(3).shards(16) // and .service(..), .state(..)
/// });
/// let nodes = sim.start_many(3);
/// assert!(sim.run_until_operational(Duration::from_secs(10))?);
///
/// sim.crash(&nodes[0]);
/// sim.run_for(Duration::from_secs(2))?;
/// sim.restart(&nodes[0], Disk::Kept);
/// assert!(sim.run_until_operational(Duration::from_secs(10))?);
/// # Ok::<(), funk_sim::Failure>(())
/// ```
pub struct SimCluster {
    simulation: Simulation,
    seed: u64,
    describe: Describe,
    nodes: BTreeMap<NodeId, Slot>,
    checks: Vec<Check>,
    /// What is to happen, by time; of equal times in the order of asking.
    actions: BTreeMap<(Duration, u64), Action>,
    asked: u64,
}

/// A node: what outlives its runs.
struct Slot {
    storage: Arc<Mutex<Storage>>,
    options: NodeOptions,
    run: Arc<Mutex<Option<Run>>>,
}

/// The present run of a node.
struct Run {
    cluster: Cluster,
    environment: Environment,
    /// When it began.
    born: Duration,
    jobs: mpsc::UnboundedSender<Job>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for SimCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.keys().collect();
        f.debug_struct("SimCluster")
            .field("simulation", &self.simulation)
            .field("nodes", &nodes)
            .finish_non_exhaustive()
    }
}

impl SimCluster {
    /// An empty network. `describe` completes the description of every run of every node: its service, its state, how
    /// many nodes found the cluster. Name, transport, seeds, store and boot id are given.
    pub fn new(
        config: &SimulationConfig,
        describe: impl Fn(Builder, &SimNode) -> Builder + 'static,
    ) -> Self {
        Self {
            simulation: Simulation::new(config),
            seed: config.seed,
            describe: Rc::new(describe),
            nodes: BTreeMap::new(),
            checks: Vec::new(),
            actions: BTreeMap::new(),
            asked: 0,
        }
    }

    /// Adds a node, which starts with the next step.
    ///
    /// # Panics
    ///
    /// If there is one of that name.
    pub fn start(&mut self, name: &NodeId, options: NodeOptions) {
        let storage = Storage::memory_with_flush(options.flush);
        let slot = Slot {
            storage: Arc::new(Mutex::new(storage)),
            options,
            run: Arc::default(),
        };
        let (storage, run) = (slot.storage.clone(), slot.run.clone());
        self.nodes.insert(name.clone(), slot);
        let describe = self.describe.clone();
        self.simulation.add(name, options.clock, move |node| {
            live(node, describe.clone(), storage.clone(), run.clone())
        });
    }

    /// Starts nodes `n1` to `nCOUNT` with exact clocks.
    pub fn start_many(&mut self, count: usize) -> Vec<NodeId> {
        let names: Vec<NodeId> = (1..=count).map(node_name).collect();
        for name in &names {
            self.start(name, NodeOptions::default());
        }
        names
    }

    /// A host that runs `program` with a client of the cluster, from the next step on, once.
    pub fn client<F>(&mut self, name: &NodeId, program: impl Fn(Client, SimNode) -> F + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let program = Rc::new(program);
        self.simulation.add(name, Clock::default(), move |node| {
            let program = program.clone();
            async move {
                let transport = node.client_transport().await?;
                let addresses = seeds(&node);
                let client = Client::start(CLUSTER, node.name.as_str(), transport, addresses)?;
                program(client, node).await;
                Ok(())
            }
        });
    }

    /// Runs a task in the present run of a node, with its handle. `false`: the node is not there.
    pub fn spawn<F>(&self, node: &NodeId, task: impl FnOnce(Cluster) -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(slot) = self.nodes.get(node) else {
            return false;
        };
        let run = lock(&slot.run);
        run.as_ref().is_some_and(|run| {
            let task = Box::pin(task(run.cluster.clone()));
            run.jobs.send(task).is_ok()
        })
    }

    /// Runs a task in the present run of a node and steps until it has an answer; `None`: the node is not there, or
    /// there was none within `patience`.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn ask<F, T>(
        &mut self,
        node: &NodeId,
        patience: Duration,
        task: impl FnOnce(Cluster) -> F,
    ) -> Result<Option<T>>
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let answer = Arc::new(Mutex::new(None));
        let slot = answer.clone();
        let asked = self.spawn(node, |cluster| {
            let task = task(cluster);
            async move {
                let answer = task.await;
                *lock(&slot) = Some(answer);
            }
        });
        if !asked {
            return Ok(None);
        }
        self.run_until(patience, |_| lock(&answer).is_some())?;
        Ok(lock(&answer).take())
    }

    /// Looks at `condition` after every step; its error ends the run.
    pub fn check(
        &mut self,
        condition: impl FnMut(&SimCluster) -> std::result::Result<(), String> + 'static,
    ) {
        self.checks.push(Box::new(condition));
    }

    /// Does something at a time: before the step that begins then.
    pub fn at(&mut self, time: Duration, action: impl FnOnce(&mut SimCluster) + 'static) {
        self.asked += 1;
        self.actions.insert((time, self.asked), Box::new(action));
    }

    /// One step of simulated time, then all checks.
    ///
    /// # Errors
    ///
    /// A node that did not start, or a check that does not hold.
    pub fn step(&mut self) -> Result {
        let now = self.elapsed();
        while let Some(entry) = self.actions.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let action = entry.remove();
            action(self);
        }
        let stepped = self.simulation.step();
        stepped.map_err(|error| self.failure(format!("a node failed: {error}")))?;
        for (name, slot) in &self.nodes {
            let run = lock(&slot.run);
            let panics = run.as_ref().map(|run| run.environment.take_panics());
            if let Some(text) = panics.unwrap_or_default().first() {
                return Err(self.failure(format!("a task of {name} panicked: {text}")));
            }
        }
        let mut checks = std::mem::take(&mut self.checks);
        let broken = checks.iter_mut().find_map(|check| check(self).err());
        self.checks = checks;
        match broken {
            Some(reason) => Err(self.failure(reason)),
            None => Ok(()),
        }
    }

    /// Goes on for a while of simulated time.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn run_for(&mut self, span: Duration) -> Result {
        self.run_until(span, |_| false).map(drop)
    }

    /// Goes on until the condition holds, for at most `span`; says whether it holds.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn run_until(
        &mut self,
        span: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<bool> {
        let end = self.elapsed() + span;
        while self.elapsed() < end {
            if condition(self) {
                return Ok(true);
            }
            self.step()?;
        }
        Ok(condition(self))
    }

    /// Goes on until every node that is up is operational; says whether that came to be within `span`.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn run_until_operational(&mut self, span: Duration) -> Result<bool> {
        self.run_until(span, Self::is_operational)
    }

    /// Whether every node that is up is operational.
    pub fn is_operational(&self) -> bool {
        let mut up = self.nodes.keys().filter(|name| self.simulation.is_up(name));
        up.all(|name| {
            let handle = self.handle(name);
            handle.is_some_and(|node| node.state() == funk::NodeState::Operational)
        })
    }

    /// The handle of a node's present run; `None`: it is down, or has not begun. What reads the node's clock (guards,
    /// calls) works within the simulation only: see [`ask`](Self::ask).
    pub fn handle(&self, node: &NodeId) -> Option<Cluster> {
        let run = lock(&self.nodes.get(node)?.run);
        run.as_ref().map(|run| run.cluster.clone())
    }

    /// Every node's name, whether it is up or not.
    pub fn names(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }

    /// The node that takes itself for the leader of the newest term.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |name: &&NodeId| {
            let handle = self.handle(name)?;
            (handle.role() == funk::Role::Leader).then(|| (handle.term(), (*name).clone()))
        };
        let newest = self.nodes.keys().filter_map(|name| leads(&name)).max();
        newest.map(|(_, name)| name)
    }

    /// What the lease clock of a node's present run shows now.
    pub fn clock(&self, node: &NodeId) -> Option<Time> {
        let run = lock(&self.nodes.get(node)?.run);
        run.as_ref()
            .map(|run| run.environment.at(self.elapsed().saturating_sub(run.born)))
    }

    /// The store of a node.
    pub fn storage(&self, node: &NodeId) -> Option<Storage> {
        self.nodes.get(node).map(|slot| lock(&slot.storage).clone())
    }

    /// Cuts a node's power: see [`Simulation::crash`]. What its store had not flushed is lost.
    pub fn crash(&mut self, node: &NodeId) {
        let Some(slot) = self.nodes.get(node) else {
            return;
        };
        // Before the crash, so that the node's sockets go with it.
        let run = lock(&slot.run).take();
        drop(run);
        self.simulation.crash(node);
        lock(&slot.storage).cut_power();
    }

    /// Starts a node again that has crashed, left or stopped; one that runs is crashed first.
    pub fn restart(&mut self, node: &NodeId, disk: Disk) {
        self.crash(node);
        if let Some(slot) = self.nodes.get(node)
            && disk == Disk::Lost
        {
            *lock(&slot.storage) = Storage::memory_with_flush(slot.options.flush);
        }
        self.simulation.restart(node);
    }

    /// The network and the hosts underneath: cuts, pauses, loss, the fingerprint.
    pub fn simulation(&mut self) -> &mut Simulation {
        &mut self.simulation
    }

    /// Whether a node has power.
    pub fn is_up(&self, node: &NodeId) -> bool {
        self.simulation.is_up(node)
    }

    /// Simulated time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.simulation.elapsed()
    }

    /// Hash over every message so far.
    pub fn fingerprint(&self) -> u64 {
        self.simulation.fingerprint()
    }

    fn failure(&self, reason: String) -> Failure {
        Failure {
            seed: self.seed,
            at: self.elapsed(),
            reason,
        }
    }
}

fn node_name(number: usize) -> NodeId {
    NodeId::new(&format!("n{number}")).expect("a letter and digits are a name")
}

fn seeds(node: &SimNode) -> Vec<std::net::SocketAddr> {
    let names = (1..=SEED_NODES).map(node_name);
    names.map(|name| node.addr_of(&name)).collect()
}

/// One run of a node: until it leaves or stops, or its power is cut.
async fn live(
    node: SimNode,
    describe: Describe,
    storage: Arc<Mutex<Storage>>,
    run: Arc<Mutex<Option<Run>>>,
) -> turmoil::Result {
    let born = turmoil::sim_elapsed().unwrap_or_default();
    let transport = node.transport().await?;
    let builder = Cluster::builder(CLUSTER, node.name.as_str())
        .transport(transport)
        .seeds(seeds(&node))
        .storage(lock(&storage).clone())
        .boot_id(BootId(node.run));
    let cluster = describe(builder, &node).start().await?;
    let mut events = cluster.events();
    let (jobs, mut asked) = mpsc::unbounded_channel::<Job>();
    *lock(&run) = Some(Run {
        cluster,
        environment: node.environment.clone(),
        born,
        jobs,
    });
    loop {
        tokio::select! {
            biased;
            job = asked.recv() => match job {
                Some(job) => drop(node.environment.spawn(job)),
                None => break,
            },
            event = events.next() => if event.is_none() {
                break;
            },
        }
    }
    lock(&run).take();
    Ok(())
}
