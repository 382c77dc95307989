//! The handle that an application holds.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{broadcast, oneshot};

use crate::builder::Builder;
use crate::call::{Answer, CallError, ProposeError, Proposed, Request};
use crate::cordon::{self, CordonError};
use crate::engine::membership::{ENDPOINT_PREFIX, MemberState, TagError, Tags};
use crate::engine::shard_map::ShardMap;
use crate::engine::{Cordon, Event, NodeState, Role};
use crate::guard::ShardGuard;
use crate::ids::{
    BootId, ClusterId, ClusterName, Instance, LogIndex, MemberKind, NodeId, ShardId, Term, WorkerId,
};
use crate::node::{Command, Hold, Node};
use crate::weights::{self, WeightsError};
use crate::{key, proposals, routing};

/// A node of a cluster, as its application sees it. Cheap to clone; all clones are the same node.
///
/// Dropping the last clone is [`stop`](Self::stop).
#[derive(Clone)]
pub struct Cluster {
    node: Arc<Node>,
    /// Handles that services are given do not keep the node running.
    _hold: Option<Arc<Hold>>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Cluster({} as {})",
            self.node.cluster, self.node.instance
        )
    }
}

/// A node that gossip knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberInfo {
    /// Stable name.
    pub node: NodeId,
    /// Its latest run.
    pub boot: BootId,
    /// Where it is reached.
    pub addr: SocketAddr,
    /// What part it takes.
    pub kind: MemberKind,
    /// Whether it is there.
    pub state: MemberState,
    /// Its endpoints, role flags and whatever else it says about itself.
    pub tags: Arc<Tags>,
    /// What share of the load it takes, compared to others.
    pub capacity: u32,
    /// What the operator keeps shards from it with.
    pub cordon: Option<Cordon>,
    /// Whether its services are ready for shards; see [`Service::ready`](crate::Service::ready).
    pub ready: bool,
    /// Its worker id in the committed map: the smallest positive integer that no other member holds.
    pub worker: Option<WorkerId>,
}

/// Where a shard is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The owner by the committed map; `None`: nobody.
    pub owner: Option<Instance>,
    /// The owner's address, if gossip knows it.
    pub addr: Option<SocketAddr>,
    /// The fencing token.
    pub epoch: crate::ids::Epoch,
    /// Whether this node would hand out a guard for it now.
    pub is_local: bool,
}

/// What arrives on an event stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// An event, in order.
    Event(Event),
    /// The subscriber was too slow: so many events were dropped here.
    Missed(u64),
}

/// Events of a node, in order. Ends when the node stops.
#[derive(Debug)]
pub struct Events(Option<broadcast::Receiver<Event>>);

