//! A cluster of somebody's service in a simulated network: what users of the library hold in their tests.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use funk::ids::{BootId, NodeId};
use funk::runtime::Environment;
use funk::store::sim_disk::{SimDisk, Unsynced};
use funk::time::Time;
use funk::{Builder, Client, Cluster, StartError, Storage};
use tokio::sync::mpsc;

use crate::network::scramble;
use crate::simulation::{Clock, SimNode, Simulation, SimulationConfig};

/// Name of the cluster that all nodes belong to.
const CLUSTER: &str = "simulated";
/// Most nodes whose addresses every node is given to find the others by.
const SEED_NODES: usize = 5;

/// How often a client looks whether there is a node to ask.
const FIRST_NODE: Duration = Duration::from_millis(10);

/// What becomes of a node's store while the node is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// What is on it is there again.
    Kept,
    /// The node comes back with an empty one: another raft member under the old name (rule M0).
    Lost,
}

/// What a node is made of, beside what all nodes have in common.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct NodeOptions {
    /// How its clock errs.
    pub clock: Clock,
    /// How long its disk takes for an fsync.
    pub fsync: Duration,
}

/// How the latest run of a node has ended without anybody's crashing it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It has left, was stopped, or gave way to a newer run.
    Left,
    /// It stopped by itself: its disk failed, say.
    Failed(String),
    /// It did not start, because of what its disk holds or does.
    Refused(String),
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
/// The nodes that others find the cluster by: the first [`SEED_NODES`] that were added.
type Seeds = Rc<RefCell<Vec<NodeId>>>;

/// A cluster of your service under simulated faults. Stepped by its owner, in one thread; everything that happens
/// follows from the seed.
///
/// The nodes are those that ship: engine, raft, routing and (as configured) the QUIC transport. A description adds to
/// each node what it serves; faults happen when they are called for, or are set down beforehand with
/// [`at`](Self::at); conditions given to [`check`](Self::check) are looked at after every step.
///
/// Each node has a [`SimDisk`] under the store that ships. A crash is a power cut: what was not synchronised is lost,
/// kept or torn, as the seed says. [`disk`](Self::disk) makes it fail in other ways: a node whose disk is full or whose
/// fsync fails stops by itself, see [`end`](Self::end).
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
///
/// let disk = sim.disk(&nodes[1]).unwrap();
/// disk.limit(Some(disk.used()));
/// assert!(sim.run_until(Duration::from_secs(10), |sim| sim.end(&nodes[1]).is_some())?);
/// disk.limit(None);
/// sim.restart(&nodes[1], Disk::Kept);
/// assert!(sim.run_until_operational(Duration::from_secs(10))?);
/// # Ok::<(), funk_sim::Failure>(())
/// ```
pub struct SimCluster {
    simulation: Simulation,
    seed: u64,
    describe: Describe,
    seeds: Seeds,
    nodes: BTreeMap<NodeId, Slot>,
    checks: Vec<Check>,
    /// What is to happen, by time; of equal times in the order of asking.
    actions: BTreeMap<(Duration, u64), Action>,
    asked: u64,
    /// Power cuts so far: each tears in its own way.
    cuts: u64,
}

/// A node: what outlives its runs.
struct Slot {
    disk: SimDisk,
    /// The store on the disk, of the latest run.
    storage: Arc<Mutex<Storage>>,
    options: NodeOptions,
    run: Arc<Mutex<Option<Run>>>,
    /// How the latest run has ended, if it was not crashed.
    end: Arc<Mutex<Option<End>>>,
}

impl Slot {
    /// Its store is opened anew by the next run.
    fn close(&self) {
        *lock(&self.storage) = Storage::simulated(self.disk.clone());
    }
}

