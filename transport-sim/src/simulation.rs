//! Nodes on simulated hosts, and what happens to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use funk::ids::NodeId;
use funk::runtime::Environment;
use funk::transport::{PeerKind, Transport, TransportError};
use funk_quic::QuicConfig;

use crate::network::{Names, Network, SimNetwork, scramble};
use crate::quic::Identities;
use crate::transport::SimTransport;

/// Port of every simulated node.
const NODE_PORT: u16 = 7_000;
/// Segments and connections that turmoil queues for a socket; it panics past it for connections.
const TCP_CAPACITY: usize = 1_024;
/// Datagrams that a host keeps for a node that does not read them.
const UDP_CAPACITY: usize = 1_024;
/// Turmoil wants an end; nobody simulates longer than this.
const LONGEST_RUN: Duration = Duration::from_secs(1_000_000);

/// What a run is made from.
#[derive(Clone, PartialEq, Debug)]
pub struct SimulationConfig {
    /// Everything that chance does follows from it.
    pub seed: u64,
    /// Step of the simulated time: nothing is faster than this. Whole milliseconds.
    pub tick: Duration,
    /// Shortest and longest time that a message takes. Whole milliseconds.
    pub latency: RangeInclusive<Duration>,
    /// Whose names are believed.
    pub names: Names,
    /// What the nodes talk over.
    pub network: Network,
    /// Times and sizes of QUIC, if that is what they talk over.
    pub quic: QuicConfig,
}

impl SimulationConfig {
    /// A local network, in steps of a millisecond, over TCP.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            tick: Duration::from_millis(1),
            latency: Duration::from_millis(1)..=Duration::from_millis(3),
            names: Names::OfHosts,
            network: Network::Tcp,
            quic: QuicConfig::default(),
        }
    }
}

/// How a node's clock errs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Clock {
    /// Its speed: 1.01 is one per cent fast.
    pub rate: f64,
    /// What it shows when the node starts.
    pub offset: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            rate: 1.0,
            offset: Duration::ZERO,
        }
    }
}

/// One run of a node, as its software sees it.
#[derive(Clone, Debug)]
pub struct SimNode {
    /// Name of the node and of its host.
    pub name: NodeId,
    /// How many times the node was started, this time included: fit to be its boot id.
    pub run: u64,
    /// Its clock, chance and tasks. The software runs within it.
    pub environment: Environment,
    network: SimNetwork,
    /// What proves names over QUIC; `None`: over TCP.
    identities: Option<Identities>,
}

impl SimNode {
    /// Where the node of that name listens. Only within the simulation.
    pub fn addr_of(&self, name: &NodeId) -> SocketAddr {
        (turmoil::lookup(name.as_str()), NODE_PORT).into()
    }

    /// The node's transport over the network of the simulation. Once for each run.
    ///
    /// # Errors
    ///
    /// [`TransportError::Bind`] if it exists already.
    pub async fn transport(&self) -> Result<Arc<dyn Transport>, TransportError> {
        self.transport_as(PeerKind::Node, &self.name, NODE_PORT)
            .await
    }

    /// A transport for a client on this host that bears the host's name, at any free port.
    ///
    /// # Errors
    ///
    /// [`TransportError::Bind`] if no port is free.
    pub async fn client_transport(&self) -> Result<Arc<dyn Transport>, TransportError> {
        self.transport_as(PeerKind::Client, &self.name, 0).await
    }

    /// A transport at another port of the host (0: any free one), for somebody else: see [`Names`].
    ///
    /// # Errors
    ///
    /// [`TransportError::Bind`] if the port is taken, [`TransportError::Credentials`] if nobody on this host can
    /// prove that name (over TCP only peers find that out).
    pub async fn transport_as(
        &self,
        kind: PeerKind,
        name: &NodeId,
        port: u16,
    ) -> Result<Arc<dyn Transport>, TransportError> {
        let addr = SocketAddr::new(self.addr_of(&self.name).ip(), port);
        match &self.identities {
            None => Ok(SimTransport::bind(addr, &self.network).await?),
            Some(identities) => identities.bind(addr, &self.network, kind, name).await,
        }
    }
}

