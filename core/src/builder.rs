//! From a description to a running node. Everything that is wrong with it is reported at once.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::call::DEFAULT_SERVICE;
use crate::cluster::Cluster;
use crate::driver;
use crate::engine::membership::Tags;
use crate::ids::{BootId, ClusterName, MemberKind, NodeId};
use crate::limits::{MAX_CAPACITY, MAX_SHARDS, MAX_WORKERS};
use crate::observer::Observer;
use crate::raft::SNAPSHOT_EVERY;
use crate::service::{ErasedService, Service};
use crate::state::{NoState, ReplicatedState};
use crate::storage::{Storage, StorageError};
use crate::timing::Timing;
use crate::transport::{Transport, TransportError};
use crate::versions::VersionRange;

/// Shards of a new cluster, if the builder is not told another number.
pub const DEFAULT_SHARDS: u32 = 1_024;
/// Voters that the leader keeps, if the builder is not told another number.
pub const DEFAULT_VOTERS: usize = 5;
/// Most seed addresses.
pub const MAX_SEEDS: usize = 64;

/// One thing that is wrong with a description.
#[derive(Clone, PartialEq, Debug)]
pub struct ConfigError {
    /// What it concerns: the name of the builder's method.
    pub key: &'static str,
    /// The value that was given.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}: {}", self.key, self.value, self.allowed)
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The description is wrong, in these places.
    #[error("{}", list(.0))]
    Config(Vec<ConfigError>),
    /// The transport could not start.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The raft member could not start.
    #[error("{0}")]
    Raft(String),
    /// `start` was called outside a tokio runtime.
    #[error("a node needs a tokio runtime with its timer on: call `start` inside one")]
    NoRuntime,
}

fn list(errors: &[ConfigError]) -> String {
    let lines: Vec<String> = errors.iter().map(ConfigError::to_string).collect();
    lines.join("; ")
}

/// A node's description. Made by [`Cluster::builder`].
pub struct Builder {
    pub(crate) cluster: String,
    pub(crate) node: String,
    pub(crate) transport: Option<Arc<dyn Transport>>,
    pub(crate) seeds: Vec<SocketAddr>,
    pub(crate) bootstrap_expect: u16,
    pub(crate) shards: u32,
    pub(crate) voters: usize,
    pub(crate) capacity: u32,
    pub(crate) max_moves: Option<u32>,
    pub(crate) timing: Timing,
    pub(crate) kind: MemberKind,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) services: BTreeMap<String, Arc<dyn ErasedService>>,
    pub(crate) state: Box<dyn ReplicatedState>,
    pub(crate) storage: Storage,
    pub(crate) snapshot_every: u64,
    pub(crate) boot: Option<BootId>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) versions: VersionRange,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Builder({} as {})", self.cluster, self.node)
    }
}

