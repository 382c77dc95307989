//! Putting a node together.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use tokio::sync::{Semaphore, broadcast, mpsc, watch};
use tokio::task::JoinSet;

use super::hooks::Hooks;
use super::{Driver, Sources, observe, ready, streams};
use crate::builder::{Checked, StartError};
use crate::cluster::Cluster;
use crate::engine::{Engine, EngineConfig, Input};
use crate::ids::{BootId, ClusterName, Instance, MemberKind, PeerAddr, StoreId};
use crate::limits::{DATAGRAM_QUEUE, EVENT_BUFFER, MAX_FRAME_BYTES, MAX_PROPOSALS_IN_FLIGHT};
use crate::node::{Node, SharedCounters, Status, Waiting};
use crate::raft::{RaftConfig, RaftDevice, RaftPeers, RaftStartError, RpcFailure};
use crate::routing::{LeaseCell, ServingTable};
use crate::runtime::Environment;
use crate::state::{Applied, ReplicatedState, RestoreError};
use crate::storage::Storage;
use crate::transport::{BoxFuture, LocalNode};
use crate::wire::{Conversations, Lost, NotSent, Rpc, RpcError, StreamKind};

/// Starts the node in the environment of the running task.
pub(crate) async fn start(checked: Checked) -> Result<Cluster, StartError> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(StartError::NoRuntime);
    }
    let environment = Environment::current();
    let started = start_within(environment.clone(), checked);
    environment.scope(started).await
}

async fn start_within(environment: Environment, checked: Checked) -> Result<Cluster, StartError> {
    let boot = checked.boot.unwrap_or(BootId(environment.wall_nanos()));
    let instance = Instance {
        node: checked.node,
        boot,
    };
    let storage = match checked.kind {
        MemberKind::NonMember => checked.storage.or_memory(),
        MemberKind::Voter | MemberKind::NonVoter => checked.storage,
    };
    let transport = checked.transport;
    let incoming = transport.start(LocalNode {
        versions: checked.versions,
        kind: crate::transport::PeerKind::Node,
        cluster: checked.cluster.clone(),
        instance: instance.clone(),
    })?;
    let addr = transport.local_addr();
    let rpc = Rpc::new(transport.clone(), environment.clone());
    let (facts_sender, facts) = mpsc::unbounded_channel();
    let opened = storage.open(&environment, &checked.cluster, &instance.node);
    let (store, stores) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            transport.close().await;
            return Err(error.into());
        }
    };
    let config = EngineConfig {
        versions: checked.versions,
        cluster: checked.cluster.clone(),
        instance: instance.clone(),
        addr,
        store,
        kind: checked.kind,
        seeds: checked.seeds,
        bootstrap_expect: checked.bootstrap_expect,
        shards: checked.shards,
        voters: checked.voters,
        capacity: checked.capacity,
        max_moves: checked.max_moves,
        timing: checked.timing.clone(),
        tags: checked.tags.clone(),
    };
    let engine = Engine::new(config, environment.rng(), environment.now());
    let raft = match checked.kind {
        MemberKind::NonMember => None,
        MemberKind::Voter | MemberKind::NonVoter => {
            let state = SharedState::new(checked.state);
            let config = RaftConfig {
                versions: checked.versions,
                instance: instance.clone(),
                store,
                timing: checked.timing.clone(),
                snapshot_every: checked.snapshot_every,
            };
            let peers: Arc<dyn RaftPeers> = Arc::new(PeersOverStreams(Conversations::new(
                rpc.clone(),
                environment.clone(),
                StreamKind::Raft,
            )));
            let started = RaftDevice::start(
                config.clone(),
                stores,
                Box::new(state.clone()),
                peers.clone(),
                facts_sender.clone(),
            );
            let device = match started.await {
                Ok(device) => device,
                Err(error) => {
                    storage.close(&environment).await;
                    return Err(StartError::Raft(error.to_string()));
                }
            };
            Some(RaftMember {
                device,
                config,
                cluster: checked.cluster.clone(),
                storage,
                state,
                peers,
                facts: facts_sender.clone(),
                environment: environment.clone(),
            })
        }
    };
    let (commands_sender, commands) = mpsc::unbounded_channel();
    let (drained_sender, drained) = mpsc::unbounded_channel();
    let node = Arc::new(Node {
        versions: checked.versions,
        cluster: checked.cluster,
        instance,
        addr,
        environment: environment.clone(),
        transport,
        rpc,
        services: checked.services,
        routes: ArcSwap::default(),
        table: ArcSwap::from_pointee(ServingTable::new(0, drained_sender.clone())),
        lease: LeaseCell::default(),
        status: ArcSwap::from_pointee(Status {
            tags: Arc::new(checked.tags),
            ..Status::default()
        }),
        changes: watch::Sender::new(0),
        raft: ArcSwapOption::from(raft.as_ref().map(|raft| Arc::new(raft.device.clone()))),
        commands: commands_sender,
        events: Mutex::new(Some(broadcast::Sender::new(EVENT_BUFFER))),
        waiting: Waiting::default(),
        proposals: Semaphore::new(MAX_PROPOSALS_IN_FLIGHT),
        counters: SharedCounters::default(),
        stopped: AtomicBool::new(false),
        failure: OnceLock::new(),
    });
    let (datagrams_sender, datagrams) = mpsc::channel(DATAGRAM_QUEUE);
    environment.spawn(streams::receive(
        node.clone(),
        incoming,
        datagrams_sender,
        facts_sender.clone(),
    ));
    if checked.kind == MemberKind::NonMember {
        environment.spawn(observe::follow(node.clone(), facts_sender));
    }
    let driver = Driver {
        node: node.clone(),
        engine,
        observer: checked.observer,
        raft,
        hooks: Hooks::new(checked.timing.acquire_timeout),
        jobs: JoinSet::new(),
        drained_sender,
        leaving: Vec::new(),
        stopping: Vec::new(),
        has_left: false,
        abandons_log: false,
        is_superseded: false,
        lead: environment
            .now()
            .since(crate::time::Time::default() + environment.monotonic()),
        members_changed: true,
        shown_generation: 0,
    };
    let sources = Sources {
        commands,
        facts,
        datagrams,
        drained,
    };
    if !node.services.is_empty() {
        environment.spawn(ready::watch(node.clone()));
    }
    environment.spawn(driver.run(sources));
    Ok(Cluster::new(node))
}