/// A simulated network with nodes on it. Stepped by its owner, in one thread.
pub struct Simulation {
    sim: turmoil::Sim<'static>,
    seed: u64,
    network: SimNetwork,
    identities: Option<Identities>,
    nodes: BTreeMap<NodeId, Node>,
    /// Directions in which nothing passes.
    cuts: BTreeSet<(NodeId, NodeId)>,
}

struct Node {
    /// That of the present run, once it has begun.
    environment: Arc<Mutex<Option<Environment>>>,
    is_up: bool,
}

impl fmt::Debug for Simulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation")
            .field("seed", &self.seed)
            .field("elapsed", &self.sim.elapsed())
            .finish_non_exhaustive()
    }
}

impl Simulation {
    /// A network without nodes.
    pub fn new(config: &SimulationConfig) -> Self {
        let seed = config.seed;
        let sim = turmoil::Builder::new()
            .rng_seed(scramble(seed))
            .epoch(UNIX_EPOCH)
            .simulation_duration(LONGEST_RUN)
            .tick_duration(config.tick)
            .min_message_latency(*config.latency.start())
            .max_message_latency(*config.latency.end())
            .tcp_capacity(TCP_CAPACITY)
            .udp_capacity(UDP_CAPACITY)
            .build();
        Self {
            sim,
            seed,
            network: SimNetwork::new(config.names, scramble(!seed)),
            identities: (config.network == Network::Quic)
                .then(|| Identities::new(config.quic.clone())),
            nodes: BTreeMap::new(),
            cuts: BTreeSet::new(),
        }
    }

    /// Adds a node and starts it with the next step. `software` is run anew at every restart.
    ///
    /// # Panics
    ///
    /// If the name is taken.
    pub fn add<S, F>(&mut self, name: &NodeId, clock: Clock, software: S)
    where
        S: Fn(SimNode) -> F + 'static,
        F: Future<Output = turmoil::Result> + 'static,
    {
        let environment = Arc::new(Mutex::new(None));
        let node = Node {
            environment: environment.clone(),
            is_up: true,
        };
        let before = self.nodes.insert(name.clone(), node);
        assert!(before.is_none(), "two nodes named {name}");
        // By the order in which nodes are added, so that names do not matter.
        let seed = scramble(self.seed ^ scramble(self.nodes.len() as u64));
        let (network, node) = (self.network.clone(), name.clone());
        let identities = self.identities.clone();
        let runs = std::cell::Cell::new(0);
        let software = std::rc::Rc::new(software);
        self.sim.host(name.as_str(), move || {
            runs.set(runs.get() + 1);
            let (run, name, network) = (runs.get(), node.clone(), network.clone());
            let (software, slot) = (software.clone(), environment.clone());
            let identities = identities.clone();
            async move {
                network.power_on(turmoil::lookup(name.as_str()));
                let seed = scramble(seed ^ scramble(run));
                let environment = Environment::simulated(seed, clock.rate, clock.offset);
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(environment.clone());
                let software = software(SimNode {
                    name,
                    run,
                    environment: environment.clone(),
                    network,
                    identities,
                });
                environment.scope(software).await
            }
        });
    }

    /// One step.
    ///
    /// # Errors
    ///
    /// What a node's software returned as its error.
    pub fn step(&mut self) -> turmoil::Result {
        self.sim.step().map(|_| ())
    }

