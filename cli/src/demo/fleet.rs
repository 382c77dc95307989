//! The nodes of the demo: each with a QUIC endpoint of its own on loopback, started, killed and restarted.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use funk::engine::shard_map::ShardMap;
use funk::ids::{Instance, NameError};
use funk::transport::{Transport, TransportError};
use funk::{Cluster, NodeId, NodeState, Role, StartError};
use funk_quic::{Authority, Credentials, QuicConfig, QuicTransport};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::counter::{Counter, CounterState, Replica};
use super::measure::ledger::Ledger;
use super::options::Options;

/// The cluster's name.
const CLUSTER: &str = "demo";
/// So many nodes form the cluster; the others join it.
const BOOTSTRAP_EXPECT: usize = 3;
/// Seeds that a node is given; the builder takes no more.
const SEEDS: usize = 16;
/// How long a node that comes back waits for its port, which its former run may still be letting go of.
const PORT_PATIENCE: Duration = Duration::from_secs(5);
const PORT_PAUSE: Duration = Duration::from_millis(2);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    #[error("a node's name is not possible: {0}")]
    Name(#[from] NameError),
    #[error("the network of {node} does not start: {error}")]
    Transport { node: NodeId, error: TransportError },
    #[error("the demo's certificates: {0}")]
    Authority(TransportError),
    #[error("{node} does not start: {error}")]
    Start { node: NodeId, error: StartError },
}

/// One run of a node.
pub(crate) struct LiveNode {
    pub(crate) cluster: Cluster,
    transport: Arc<QuicTransport>,
    /// Turns true when the power is cut: callers on this node are gone with it.
    cut: watch::Sender<bool>,
    /// Whether the load may call from here.
    accepting: AtomicBool,
    in_flight: AtomicUsize,
}

impl LiveNode {
    pub(crate) fn name(&self) -> &NodeId {
        self.cluster.node_id()
    }

    pub(crate) fn instance(&self) -> &Instance {
        self.cluster.instance()
    }

    /// Whether the power is cut.
    pub(crate) fn is_cut(&self) -> bool {
        *self.cut.borrow()
    }

    /// Resolves when the power is cut; then nobody on this node sees what comes after.
    pub(crate) async fn was_cut(&self) {
        let mut cut = self.cut.subscribe();
        // An error says that the node has gone, which is as good.
        let _ = cut.wait_for(|cut| *cut).await;
    }

    /// Close frames that this node has got from peers.
    pub(crate) fn closed_by_peer(&self) -> u64 {
        self.transport.counters().closed_by_peer
    }

    /// Counts a call from this node until the result is dropped.
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight(self.clone())
    }

    fn is_settled(&self) -> bool {
        self.cluster.state() == NodeState::Operational && self.cluster.pending_map().is_none()
    }
}

