//! Several devices in one process, joined by a network that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use tokio::sync::mpsc;

use super::rpc::{Call, Request};
use super::*;
use crate::engine::replicated::{Change, Replicated};
use crate::engine::{Leadership, RaftMembers};
use crate::ids::{BootId, PeerAddr};
use crate::state::{Applied, RestoreError};
use crate::transport::BoxFuture;

/// How long anything may take before a test fails, by the simulated clock.
const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const CLUSTER: ClusterId = ClusterId(77);

/// Runs a test on a clock that stands still while anything is left to do.
pub(super) fn simulate<F: Future>(test: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Tokio's watch channels pick at random whom to wake first.
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(b"funk"));
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    let guarded = async {
        tokio::time::timeout(3 * PATIENCE, test)
            .await
            .expect("the test takes too long")
    };
    runtime.block_on(guarded)
}

pub(super) fn name(n: u64) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

pub(super) fn addr(n: u64) -> SocketAddr {
    ([10, 0, 0, n as u8], 1000).into()
}

/// Entries that were applied, in order.
#[derive(Clone, Default)]
pub(super) struct Journal(pub(super) Arc<Mutex<Vec<(LogIndex, Bytes)>>>);

impl ReplicatedState for Journal {
    fn apply(&mut self, entry: Applied<'_>) -> Bytes {
        let mut entries = self.0.lock().unwrap();
        entries.push((entry.index, Bytes::copy_from_slice(entry.bytes)));
        Bytes::from(format!("{} entries", entries.len()))
    }

    fn snapshot(&self) -> Bytes {
        let entries = self.0.lock().unwrap();
        postcard::to_stdvec(&*entries).unwrap().into()
    }

    fn restore(&mut self, snapshot: Bytes) -> Result<(), RestoreError> {
        *self.0.lock().unwrap() =
            postcard::from_bytes(&snapshot).map_err(|error| RestoreError(error.to_string()))?;
        Ok(())
    }
}

impl Journal {
    pub(super) fn texts(&self) -> Vec<String> {
        let entries = self.0.lock().unwrap();
        let text = |(_, bytes): &(LogIndex, Bytes)| String::from_utf8_lossy(bytes).into_owned();
        entries.iter().map(text).collect()
    }
}

type Route = (RaftDevice, Environment, Instance);

/// Connections that break while a snapshot passes over them.
#[derive(Debug)]
pub(super) struct Cutting {
    /// After so many chunks; `None`: never.
    every: Option<u64>,
    chunks: u64,
    /// How many connections broke; every second one with the answer, the others with the chunk itself.
    pub(super) cuts: u64,
    /// Chunks that did not arrive.
    pub(super) lost: u64,
    /// Bytes of snapshots that were sent, arrived or not.
    pub(super) bytes: u64,
}

/// What becomes of a chunk.
enum Fate {
    Passes,
    IsLost,
    LosesItsAnswer,
}

impl Cutting {
    pub(super) fn after(chunks: u64) -> Self {
        Self {
            every: Some(chunks),
            ..Self::never()
        }
    }

    pub(super) fn never() -> Self {
        Self {
            every: None,
            chunks: 0,
            cuts: 0,
            lost: 0,
            bytes: 0,
        }
    }

    fn pass(&mut self, bytes: usize) -> Fate {
        self.bytes += bytes as u64;
        self.chunks += u64::from(bytes > 0);
        if bytes == 0
            || self
                .every
                .is_none_or(|every| !self.chunks.is_multiple_of(every))
        {
            return Fate::Passes;
        }
        self.cuts += 1;
        if self.cuts.is_multiple_of(2) {
            return Fate::LosesItsAnswer;
        }
        self.lost += 1;
        Fate::IsLost
    }
}