/// The raft member of this node, with what it takes to make another one.
pub(super) struct RaftMember {
    pub(super) device: RaftDevice,
    config: RaftConfig,
    cluster: ClusterName,
    storage: Storage,
    state: SharedState,
    peers: Arc<dyn RaftPeers>,
    facts: mpsc::UnboundedSender<Input>,
    environment: Environment,
}

impl RaftMember {
    /// Whether the log holds more than this node's own initialisation.
    pub(super) fn holds_entries(&self) -> bool {
        let found = self.device.found();
        matches!(
            found,
            Some(Input::Initialised {
                only_own: false,
                ..
            })
        )
    }

    /// Stops the raft member and lets go of its store.
    pub(super) async fn close(&self) {
        self.device.shutdown().await;
        self.storage.close(&self.environment).await;
    }

    /// Stops the raft member, throws its log and state away and starts another one with an empty store, whose id is
    /// returned. What the old one had to say is forgotten. If a leader's entries arrived at the last moment, the log
    /// is kept, and `None` returned.
    pub(super) async fn begin_anew(
        &mut self,
        facts: &mut mpsc::UnboundedReceiver<Input>,
    ) -> Result<Option<StoreId>, RaftStartError> {
        self.device.shutdown().await;
        let keep = self.holds_entries();
        self.state.reset();
        let (environment, node) = (&self.environment, &self.config.instance.node);
        let opened = if keep {
            self.storage.open(environment, &self.cluster, node).await
        } else {
            while facts.try_recv().is_ok() {}
            let anew = self.storage.begin_anew(environment, &self.cluster, node);
            anew.await
        };
        let (store, stores) = opened.map_err(|error| RaftStartError::Store(error.to_string()))?;
        self.config.store = store;
        self.device = RaftDevice::start(
            self.config.clone(),
            stores,
            Box::new(self.state.clone()),
            self.peers.clone(),
            self.facts.clone(),
        )
        .await?;
        Ok((!keep).then_some(store))
    }
}

/// The application's state, which outlives a raft member that is thrown away.
#[derive(Clone)]
struct SharedState {
    state: Arc<Mutex<Box<dyn ReplicatedState>>>,
    /// As it was at the start.
    pristine: Bytes,
}

impl SharedState {
    fn new(state: Box<dyn ReplicatedState>) -> Self {
        let pristine = state.snapshot();
        Self {
            state: Arc::new(Mutex::new(state)),
            pristine,
        }
    }

    fn reset(&mut self) {
        if let Err(error) = self.restore(self.pristine.clone()) {
            tracing::error!(%error, "the application cannot restore its own empty state");
        }
    }
}

impl ReplicatedState for SharedState {
    fn apply(&mut self, entry: Applied<'_>) -> Bytes {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.apply(entry)
    }

    fn snapshot(&self) -> Bytes {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.snapshot()
    }

    fn restore(&mut self, snapshot: Bytes) -> Result<(), RestoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.restore(snapshot)
    }
}

/// Raft's messages over the node's transport.
struct PeersOverStreams(Conversations);

impl RaftPeers for PeersOverStreams {
    fn call(
        &self,
        to: PeerAddr,
        request: Bytes,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RpcFailure>> {
        Box::pin(async move {
            let exchange = self.0.call(&to, &request, MAX_FRAME_BYTES, ttl);
            exchange.await.map_err(|error| match error {
                RpcError::NotSent(NotSent::Deadline) | RpcError::Lost(Lost::Deadline) => {
                    RpcFailure::TimedOut
                }
                error => RpcFailure::Unreachable(error.to_string()),
            })
        })
    }
}