fn empty_disk(options: &NodeOptions) -> SimDisk {
    let disk = SimDisk::new();
    disk.slow_down(options.fsync);
    disk
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
            seeds: Rc::default(),
            nodes: BTreeMap::new(),
            checks: Vec::new(),
            actions: BTreeMap::new(),
            asked: 0,
            cuts: 0,
        }
    }

    /// Adds a node, which starts with the next step.
    ///
    /// # Panics
    ///
    /// If there is one of that name.
    pub fn start(&mut self, name: &NodeId, options: NodeOptions) {
        let disk = empty_disk(&options);
        let storage = Storage::simulated(disk.clone());
        let slot = Slot {
            disk,
            storage: Arc::new(Mutex::new(storage)),
            options,
            run: Arc::default(),
            end: Arc::default(),
        };
        let (storage, run) = (slot.storage.clone(), slot.run.clone());
        let end = slot.end.clone();
        self.nodes.insert(name.clone(), slot);
        let (describe, seeds) = (self.describe.clone(), self.seeds.clone());
        if seeds.borrow().len() < SEED_NODES {
            seeds.borrow_mut().push(name.clone());
        }
        self.simulation.add(name, options.clock, move |node| {
            let live = live(
                node,
                describe.clone(),
                seeds.clone(),
                storage.clone(),
                run.clone(),
            );
            let end = end.clone();
            async move {
                *lock(&end) = None;
                *lock(&end) = Some(live.await?);
                Ok(())
            }
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

    /// A host that runs `program` with a client of the cluster, from the next step on, once. The client asks the first
    /// nodes that were added until then.
    pub fn client<F>(&mut self, name: &NodeId, program: impl Fn(Client, SimNode) -> F + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let program = Rc::new(program);
        let seeds = self.seeds.clone();
        self.simulation.add(name, Clock::default(), move |node| {
            let (program, seeds) = (program.clone(), seeds.clone());
            async move {
                while seeds.borrow().is_empty() {
                    node.environment.sleep(FIRST_NODE).await;
                }
                let transport = node.client_transport().await?;
                let addresses = addresses(&seeds, &node);
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
    /// A node that did not start (for another reason than its disk), or a check that does not hold.
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
        let lost_power = |(name, slot): (&NodeId, &Slot)| slot.disk.is_off().then(|| name.clone());
        let without_power: Vec<NodeId> = self.nodes.iter().filter_map(lost_power).collect();
        without_power.iter().for_each(|name| self.crash(name));
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

    /// The disk of a node: what it holds, and how it fails. After [`restart`](Self::restart) with [`Disk::Lost`] it is
    /// another one.
    pub fn disk(&self, node: &NodeId) -> Option<SimDisk> {
        self.nodes.get(node).map(|slot| slot.disk.clone())
    }

    /// Cuts a node's power: see [`Simulation::crash`]. Of what its disk had not synchronised each block, and each name of
    /// a file, is lost or kept by chance. A node whose power ends at an operation of its disk
    /// ([`SimDisk::end_power_at`]) crashes with the step in which it does.
    pub fn crash(&mut self, node: &NodeId) {
        let seed = scramble(self.seed ^ scramble(self.cuts));
        self.crash_with(node, Unsynced::Torn(seed));
    }

    /// Cuts a node's power, with a choice of what becomes of what its disk had not synchronised.
    pub fn crash_with(&mut self, node: &NodeId, unsynced: Unsynced) {
        self.cuts += 1;
        self.halt(node);
        if let Some(slot) = self.nodes.get(node) {
            slot.disk.cut_power(unsynced);
            slot.close();
        }
    }

    /// Kills a node's process; its machine goes on, and nothing that it wrote is lost.
    pub fn kill(&mut self, node: &NodeId) {
        self.halt(node);
        if let Some(slot) = self.nodes.get(node) {
            slot.disk.end_process();
            slot.close();
        }
    }

    /// Nothing of the node runs any more.
    fn halt(&mut self, node: &NodeId) {
        let Some(slot) = self.nodes.get(node) else {
            return;
        };
        // Before the crash, so that the node's sockets go with it.
        let run = lock(&slot.run).take();
        drop(run);
        *lock(&slot.end) = None;
        self.simulation.crash(node);
    }

    /// Starts a node again that has crashed, left or stopped; one that runs is crashed first.
    pub fn restart(&mut self, node: &NodeId, disk: Disk) {
        match self.nodes.get(node) {
            // Its machine has gone on.
            Some(slot) if lock(&slot.end).is_some() => self.kill(node),
            Some(_) if self.simulation.is_up(node) => self.crash(node),
            _ => {}
        }
        if let Some(slot) = self.nodes.get_mut(node)
            && disk == Disk::Lost
        {
            slot.disk = empty_disk(&slot.options);
            slot.close();
        }
        self.simulation.restart(node);
    }

    /// The network and the hosts underneath: cuts, pauses, loss, the fingerprint.
    pub fn simulation(&mut self) -> &mut Simulation {
        &mut self.simulation
    }

    /// How the latest run of a node has ended; `None`: it has not, or it was crashed or killed.
    pub fn end(&self, node: &NodeId) -> Option<End> {
        let slot = self.nodes.get(node)?;
        lock(&slot.end).clone()
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

fn addresses(seeds: &Seeds, node: &SimNode) -> Vec<std::net::SocketAddr> {
    let seeds = seeds.borrow();
    seeds.iter().map(|name| node.addr_of(name)).collect()
}

/// One run of a node: until it leaves or stops, or its power is cut.
async fn live(
    node: SimNode,
    describe: Describe,
    seeds: Seeds,
    storage: Arc<Mutex<Storage>>,
    run: Arc<Mutex<Option<Run>>>,
) -> std::result::Result<End, Box<dyn std::error::Error>> {
    let born = turmoil::sim_elapsed().unwrap_or_default();
    let transport = node.transport().await?;
    let builder = Cluster::builder(CLUSTER, node.name.as_str())
        .transport(transport)
        .seeds(addresses(&seeds, &node))
        .storage(lock(&storage).clone())
        .boot_id(BootId(node.run));
    let cluster = match describe(builder, &node).start().await {
        Ok(cluster) => cluster,
        Err(error @ (StartError::Storage(_) | StartError::Raft(_))) => {
            return Ok(End::Refused(error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    let mut events = cluster.events();
    let (jobs, mut asked) = mpsc::unbounded_channel::<Job>();
    *lock(&run) = Some(Run {
        cluster: cluster.clone(),
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
    Ok(match cluster.failure() {
        Some(reason) => End::Failed(reason.to_owned()),
        None => End::Left,
    })
}