/// What joins them.
#[derive(Default)]
pub(super) struct Hub {
    routes: Mutex<BTreeMap<SocketAddr, Route>>,
    cuts: Mutex<BTreeSet<(NodeId, NodeId)>>,
    /// Every request that was delivered: when, from whom, to whom, how long.
    pub(super) trace: Mutex<Vec<(Duration, String, String, usize)>>,
    /// From whom to whom: when, by the sender's clock, the newest append was sent that was answered.
    pub(super) answered: Mutex<BTreeMap<(NodeId, NodeId), Time>>,
    /// Which chunks of snapshots are cut off.
    pub(super) cutting: Mutex<Option<Cutting>>,
    /// Adds up to so much to each way of each message; differs from message to message.
    pub(super) jitter: Mutex<Option<(Duration, ChaCha8Rng)>>,
}

impl Hub {
    fn latency(&self) -> Duration {
        let mut jitter = self.jitter.lock().unwrap();
        let extra = jitter.as_mut().map_or(Duration::ZERO, |(most, rng)| {
            most.mul_f64(f64::from(rng.next_u32()) / f64::from(u32::MAX))
        });
        LATENCY + extra
    }

    fn is_cut(&self, from: &NodeId, to: &NodeId) -> bool {
        self.cuts
            .lock()
            .unwrap()
            .contains(&(from.clone(), to.clone()))
    }

    /// The node is found at another address from now on.
    pub(super) fn move_to(&self, n: u64, to: SocketAddr) {
        let mut routes = self.routes.lock().unwrap();
        let route = routes.remove(&addr(n)).unwrap();
        routes.insert(to, route);
    }

    fn route(&self, to: &PeerAddr) -> Option<Route> {
        let route = self.routes.lock().unwrap().get(&to.addr).cloned();
        route.filter(|(_, _, instance)| Some(&instance.node) == to.node.as_ref())
    }
}

/// One node's end of the network.
struct Link {
    hub: Arc<Hub>,
    instance: Instance,
    addr: SocketAddr,
}

const LATENCY: Duration = Duration::from_micros(700);

