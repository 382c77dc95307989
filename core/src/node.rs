//! One node's shared state: written by the driver, read by handles, guards and calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};

use crate::cluster::Cluster;
use crate::engine::membership::{Member, Tags};
use crate::engine::{Cordon, Event, NodeState, Role, Routes};
use crate::ids::{ClusterId, ClusterName, Instance, NodeId, Term};
use crate::limits::MAX_WAITING_CALLS;
use crate::raft::RaftDevice;
use crate::routing::{LeaseCell, ServingTable};
use crate::runtime::Environment;
use crate::service::ErasedService;
use crate::time::Time;
use crate::transport::Transport;
use crate::versions::VersionRange;
use crate::wire::Rpc;

/// Everything about a node that more than one task needs.
///
/// Invariant: only the driver writes, except for the counters and what callers occupy (`waiting`, `proposals`).
pub(crate) struct Node {
    pub(crate) cluster: ClusterName,
    pub(crate) instance: Instance,
    pub(crate) addr: SocketAddr,
    /// The versions of the protocol that it speaks.
    pub(crate) versions: VersionRange,
    pub(crate) environment: Environment,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) rpc: Rpc,
    pub(crate) services: BTreeMap<String, Arc<dyn ErasedService>>,

    /// Where requests go.
    pub(crate) routes: ArcSwap<Routes>,
    /// What is answered here.
    pub(crate) table: ArcSwap<ServingTable>,
    /// Until when.
    pub(crate) lease: LeaseCell,
    /// What the node is, for people and handles.
    pub(crate) status: ArcSwap<Status>,
    /// Counts changes of routes, serving set and lease that a waiting call wants to see.
    pub(crate) changes: watch::Sender<u64>,
    /// The raft member of this node; a non-member has none.
    pub(crate) raft: ArcSwapOption<RaftDevice>,

    pub(crate) commands: mpsc::UnboundedSender<Command>,
    pub(crate) events: Mutex<Option<broadcast::Sender<Event>>>,
    pub(crate) waiting: Waiting,
    pub(crate) proposals: Semaphore,
    pub(crate) counters: SharedCounters,
    pub(crate) stopped: AtomicBool,
    /// Why it stops by itself.
    pub(crate) failure: OnceLock<String>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.instance)
    }
}

impl Node {
    /// Wakes every call and guard that waits for a change.
    pub(crate) fn announce_change(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// A handle for the service's own use: it does not keep the node running.
    pub(crate) fn service_handle(self: &Arc<Self>) -> Cluster {
        Cluster::without_hold(self.clone())
    }

    pub(crate) fn emit(&self, event: Event) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(events) = events.as_ref() {
            // An error only says that nobody listens.
            let _ = events.send(event);
        }
    }
}

/// What handles ask of the driver.
pub(crate) enum Command {
    SetTag {
        name: String,
        value: Option<String>,
        done: oneshot::Sender<Result<(), crate::engine::membership::TagError>>,
    },
    /// Weights of the shards; done when the engine has heard of them.
    SetWeights(Option<Arc<[u32]>>, oneshot::Sender<()>),
    /// A node's cordon; done when the engine has heard of it.
    SetCordon(NodeId, Option<Cordon>, oneshot::Sender<()>),
    /// Whether all services are ready.
    Ready(bool),
    StepDown,
    Leave(oneshot::Sender<()>),
    /// `None`: the last handle was dropped.
    Stop(Option<oneshot::Sender<()>>),
}

/// What a node is at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) state: NodeState,
    pub(crate) role: Role,
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: Term,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) members: Arc<BTreeMap<NodeId, Member>>,
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) tags: Arc<Tags>,
    /// Nodes that came and went too often, and until when on this node's clock they get no shards.
    pub(crate) waiting: BTreeMap<NodeId, Time>,
    /// See [`Engine::cluster_version`](crate::engine::Engine::cluster_version); 0 before the driver has begun.
    pub(crate) cluster_version: u8,
}

/// Calls that wait, counted against [`MAX_WAITING_CALLS`].
#[derive(Default)]
pub(crate) struct Waiting(Arc<AtomicUsize>);

/// One waiting call.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Waiting {
    /// `None`: too many wait already.
    pub(crate) fn enter(&self) -> Option<Place> {
        if self.0.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING_CALLS {
            self.0.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place(self.0.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts of what went wrong, for people.
#[derive(Default)]
pub(crate) struct SharedCounters(Mutex<BTreeMap<&'static str, u64>>);

impl SharedCounters {
    /// Counts one more; how often it happened now.
    pub(crate) fn add(&self, name: &'static str) -> u64 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(name).or_default();
        *count += 1;
        *count
    }

    pub(crate) fn set_all(&self, values: impl Iterator<Item = (&'static str, u64)>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.extend(values);
    }

    pub(crate) fn all(&self) -> BTreeMap<&'static str, u64> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clone()
    }
}

/// As long as one of these exists the node runs.
pub(crate) struct Hold {
    node: Arc<Node>,
}

impl Hold {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = self.node.commands.send(Command::Stop(None));
    }
}