impl Events {
    /// The next event; `None`: the node has stopped.
    pub async fn next(&mut self) -> Option<Notice> {
        match self.0.as_mut()?.recv().await {
            Ok(event) => Some(Notice::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Notice::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Cluster {
    /// Begins to describe a node. The names are checked by [`Builder::start`], with everything else.
    pub fn builder(cluster: &str, node: &str) -> Builder {
        Builder::new(cluster, node)
    }

    pub(crate) fn new(node: Arc<Node>) -> Self {
        let hold = Some(Arc::new(Hold::new(node.clone())));
        Self { node, _hold: hold }
    }

    pub(crate) fn without_hold(node: Arc<Node>) -> Self {
        Self { node, _hold: None }
    }

    /// This node's name.
    pub fn node_id(&self) -> &NodeId {
        &self.node.instance.node
    }

    /// This run of the node.
    pub fn instance(&self) -> &Instance {
        &self.node.instance
    }

    /// The cluster's name.
    pub fn name(&self) -> &ClusterName {
        &self.node.cluster
    }

    /// The cluster's random id; `None` until the node has joined one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.node.status.load().cluster
    }

    /// The address that peers reach this node at.
    pub fn local_addr(&self) -> SocketAddr {
        self.node.addr
    }

    /// What part the node takes at the moment.
    pub fn role(&self) -> Role {
        self.node.status.load().role
    }

    /// What the node is doing.
    pub fn state(&self) -> NodeState {
        self.node.status.load().state
    }

    /// The leader, if one is known.
    pub fn leader(&self) -> Option<NodeId> {
        self.node.status.load().leader.clone()
    }

    /// The newest raft term that the node has seen.
    pub fn term(&self) -> Term {
        self.node.status.load().term
    }

    /// Names of the nodes that are there (alive or suspect), this one included, sorted.
    pub fn nodes(&self) -> Vec<NodeId> {
        let status = self.node.status.load();
        let present = status.members.values().filter(|member| member.is_present());
        present.map(|member| member.instance.node.clone()).collect()
    }

    /// Every node that gossip knows, failed ones and those that left included, sorted by name.
    pub fn members(&self) -> Vec<MemberInfo> {
        let map = self.shard_map();
        let cordons = self.node.routes.load().cordons.clone();
        let status = self.node.status.load();
        let info = |member: &crate::engine::membership::Member| MemberInfo {
            node: member.instance.node.clone(),
            boot: member.instance.boot,
            addr: member.addr,
            kind: member.kind,
            state: member.state,
            tags: member.tags.clone(),
            capacity: member.capacity,
            cordon: cordons.get(&member.instance.node).copied(),
            ready: member.ready,
            worker: map
                .member(&member.instance.node)
                .map(|member| member.worker),
        };
        status.members.values().map(info).collect()
    }

    /// An endpoint of a node: the value of its tag `ep.NAME`. It need not be answering.
    pub fn endpoint(&self, node: &NodeId, name: &str) -> Option<String> {
        let status = self.node.status.load();
        let tags = &status.members.get(node)?.tags;
        tags.endpoint(name).map(str::to_owned)
    }

    /// Publishes an endpoint of this node, as its tag `ep.NAME`.
    pub async fn set_endpoint(&self, name: &str, endpoint: &str) -> Result<(), TagError> {
        self.set_tag(&format!("{ENDPOINT_PREFIX}{name}"), Some(endpoint))
            .await
    }

    /// Sets a tag of this node, or removes it (`None`). The others pull it within a gossip round or two. On a node
    /// that has stopped nothing happens.
    pub async fn set_tag(&self, name: &str, value: Option<&str>) -> Result<(), TagError> {
        let (done, answer) = oneshot::channel();
        let command = Command::SetTag {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            done,
        };
        let _ = self.node.commands.send(command);
        answer.await.unwrap_or(Ok(()))
    }

    /// What happens from now on. A subscriber that is more than
    /// [`EVENT_BUFFER`](crate::limits::EVENT_BUFFER) events behind is told how many it missed.
    pub fn events(&self) -> Events {
        let events = self
            .node
            .events
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Events(events.as_ref().map(broadcast::Sender::subscribe))
    }

    /// The map in force, as far as this node knows. Immutable: look again for a newer one.
    pub fn shard_map(&self) -> Arc<ShardMap> {
        self.node.routes.load().map.clone()
    }

    /// The shard of a key: xxh3, then multiply-shift onto the number of shards. `None` until a map is known.
    pub fn shard_of(&self, key: &[u8]) -> Option<ShardId> {
        match self.node.routes.load().map.shards() {
            0 => None,
            shards => Some(key::shard_of(key, shards)),
        }
    }

    /// Where a shard is, as far as this node knows.
    pub fn route(&self, shard: ShardId) -> Route {
        let routes = self.node.routes.load();
        let owner = routes.map.owner(shard).cloned();
        let addr = owner
            .as_ref()
            .and_then(|owner| routes.addrs.get(&owner.node))
            .map(|peer| peer.addr);
        Route {
            addr,
            owner,
            epoch: routes.map.epoch(shard),
            is_local: self.guard(shard).is_some(),
        }
    }

    /// Proof that this node owns the shard now; `None`: it does not. While the guard exists, the shard is not given
    /// away before `drain_timeout`, and after that only if this node falls silent and its lease has lapsed.
    pub fn guard(&self, shard: ShardId) -> Option<ShardGuard> {
        ShardGuard::take(&self.node, shard)
    }

    /// Delivers a request to the owner of its shard, wherever that is, and brings back the answer.
    ///
    /// Waits, within the deadline, while there is no leader, no owner, or the shard is being handed over. What was
    /// certainly not executed is tried again. Dropping the future abandons the call; it may have been executed.
    pub async fn call(&self, request: Request) -> Result<Answer, CallError> {
        let call = routing::call(&self.node, request);
        self.node.environment.scope(call).await
    }

    /// Appends an application's entry; returns after it was applied on this node. At most
    /// [`MAX_APP_ENTRY_BYTES`](crate::limits::MAX_APP_ENTRY_BYTES). For writes that belong to a shard use
    /// [`ShardGuard::propose`].
    pub async fn propose(&self, bytes: impl Into<Bytes>) -> Result<Proposed, ProposeError> {
        let propose = proposals::propose(&self.node, None, bytes.into());
        self.node.environment.scope(propose).await
    }

    /// Says how much load each shard is, compared to the others, for the whole cluster: one number for each shard, 1 to
    /// [`MAX_WEIGHT`](crate::limits::MAX_WEIGHT). Shards then move so that each node's load, by weight, is its part
    /// (see [`Builder::capacity`]) to within one heaviest shard; as few as that needs, and as many at a time as
    /// [`Builder::max_moves`] lets. One shard that is far heavier than the others makes the balance as coarse as it is.
    ///
    /// Returns when a map with these weights is in force on this node: they stand in every map from then on, through
    /// any failure, until others are set. Before that, shards may still be on their way. Weights that are all equal
    /// are the same as none. If weights are set from several places at once, the last ones that reach the leader stand.
    pub async fn set_weights(&self, weights: &[u32]) -> Result<(), WeightsError> {
        let set = weights::set(&self.node, weights);
        self.node.environment.scope(set).await
    }

    /// Keeps new shards from a node, this one or another: it keeps those that it has. That holds for every run of the
    /// node, whoever leads, until [`uncordon`](Self::uncordon), or until the node has left the cluster.
    ///
    /// Returns when it is in force. If the owner of a shard dies while all other nodes are cordoned, that shard is not
    /// served until one is uncordoned.
    pub async fn cordon(&self, node: &NodeId) -> Result<(), CordonError> {
        self.set_cordon(node, Some(Cordon::Cordoned)).await
    }

    /// Lets a node have shards again, as many as its part is.
    pub async fn uncordon(&self, node: &NodeId) -> Result<(), CordonError> {
        self.set_cordon(node, None).await
    }

    /// Moves all shards of a node elsewhere and keeps new ones from it, until [`uncordon`](Self::uncordon). It stays a
    /// member, votes and leads as before, and delivers calls: for that, see [`leave`](Self::leave).
    ///
    /// Returns when it has no shards. Shards of which guards are held for longer than `drain_timeout` wait for them, as in
    /// any change; and without another node that may have them, all stay.
    pub async fn drain(&self, node: &NodeId) -> Result<(), CordonError> {
        self.set_cordon(node, Some(Cordon::Drained)).await
    }

    async fn set_cordon(&self, node: &NodeId, to: Option<Cordon>) -> Result<(), CordonError> {
        let set = cordon::set(&self.node, node, to);
        self.node.environment.scope(set).await
    }

    /// Asks that another node leads, if this one does. Returns once it is asked; watch
    /// [`Event::LeaderChanged`].
    pub fn step_down(&self) {
        let _ = self.node.commands.send(Command::StepDown);
    }

    /// Leaves: this node's shards are moved elsewhere, it is removed from the raft group, then stopped. Without a
    /// quorum that cannot end: bound it, and [`stop`](Self::stop) after that.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        let _ = self.node.commands.send(Command::Leave(done));
        let _ = left.await;
    }

    /// Stops at once; to the others it is a failure. Returns when nothing of the node runs any more.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        let _ = self.node.commands.send(Command::Stop(Some(done)));
        let _ = stopped.await;
    }

    /// Why the node stopped without being asked to, and what to do about it: its store failed, or its log holds what this
    /// program is too old to apply. `None`: it runs, or has left, was stopped, or gave way to a newer run.
    pub fn failure(&self) -> Option<&str> {
        self.node.failure.get().map(String::as_str)
    }

    /// Waits until the node is operational: it knows the leader and the map in force, and holds a valid lease.
    /// `false`: it stopped, or `patience` ran out.
    pub async fn operational(&self, patience: Duration) -> bool {
        let mut events = self.events();
        let wait = async {
            while self.state() != NodeState::Operational {
                if events.next().await.is_none() {
                    return false;
                }
            }
            true
        };
        self.node
            .environment
            .timeout(patience, wait)
            .await
            .unwrap_or(false)
    }

    /// The index of the proposal that is pending, if one is: shards are being handed over.
    pub fn pending_map(&self) -> Option<LogIndex> {
        self.node.routes.load().pending
    }

    /// The node at this moment, as `funk status` shows it.
    pub fn status(&self) -> crate::status::NodeStatus {
        crate::status::of(&self.node)
    }

    /// How often rare things happened on this node since it started, by name: dropped or malformed messages, refused
    /// grants, lapsed leases and the like. For metrics and for people.
    pub fn counters(&self) -> std::collections::BTreeMap<&'static str, u64> {
        crate::status::counters(&self.node)
    }
}