/// A call that is under way.
pub(crate) struct InFlight(Arc<LiveNode>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A node's place: its name, address and credentials stay, its runs come and go.
struct Slot {
    name: NodeId,
    addr: SocketAddr,
    credentials: Credentials,
    live: Option<Arc<LiveNode>>,
}

/// All nodes.
pub(crate) struct Fleet {
    options: Options,
    ledger: Arc<Ledger>,
    seeds: Vec<SocketAddr>,
    slots: Vec<Slot>,
    /// What the load and the probes choose from.
    callers: Arc<RwLock<Arc<[Arc<LiveNode>]>>>,
}

/// The nodes that calls can be made from, as they come and go.
#[derive(Clone)]
pub(crate) struct Callers(Arc<RwLock<Arc<[Arc<LiveNode>]>>>);

impl Callers {
    /// The `random`th of the nodes that are there, counted round and round; `None`: there are none.
    pub(crate) fn choose(&self, random: u64) -> Option<Arc<LiveNode>> {
        let nodes = self
            .0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let at = random.checked_rem(nodes.len() as u64)?;
        nodes.get(at as usize).cloned()
    }
}

impl Fleet {
    /// Binds all ports and starts all nodes at the same moment.
    pub(crate) async fn start(options: &Options, ledger: Arc<Ledger>) -> Result<Self, FleetError> {
        let authority = Authority::new().map_err(FleetError::Authority)?;
        let (mut slots, mut transports) = (Vec::new(), Vec::new());
        for number in 1..=options.nodes {
            let name = NodeId::new(&format!("n{number}"))?;
            let credentials = authority
                .node_credentials(&name)
                .map_err(FleetError::Authority)?;
            let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let transport =
                QuicTransport::bind(any_port, credentials.clone(), QuicConfig::default()).map_err(
                    |error| FleetError::Transport {
                        node: name.clone(),
                        error,
                    },
                )?;
            let addr = transport.local_addr();
            slots.push(Slot {
                name,
                addr,
                credentials,
                live: None,
            });
            transports.push(transport);
        }
        let mut fleet = Self {
            options: options.clone(),
            ledger,
            seeds: slots.iter().map(|slot| slot.addr).take(SEEDS).collect(),
            slots,
            callers: Arc::new(RwLock::new(Arc::from([]))),
        };
        for (at, transport) in transports.into_iter().enumerate() {
            fleet.start_node(at, transport).await?;
        }
        Ok(fleet)
    }

    async fn start_node(
        &mut self,
        at: usize,
        transport: Arc<QuicTransport>,
    ) -> Result<(), FleetError> {
        let slot = &mut self.slots[at];
        let replica = Replica::default();
        let service = Counter {
            replica: replica.clone(),
            ledger: self.ledger.clone(),
        };
        let state = CounterState {
            replica,
            ledger: self.ledger.clone(),
        };
        let cluster = Cluster::builder(CLUSTER, slot.name.as_str())
            .transport(transport.clone())
            .seeds(self.seeds.iter().copied())
            .bootstrap_expect(BOOTSTRAP_EXPECT as u16)
            .shards(self.options.shards)
            .timing(self.options.preset.timing())
            .service(service)
            .state(state)
            .start()
            .await
            .map_err(|error| FleetError::Start {
                node: slot.name.clone(),
                error,
            })?;
        slot.live = Some(Arc::new(LiveNode {
            cluster,
            transport,
            cut: watch::Sender::new(false),
            accepting: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
        }));
        self.publish();
        Ok(())
    }

    /// Starts a node that was killed or that left: same name, same port, nothing remembered.
    pub(crate) async fn restart(&mut self, node: &NodeId) -> Result<Arc<LiveNode>, FleetError> {
        let at = self.slot(node);
        let slot = &self.slots[at];
        let begin = tokio::time::Instant::now();
        let transport = loop {
            match QuicTransport::bind(slot.addr, slot.credentials.clone(), QuicConfig::default()) {
                Ok(transport) => break transport,
                Err(TransportError::Bind { .. }) if begin.elapsed() < PORT_PATIENCE => {
                    tokio::time::sleep(PORT_PAUSE).await;
                }
                Err(error) => {
                    return Err(FleetError::Transport {
                        node: node.clone(),
                        error,
                    });
                }
            }
        };
        self.start_node(at, transport).await?;
        Ok(self.slots[at]
            .live
            .clone()
            .expect("it was started just now"))
    }

    /// Cuts a node's power: it is deaf and dumb at once, then the callers on it are gone, then its tasks.
    ///
    /// Returns what ends the tasks, so that the caller can look at the survivors meanwhile.
    pub(crate) fn cut(
        &mut self,
        node: &NodeId,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let at = self.slot(node);
        let live = self.slots[at].live.take()?;
        live.accepting.store(false, Ordering::SeqCst);
        live.transport.abort();
        live.cut.send_replace(true);
        self.publish();
        Some(async move { live.cluster.stop().await })
    }

    /// A node leaves in order: nobody calls from it any more, what was begun there is finished, then it goes.
    pub(crate) fn leave(
        &mut self,
        node: &NodeId,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let at = self.slot(node);
        let live = self.slots[at].live.take()?;
        live.accepting.store(false, Ordering::SeqCst);
        self.publish();
        Some(async move {
            while live.in_flight.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            live.cluster.leave().await;
        })
    }

    /// Stops all nodes at once, the end of the demo.
    pub(crate) async fn stop(&mut self) {
        let mut stopping = JoinSet::new();
        for live in self.slots.iter_mut().filter_map(|slot| slot.live.take()) {
            stopping.spawn(async move { live.cluster.stop().await });
        }
        self.publish();
        stopping.join_all().await;
    }

    /// Nodes that run and were not told to leave.
    pub(crate) fn live(&self) -> Vec<Arc<LiveNode>> {
        self.slots
            .iter()
            .filter_map(|slot| slot.live.clone())
            .collect()
    }

    /// Where the load and the probes find their callers.
    pub(crate) fn callers(&self) -> Callers {
        Callers(self.callers.clone())
    }

    fn publish(&self) {
        let accepting = |live: &Arc<LiveNode>| live.accepting.load(Ordering::SeqCst);
        let nodes: Vec<_> = self.live().into_iter().filter(accepting).collect();
        *self.callers.write().unwrap_or_else(PoisonError::into_inner) = nodes.into();
    }

    fn slot(&self, node: &NodeId) -> usize {
        let at = self.slots.iter().position(|slot| slot.name == *node);
        at.expect("only names of the fleet are used")
    }

    /// The leader, if all live nodes name the same and it is alive.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let live = self.live();
        let leader = live.first()?.cluster.leader()?;
        let agree = live
            .iter()
            .all(|node| node.cluster.leader().as_ref() == Some(&leader));
        (agree && live.iter().any(|node| *node.name() == leader)).then_some(leader)
    }

    /// Whether one map of exactly the live nodes is in force on all of them, nothing is pending, and all agree on the
    /// leader; then the map.
    pub(crate) fn settled_map(&self) -> Option<Arc<ShardMap>> {
        let live = self.live();
        self.leader()?;
        let map = live.first()?.cluster.shard_map();
        let on_all = |node: &Arc<LiveNode>| {
            node.is_settled() && node.cluster.shard_map().index() == map.index()
        };
        let names_exactly = map.members().len() == live.len()
            && live.iter().all(|node| {
                map.member(node.name())
                    .is_some_and(|member| member.instance == *node.instance())
            });
        (map.shards() != 0 && names_exactly && live.iter().all(on_all)).then_some(map)
    }

    /// Whether as many of the live nodes vote as can be expected, so that one of them can be killed.
    pub(crate) fn has_voters(&self) -> bool {
        let live = self.live();
        let votes =
            |node: &&Arc<LiveNode>| matches!(node.cluster.role(), Role::Follower | Role::Leader);
        let expected = live.len().min(funk::builder::DEFAULT_VOTERS);
        live.iter().filter(votes).count() >= expected
    }
}