    /// Goes on for a while of simulated time.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn run_for(&mut self, span: Duration) -> turmoil::Result {
        let end = self.elapsed() + span;
        while self.elapsed() < end {
            self.step()?;
        }
        Ok(())
    }

    /// Goes on until the condition holds, for at most `span`; says whether it holds.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn run_until(
        &mut self,
        span: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> turmoil::Result<bool> {
        let end = self.elapsed() + span;
        while self.elapsed() < end {
            if condition() {
                return Ok(true);
            }
            self.step()?;
        }
        Ok(condition())
    }

    /// Simulated time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Hash over every message so far: time, sender, receiver, length, bytes (over QUIC all but the bytes). Two runs
    /// are the same if it is.
    pub fn fingerprint(&self) -> u64 {
        self.network.fingerprint()
    }

    /// What the transports share: counts of messages, loss.
    pub fn network(&self) -> &SimNetwork {
        &self.network
    }

    /// The environment of a node's present run; `None` before its first step.
    pub fn environment(&self, name: &NodeId) -> Option<Environment> {
        let slot = &self.nodes.get(name)?.environment;
        slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Cuts a node's power: nothing of it runs any more, and nobody hears a farewell.
    ///
    /// Cut off first and stopped then: otherwise the order in which tokio drops tasks, which depends on ids that
    /// count through the whole process, would decide the order of farewells, and seeds would not repeat.
    pub fn crash(&mut self, name: &NodeId) {
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.is_up) else {
            return;
        };
        node.is_up = false;
        let others: Vec<NodeId> = self.others(name);
        for other in &others {
            self.sim.partition(name.as_str(), other.as_str());
        }
        self.network.power_off(self.sim.lookup(name.as_str()));
        self.sim.crash(name.as_str());
        for other in &others {
            self.apply_cuts(name, other);
        }
    }

    /// Starts a crashed node again: same name, next run. A running one is crashed first.
    pub fn restart(&mut self, name: &NodeId) {
        self.crash(name);
        if let Some(node) = self.nodes.get_mut(name) {
            node.is_up = true;
            node.environment
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            self.sim.bounce(name.as_str());
        }
    }

    /// Whether a node has power.
    pub fn is_up(&self, name: &NodeId) -> bool {
        self.nodes.get(name).is_some_and(|node| node.is_up)
    }

    /// Stops a node's tasks where they stand; its host goes on receiving.
    pub fn pause(&self, name: &NodeId) {
        if let Some(environment) = self.environment(name) {
            environment.pause();
        }
    }

    /// Lets a paused node go on.
    pub fn resume(&self, name: &NodeId) {
        if let Some(environment) = self.environment(name) {
            environment.resume();
        }
    }

    /// Lets a node go on that was paused for so long because its machine slept: its monotonic clock stood still meanwhile, and
    /// parts by so much from the lease clock, which went on (CLOCK_BOOTTIME).
    pub fn wake(&self, name: &NodeId, slept: Duration) {
        if let Some(environment) = self.environment(name) {
            environment.slept(slept);
            environment.resume();
        }
    }

    /// Messages that leave from now on take at most so long. Whole milliseconds.
    pub fn set_latency(&self, longest: Duration) {
        self.sim.set_max_message_latency(longest);
    }

    /// Nothing passes from one node to the other any more; what is on its way is lost.
    pub fn cut_one_way(&mut self, from: &NodeId, to: &NodeId) {
        if from != to && self.cuts.insert((from.clone(), to.clone())) {
            self.sim.partition_oneway(from.as_str(), to.as_str());
        }
    }

    /// Nothing passes between two nodes any more.
    pub fn cut(&mut self, a: &NodeId, b: &NodeId) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Cuts a node off from all others.
    pub fn isolate(&mut self, name: &NodeId) {
        for other in self.others(name) {
            self.cut(name, &other);
        }
    }

    /// Ends the cuts between two nodes.
    pub fn heal(&mut self, a: &NodeId, b: &NodeId) {
        if a != b {
            self.cuts.remove(&(a.clone(), b.clone()));
            self.cuts.remove(&(b.clone(), a.clone()));
            self.apply_cuts(a, b);
        }
    }

    /// Ends the cut from one node to the other.
    pub fn heal_one_way(&mut self, from: &NodeId, to: &NodeId) {
        if self.cuts.remove(&(from.clone(), to.clone())) {
            self.apply_cuts(from, to);
        }
    }

    /// Ends all cuts.
    pub fn heal_all(&mut self) {
        for (from, to) in std::mem::take(&mut self.cuts) {
            self.apply_cuts(&from, &to);
        }
    }

    fn others(&self, name: &NodeId) -> Vec<NodeId> {
        let others = self.nodes.keys().filter(|other| *other != name);
        others.cloned().collect()
    }

    /// Makes the link between two nodes what the cuts say.
    fn apply_cuts(&self, a: &NodeId, b: &NodeId) {
        self.sim.repair(a.as_str(), b.as_str());
        for (from, to) in [(a, b), (b, a)] {
            if self.cuts.contains(&(from.clone(), to.clone())) {
                self.sim.partition_oneway(from.as_str(), to.as_str());
            }
        }
    }
}
