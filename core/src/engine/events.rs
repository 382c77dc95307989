//! What happens to a node, in order, as its application sees it.

use crate::ids::{BootId, Epoch, Instance, LogIndex, NodeId, ShardId};

/// What a node is doing. `Starting -> Joining -> { Voting | Resharding | Operational }* -> Stopping -> Invalid`.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Debug,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Stopped; the handle is of no use any more.
    Invalid,
    /// Not yet looking for others.
    #[default]
    Starting,
    /// Looking for a cluster, or forming one.
    Joining,
    /// No leader is known.
    Voting,
    /// A proposal is pending, or the lease has lapsed.
    Resharding,
    /// The committed map is current and the lease is valid.
    Operational,
    /// Leaving or stopping.
    Stopping,
}

impl NodeState {
    /// Whether section 5 of the protocol allows this step (invariant I7).
    pub fn may_become(self, next: NodeState) -> bool {
        use NodeState::*;
        match (self, next) {
            (Invalid, _) => false,
            (_, Stopping) => self != Stopping,
            (Stopping, Invalid) | (Starting, Joining) => true,
            (Joining | Voting | Resharding | Operational, Voting | Resharding | Operational) => {
                self != next
            }
            _ => false,
        }
    }
}

/// What part a node takes at the moment.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Debug,
    Default,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Not yet known.
    #[default]
    Unknown,
    /// Voter that follows a leader.
    Follower,
    /// The leader.
    Leader,
    /// Replicates the log without a vote.
    NonVoter,
    /// Sees the cluster through gossip only.
    NonMember,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The local node's state changed.
    StateChanged {
        /// Before.
        from: NodeState,
        /// Now.
        to: NodeState,
    },
    /// The local node's role changed.
    RoleChanged {
        /// Before.
        from: Role,
        /// Now.
        to: Role,
    },
    /// Another node leads, or the first one does.
    LeaderChanged {
        /// The leader.
        leader: NodeId,
    },
    /// No leader is known any more.
    LeaderLost,
    /// A node joined, or came back as another run.
    NodeJoined(Instance),
    /// A node said that it leaves.
    NodeLeft(Instance),
    /// A node stopped answering.
    NodeFailed(Instance),
    /// A node's tags or address changed.
    NodeUpdated(Instance),
    /// A new shard map was proposed; what moves is about to stop.
    MapProposed(LogIndex),
    /// A shard map is in force.
    MapCommitted(LogIndex),
    /// These shards are served here from now on.
    ShardsGained(Vec<(ShardId, Epoch)>),
    /// These shards are not served here any more.
    ShardsLost(Vec<(ShardId, Epoch)>),
    /// The `acquire` hook failed: the shard is unserved until it is tried again or placed elsewhere.
    AcquireFailed {
        /// The shard.
        shard: ShardId,
        /// Its token.
        epoch: Epoch,
    },
    /// A cluster of the same name but another id was met and refused: configuration mistake, or a split start.
    ForeignClusterRefused(NodeId),
    /// A candidate expects another number of candidates than this node does (`bootstrap_expect`): configuration
    /// mistake. No cluster forms while it is there.
    BootstrapMismatch {
        /// The candidate.
        instance: Instance,
        /// What it expects.
        expect: u16,
    },
    /// A newer run of this node's name is in the cluster: two processes run under one name, or the machine's clock
    /// went back between two runs. This one stops serving at once and ends.
    Superseded {
        /// The newer run, if it is known.
        by: Option<BootId>,
    },
    /// The node is stopping.
    Stopping,
}
