//! What a node is at one moment, for people and programs that watch it from outside.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::engine::membership::MemberState;
use crate::engine::{Cordon, NodeState, Role};
use crate::ids::{
    BootId, ClusterId, ClusterName, Instance, LogIndex, MemberKind, NodeId, Term, WorkerId,
};
use crate::node::Node;
use crate::versions::VersionRange;

/// A node as it sees itself and the others. Other nodes may see them otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Name of the cluster that it is configured with.
    pub cluster: ClusterName,
    /// The cluster's random id; `None` until the node has joined one.
    #[serde(with = "cluster_id")]
    pub cluster_id: Option<ClusterId>,
    /// The node.
    pub node: NodeId,
    /// Its run.
    #[serde(with = "boot_id")]
    pub boot: BootId,
    /// Where peers reach it.
    pub addr: SocketAddr,
    /// What it is doing.
    pub state: NodeState,
    /// What part it takes.
    pub role: Role,
    /// The versions of the protocol that it speaks.
    pub versions: VersionRange,
    /// The version that the cluster has reached: nothing newer is in its log. Raised by the leader once all speak it.
    pub cluster_version: u8,
    /// The leader, if it knows one.
    pub leader: Option<NodeId>,
    /// The newest raft term that it has seen.
    pub term: Term,
    /// Number of shards; 0 until it knows a map.
    pub shards: u32,
    /// Index of the map in force; 0 until it knows one.
    pub map_index: LogIndex,
    /// Index of the proposal that is pending: shards are being handed over.
    pub pending: Option<LogIndex>,
    /// How long its lease still lasts, in milliseconds; 0: it may not serve.
    pub lease_left_ms: u64,
    /// Every node that gossip knows, this one too, sorted by name.
    pub members: Vec<MemberStatus>,
    /// How often rare things happened since it started, by name.
    pub counters: BTreeMap<String, u64>,
}

/// A node as another one sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub node: NodeId,
    /// Its latest run.
    #[serde(with = "boot_id")]
    pub boot: BootId,
    /// Where it is reached.
    pub addr: SocketAddr,
    /// What part it was started for.
    pub kind: MemberKind,
    /// What part it takes by the raft configuration that the answering node has.
    pub role: Role,
    /// The versions of the protocol that it speaks.
    pub versions: VersionRange,
    /// Whether it is there.
    pub state: MemberState,
    /// Its worker id in the map in force.
    pub worker: Option<WorkerId>,
    /// What share of the load it takes, compared to others.
    pub capacity: u32,
    /// How many shards this run owns by the map in force.
    pub shards: usize,
    /// What the operator keeps shards from it with.
    pub cordon: Option<Cordon>,
    /// Whether its services are ready for shards.
    pub ready: bool,
    /// How long it still waits for shards because it came and went too often, in milliseconds; 0: it does not.
    pub waits_ms: u64,
}

/// As text, as people see it elsewhere: numbers of 64 bits lose digits in JSON.
mod boot_id {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::ids::BootId;

    pub(super) fn serialize<S: Serializer>(id: &BootId, serializer: S) -> Result<S::Ok, S::Error> {
        id.to_string().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BootId, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u64::from_str_radix(&text, 16) {
            Ok(id) => Ok(BootId(id)),
            Err(error) => Err(D::Error::custom(format!("boot id {text:?}: {error}"))),
        }
    }
}

/// As text, as people see it elsewhere: formats for people have no room for numbers of 128 bits.
mod cluster_id {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::ids::ClusterId;

    pub(super) fn serialize<S: Serializer>(
        id: &Option<ClusterId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        id.map(|id| id.to_string()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<ClusterId>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        match u128::from_str_radix(&text, 16) {
            Ok(id) => Ok(Some(ClusterId(id))),
            Err(error) => Err(D::Error::custom(format!("cluster id {text:?}: {error}"))),
        }
    }
}

/// The node at this moment.
pub(crate) fn of(node: &Node) -> NodeStatus {
    let status = node.status.load();
    let routes = node.routes.load();
    let counts = routes.map.counts();
    let owned = |instance: &Instance| {
        let members = routes.map.members().iter();
        let mut counted = members.zip(&counts);
        let found = counted.find(|(member, _)| member.instance == *instance);
        found.map_or(0, |(_, count)| *count)
    };
    let now = node.environment.now();
    let waits = |name: &NodeId| {
        let until = status.waiting.get(name);
        let until = until.filter(|_| routes.map.member(name).is_none());
        until.map_or(0, |until| until.since(now).as_millis() as u64)
    };
    let members = status.members.values().map(|member| {
        let name = &member.instance.node;
        let role = if *name == node.instance.node {
            status.role
        } else if status.leader.as_ref() == Some(name) {
            Role::Leader
        } else if member.kind == MemberKind::NonMember {
            Role::NonMember
        } else if status.voters.contains(name) {
            Role::Follower
        } else if status.voters.is_empty() {
            Role::Unknown
        } else {
            Role::NonVoter
        };
        MemberStatus {
            node: name.clone(),
            boot: member.instance.boot,
            addr: member.addr,
            kind: member.kind,
            role,
            versions: member.versions,
            state: member.state,
            worker: routes.map.member(name).map(|member| member.worker),
            capacity: member.capacity,
            shards: owned(&member.instance),
            cordon: routes.cordons.get(name).copied(),
            ready: member.ready,
            waits_ms: waits(name),
        }
    });
    let lease_left = node.lease.end().since(now);
    NodeStatus {
        cluster: node.cluster.clone(),
        cluster_id: status.cluster,
        node: node.instance.node.clone(),
        boot: node.instance.boot,
        addr: node.addr,
        state: status.state,
        role: status.role,
        versions: node.versions,
        cluster_version: status.cluster_version,
        leader: status.leader.clone(),
        term: status.term,
        shards: routes.map.shards(),
        map_index: routes.map.index(),
        pending: routes.pending,
        lease_left_ms: u64::try_from(lease_left.as_millis()).unwrap_or(u64::MAX),
        members: members.collect(),
        counters: counters(node)
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
    }
}

/// The node's own counters and those of its transport.
pub(crate) fn counters(node: &Node) -> BTreeMap<&'static str, u64> {
    let mut all = node.counters.all();
    let transport = node.transport.counters();
    all.insert("connections refused", transport.refused);
    all.insert("datagrams dropped", transport.datagrams_dropped);
    all.insert("malformed packets", transport.malformed);
    all
}

/// The answer to whoever asks.
pub(crate) fn serve(node: &Node) -> Bytes {
    postcard::to_stdvec(&of(node))
        .expect("plain data always encodes")
        .into()
}