impl RaftPeers for Link {
    fn call(
        &self,
        to: PeerAddr,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RpcFailure>> {
        Box::pin(async move {
            let environment = Environment::current();
            let target = to.node.clone().unwrap();
            let sent_at = environment.now();
            let call = Request::decode(&request).unwrap().call;
            let is_append = matches!(call, Call::Append(_));
            let fate = match (call, &mut *self.hub.cutting.lock().unwrap()) {
                (Call::Snapshot(chunk), Some(cutting)) => cutting.pass(chunk.bytes.len()),
                _ => Fate::Passes,
            };
            let broke = || RpcFailure::Unreachable("the connection broke".into());
            if matches!(fate, Fate::IsLost) {
                return Err(broke());
            }
            environment.sleep(self.hub.latency()).await;
            let Some((device, theirs, _)) = self.hub.route(&to) else {
                return Err(RpcFailure::Unreachable("nobody there".into()));
            };
            if self.hub.is_cut(&self.instance.node, &target) {
                environment.sleep(ttl).await;
                return Err(RpcFailure::TimedOut);
            }
            let record = (
                environment.monotonic(),
                self.instance.to_string(),
                target.to_string(),
                request.len(),
            );
            self.hub.trace.lock().unwrap().push(record);
            let from = Peer {
                version: crate::versions::NEWEST,
                instance: self.instance.clone(),
                kind: crate::transport::PeerKind::Node,
                addr: self.addr,
            };
            let answer = theirs.spawn(async move { device.handle_rpc(&from, request).await });
            let answer = answer
                .await
                .map_err(|error| RpcFailure::Unreachable(error.to_string()))?;
            environment.sleep(self.hub.latency()).await;
            if self.hub.is_cut(&target, &self.instance.node) {
                environment.sleep(ttl).await;
                return Err(RpcFailure::TimedOut);
            }
            if matches!(fate, Fate::LosesItsAnswer) {
                return Err(broke());
            }
            if is_append {
                let mut answered = self.hub.answered.lock().unwrap();
                let newest = answered
                    .entry((self.instance.node.clone(), target))
                    .or_default();
                *newest = sent_at.max(*newest);
            }
            Ok(answer)
        })
    }
}

/// A node of which there is only raft.
pub(super) struct Node {
    pub(super) id: RaftId,
    pub(super) instance: Instance,
    pub(super) environment: Environment,
    pub(super) device: RaftDevice,
    pub(super) stores: Stores,
    pub(super) journal: Journal,
    facts: mpsc::UnboundedReceiver<Input>,
    /// Everything that the engine would have been told.
    pub(super) told: Vec<Input>,
    pub(super) leadership: Leadership,
    pub(super) members: RaftMembers,
    pub(super) quorum: Option<(Term, Time)>,
    pub(super) only_own: Option<bool>,
    pub(super) installed: Vec<Replicated>,
    pub(super) changes: Vec<(LogIndex, Term, Change)>,
    pub(super) members_changed: Vec<bool>,
}

impl Node {
    fn drain(&mut self) {
        while let Ok(input) = self.facts.try_recv() {
            match input.clone() {
                Input::Leadership(leadership) => self.leadership = leadership,
                Input::RaftMembers(members) => self.members = members,
                Input::QuorumAck { term, sent_at } => {
                    assert!(self.quorum < Some((term, sent_at)), "q went back");
                    self.quorum = Some((term, sent_at));
                }
                Input::Initialised { cluster, only_own } => {
                    assert_eq!(cluster, CLUSTER);
                    self.only_own = Some(only_own);
                }
                Input::Installed(replicated) => self.installed.push(replicated),
                Input::Applied {
                    index,
                    term,
                    change,
                } => self.changes.push((index, term, change)),
                Input::MembersChanged { done } => self.members_changed.push(done),
                other => panic!("raft does not say {other:?}"),
            }
            self.told.push(input);
        }
    }
}

pub(super) struct Cluster {
    pub(super) hub: Arc<Hub>,
    pub(super) nodes: BTreeMap<u64, Node>,
    seed: u64,
    pub(super) snapshot_every: u64,
}

impl Cluster {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            hub: Arc::default(),
            nodes: BTreeMap::new(),
            seed,
            snapshot_every: SNAPSHOT_EVERY,
        }
    }

    /// Nodes `1..=count`, initialised by the first.
    pub(super) async fn formed(seed: u64, count: u64) -> Self {
        let mut cluster = Self::new(seed);
        for n in 1..=count {
            cluster.start(n).await;
        }
        cluster.initialise(1..=count);
        cluster.until("a leader", |c| c.leader().is_some()).await;
        cluster
    }

    pub(super) fn initialise(&self, voters: impl IntoIterator<Item = u64>) {
        let members = voters
            .into_iter()
            .map(|n| (self.nodes[&n].id.clone(), addr(n)))
            .collect();
        self.nodes[&1].device.initialise(CLUSTER, members);
    }

    pub(super) async fn start(&mut self, n: u64) {
        self.start_on(n, StoreId(n), Stores::in_memory(), 1).await;
    }

    pub(super) async fn start_with(&mut self, n: u64, state: Box<dyn ReplicatedState>) {
        let journal = Journal::default();
        self.launch(n, StoreId(n), Stores::in_memory(), 1, journal, state)
            .await;
    }

    pub(super) async fn start_on(&mut self, n: u64, store: StoreId, stores: Stores, boot: u64) {
        let journal = Journal::default();
        let state = Box::new(journal.clone());
        self.launch(n, store, stores, boot, journal, state).await;
    }

    async fn launch(
        &mut self,
        n: u64,
        store: StoreId,
        stores: Stores,
        boot: u64,
        journal: Journal,
        state: Box<dyn ReplicatedState>,
    ) {
        let seed = self.seed * 1_000_000 + n * 1_000 + boot;
        let environment = Environment::simulated(seed, 1.0, Duration::from_secs(100 * n));
        let instance = Instance {
            node: name(n),
            boot: BootId(boot),
        };
        let link = Link {
            hub: self.hub.clone(),
            instance: instance.clone(),
            addr: addr(n),
        };
        let (sender, facts) = mpsc::unbounded_channel();
        let config = RaftConfig {
            versions: crate::versions::VersionRange::SPOKEN,
            instance: instance.clone(),
            store,
            timing: Timing::lan(),
            snapshot_every: self.snapshot_every,
        };
        let start = RaftDevice::start(config, stores.clone(), state, Arc::new(link), sender);
        let device = environment.scope(start).await.unwrap();
        device.accept(CLUSTER);
        let route = (device.clone(), environment.clone(), instance.clone());
        self.hub.routes.lock().unwrap().insert(addr(n), route);
        let node = Node {
            id: RaftId {
                node: name(n),
                store,
            },
            instance,
            environment,
            device,
            stores,
            journal,
            facts,
            told: Vec::new(),
            leadership: Leadership::default(),
            members: RaftMembers::default(),
            quorum: None,
            only_own: None,
            installed: Vec::new(),
            changes: Vec::new(),
            members_changed: Vec::new(),
        };
        self.nodes.insert(n, node);
    }

    /// Stops a node; what it kept is returned.
    pub(super) async fn stop(&mut self, n: u64) -> Stores {
        let node = self.nodes.remove(&n).unwrap();
        self.hub.routes.lock().unwrap().remove(&addr(n));
        let device = node.device.clone();
        node.environment
            .scope(async move { device.shutdown().await })
            .await;
        node.stores
    }

    pub(super) fn cut_one_way(&self, from: u64, to: u64) {
        self.hub.cuts.lock().unwrap().insert((name(from), name(to)));
    }

    /// Cuts a node from all others, both ways.
    pub(super) fn isolate(&self, n: u64) {
        for &other in self.nodes.keys().filter(|&&other| other != n) {
            self.cut_one_way(n, other);
            self.cut_one_way(other, n);
        }
    }

    pub(super) fn jitter(&self, most: Duration) {
        *self.hub.jitter.lock().unwrap() = Some((most, ChaCha8Rng::seed_from_u64(self.seed)));
    }

    pub(super) fn heal(&self) {
        self.hub.cuts.lock().unwrap().clear();
    }

    pub(super) fn drain(&mut self) {
        self.nodes.values_mut().for_each(Node::drain);
    }

    /// Waits, looking every millisecond of simulated time.
    pub(super) async fn until(&mut self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let begun = tokio::time::Instant::now();
        loop {
            self.drain();
            if is(self) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "waited too long for {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) async fn run_for(&mut self, span: Duration) {
        tokio::time::sleep(span).await;
        self.drain();
    }

    /// The leader of the newest term that knows a quorum behind it.
    pub(super) fn leader(&self) -> Option<u64> {
        let leads = |node: &Node| {
            node.leadership.is_leader
                && node
                    .quorum
                    .is_some_and(|(term, _)| term == node.leadership.term)
                && node.leadership.leader.is_some()
        };
        let leaders = self.nodes.iter().filter(|(_, node)| leads(node));
        leaders
            .max_by_key(|(_, node)| node.leadership.term)
            .map(|(n, _)| *n)
    }

    pub(super) fn term(&self, n: u64) -> Term {
        self.nodes[&n].leadership.term
    }

    pub(super) async fn append(
        &self,
        n: u64,
        text: &str,
    ) -> Result<(LogIndex, Bytes), AppendError> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.nodes[&n].device.append(None, Epoch(0), bytes).await
    }

    pub(super) fn members(&self, members: &[u64]) -> BTreeMap<RaftId, SocketAddr> {
        members
            .iter()
            .map(|n| (self.nodes[n].id.clone(), addr(*n)))
            .collect()
    }

    pub(super) fn voters(&self, voters: &[u64]) -> BTreeSet<RaftId> {
        voters.iter().map(|n| self.nodes[n].id.clone()).collect()
    }

    /// Changes the configuration through the leader and waits until that says it is done.
    pub(super) async fn change(
        &mut self,
        voters: BTreeSet<RaftId>,
        members: BTreeMap<RaftId, SocketAddr>,
    ) {
        let leader = self.leader().unwrap();
        let before = self.nodes[&leader].members_changed.len();
        self.nodes[&leader]
            .device
            .change_members(MemberChange { voters, members });
        self.until("the change", |c| {
            c.nodes[&leader].members_changed.len() > before
        })
        .await;
        assert_eq!(self.nodes[&leader].members_changed.last(), Some(&true));
    }
}