impl Builder {
    pub(crate) fn new(cluster: &str, node: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            transport: None,
            seeds: Vec::new(),
            bootstrap_expect: 1,
            shards: DEFAULT_SHARDS,
            voters: DEFAULT_VOTERS,
            capacity: 1,
            max_moves: None,
            timing: Timing::default(),
            kind: MemberKind::Voter,
            tags: Vec::new(),
            services: BTreeMap::new(),
            state: Box::new(NoState),
            storage: Storage::memory(),
            snapshot_every: SNAPSHOT_EVERY,
            boot: None,
            observer: None,
            versions: VersionRange::SPOKEN,
        }
    }

    /// How the node reaches others. Required.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// Addresses of some nodes, at most [`MAX_SEEDS`]; the node's own may be among them. All nodes can be given the
    /// same list and be started in any order.
    pub fn seeds(mut self, seeds: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.seeds = seeds.into_iter().collect();
        self
    }

    /// How many nodes form a new cluster together, when there is none yet: the same number on all of them. 1 (the
    /// default): this node alone, at once unless a seed knows a cluster. 0: never, only join.
    pub fn bootstrap_expect(mut self, nodes: u16) -> Self {
        self.bootstrap_expect = nodes;
        self
    }

    /// Number of shards of a new cluster, 1 to [`MAX_SHARDS`]. Fixed for its life: an existing one keeps its own.
    pub fn shards(mut self, shards: u32) -> Self {
        self.shards = shards;
        self
    }

    /// How many voters the leader keeps, odd; the other nodes replicate the log and own shards without a vote.
    pub fn voters(mut self, voters: usize) -> Self {
        self.voters = voters;
        self
    }

    /// What share of the load this node takes, compared to the other nodes: 1 to [`MAX_CAPACITY`]; 1 by default. A node
    /// of capacity 2 is given twice the load of one of capacity 1: twice the shards, if they all weigh the same (see
    /// [`Cluster::set_weights`]). Another number at the next start moves shards accordingly.
    pub fn capacity(mut self, capacity: u32) -> Self {
        self.capacity = capacity;
        self
    }

    /// How many shards may change their owner at a time although their owner could keep them, at least 1: because a
    /// node came, or another capacity or other weights. The next ones follow when these are served by their new owners,
    /// or after `acquire_timeout`, until all is balanced. Shards whose owner is gone or leaves are never held back.
    ///
    /// By default all move at once: every shard pauses equally long however many move with it, and in all that takes
    /// the least time. A bound is for services whose `acquire` loads what others use too, a database, a disk, a network.
    /// The leader's own setting counts: give all nodes the same.
    pub fn max_moves(mut self, shards: u32) -> Self {
        self.max_moves = Some(shards);
        self
    }

    /// A preset, or explicit values, which are checked against each other.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }

    /// This node never votes and never leads; it owns shards.
    pub fn non_voter(mut self) -> Self {
        self.kind = MemberKind::NonVoter;
        self
    }

    /// This node sees the cluster and calls into it, without a log and without shards.
    pub fn non_member(mut self) -> Self {
        self.kind = MemberKind::NonMember;
        self
    }

    /// A tag to begin with; see [`Cluster::set_tag`]. The tag `zone` ([`ZONE_TAG`](crate::engine::membership::ZONE_TAG))
    /// says what fails together with this node; voters are spread over zones.
    pub fn tag(mut self, name: &str, value: &str) -> Self {
        self.tags.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The service behind the shards, under the name [`DEFAULT_SERVICE`].
    pub fn service(self, service: impl Service) -> Self {
        self.named_service(DEFAULT_SERVICE, service)
    }

    /// One of several services, told apart by name. A name that was used before is replaced.
    pub fn named_service(mut self, name: &str, service: impl Service) -> Self {
        self.services.insert(name.to_owned(), Arc::new(service));
        self
    }

    /// The application's replicated state.
    pub fn state(mut self, state: impl ReplicatedState) -> Self {
        self.state = Box::new(state);
        self
    }

    /// Where the log is kept: [`Storage::dir`] for a cluster that must survive its processes; by default in memory, so
    /// that the node forgets it when it stops. A non-member has none.
    pub fn storage(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// After how many log entries a snapshot is taken and the log before it dropped; at least 1.
    pub fn snapshot_every(mut self, entries: u64) -> Self {
        self.snapshot_every = entries;
        self
    }

    /// The number of this run. Only simulations need to say it: it must be larger than that of any earlier run of
    /// this name, which the time of day usually is.
    pub fn boot_id(mut self, boot: BootId) -> Self {
        self.boot = Some(boot);
        self
    }

    /// Speaks other versions of the protocol than this program does, as an earlier or a later release would. For tests of
    /// upgrades: nothing but the numbers differs.
    #[doc(hidden)]
    pub fn versions(mut self, versions: VersionRange) -> Self {
        self.versions = versions;
        self
    }

    /// Who sees every step of the node's engine: for simulators and for debugging.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Starts the node on the caller's tokio runtime. Returns as soon as it runs; it joins in the background: see
    /// [`Cluster::operational`].
    pub async fn start(self) -> Result<Cluster, StartError> {
        let checked = self.check().map_err(StartError::Config)?;
        driver::start(checked).await
    }

    fn check(self) -> Result<Checked, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut wrong = |key: &'static str, value: String, allowed: String| {
            errors.push(ConfigError {
                key,
                value,
                allowed,
            });
        };
        let cluster = ClusterName::new(&self.cluster)
            .map_err(|e| wrong("cluster", format!("{:?}", self.cluster), e.to_string()))
            .ok();
        let node = NodeId::new(&self.node)
            .map_err(|e| wrong("node", format!("{:?}", self.node), e.to_string()))
            .ok();
        if self.transport.is_none() {
            wrong(
                "transport",
                "missing".to_owned(),
                "give one, for example funk_quic::QuicTransport".to_owned(),
            );
        }
        if self.seeds.len() > MAX_SEEDS {
            wrong(
                "seeds",
                self.seeds.len().to_string(),
                format!("at most {MAX_SEEDS} are allowed; a few are enough, the others are learnt"),
            );
        }
        if self.shards == 0 || self.shards > MAX_SHARDS {
            wrong(
                "shards",
                self.shards.to_string(),
                format!("1 to {MAX_SHARDS} are possible"),
            );
        }
        if self.voters.is_multiple_of(2) || self.voters > MAX_WORKERS {
            wrong(
                "voters",
                self.voters.to_string(),
                "an odd number: an even one tolerates no more failures than the one below"
                    .to_owned(),
            );
        }
        if self.capacity == 0 || self.capacity > MAX_CAPACITY {
            wrong(
                "capacity",
                self.capacity.to_string(),
                format!("1 to {MAX_CAPACITY} are possible, compared to the other nodes"),
            );
        }
        if self.max_moves == Some(0) {
            wrong(
                "max_moves",
                "0".to_owned(),
                "at least 1 shard, or nothing would ever be balanced".to_owned(),
            );
        }
        if usize::from(self.bootstrap_expect) > 1 && self.seeds.is_empty() {
            wrong(
                "bootstrap_expect",
                self.bootstrap_expect.to_string(),
                "the others are found through seeds: give some, or expect 1".to_owned(),
            );
        }
        if self.snapshot_every == 0 {
            wrong(
                "snapshot_every",
                "0".to_owned(),
                "at least 1 entry".to_owned(),
            );
        }
        for error in self.timing.check().err().unwrap_or_default() {
            wrong(
                error.key,
                error.value.to_string(),
                format!("{} is the limit: {}", error.allowed, error.why),
            );
        }
        let mut tags = Tags::new();
        for (name, value) in &self.tags {
            if let Err(error) = tags.insert(name, value) {
                wrong("tag", format!("{name:?}"), error.to_string());
            }
        }
        match (cluster, node, self.transport) {
            (Some(cluster), Some(node), Some(transport)) if errors.is_empty() => Ok(Checked {
                cluster,
                node,
                transport,
                tags,
                seeds: self.seeds,
                bootstrap_expect: self.bootstrap_expect,
                shards: self.shards,
                voters: self.voters,
                capacity: self.capacity,
                max_moves: self.max_moves,
                timing: self.timing,
                kind: self.kind,
                services: self.services,
                state: self.state,
                storage: self.storage,
                snapshot_every: self.snapshot_every,
                boot: self.boot,
                observer: self.observer,
                versions: self.versions,
            }),
            _ => Err(errors),
        }
    }
}

/// A description that was found to be right.
pub(crate) struct Checked {
    pub(crate) cluster: ClusterName,
    pub(crate) node: NodeId,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) tags: Tags,
    pub(crate) seeds: Vec<SocketAddr>,
    pub(crate) bootstrap_expect: u16,
    pub(crate) shards: u32,
    pub(crate) voters: usize,
    pub(crate) capacity: u32,
    pub(crate) max_moves: Option<u32>,
    pub(crate) timing: Timing,
    pub(crate) kind: MemberKind,
    pub(crate) services: BTreeMap<String, Arc<dyn ErasedService>>,
    pub(crate) state: Box<dyn ReplicatedState>,
    pub(crate) storage: Storage,
    pub(crate) snapshot_every: u64,
    pub(crate) boot: Option<BootId>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) versions: VersionRange,
}
